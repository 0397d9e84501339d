//! What a business was told about connections, from the file that `imaccess echo` records.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::wait::{Seen, wait_until};

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Event {
    /// `online`, `offline` or `session-lost`.
    pub kind: String,
    /// Of which device.
    pub device: String,
    /// Its session.
    pub session: String,
    /// The session's epoch.
    pub epoch: u64,
    /// Why, a code of the protocol.
    pub reason: u32,
}

/// The file in which a cluster's echo business records events.
#[derive(Clone, Debug)]
pub struct Recorded {
    path: PathBuf,
}

impl Recorded {
    /// In this directory.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join("events.jsonl"),
        }
    }

    /// The environment variable by which the echo business records there.
    #[must_use]
    pub fn variable(&self) -> (&'static str, String) {
        ("IMACCESS_ECHO__RECORD", self.path.to_string_lossy().into_owned())
    }

    /// All events so far.
    ///
    /// # Errors
    /// When the file can't be read, or a whole line isn't an event.
    pub fn read(&self) -> Result<Vec<Event>> {
        let text = std::fs::read_to_string(&self.path)
            .with_context(|| format!("cannot read {}", self.path.display()))?;
        parse(&text)
    }

    /// Waits until each of these devices was said to be offline.
    ///
    /// # Errors
    /// When one wasn't within the deadline.
    pub async fn offline(&self, devices: &[String], deadline: Duration) -> Result<()> {
        wait_until("these devices are told as offline", deadline, async || {
            let events = self.read()?;
            let told = offline(&events);
            let missing: Vec<&String> = devices
                .iter()
                .filter(|device| !told.contains_key(device.as_str()))
                .collect();
            Ok(if missing.is_empty() {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("{missing:?}"))
            })
        })
        .await
    }
}

/// The events of recorded lines; a last line that isn't whole yet is left out.
///
/// # Errors
/// When a whole line isn't an event.
pub fn parse(text: &str) -> Result<Vec<Event>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let event = |line: &str| serde_json::from_str(line).with_context(|| format!("no event: {line}"));
    whole.lines().map(event).collect()
}

/// How often each device was said to be offline.
#[must_use]
pub fn offline(events: &[Event]) -> BTreeMap<&str, u64> {
    let mut told = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind == "offline") {
        *told.entry(event.device.as_str()).or_default() += 1;
    }
    told
}

/// The offline events of devices that never left.
#[must_use]
pub fn wrongly_offline<'a>(events: &'a [Event], present: &BTreeSet<String>) -> Vec<&'a Event> {
    let wrong = |event: &&Event| event.kind == "offline" && present.contains(&event.device);
    events.iter().filter(wrong).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_events_and_each_device_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let recorded = Recorded::in_directory(directory.path());
        let line = |kind: &str, device: &str| {
            format!(
                r#"{{"kind":"{kind}","app":"demo","device":"{device}","session":"ab","epoch":1,"reason":407,"unix_ms":1}}"#
            )
        };
        let lines = [
            line("online", "a"),
            line("offline", "a"),
            line("offline", "a"),
            line("offline", "b"),
        ];
        std::fs::write(&recorded.path, format!("{}\n{{\"kind\":\"off", lines.join("\n"))).unwrap();
        let events = recorded.read().unwrap();
        assert_eq!(offline(&events), BTreeMap::from([("a", 2), ("b", 1)]));
        let present = BTreeSet::from(["b".to_owned(), "c".to_owned()]);
        let wrong = wrongly_offline(&events, &present);
        assert_eq!(
            (wrong.len(), wrong[0].device.as_str(), wrong[0].reason),
            (1, "b", 407)
        );
    }
}
