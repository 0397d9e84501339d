//! The machine's monotonic clock, which all its processes share: what one worker pushes, another can time.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some moment before this process began; the same for all processes.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Counted from the machine's start: neither is negative, and 64 bits hold centuries.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
