//! When an open loop means to send: at an even pace that doesn't wait for answers.

/// The intended times of messages at a fixed rate, from zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    interval_ns: f64,
    total: u64,
    next: u64,
}

impl Schedule {
    /// `rate` messages a second for `seconds`.
    #[must_use]
    pub(crate) fn new(rate: f64, seconds: f64) -> Self {
        let total = if rate > 0.0 && seconds > 0.0 {
            (rate * seconds).round() as u64
        } else {
            0
        };
        Self {
            interval_ns: 1e9 / rate,
            total,
            next: 0,
        }
    }

    /// The next message that was due by `now_ns`: its number and the time it was meant for. However late the
    /// loop is, no message is left out: that is what corrects the latencies for coordinated omission.
    pub(crate) fn due(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let intended = self.next_ns()?;
        if intended > now_ns {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some((number, intended))
    }

    /// Messages in all.
    #[must_use]
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// When message `number` is meant to go.
    #[must_use]
    pub(crate) fn intended_ns(&self, number: u64) -> u64 {
        (number as f64 * self.interval_ns) as u64
    }

    /// When the next message is meant to go; `None` when all have gone.
    #[must_use]
    pub(crate) fn next_ns(&self) -> Option<u64> {
        (self.next < self.total).then(|| self.intended_ns(self.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_loop_still_sends_all_with_their_own_times() {
        let mut schedule = Schedule::new(1_000.0, 0.004);
        assert_eq!(schedule.due(0), Some((0, 0)));
        assert_eq!(schedule.due(999_999), None);
        // Two and a half milliseconds late: both messages keep the times they were meant for.
        assert_eq!(schedule.due(3_500_000), Some((1, 1_000_000)));
        assert_eq!(schedule.due(3_500_000), Some((2, 2_000_000)));
        assert_eq!(schedule.next_ns(), Some(3_000_000));
        assert_eq!(schedule.due(3_500_000), Some((3, 3_000_000)));
        assert_eq!((schedule.next_ns(), schedule.due(u64::MAX)), (None, None));
    }

    #[test]
    fn no_rate_is_no_message() {
        assert_eq!(Schedule::new(0.0, 10.0).next_ns(), None);
        assert_eq!(Schedule::new(833.3, 180.0).total, 149_994);
    }
}
