//! How a part ends: one signal, one deadline, the same phases everywhere.
//!
//! 1. **Stop accepting**: listeners close, readiness turns false; what is connected goes on.
//! 2. **Tell clients**: go-away (or the part's equivalent), paced by whoever owns the connections.
//! 3. **Flush**: requests in flight are answered, queues written.
//! 4. **Close**: with a verdict per connection.
//! 5. **Deadline**: whatever is left ends now.
//!
//! A task waits on [`Drain::token`] (phase 1 begins) and, if it has work to finish, races that work against
//! [`Drain::deadline`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Exit status after a second Ctrl-C: 128 + SIGINT, what a shell expects of an interrupted program.
const INTERRUPTED: i32 = 130;

/// A drain that has not begun, or has; clones are the same drain.
#[derive(Debug, Clone)]
pub struct Drain {
    token: CancellationToken,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// In milliseconds; may be changed until it begins.
    grace: AtomicU64,
    /// When everything must have ended; set once, by the first `begin`.
    deadline: OnceLock<Instant>,
}

impl Drain {
    /// A drain that will take at most `grace` once begun.
    #[must_use]
    pub fn new(grace: Duration) -> Drain {
        Drain {
            token: CancellationToken::new(),
            shared: Arc::new(Shared {
                grace: AtomicU64::new(millis(grace)),
                deadline: OnceLock::new(),
            }),
        }
    }

    /// It will take at most so long; once it has begun this changes nothing.
    pub fn allow(&self, grace: Duration) {
        self.shared.grace.store(millis(grace), Ordering::Relaxed);
    }

    /// Begins phase 1 and sets the deadline; later calls change nothing.
    pub fn begin(&self) {
        self.end();
        self.token.cancel();
    }

    /// The deadline; set by the first call.
    fn end(&self) -> Instant {
        *self.shared.deadline.get_or_init(|| Instant::now() + self.grace())
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.shared.grace.load(Ordering::Relaxed))
    }

    /// Whether it has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// The token that is cancelled when the drain begins. Cancelling it by hand begins no deadline: use
    /// [`begin`](Drain::begin).
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Waits until the drain begins.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// Waits until the drain has begun and its time is up.
    pub async fn deadline(&self) {
        self.begun().await;
        tokio::time::sleep_until(self.end()).await;
    }

    /// What is left until the deadline; all of it before the drain has begun.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        match self.shared.deadline.get() {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => self.grace(),
        }
    }
}

/// A day is longer than any drain, and added to the present is still a moment.
fn millis(grace: Duration) -> u64 {
    u64::try_from(grace.as_millis())
        .unwrap_or(u64::MAX)
        .min(86_400_000)
}

/// Waits for SIGTERM or SIGINT. After the first, a second Ctrl-C ends the process at once.
///
/// Must be called in a tokio runtime; if the handlers can't be installed it says so and waits forever.
pub async fn shutdown_signal() {
    let handlers = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = handlers else {
        tracing::error!("signal handlers can't be installed; only SIGKILL will end this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
    tokio::spawn(async move {
        if interrupt.recv().await.is_some() {
            std::process::exit(INTERRUPTED);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_deadline_counts_from_the_beginning() {
        let grace = Duration::from_millis(20);
        let drain = Drain::new(grace);
        assert_eq!(drain.remaining(), grace);
        assert!(!drain.has_begun());
        drain.allow(2 * grace);
        assert_eq!(drain.remaining(), 2 * grace);
        drain.allow(grace);
        let before = Instant::now();
        drain.clone().begin();
        drain.begun().await;
        let deadline = *drain.shared.deadline.get().unwrap();
        drain.begin();
        assert_eq!(
            *drain.shared.deadline.get().unwrap(),
            deadline,
            "a second begin moves nothing"
        );
        drain.deadline().await;
        assert!(before.elapsed() >= grace);
        assert_eq!(drain.remaining(), Duration::ZERO);
    }
}
