//! Whether the process is alive in more than name: what `/healthz` answers by.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A pass that takes longer than this hangs: it is cut long before.
const PASS_LIMIT: Duration = Duration::from_secs(180);
/// A campaign that hasn't moved for as long hangs: its requests are given up after seconds.
const PULSE_LIMIT: Duration = Duration::from_secs(60);

/// What must go on; clones are the same.
#[derive(Clone, Debug)]
pub struct Health {
    began: Instant,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pulses: Mutex<Vec<(&'static str, Arc<AtomicU64>)>>,
    passes: Mutex<HashMap<u64, (String, Instant)>>,
}

/// Something that must happen again and again.
#[derive(Clone, Debug)]
pub struct Pulse {
    began: Instant,
    last: Arc<AtomicU64>,
}

/// A pass in progress, until it is dropped.
#[derive(Debug)]
pub struct Pass {
    shared: Arc<Shared>,
    id: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Nothing to watch yet.
    #[must_use]
    pub fn new() -> Health {
        Health {
            began: Instant::now(),
            shared: Arc::default(),
        }
    }

    /// Something that must happen at least once a minute from now on.
    #[must_use]
    pub fn pulse(&self, name: &'static str) -> Pulse {
        let pulse = Pulse {
            began: self.began,
            last: Arc::default(),
        };
        pulse.beat();
        self.shared
            .pulses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name, Arc::clone(&pulse.last)));
        pulse
    }

    /// A pass over `object` has begun, the process's `id`th.
    #[must_use]
    pub fn pass(&self, id: u64, object: String) -> Pass {
        self.shared
            .passes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, (object, Instant::now()));
        Pass {
            shared: Arc::clone(&self.shared),
            id,
        }
    }

    /// Fine, or what hangs.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn check(&self) -> Result<(), String> {
        self.check_at(Instant::now())
    }

    fn check_at(&self, now: Instant) -> Result<(), String> {
        let seconds = now.duration_since(self.began).as_secs();
        let pulses = self.shared.pulses.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, last) in pulses.iter() {
            let silent = seconds.saturating_sub(last.load(Ordering::Relaxed));
            if silent > PULSE_LIMIT.as_secs() {
                return Err(format!("{name} hasn't moved for {silent} s"));
            }
        }
        let passes = self.shared.passes.lock().unwrap_or_else(PoisonError::into_inner);
        for (object, began) in passes.values() {
            let taken = now.saturating_duration_since(*began);
            if taken > PASS_LIMIT {
                return Err(format!("the pass over {object} has taken {} s", taken.as_secs()));
            }
        }
        Ok(())
    }
}

impl Pulse {
    /// It has happened.
    pub fn beat(&self) {
        self.last.store(self.began.elapsed().as_secs(), Ordering::Relaxed);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.shared
            .passes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_named() {
        let health = Health::new();
        let pulse = health.pulse("the lease");
        let pass = health.pass(1, "default/demo".to_owned());
        let after = |seconds| Instant::now() + Duration::from_secs(seconds);
        assert_eq!(health.check(), Ok(()));
        assert!(health.check_at(after(62)).unwrap_err().contains("the lease"));
        pulse.last.store(300, Ordering::Relaxed);
        assert!(health.check_at(after(200)).unwrap_err().contains("default/demo"));
        drop(pass);
        assert_eq!(health.check_at(after(200)), Ok(()));
    }
}
