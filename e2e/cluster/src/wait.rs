//! Waiting for a state, from a program without a runtime.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks: short against what is waited for, long against starting a `kubectl`.
const POLL: Duration = Duration::from_millis(100);

/// Looks until `look` gives a value; what it says otherwise goes into the failure's message.
///
/// # Errors
/// When the deadline passes.
pub(crate) fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(seen) if Instant::now() >= end => bail!("not within {deadline:?}: {what}; seen last: {seen}"),
            Err(_) => pause(POLL),
        }
    }
}

/// Between two looks.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that polls; this program has one thread and nothing else to do"
)]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}
