//! Printing for people and scripts.

use std::io::Write;

/// Prints a line to standard output. Whoever reads may be gone (`| head`); then there is nobody to tell.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
}

/// Prints bytes as they are and ends the line.
pub(crate) fn bytes_line(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out
        .write_all(bytes)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
}

/// Text on one line: what would break it, or play tricks on a terminal, is escaped.
pub(crate) fn on_one_line(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() && character != '\t' {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

/// Lines as text alone: without colours, and what else plays tricks on a terminal.
pub(crate) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            // A control sequence: ESC, `[`, parameters, a letter.
            '\x1b' => {
                if characters.next() == Some('[') {
                    let _ = characters.find(|character| ('@'..='~').contains(character));
                }
            }
            '\n' | '\t' => plain.push(character),
            _ if character.is_control() => {}
            _ => plain.push(character),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_left_out() {
        let coloured = "\x1b[2m12:00\x1b[0m \x1b[33;1m WARN\x1b[0m gone\x07\nnext\x1b";
        assert_eq!(plain(coloured), "12:00  WARN gone\nnext");
    }

    #[test]
    fn a_push_stays_on_its_line() {
        assert_eq!(on_one_line("héllo\tyou".as_bytes()), "héllo\tyou");
        assert_eq!(on_one_line(b"a\nb\x1b[1m"), "a\\nb\\u{1b}[1m");
    }
}
