//! An entrypoint for images that go wrong: it answers `compat` as the binary beside it does, and fails as a part.
//!
//! An upgrade is stopped before anything is touched when an image can't be asked what it speaks. What happens when it can, and
//! fails only in the pod's place, needs a program that is well while it is asked.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use tokio::signal::unix::{SignalKind, signal};

/// The binary that it stands in for.
const BINARY: &str = "/imaccess";
/// What it does as a part: `sleep` or `exit`; which parts go wrong: `gateway`, `state` or both, with a comma.
const DOES: &str = "WRAPPER_DOES";
const PARTS: &str = "WRAPPER_PARTS";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let verb = arguments
        .first()
        .and_then(|verb| verb.to_str())
        .unwrap_or_default();
    let parts = std::env::var(PARTS).unwrap_or_default();
    if parts.split(',').any(|part| part == verb) {
        return fail(verb);
    }
    let error = Command::new(BINARY).args(&arguments).exec();
    eprintln!("{BINARY} can't be started: {error}");
    ExitCode::FAILURE
}

fn fail(verb: &str) -> ExitCode {
    if std::env::var(DOES).as_deref() != Ok("sleep") {
        eprintln!("as {verb} it ends at once");
        return ExitCode::FAILURE;
    }
    eprintln!("as {verb} it never gets ready");
    // The first process of a container is deaf to SIGTERM unless it listens: then only the pod's whole grace would end it.
    let told = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            signal(SignalKind::terminate())?.recv().await;
            std::io::Result::Ok(())
        })
    };
    match told() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("it can't wait for SIGTERM: {error}");
            ExitCode::FAILURE
        }
    }
}
