//! Events as JSON lines, for tests and the curious.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use imaccess_proto::v1::{ConnectionEvent, EventKind};
use serde::Serialize;

/// Appends events to a file.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// Locked for the length of one write, so that batches of several streams don't mix.
    file: Mutex<File>,
}

#[derive(Serialize)]
struct Line<'a> {
    kind: &'static str,
    app: &'a str,
    device: &'a str,
    session: String,
    epoch: u64,
    reason: u32,
    unix_ms: u64,
}

impl Recorder {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self {
            file: Mutex::new(file),
        })
    }

    /// Writes a batch in one call: what returns well is in the file, whole.
    pub(crate) fn write(&self, events: &[ConnectionEvent]) -> io::Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::with_capacity(events.len() * 192);
        for event in events {
            let line = Line {
                kind: name(event.kind()),
                app: &event.app,
                device: &event.device,
                session: hex::encode(&event.session),
                epoch: event.epoch,
                reason: event.reason,
                unix_ms: event.unix_ms,
            };
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        self.file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&lines)
    }
}

fn name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Online => "online",
        EventKind::Offline => "offline",
        EventKind::SessionLost => "session-lost",
        EventKind::ResyncNeeded => "resync-needed",
        EventKind::Unspecified => "unspecified",
    }
}
