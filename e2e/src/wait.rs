//! Waiting for a state: polled, so that a state that was reached before the wait began is seen as well.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Between two looks. Short against any deadline here, long against what a look costs.
const POLL: Duration = Duration::from_millis(10);

/// What one look found.
#[derive(Debug)]
pub enum Seen<T, S> {
    /// The state is reached.
    Yes(T),
    /// Not yet; what was seen instead goes into the failure's message.
    NotYet(S),
}

/// Looks until the state is reached, and returns what the last look gave.
///
/// # Errors
/// When the deadline passes: `what` was waited for, and what was seen last. Also the first error of a look.
pub async fn wait_until<T, S: Debug>(
    what: &str,
    deadline: Duration,
    look: impl AsyncFnMut() -> Result<Seen<T, S>>,
) -> Result<T> {
    wait_until_polled(what, deadline, POLL, look).await
}

/// As [`wait_until`], with a pause of the caller's choice between two looks: for looks that cost the other side something.
///
/// # Errors
/// As those of [`wait_until`].
pub async fn wait_until_polled<T, S: Debug>(
    what: &str,
    deadline: Duration,
    poll: Duration,
    mut look: impl AsyncFnMut() -> Result<Seen<T, S>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match look().await? {
            Seen::Yes(found) => return Ok(found),
            Seen::NotYet(seen) if Instant::now() >= end => {
                bail!("not within {deadline:?}: {what}; seen last: {seen:?}")
            }
            Seen::NotYet(_) => sleep(poll).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn a_state_reached_before_is_seen_at_once() {
        let found = run(wait_until("it", Duration::ZERO, async || {
            Ok(Seen::<_, ()>::Yes(7))
        }));
        assert_eq!(found.unwrap(), 7);
    }

    #[test]
    fn a_failure_says_what_was_seen_last() {
        let mut looks = 0;
        let found = run(wait_until::<(), _>(
            "the third",
            Duration::from_millis(25),
            async || {
                looks += 1;
                Ok(Seen::NotYet(looks))
            },
        ));
        let message = found.unwrap_err().to_string();
        assert!(
            message.contains("the third") && message.contains(&format!("last: {looks}")),
            "{message}"
        );
    }
}
