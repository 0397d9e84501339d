//! What an upgrade tells: a line a step for people, and what came of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

/// What came of one part's upgrade; `--json` prints it. Scripts rely on the names: they only grow.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Outcome {
    pub(super) part: String,
    pub(super) from: Option<PathBuf>,
    pub(super) to: PathBuf,
    /// Connections before.
    pub(super) before: Option<u64>,
    /// Connections after.
    pub(super) after: Option<u64>,
    /// Of a gateway's takeover.
    pub(super) adopted: Option<u64>,
    /// Likewise.
    pub(super) closed: Option<u64>,
    /// From the signal until the new process was started.
    pub(super) stopped_ms: Option<u64>,
    /// From the signal until all was verified.
    pub(super) ready_ms: Option<u64>,
    /// Whether the previous binary runs again.
    pub(super) rolled_back: bool,
    /// Why it failed.
    pub(super) error: Option<String>,
}

impl Outcome {
    pub(super) fn new(part: &str, to: &Path) -> Self {
        Self {
            part: part.to_owned(),
            to: to.to_owned(),
            ..Self::default()
        }
    }

    /// The final line of one that went well.
    pub(super) fn text(&self) -> String {
        let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
        let takeover = match (self.adopted, self.closed) {
            (Some(adopted), Some(closed)) => format!(", {adopted} taken over, {closed} closed"),
            _ => String::new(),
        };
        format!(
            "{}: {} runs; {} connections before, {} after{takeover}; stopped for {} ms, verified after {} ms",
            self.part,
            self.to.display(),
            number(self.before),
            number(self.after),
            number(self.stopped_ms),
            number(self.ready_ms),
        )
    }
}

/// Prints a line a step, with the milliseconds since the one before.
pub(super) struct Steps {
    part: String,
    since: Instant,
}

impl Steps {
    pub(super) fn of(part: &str) -> Self {
        Self {
            part: part.to_owned(),
            since: Instant::now(),
        }
    }

    pub(super) fn say(&mut self, step: &str, text: &str) {
        let took = milliseconds(self.since.elapsed());
        self.since = Instant::now();
        eprintln!("{:<12} {step:<10} {took:>6} ms  {text}", self.part);
    }
}

/// In whole milliseconds.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_find_every_name_also_when_nothing_is_known() {
        let outcome = Outcome::new("gateway-0", Path::new("/b"));
        let json = serde_json::to_value(&outcome).unwrap();
        let mut names: Vec<&String> = json.as_object().unwrap().keys().collect();
        names.sort_unstable();
        let mut expected = [
            "part",
            "from",
            "to",
            "before",
            "after",
            "adopted",
            "closed",
            "stopped_ms",
            "ready_ms",
            "rolled_back",
            "error",
        ];
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(json["rolled_back"], false);
        assert!(json["error"].is_null());
        assert!(outcome.text().contains("? connections before"));
    }
}
