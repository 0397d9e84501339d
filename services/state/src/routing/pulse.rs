//! Whether this process has been running. Pure: time is an argument.
//!
//! A replica knows of a sidecar's silence by its own timers. A process that stands still (it was stopped, its machine slept, it got no CPU)
//! has none, and when it goes on it holds for the present what was so before: devices that have come since are offline to it, and
//! those that left online. So its own silence counts as much as a sidecar's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use imaccess_common::clock::CoarseInstant;

/// Between two beats.
pub(crate) const BEAT: Duration = Duration::from_millis(100);
/// Beats that a busy machine may swallow.
const SWALLOWED: u32 = 5;

/// When it was running last.
#[derive(Debug)]
pub(crate) struct Pulse {
    limit: Duration,
    last: AtomicU64,
}

impl Pulse {
    /// It is running; for longer than `limit` it may not stand still.
    pub(crate) fn new(limit: Duration, now: CoarseInstant) -> Pulse {
        Pulse {
            limit: limit.max(BEAT * SWALLOWED),
            last: AtomicU64::new(now.as_millis()),
        }
    }

    /// Whether it has stood still for too long since the last beat.
    pub(crate) fn has_stood_still(&self, now: CoarseInstant) -> bool {
        self.standstill(now).is_some()
    }

    /// For how long it has, if it was too long.
    pub(crate) fn standstill(&self, now: CoarseInstant) -> Option<Duration> {
        let last = CoarseInstant(self.last.load(Ordering::Acquire));
        let still = now.since(last);
        (still > self.limit).then_some(still)
    }

    /// It runs, and whatever follows from having stood still is done.
    pub(crate) fn beat(&self, now: CoarseInstant) {
        self.last.store(now.as_millis(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_stood_still_knows_it_until_it_has_done_something_about_it() {
        let at = |ms| CoarseInstant(ms);
        let pulse = Pulse::new(Duration::from_secs(1), at(5));
        assert!(!pulse.has_stood_still(at(1_005)));
        pulse.beat(at(1_000));
        assert!(!pulse.has_stood_still(at(2_000)));
        assert_eq!(
            pulse.standstill(at(2_001)),
            Some(Duration::from_millis(1_001)),
            "no beat came"
        );
        pulse.beat(at(2_002));
        assert!(!pulse.has_stood_still(at(2_003)));
        let impatient = Pulse::new(Duration::from_millis(1), at(0));
        assert!(!impatient.has_stood_still(at(400)), "a busy machine is no stop");
    }
}
