//! When a cluster is looked at again after a failure: each on its own.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::Class;
use crate::kinds::Key;

/// The first pause after a failure that may pass by itself, and the longest.
const TRANSIENT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(300));
/// After a conflict: what was read was old, so a new look usually helps.
const CONFLICT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Between looks while somebody must change something.
const REFUSED: Duration = Duration::from_secs(300);
/// While another operator leads; by then this one has stopped its passes anyway.
const NOT_LEADING: Duration = Duration::from_secs(2);

/// The failures in a row of each cluster.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: HashMap<Key, (Class, u32)>,
}

impl Backoff {
    /// Counts a failure, and says how long to wait. `jitter`, 0 to 1, makes it up to a fifth longer, so that clusters that failed
    /// together don't come back together.
    pub fn failed(&mut self, key: &Key, class: Class, jitter: f64) -> Duration {
        let entry = self.failures.entry(key.clone()).or_insert((class, 0));
        if entry.0 != class {
            *entry = (class, 0);
        }
        entry.1 = entry.1.saturating_add(1);
        let grown = |(first, most): (Duration, Duration)| {
            let doublings = entry.1.saturating_sub(1).min(16);
            first.saturating_mul(1 << doublings).min(most)
        };
        let pause = match class {
            Class::Conflict => grown(CONFLICT),
            Class::Transient => grown(TRANSIENT),
            Class::Refused | Class::Defect => REFUSED,
            Class::NotLeading => NOT_LEADING,
        };
        pause.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 5.0)
    }

    /// Failures of the same class in a row, this one included.
    #[must_use]
    pub fn count(&self, key: &Key) -> u32 {
        self.failures.get(key).map_or(0, |(_, count)| *count)
    }

    /// It went well, or the cluster is gone.
    pub fn forget(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// Clusters that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.failures.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_per_cluster_and_class_and_are_bounded() {
        let (one, other) = (Key::new("a", "one"), Key::new("a", "other"));
        let mut backoff = Backoff::default();
        let mut fail = |key, class| backoff.failed(key, class, 0.0).as_millis();
        assert_eq!(fail(&one, Class::Transient), 500);
        assert_eq!(fail(&one, Class::Transient), 1_000);
        assert_eq!(fail(&other, Class::Transient), 500, "each on its own");
        assert_eq!(fail(&one, Class::Conflict), 50, "another class begins anew");
        assert_eq!(fail(&one, Class::Refused), 300_000);
        for _ in 0..100 {
            assert!(fail(&other, Class::Transient) <= 300_000);
        }
        assert_eq!(fail(&other, Class::Transient), 300_000);
        assert_eq!(backoff.len(), 2);
        backoff.forget(&other);
        assert_eq!(backoff.failed(&other, Class::Transient, 1.0).as_millis(), 600);
        backoff.forget(&one);
        backoff.forget(&other);
        assert!(backoff.is_empty());
    }
}
