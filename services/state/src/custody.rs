//! Custody: a second holder of the gateway's sockets and listeners, so that no connection ends with the gateway's process.
//!
//! ```text
//!  gateway shard n ──deposits, releases──▶ custodian (a thread of the sidecar)
//!  starting gateway ◀──────everything──────┘      │ connections that are gone for good
//!                                                 ▼
//!                                              workers
//! ```
//!
//! `store` decides and knows neither sockets nor clocks; `serve` accepts and keeps time; `connection` speaks with one gateway
//! connection; `sweep` looks for sockets that are over.
//!
//! Invariants:
//! - The custodian never reads from or writes to what it holds. It only ends it: `shutdown`, then the descriptor is dropped. A
//!   release is dropped without one, for the gateway has ended the connection, or goes on with it.
//! - Giving back takes nothing away: what the starting gateway is sent stays held, until it is deposited anew or found an
//!   orphan. A gateway that dies meanwhile, and the custodian's own planned end, lose nothing.
//! - Only the highest incarnation of the gateway is listened to. What an earlier one had sent before is applied first.
//! - What all shards have and say is complete; then what no shard has is nobody's and is shut down. Until then nothing is.
//! - Without any gateway, listeners end after `custody_listeners`, for they complete handshakes into nothing, and sockets after
//!   `custody_sockets`. The workers are told, because no gateway will. One that is connected and says nothing for as long, neither here
//!   nor on its links, hangs: its sockets end as well.
//! - One thread owns everything here. It waits for a peer only in that peer's task, and for the sidecar only with events, of
//!   which at most [`EVENTS`] wait.

mod connection;
mod giving;
mod metrics;
mod newcomer;
mod serve;
mod store;
mod sweep;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::time::Duration;

use imaccess_net::descriptors::DescriptorListener;
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::metrics::Metrics;

/// Events that may wait for the sidecar's loop: it takes them as they come, and the custodian waits when it doesn't.
pub(crate) const EVENTS: usize = 16;

/// The socket's name in the socket directory.
const SOCKET: &str = "custody.sock";

/// What became of connections while no gateway was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CustodyEvent {
    /// All are gone.
    AllGone,
    /// These are, by serial.
    Gone(Arc<[u64]>),
}

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CustodyTimes {
    /// Listeners, without a gateway.
    pub(crate) listeners: Duration,
    /// Sockets, without a gateway.
    pub(crate) sockets: Duration,
    /// Between two sweeps.
    pub(crate) sweep: Duration,
}

/// Between two sweeps: sockets that are over cost kernel memory until then, a sweep 0.15 µs per socket.
pub(crate) const SWEEP: Duration = Duration::from_secs(5);

/// A custodian that has its socket and isn't running yet.
#[derive(Debug)]
pub(crate) struct Custody {
    listener: DescriptorListener,
    path: PathBuf,
    metrics: Metrics,
    linked: Arc<AtomicU32>,
    held: Arc<AtomicUsize>,
}

impl Custody {
    /// Where it listens.
    pub(crate) fn path(directory: &Path) -> PathBuf {
        directory.join(SOCKET)
    }

    /// Takes the socket; makes its directory, mode 0700, if there is none.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn bind(directory: &Path, registry: &Registry) -> io::Result<Self> {
        let path = Self::path(directory);
        Ok(Self {
            listener: bind(&path)?,
            path,
            metrics: Metrics::register(registry),
            linked: Arc::default(),
            held: Arc::default(),
        })
    }

    /// To be told the incarnation of the gateway whose link is up, 0 for none: one that is linked lives, also when it can't reach the
    /// custodian, and nothing of it may be closed.
    pub(crate) fn linked(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.linked)
    }

    /// How many sockets are held.
    pub(crate) fn held(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.held)
    }

    /// Removes what a custodian left there: a gateway that dialled it would only find out slowly that nobody serves it.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn remove(directory: &Path) -> io::Result<()> {
        match std::fs::remove_file(Self::path(directory)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Runs on a thread of its own until `stop`. Then it drops all that it holds, which ends nothing while the gateway lives.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub(crate) fn start(
        self,
        times: CustodyTimes,
        events: mpsc::Sender<CustodyEvent>,
        stop: CancellationToken,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        let thread = std::thread::Builder::new().name("custody".to_owned());
        thread.spawn(move || {
            if let Err(fault) = serve::run(self, times, events, stop) {
                tracing::error!(%fault, "nothing is kept in custody: a gateway that ends now takes its connections along");
            }
        })
    }
}

fn bind(path: &Path) -> io::Result<DescriptorListener> {
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
    }
    DescriptorListener::bind(path)
}

#[cfg(test)]
mod tests;
