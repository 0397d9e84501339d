//! Runtimes and limits of this process.

use anyhow::Context;
use imaccess_common::telemetry::{LogFormat, init_logging};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A runtime on the caller's thread: no verb needs more, and shards bring their own threads.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("can't start the event loop")
}

/// As [`runtime`], for people's verbs: their logs are off unless `IMACCESS_LOG` asks for some.
pub(crate) fn quiet_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    init_logging(LogFormat::Text, "off");
    runtime()
}

/// Most descriptors for which the table is made at the start: 512 KiB of kernel memory. A process with more pays for each doubling.
const TABLE: u64 = 65_536;

/// Makes the table of descriptors as large as it may have to be. Call it before there is a second thread: then the kernel swaps the
/// table at once, while each later doubling waits for an RCU grace period, about 10 ms. Taking back 15,000 sockets of a former
/// gateway took 90 ms so, and 8 ms without (Linux 6.18, measured by `accept upgrade-gateway-and-state`).
pub(crate) fn reserve_descriptors() {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(TABLE).min(TABLE);
    let Some(last) = most.checked_sub(1).and_then(|last| i32::try_from(last).ok()) else {
        return;
    };
    // The duplicate is closed at once; the table stays. Without it everything works, only slower at first.
    if let Err(error) = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), last) {
        tracing::debug!(%error, last, "the table of descriptors grows as it is needed");
    }
}

/// Raises the limit of open files as far as this process may: every connection is one.
pub(crate) fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    ) {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}
