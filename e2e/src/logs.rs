//! The log of a cluster, kept in memory: an unexpected ERROR fails the scenario that caused it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

/// Lines kept. A scenario that logs more is itself a finding, and the first lines tell most about it.
const MAX_LINES: usize = 20_000;

/// Names a file to which all lines are appended, with `IMACCESS_LOG` for how much the parts say.
const KEEP: &str = "IMACCESS_E2E_LOG";

/// What a process wrote, line by line.
#[derive(Clone, Debug, Default)]
pub struct Logs(Arc<Mutex<Vec<String>>>);

impl Logs {
    /// Reads in the background until the process closes its end.
    pub fn follow(&self, stream: impl AsyncRead + Unpin + Send + 'static) {
        let logs = self.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                logs.push(&line);
            }
        });
    }

    fn push(&self, line: &str) {
        let line = plain(line);
        // For whoever looks into a run: all lines, as they come, in a file.
        if let Some(path) = std::env::var_os(KEEP)
            && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
        {
            // A log that can't be kept fails no scenario.
            let _ = writeln!(file, "{line}");
        }
        let mut lines = self.0.lock().expect("no holder of this lock panics");
        if lines.len() < MAX_LINES {
            lines.push(line);
        }
    }

    /// All lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no holder of this lock panics").clone()
    }

    /// The last lines, for a failure's message.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    /// Lines with the level ERROR (in text or JSON), or of a panic, that contain none of `expected`.
    #[must_use]
    pub fn errors(&self, expected: &[&str]) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| is_error(line) && !expected.iter().any(|part| line.contains(part)));
        lines
    }
}

/// The line without colours: `ESC [ … m`.
fn plain(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    text
}

/// Whether a line has the level ERROR, in text or JSON, or tells of a panic.
pub(crate) fn is_error(line: &str) -> bool {
    line.contains(" ERROR ") || line.contains("\"level\":\"ERROR\"") || line.contains("panicked at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_line_is_found_unless_it_is_expected() {
        let logs = Logs::default();
        logs.push("2026-01-01T00:00:00Z  INFO started");
        logs.push("\u{1b}[2m2026-01-01T00:00:00Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m the link broke");
        logs.push(r#"{"level":"ERROR","fields":{"message":"no disk"}}"#);
        assert_eq!(logs.errors(&[]).len(), 2);
        assert_eq!(
            logs.errors(&["the link broke"]),
            [r#"{"level":"ERROR","fields":{"message":"no disk"}}"#]
        );
    }
}
