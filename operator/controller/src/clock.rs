//! The clock that leadership is measured by.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since some fixed point, never set and never standing still: also while the machine is suspended or the process is
/// stopped. Only differences mean anything.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Duration + Send + Sync>);

impl Clock {
    /// The kernel's `CLOCK_BOOTTIME`. (`std::time::Instant` stands still during a suspend, after which a leader of long ago would
    /// still think that it leads.)
    #[must_use]
    pub fn boottime() -> Clock {
        Clock::of(|| {
            let time = clock_gettime(ClockId::Boottime);
            // Neither is ever negative on this clock.
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or(0);
            Duration::new(seconds, nanoseconds)
        })
    }

    /// A clock of one's own.
    pub fn of(now: impl Fn() -> Duration + Send + Sync + 'static) -> Clock {
        Clock(Arc::new(now))
    }

    /// What it says.
    #[must_use]
    pub fn now(&self) -> Duration {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({:?})", self.now())
    }
}
