//! The list in a file, read again when it changes.
//!
//! The file is JSON or YAML: `{gateways: [{name, metrics: "host:port", endpoints: [{protocol, host, port, server_name?}]}]}`.
//! Who writes it writes a new file and renames it over the old one.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{GatewayTarget, TargetFile, validate};

/// Bytes of the file at most: four thousand gateways with eight endpoints each.
const MAX_FILE: u64 = 8 << 20;

/// A file, and what it looked like when it was last read.
#[derive(Debug)]
pub(super) struct WatchedFile {
    path: PathBuf,
    /// What the file looked like when it was last read, well or badly.
    seen: Option<Stamp>,
}

/// Changes whenever the file is replaced or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl WatchedFile {
    /// A file that hasn't been looked at.
    pub(super) fn new(path: PathBuf) -> WatchedFile {
        WatchedFile { path, seen: None }
    }

    /// Looks whether the file has changed, and reads it if so. A `stat` a second, and a read of a local file when
    /// there is something new: short enough to do in place.
    pub(super) fn refresh(&mut self) -> Option<Result<Vec<GatewayTarget>, String>> {
        let metadata = match fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            // Gone for the moment of a replacement, or for good: either way nothing is known to have changed.
            Err(_) if self.seen.is_none() => return None,
            Err(fault) => {
                self.seen = None;
                return Some(Err(format!("{}: {fault}", self.path.display())));
            }
        };
        let stamp = Stamp::of(&metadata);
        if self.seen == Some(stamp) {
            return None;
        }
        self.seen = Some(stamp);
        let read = self.read(stamp.length);
        Some(read.map_err(|fault| format!("{}: {fault}", self.path.display())))
    }

    fn read(&self, length: u64) -> Result<Vec<GatewayTarget>, String> {
        if length > MAX_FILE {
            return Err(format!("it is larger than {MAX_FILE} bytes"));
        }
        let text = fs::read_to_string(&self.path).map_err(|fault: io::Error| fault.to_string())?;
        // JSON is YAML, too.
        let list: TargetFile = serde_yaml::from_str(&text).map_err(|fault| fault.to_string())?;
        validate(&list.gateways)?;
        Ok(list.gateways)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}
