//! How a gateway begins: it takes back what the gateway before it left with the custodian, and decides what becomes of it.
//!
//! 1. The descriptors come from the custodian ([`custodian`]), which keeps its own until they are deposited anew.
//! 2. What was going on with each connection comes from the volume: the handover file of a planned exit, else the
//!    cursors that the dead process left, compared with the kernel's counters.
//! 3. [`plan`] decides, purely: goes on, is closed with a resumable code, or is cut.
//!
//! Invariant: nothing is read from or written to a client socket before all of this is done, and the handover file is
//! removed before the first byte is: whoever finds one knows that no byte has moved since it was written. If this process dies
//! in between, the next one begins again from the same descriptors.

mod custodian;
pub(crate) mod plan;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use imaccess_net::cursors::{Cursor, ReadCursorsError, read_cursors};
use imaccess_net::kernel_counts::{counts_can_be_trusted, kernel_counts};
use imaccess_net::socket::ClientSocket;
use imaccess_proto::v1::{HandedEnded, HandedOver, Held, Takeover};

pub use custodian::TakeBackError;
pub(crate) use custodian::take_back;

use crate::handover::file;
use crate::volume::Incarnation;
use imaccess_wire::Code;
use plan::{Fate, Why, shard_of};

/// One connection that another process had.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) socket: ClientSocket,
    pub(crate) serial: u64,
    /// What was counted on it so far.
    pub(crate) cursor: Cursor,
    /// What the process before said of it, at a planned exit.
    pub(crate) record: Option<HandedOver>,
    pub(crate) fate: Fate,
}

/// What a gateway begins with.
#[derive(Debug, Default)]
pub(crate) struct Inheritance {
    pub(crate) takeover: Takeover,
    /// When the former gateway stopped reading, in Unix milliseconds; 0 when that isn't known.
    pub(crate) stopped_unix_ms: u64,
    /// By the shard that each goes to.
    pub(crate) connections: Vec<Vec<Adopted>>,
    pub(crate) ended: Vec<Vec<HandedEnded>>,
    pub(crate) listeners: Vec<(Held, OwnedFd)>,
    /// Files that describe what was; of no use once every shard has its own cursors.
    outdated: Vec<PathBuf>,
    handover_file: Option<PathBuf>,
}

/// The descriptors that came from the custodian.
#[derive(Debug, Default)]
pub(crate) struct TakenBack {
    pub(crate) sockets: Vec<(Held, OwnedFd)>,
    pub(crate) listeners: Vec<(Held, OwnedFd)>,
}

impl Inheritance {
    /// Nothing to begin with.
    pub(crate) fn none(shards: usize) -> Self {
        Self {
            connections: (0..shards).map(|_| Vec::new()).collect(),
            ended: vec![Vec::new(); shards],
            ..Self::default()
        }
    }

    /// Puts together what came back with what the volume says.
    ///
    /// # Errors
    /// The file system's, and files of a generation that this build doesn't speak: nothing is touched then.
    pub(crate) fn gather(
        directory: &Path,
        identity: &Incarnation,
        taken: TakenBack,
        shards: usize,
    ) -> io::Result<Self> {
        let started = Instant::now();
        let mut inheritance = Self::none(shards);
        let (cursors, newest, files) = left_cursors(directory, identity.number)?;
        inheritance.outdated = files;
        let handed = file::read(directory, identity)?;
        inheritance.listeners = taken.listeners;
        inheritance.handover_file = handed.as_ref().map(|handed| handed.path.clone());
        // One that isn't the last gateway's describes what has changed since.
        let handed = handed.filter(|handed| newest.is_none_or(|newest| newest <= handed.incarnation));
        let none = taken.sockets.is_empty();
        // A gateway without connections is handed over like any other.
        let empty = none
            && handed
                .as_ref()
                .is_none_or(|handed| !handed.connections.is_empty());
        inheritance.takeover = if empty {
            Takeover::Unspecified
        } else if handed.is_some() {
            Takeover::Planned
        } else {
            Takeover::Crashed
        };
        let planned = handed.is_some();
        let mut records: HashMap<u64, HandedOver> = HashMap::new();
        if let Some(handed) = handed {
            inheritance.stopped_unix_ms = handed.stopped_unix_ms;
            for ended in handed.ended {
                let shard = shard_of(ended.shard, shards);
                inheritance.ended[shard].push(ended);
            }
            records = handed
                .connections
                .into_iter()
                .map(|record| (record.serial, record))
                .collect();
        }
        if none {
            return Ok(inheritance);
        }
        let trusted = planned || counts_can_be_trusted();
        if !trusted {
            tracing::error!(
                "this kernel's counters of TCP bytes can't be trusted: connections don't outlive a crash here"
            );
        }
        for (held, descriptor) in taken.sockets {
            let mut known = cursors.get(&held.id).copied();
            let record = records.remove(&held.id);
            let fate = if planned {
                plan::handed_over(record.as_ref(), known.map(|(_, cursor)| cursor))
            } else {
                let counted = match known {
                    Some(_) if trusted => kernel_counts(&descriptor),
                    _ => Ok(None),
                };
                let peer_gone = matches!(&counted, Err(error) if error.kind() == io::ErrorKind::NotConnected);
                let counts = counted.ok().flatten();
                let fate = if peer_gone {
                    Fate::Cut(Code::ConnectionLost, Why::PeerGone)
                } else {
                    plan::after_crash(known.map(|(_, cursor)| cursor), counts)
                };
                if let (Some((_, cursor)), Some(counts)) = (&mut known, counts) {
                    // Where it goes on, the kernel's count is at the end of a frame.
                    cursor.written = counts.written;
                }
                fate
            };
            let before = record
                .as_ref()
                .map(|record| record.shard)
                .or_else(|| known.map(|(shard, _)| shard))
                .unwrap_or(0);
            inheritance.connections[shard_of(before, shards)].push(Adopted {
                socket: ClientSocket::new(descriptor),
                serial: held.id,
                cursor: known.map(|(_, cursor)| cursor).unwrap_or_default(),
                record,
                fate,
            });
        }
        let adopted = inheritance.count(|fate| matches!(fate, Fate::GoesOn(_)));
        tracing::info!(
            kind = inheritance.kind(),
            adopted,
            closed = inheritance.count(|fate| !matches!(fate, Fate::GoesOn(_))),
            listeners = inheritance.listeners.len(),
            milliseconds = started.elapsed().as_millis() as u64,
            "took over what the gateway before left"
        );
        Ok(inheritance)
    }

    /// How many connections have such a fate.
    pub(crate) fn count(&self, of: impl Fn(Fate) -> bool) -> usize {
        let all = self.connections.iter().flatten();
        all.filter(|adopted| of(adopted.fate)).count()
    }

    /// The kind of takeover, as in metrics and pages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.takeover {
            Takeover::Unspecified => "none",
            Takeover::Planned => "planned",
            Takeover::Crashed => "crashed",
        }
    }

    /// Removes the handover file: from now on bytes move, and it would lie.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn begin(&mut self) -> io::Result<Outdated> {
        if let Some(path) = self.handover_file.take() {
            fs::remove_file(path)?;
        }
        Ok(Outdated(std::mem::take(&mut self.outdated)))
    }
}

/// Cursor files of former gateways.
#[derive(Debug)]
pub(crate) struct Outdated(Vec<PathBuf>);

impl Outdated {
    /// Every shard has its own cursors now.
    pub(crate) fn remove(self) {
        for path in self.0 {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, path = %path.display(), "a file of a former gateway can't be removed");
            }
        }
    }
}

/// The path of a shard's cursors.
pub(crate) fn cursors_path(directory: &Path, incarnation: u32, shard: usize) -> PathBuf {
    directory.join(format!("cursors.{incarnation}.{shard}"))
}

/// By serial: the shard that it was in, and the cursor of the latest gateway that had it.
type LeftCursors = HashMap<u64, (u32, Cursor)>;

/// All cursors on the volume, the highest incarnation that left some, and the files.
fn left_cursors(directory: &Path, own: u32) -> io::Result<(LeftCursors, Option<u32>, Vec<PathBuf>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let mut words = name.split('.');
        if let (Some("cursors"), Some(incarnation), Some(_)) = (words.next(), words.next(), words.next())
            && let Ok(incarnation) = incarnation.parse::<u32>()
            && incarnation != own
        {
            files.push((incarnation, path));
        }
    }
    // Later ones overwrite: whoever had a connection last knows it best.
    files.sort();
    let mut cursors = LeftCursors::new();
    let mut newest = None;
    for (incarnation, path) in &files {
        match read_cursors(path) {
            Ok((header, cells)) => {
                if !cells.is_empty() {
                    newest = Some(*incarnation);
                }
                cursors.extend(
                    cells
                        .into_iter()
                        .map(|(_, cursor)| (cursor.serial, (header.shard, cursor))),
                );
            }
            Err(error @ ReadCursorsError::Generation { .. }) => {
                return Err(io::Error::other(format!("{}: {error}", path.display())));
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a file of a former gateway can't be read");
            }
        }
    }
    Ok((cursors, newest, files.into_iter().map(|(_, path)| path).collect()))
}
