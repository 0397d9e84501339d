//! When to try again: exponential, with jitter, never sooner than the server asked for.

use std::time::Duration;

/// How waiting times between attempts grow.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffPolicy {
    /// First wait, unless the cluster serves another.
    pub base: Duration,
    /// Each wait is this much longer than the one before.
    pub factor: f64,
    /// Share by which a wait is varied at random, up and down, so that clients don't come in step.
    pub jitter: f64,
    /// No wait grows beyond this (what the server asks for may).
    pub max: Duration,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            factor: 1.8,
            jitter: 0.3,
            max: Duration::from_secs(60),
        }
    }
}

/// The waits of one row of failed attempts. Takes randomness as an argument and reads no clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    policy: BackoffPolicy,
    failures: u32,
}

impl Backoff {
    pub(crate) fn new(policy: BackoffPolicy) -> Self {
        Self { policy, failures: 0 }
    }

    /// The row is over: something worked.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The cluster's own first wait; `None` goes back to the policy's.
    pub(crate) fn serve_base(&mut self, policy: &BackoffPolicy, served: Option<Duration>) {
        self.policy.base = served.unwrap_or(policy.base).min(policy.max);
    }

    /// How long to wait after one more failure. `random` is in 0..1. A `retry_after` is a floor, and jitter only
    /// adds to it, so that a crowd told the same time doesn't return at the same moment.
    pub(crate) fn next(&mut self, random: f64, retry_after: Option<Duration>) -> Duration {
        // 1.8^40 is far beyond any maximum; the bound keeps the power finite.
        let grown = self.policy.base.as_secs_f64() * self.policy.factor.powi(self.failures.min(40) as i32);
        self.failures = self.failures.saturating_add(1);
        let wait =
            grown.min(self.policy.max.as_secs_f64()) * (1.0 + self.policy.jitter * (2.0 * random - 1.0));
        let floor = retry_after.unwrap_or_default().as_secs_f64() * (1.0 + self.policy.jitter * random);
        Duration::from_secs_f64(wait.max(floor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(backoff: &mut Backoff, random: f64, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| backoff.next(random, None).as_millis() as u64)
            .collect()
    }

    #[test]
    fn waits_grow_to_the_maximum_and_start_again() {
        let mut backoff = Backoff::new(BackoffPolicy::default());
        assert_eq!(
            waits(&mut backoff, 0.5, 9),
            [1_000, 1_800, 3_240, 5_832, 10_497, 18_895, 34_012, 60_000, 60_000]
        );
        backoff.reset();
        assert_eq!(waits(&mut backoff, 0.0, 2), [700, 1_260]);
        assert!(waits(&mut backoff, 1.0, 100).iter().all(|&wait| wait <= 78_000));
    }

    #[test]
    fn what_the_server_asks_for_is_a_floor() {
        let mut backoff = Backoff::new(BackoffPolicy::default());
        assert_eq!(
            backoff.next(0.0, Some(Duration::from_secs(100))),
            Duration::from_secs(100)
        );
        assert_eq!(
            backoff.next(1.0, Some(Duration::from_secs(100))),
            Duration::from_secs(130)
        );
        backoff.reset();
        assert_eq!(
            backoff.next(0.5, Some(Duration::from_millis(10))),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn a_served_base_replaces_the_policys() {
        let policy = BackoffPolicy::default();
        let mut backoff = Backoff::new(policy);
        backoff.serve_base(&policy, Some(Duration::from_secs(5)));
        assert_eq!(backoff.next(0.5, None), Duration::from_secs(5));
        backoff.reset();
        backoff.serve_base(&policy, None);
        assert_eq!(backoff.next(0.5, None), Duration::from_secs(1));
    }
}
