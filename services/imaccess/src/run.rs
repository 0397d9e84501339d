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
