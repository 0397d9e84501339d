//! When a part that died is started again.

use std::time::Duration;

use crate::part::Kind;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// A part that lived this long died of something new.
const SETTLED: Duration = Duration::from_secs(10);

/// The pauses of one part's restarts: 0.1 s, doubled to 5 s, from the start again once it has lived for a while. A
/// gateway, and the sidecar beside it, then start again at once: clients wait for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restarts {
    after_long_life: Duration,
    next: Duration,
}

impl Restarts {
    pub(super) fn of(kind: Kind) -> Self {
        let after_long_life = match kind {
            Kind::Gateway | Kind::Sidecar => Duration::ZERO,
            Kind::Routing | Kind::Ipconfig | Kind::Echo | Kind::Chat => FIRST,
        };
        Self {
            after_long_life,
            next: FIRST,
        }
    }

    /// How long to wait now that it has died after `lived`.
    pub(super) fn pause_after(&mut self, lived: Duration) -> Duration {
        if lived >= SETTLED {
            self.next = self.after_long_life;
        }
        let pause = self.next;
        self.next = (pause * 2).clamp(FIRST, LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_seconds_and_start_again() {
        for (kind, after_long_life) in [
            (Kind::Routing, [100, 200, 400]),
            (Kind::Ipconfig, [100, 200, 400]),
            (Kind::Echo, [100, 200, 400]),
            (Kind::Chat, [100, 200, 400]),
            (Kind::Gateway, [0, 100, 200]),
            (Kind::Sidecar, [0, 100, 200]),
        ] {
            let mut restarts = Restarts::of(kind);
            let mut pause = |lived_s| restarts.pause_after(Duration::from_secs(lived_s)).as_millis();
            let pauses: Vec<_> = (0..8).map(|_| pause(0)).collect();
            assert_eq!(
                pauses,
                [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000],
                "{kind:?}"
            );
            assert_eq!([pause(10), pause(9), pause(0)], after_long_life, "{kind:?}");
        }
    }
}
