//! Further processes that the benches start, beside the load workers and the bare servers.

pub(crate) mod link;
pub(crate) mod pages;

use std::io::{Read, Write};

use serde::Serialize;

/// Prints one JSON line for the bench.
fn say(what: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, what)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Ends when the bench closes our standard input; what is read until then is of no interest.
fn wait_for_end() {
    let mut ignored = [0; 64];
    while std::io::stdin().read(&mut ignored).is_ok_and(|len| len > 0) {}
}

/// A runtime of one thread, as each shard and each sidecar worker has.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
