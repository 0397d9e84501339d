//! Where a part runs, and so how its process is ended and another one started: under `up --processes`, or by itself
//! on a host.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::host::Host;
use crate::control::{Control, ListedPart, Request};
use crate::part::Running;
use crate::terminal::plain;

/// A process that was started in another one's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Started {
    pub(super) pid: u32,
    /// How the one before ended.
    pub(super) status: String,
    /// From the signal until the new one was started.
    pub(super) stopped_ms: u64,
}

/// How a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// By SIGTERM. A gateway hands over if its lease is taken, and sends its clients away if it isn't.
    Asked,
    /// By SIGKILL: a gateway's connections are then taken over as after a crash, but none is sent away.
    Killed,
}

/// Where the part runs.
pub(super) enum Place {
    Up(UpPlace),
    Host(Box<Host>),
}

/// Under `up --processes`.
pub(super) struct UpPlace {
    pub(super) control: Control,
    pub(super) directory: PathBuf,
    pub(super) part: String,
    pub(super) neighbour: Option<String>,
}

impl Place {
    /// What runs now; an error if nothing does.
    pub(super) async fn running(&self) -> anyhow::Result<Running> {
        match self {
            Place::Up(up) => {
                let part = up.listed().await?;
                if part.pid == 0 {
                    bail!("{} isn't running: {}", part.name, last_of(&part));
                }
                Ok(Running {
                    pid: part.pid,
                    binary: part.binary,
                })
            }
            Place::Host(host) => host.running(),
        }
    }

    /// The other one of gateway and sidecar, if it runs.
    pub(super) async fn neighbour(&self) -> Option<Running> {
        match self {
            Place::Up(up) => {
                let parts = up.control.list().await.ok()?;
                let name = up.neighbour.as_ref()?;
                let part = parts
                    .into_iter()
                    .find(|part| part.name == *name && part.pid != 0)?;
                Some(Running {
                    pid: part.pid,
                    binary: part.binary,
                })
            }
            Place::Host(host) => host.neighbour(),
        }
    }

    /// A place for a copy of the program that runs.
    pub(super) fn copy(&self) -> PathBuf {
        match self {
            Place::Up(up) => up.directory.join(format!("{}.previous", up.part)),
            Place::Host(host) => host.copy(),
        }
    }

    /// Ends what runs, and starts `binary` with the same arguments.
    pub(super) async fn replace(&mut self, binary: &Path, ending: Ending) -> anyhow::Result<Started> {
        match self {
            Place::Up(up) => up.replace(binary, ending).await,
            Place::Host(host) => host.replace(binary, ending).await,
        }
    }

    /// Why the previous binary can't be put back, if it can't.
    pub(super) fn no_way_back(&self) -> Option<String> {
        match self {
            Place::Up(_) => None,
            Place::Host(host) => host.no_way_back(),
        }
    }

    /// How the process `pid`, which was started, has ended; `None`: it runs.
    pub(super) async fn ended(&mut self, pid: u32) -> anyhow::Result<Option<String>> {
        match self {
            Place::Up(up) => {
                let part = up.listed().await?;
                Ok((part.pid != pid).then(|| last_of(&part)))
            }
            Place::Host(host) => host.ended(pid),
        }
    }

    /// What `pid` has said lately, if that is known.
    pub(super) async fn said(&mut self, pid: u32) -> String {
        match self {
            Place::Up(up) => match up.listed().await {
                Ok(part) if part.pid == pid => part.stderr,
                _ => String::new(),
            },
            Place::Host(host) => host.said(),
        }
    }
}

impl UpPlace {
    async fn listed(&self) -> anyhow::Result<ListedPart> {
        let parts = self.control.list().await?;
        let part = parts.into_iter().find(|part| part.name == self.part);
        part.with_context(|| format!("`up` runs no {} any more", self.part))
    }

    async fn replace(&self, binary: &Path, ending: Ending) -> anyhow::Result<Started> {
        let within = Duration::from_millis(self.listed().await?.deadline_ms);
        let request = Request::Replace {
            part: self.part.clone(),
            binary: binary.to_owned(),
            kill: ending == Ending::Killed,
        };
        let replaced = self.control.replace(&request, within).await?;
        Ok(Started {
            pid: replaced.pid,
            status: replaced.status,
            stopped_ms: replaced.stopped_ms,
        })
    }
}

/// How a part's last process ended, and what it said. `up` may have started the same binary more than once by now: how it
/// ended lately is as good.
fn last_of(part: &ListedPart) -> String {
    match &part.last {
        Some(last) => with_said(&last.status, &last.stderr),
        None => "it hasn't been started yet".to_owned(),
    }
}

/// With the last lines that a process said, if there are any.
pub(super) fn with_said(what: &str, stderr: &str) -> String {
    match plain(stderr).trim() {
        "" => what.to_owned(),
        said => format!("{what}; it said:\n{said}\n"),
    }
}
