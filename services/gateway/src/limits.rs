//! Counts that all shards share: connections in all, and per source address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use imaccess_wire::Code;

/// Admits connections. Touched once when a connection opens and once when it ends.
#[derive(Debug)]
pub(crate) struct Admission {
    open: AtomicUsize,
    most: AtomicUsize,
    most_per_address: usize,
    /// Only used when there is a limit per address.
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

impl Admission {
    pub(crate) fn new(most: usize, most_per_address: usize) -> Self {
        Self {
            open: AtomicUsize::new(0),
            most: AtomicUsize::new(most),
            most_per_address,
            by_address: Mutex::default(),
        }
    }

    /// From now on so many are admitted; those that are in stay.
    pub(crate) fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Whether the limit per address is on: only then must a connection's address be kept.
    pub(crate) fn per_address(&self) -> bool {
        self.most_per_address > 0
    }

    /// Counts a connection in, or says why not.
    pub(crate) fn admit(&self, address: Option<IpAddr>) -> Result<(), Code> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.most.load(Ordering::Relaxed) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Code::ConnectionLimit);
        }
        if let (true, Some(address)) = (self.per_address(), address) {
            let mut counts = self
                .by_address
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let count = counts.entry(address).or_insert(0);
            if *count >= self.most_per_address {
                drop(counts);
                self.open.fetch_sub(1, Ordering::Relaxed);
                return Err(Code::AddressLimit);
            }
            *count += 1;
        }
        Ok(())
    }

    /// Counts in a connection that is there already, whatever the limits say.
    pub(crate) fn adopt(&self, address: Option<IpAddr>) {
        self.open.fetch_add(1, Ordering::Relaxed);
        if let (true, Some(address)) = (self.per_address(), address) {
            let mut counts = self
                .by_address
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            *counts.entry(address).or_insert(0) += 1;
        }
    }

    /// Counts a connection out.
    pub(crate) fn release(&self, address: Option<IpAddr>) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        if let (true, Some(address)) = (self.per_address(), address) {
            let mut counts = self
                .by_address
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(count) = counts.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&address);
                }
            }
        }
    }

    /// Connections now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_are_given_back() {
        let admission = Admission::new(3, 2);
        let (a, b) = (
            Some(IpAddr::from([10, 0, 0, 1])),
            Some(IpAddr::from([10, 0, 0, 2])),
        );
        assert_eq!(admission.admit(a), Ok(()));
        assert_eq!(admission.admit(a), Ok(()));
        assert_eq!(admission.admit(a), Err(Code::AddressLimit));
        assert_eq!(admission.admit(b), Ok(()));
        assert_eq!(admission.admit(b), Err(Code::ConnectionLimit));
        admission.release(a);
        assert_eq!(admission.open(), 2);
        assert_eq!(admission.admit(a), Ok(()));
        admission.set_most(4);
        assert_eq!(admission.admit(b), Ok(()));
        admission.set_most(1);
        assert_eq!(admission.admit(None), Err(Code::ConnectionLimit));
        assert_eq!(admission.open(), 4);
    }
}
