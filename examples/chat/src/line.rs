//! What a line asks for. Pure.

/// Longest name of a room in bytes: what the access layer takes as a group's.
pub const MAX_ROOM: usize = 64;

/// What the commands are, for who has typed another.
pub const HELP: &str = "/join ROOM, /leave, /who; anything else is said in your room";

/// What a device wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// Come into a room.
    Join(&'a str),
    /// Leave it.
    Leave,
    /// Who is in it?
    Who,
    /// This is for everybody in it.
    Say(&'a str),
    /// No command, or one that can't be; the text says why.
    Unclear(&'static str),
}

impl<'a> Line<'a> {
    /// Reads a line.
    #[must_use]
    pub fn parse(text: &'a str) -> Self {
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match (word, rest.trim()) {
            ("/join", room) if room.is_empty() || room.contains(char::is_whitespace) => {
                Line::Unclear("name one room: /join ROOM")
            }
            ("/join", room) if room.len() > MAX_ROOM || room.contains(char::is_control) => {
                Line::Unclear("a room's name has at most 64 bytes")
            }
            ("/join", room) => Line::Join(room),
            ("/leave", "") => Line::Leave,
            ("/who", "") => Line::Who,
            ("", _) => Line::Unclear("there is nothing to say"),
            _ if word.starts_with('/') => Line::Unclear(HELP),
            _ => Line::Say(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_said() {
        assert_eq!(Line::parse("/join lobby "), Line::Join("lobby"));
        assert_eq!(Line::parse(" /leave"), Line::Leave);
        assert_eq!(Line::parse("/who\n"), Line::Who);
        assert_eq!(Line::parse("hello /who"), Line::Say("hello /who"));
        let long = format!("/join {}", "x".repeat(MAX_ROOM + 1));
        for unclear in ["", "/", "/join", "/join a b", "/leave now", "/dance", &long] {
            assert!(matches!(Line::parse(unclear), Line::Unclear(_)), "{unclear}");
        }
    }
}
