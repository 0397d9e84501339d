//! The one place that reads a clock, so that everything else can take time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch; 0 when the host's clock stands before 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds since the Unix epoch; 0 when the host's clock stands before 1970.
#[must_use]
pub fn unix_s() -> u64 {
    unix_ms() / 1_000
}

/// A point on one process's monotonic time line, in milliseconds since its [`Monotonic`] began.
///
/// Eight bytes, ordered, free of the host's clock: timers and "last seen" are kept in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CoarseInstant(pub u64);

impl CoarseInstant {
    /// Milliseconds since the time line began.
    #[must_use]
    pub fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this point; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: CoarseInstant) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This point, later by `delay` (parts of a millisecond are dropped).
    #[must_use]
    pub fn after(self, delay: Duration) -> CoarseInstant {
        CoarseInstant(
            self.0
                .saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// A monotonic time line; copies share its start.
#[derive(Debug, Clone, Copy)]
pub struct Monotonic {
    start: Instant,
}

impl Monotonic {
    /// Begins a time line: now is zero.
    #[must_use]
    pub fn start() -> Monotonic {
        Monotonic {
            start: Instant::now(),
        }
    }

    /// The current point. Costs one vDSO read (tens of nanoseconds): loops read it once per batch.
    #[must_use]
    pub fn now(&self) -> CoarseInstant {
        CoarseInstant(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_of_this_century() {
        assert!(unix_s() > 1_600_000_000);
        assert!(unix_ms() / 1_000 >= unix_s() - 1);
    }

    #[test]
    fn points_never_go_below_zero() {
        let (early, late) = (CoarseInstant(5), CoarseInstant(12));
        assert_eq!(late.since(early), Duration::from_millis(7));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(early.after(Duration::from_millis(7)), late);
        assert_eq!(CoarseInstant(1).after(Duration::MAX), CoarseInstant(u64::MAX));
        let line = Monotonic::start();
        assert!(line.now() <= line.now());
    }
}
