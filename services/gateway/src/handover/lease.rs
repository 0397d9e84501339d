//! The handover lease, and what all shards together know of links and custody.
//!
//! SIGTERM means drain, except while somebody holds the lease: they have looked that everything is in custody and will start
//! the next process. It is short, so that one who dies with it leaves no gateway that would exit without telling its clients.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest that a lease lasts.
pub(crate) const LONGEST: Duration = Duration::from_secs(30);

/// Why no lease is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeaseRefused {
    #[error("custody is off: set custody to true for gateway and state, or end the gateway by a drain")]
    Off,
    #[error("state isn't linked to every shard ({links} of {shards}): try again when it is")]
    LinkDown { links: u32, shards: u32 },
    #[error(
        "custody isn't complete ({complete} of {shards} shards, {held} descriptors held): try again when it is"
    )]
    Incomplete { complete: u32, shards: u32, held: i64 },
    #[error("somebody else holds the lease for another {seconds} s")]
    Taken { seconds: u64 },
}

/// One per gateway, shared by its shards and its admin page.
#[derive(Debug)]
pub(crate) struct Handover {
    shards: u32,
    custody: bool,
    /// Shards whose link to state is up and can be quiesced.
    pub(crate) links: AtomicU32,
    /// Shards that have everything in custody.
    pub(crate) complete: AtomicU32,
    /// Descriptors that the custodian has acknowledged.
    pub(crate) held: AtomicI64,
    lease: Mutex<Option<Lease>>,
}

#[derive(Debug)]
struct Lease {
    id: String,
    until: Instant,
}

impl Handover {
    pub(crate) fn new(shards: u32, custody: bool) -> Self {
        Self {
            shards,
            custody,
            links: AtomicU32::new(0),
            complete: AtomicU32::new(0),
            held: AtomicI64::new(0),
            lease: Mutex::new(None),
        }
    }

    pub(crate) fn shards(&self) -> u32 {
        self.shards
    }

    pub(crate) fn custody(&self) -> bool {
        self.custody
    }

    /// Whether every descriptor of every shard is in custody.
    pub(crate) fn is_complete(&self) -> bool {
        self.custody && self.complete.load(Ordering::Acquire) == self.shards
    }

    /// Whether the gateway could be replaced now.
    pub(crate) fn possible(&self) -> Result<(), LeaseRefused> {
        if !self.custody {
            return Err(LeaseRefused::Off);
        }
        let (links, shards) = (self.links.load(Ordering::Acquire), self.shards);
        if links != shards {
            return Err(LeaseRefused::LinkDown { links, shards });
        }
        let complete = self.complete.load(Ordering::Acquire);
        if complete != shards {
            let held = self.held.load(Ordering::Relaxed);
            return Err(LeaseRefused::Incomplete {
                complete,
                shards,
                held,
            });
        }
        Ok(())
    }

    /// Takes the lease; whoever holds it may take it again under its name.
    pub(crate) fn take(&self, wished: Duration, id: String, now: Instant) -> Result<Duration, LeaseRefused> {
        self.possible()?;
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(other) = lease.as_ref().filter(|other| other.until > now && other.id != id) {
            let seconds = (other.until - now).as_secs() + 1;
            return Err(LeaseRefused::Taken { seconds });
        }
        let length = wished.clamp(Duration::from_secs(1), LONGEST);
        *lease = Some(Lease {
            id,
            until: now + length,
        });
        Ok(length)
    }

    /// Gives the lease back; whether it was held under this name.
    pub(crate) fn give_back(&self, id: &str) -> bool {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        let held = lease.as_ref().is_some_and(|lease| lease.id == id);
        if held {
            *lease = None;
        }
        held
    }

    /// Whether somebody holds the lease.
    pub(crate) fn is_leased(&self, now: Instant) -> bool {
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        lease.as_ref().is_some_and(|lease| lease.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_given_to_one_and_only_when_nothing_would_be_lost() {
        let now = Instant::now();
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let take = |handover: &Handover, id: &str, now| handover.take(minute, id.to_owned(), now);
        assert_eq!(take(&Handover::new(2, false), "a", now), Err(LeaseRefused::Off));
        let handover = Handover::new(2, true);
        handover.links.store(1, Ordering::Release);
        assert!(matches!(
            take(&handover, "a", now),
            Err(LeaseRefused::LinkDown { .. })
        ));
        handover.links.store(2, Ordering::Release);
        assert!(matches!(
            take(&handover, "a", now),
            Err(LeaseRefused::Incomplete { .. })
        ));
        handover.complete.store(2, Ordering::Release);
        assert_eq!(take(&handover, "a", now), Ok(LONGEST));
        assert!(handover.is_leased(now) && !handover.is_leased(now + LONGEST));
        assert!(matches!(
            take(&handover, "b", now + second),
            Err(LeaseRefused::Taken { .. })
        ));
        assert_eq!(take(&handover, "a", now + second), Ok(LONGEST));
        assert!(!handover.give_back("b") && handover.give_back("a"));
        assert!(!handover.is_leased(now));
        assert_eq!(take(&handover, "b", now + second), Ok(LONGEST));
        // One whose holder has died is free again.
        assert_eq!(take(&handover, "c", now + minute), Ok(LONGEST));
    }
}
