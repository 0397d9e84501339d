//! When a part that died is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// A part that lived this long died of something new.
const SETTLED: Duration = Duration::from_secs(10);

/// The pauses of one part's restarts: 0.1 s, doubled to 5 s, from the start again once it has lived for a while.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restarts {
    next: Duration,
}

impl Restarts {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// How long to wait now that it has died after `lived`.
    pub(super) fn pause_after(&mut self, lived: Duration) -> Duration {
        if lived >= SETTLED {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds_and_start_again() {
        let mut restarts = Restarts::new();
        let mut pause = |lived_s| restarts.pause_after(Duration::from_secs(lived_s)).as_millis();
        let pauses: Vec<_> = (0..8).map(|_| pause(0)).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!((pause(10), pause(9)), (100, 200));
    }
}
