//! When a part is ready: all its named conditions hold and it isn't draining.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// A part's conditions for taking work; clones are the same set. Without conditions it is ready.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    draining: AtomicBool,
    /// In the order of their making; a handful, so a name is found by looking at each.
    conditions: RwLock<Vec<Condition>>,
}

/// One thing a part needs before it is ready; clones are the same condition. Setting it is one atomic store.
#[derive(Debug, Clone)]
pub struct Condition {
    name: &'static str,
    holds: Arc<AtomicBool>,
}

impl Readiness {
    /// A set without conditions.
    #[must_use]
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// The condition `name`: a new one, which doesn't hold yet, or the one already made under this name.
    pub fn condition(&self, name: &'static str) -> Condition {
        let mut conditions = self
            .shared
            .conditions
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = conditions.iter().find(|condition| condition.name == name) {
            return known.clone();
        }
        let condition = Condition {
            name,
            holds: Arc::new(AtomicBool::new(false)),
        };
        conditions.push(condition.clone());
        condition
    }

    /// Says for good that the part is going away.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Whether all conditions hold and no drain has begun.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let conditions = self
            .shared
            .conditions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        !self.shared.draining.load(Ordering::Acquire) && conditions.iter().all(Condition::holds)
    }
}

impl Condition {
    /// Says whether it holds now.
    pub fn set(&self, holds: bool) {
        self.holds.store(holds, Ordering::Release);
    }

    /// Whether it holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.holds.load(Ordering::Acquire)
    }
}

/// A line per condition: `yes link`, `no  link`; and `no  draining` at the end of a part's life.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shared.draining.load(Ordering::Acquire) {
            writeln!(f, "no  draining")?;
        }
        let conditions = self
            .shared
            .conditions
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        for condition in conditions.iter() {
            writeln!(
                f,
                "{} {}",
                if condition.holds() { "yes" } else { "no " },
                condition.name
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_everything_holds() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (link, store) = (readiness.condition("link"), readiness.condition("store"));
        assert!(!readiness.is_ready());
        link.set(true);
        assert_eq!(readiness.to_string(), "yes link\nno  store\n");
        readiness.condition("store").set(true);
        assert!(store.holds() && readiness.is_ready());
        link.set(false);
        assert!(!readiness.is_ready());
        link.set(true);
        let same = readiness.clone();
        readiness.drain();
        assert!(!same.is_ready());
        assert!(readiness.to_string().starts_with("no  draining\n"));
    }
}
