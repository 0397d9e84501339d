//! The terminal: a screen of its own that is drawn anew in place, and keys without Enter.
//!
//! Everything is put back when this is dropped, also by an error.

use std::io::{IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// A screen without scrollback, and no cursor on it.
const OPEN: &str = "\x1b[?1049h\x1b[?25l";
const CLOSE: &str = "\x1b[?25h\x1b[?1049l";
/// Of a terminal that doesn't say how large it is.
const USUAL: (usize, usize) = (80, 24);

/// A terminal that is drawn on.
#[derive(Debug)]
pub(super) struct Screen {
    /// How its input was before.
    before: Option<Termios>,
    /// Told when somebody wants to quit.
    quit: mpsc::Receiver<()>,
}

impl Screen {
    /// Takes the terminal, if standard output is one.
    pub(super) fn open() -> Option<Self> {
        if !std::io::stdout().is_terminal() {
            return None;
        }
        let before = keys_without_enter();
        let (sender, quit) = mpsc::channel(1);
        if before.is_some() {
            // It ends with the process: a thread that reads a terminal can't be woken.
            let watch = move || watch_keys(&sender);
            let watching = std::thread::Builder::new().name("keys".to_owned()).spawn(watch);
            if let Err(error) = watching {
                tracing::warn!(%error, "keys aren't read; Ctrl-C ends it");
            }
        }
        write(OPEN);
        Some(Self { before, quit })
    }

    /// Draws the lines that there is room for.
    pub(super) fn draw(&self, lines: &[String]) {
        write(&frame(lines, size()));
    }

    /// Returns when somebody wants to quit; never, where keys can't be read.
    pub(super) async fn quit(&mut self) {
        if self.quit.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        write(CLOSE);
        if let Some(before) = &self.before {
            // There is nobody left to tell.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Input comes key by key and isn't shown. Ctrl-C still interrupts. Gives how it was.
fn keys_without_enter() -> Option<Termios> {
    if !std::io::stdin().is_terminal() {
        return None;
    }
    let before = tcgetattr(std::io::stdin()).ok()?;
    let mut keys = before.clone();
    keys.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    tcsetattr(std::io::stdin(), OptionalActions::Now, &keys).ok()?;
    Some(before)
}

fn watch_keys(quit: &mpsc::Sender<()>) {
    let mut key = [0];
    while let Ok(1) = std::io::stdin().lock().read(&mut key) {
        if matches!(key[0], b'q' | b'Q') && quit.blocking_send(()).is_err() {
            return;
        }
    }
}

fn size() -> (usize, usize) {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => USUAL,
    }
}

/// What draws the lines over what was there before, without a flicker: each line is ended by clearing its rest. What is too
/// wide is cut; of what is too long, the last line says how much more there is.
fn frame(lines: &[String], (columns, rows): (usize, usize)) -> String {
    let mut frame = String::from("\x1b[H");
    let fits = lines.len() <= rows;
    let shown = if fits { lines.len() } else { rows.saturating_sub(1) };
    let mut put = |index: usize, line: &str| {
        if index > 0 {
            frame.push_str("\r\n");
        }
        frame.extend(line.chars().take(columns));
        frame.push_str("\x1b[K");
    };
    for (index, line) in lines.iter().take(shown).enumerate() {
        put(index, line);
    }
    if !fits {
        put(shown, &format!("… {} more lines", lines.len() - shown));
    }
    frame.push_str("\x1b[J");
    frame
}

fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    // Whoever looked may be gone; then there is nobody to tell.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_and_counted() {
        let lines: Vec<String> = ["one", "two", "three"].map(str::to_owned).to_vec();
        assert_eq!(
            frame(&lines, (4, 3)),
            "\x1b[Hone\x1b[K\r\ntwo\x1b[K\r\nthre\x1b[K\x1b[J"
        );
        assert_eq!(
            frame(&lines, (80, 2)),
            "\x1b[Hone\x1b[K\r\n… 2 more lines\x1b[K\x1b[J"
        );
        assert_eq!(frame(&[], (80, 2)), "\x1b[H\x1b[J");
    }
}
