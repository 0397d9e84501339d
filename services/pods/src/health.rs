//! How the watch is doing: for its user's metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a watch has been through. Its user shows it as metrics; this crate knows no registry.
#[derive(Debug, Default)]
pub struct WatchHealth {
    faults: AtomicU64,
    lists: AtomicU64,
    /// The standing fault and when it began. Held for a few instructions, never over an await.
    fault: Mutex<Option<(String, Instant)>>,
}

impl WatchHealth {
    /// Failed lists and watches since the start.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// Complete lists taken since the start: the first one, and one after each time that the watch was too far behind.
    #[must_use]
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::Relaxed)
    }

    /// For how long the API server hasn't answered well: the snapshot may be this old. None while it answers.
    #[must_use]
    pub fn down_for(&self) -> Option<Duration> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_ref().map(|(_, since)| since.elapsed())
    }

    /// A complete list was taken.
    pub(crate) fn listed(&self) {
        self.lists.fetch_add(1, Ordering::Relaxed);
    }

    /// A request failed. Whether this is news: another fault than the standing one.
    pub(crate) fn failed(&self, fault: &str) -> bool {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let mut standing = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *standing {
            Some((text, _)) if text == fault => false,
            Some((text, _)) => {
                fault.clone_into(text);
                true
            }
            None => {
                *standing = Some((fault.to_owned(), Instant::now()));
                true
            }
        }
    }

    /// A request was answered well. For how long it hadn't been, if it hadn't.
    pub(crate) fn answered(&self) -> Option<Duration> {
        let mut standing = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        standing.take().map(|(_, since)| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_news_when_its_text_is() {
        let health = WatchHealth::default();
        assert_eq!((health.faults(), health.down_for()), (0, None));
        assert!(health.failed("refused"));
        assert!(!health.failed("refused"));
        assert!(health.failed("forbidden"));
        assert_eq!(health.faults(), 3);
        assert!(health.down_for().is_some());
        assert!(health.answered().is_some());
        assert_eq!((health.answered(), health.down_for()), (None, None));
        assert!(health.failed("forbidden"), "again, after a recovery");
    }
}
