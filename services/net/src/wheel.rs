//! One coarse timer wheel per shard.
//!
//! A slot has at most one entry: the tick at which its owner wants to be looked at. Traffic doesn't touch the
//! wheel; the owner only notes when it was last heard, and on expiry works out what is left and schedules again
//! (lazy re-arm). So a million connections that ping every minute cost a million looks per horizon, no more.

/// Time in ticks of the shard's clock. The wheel doesn't know how long a tick is.
pub type Tick = u32;

const NONE: u32 = u32::MAX;

/// A wheel over slots 0…; twelve bytes a slot.
#[derive(Debug)]
pub struct Wheel {
    /// First slot of each bucket.
    buckets: Vec<u32>,
    links: Vec<Link>,
    now: Tick,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    /// Bucket that the slot is in; `NONE`: not scheduled.
    bucket: u32,
}

impl Wheel {
    /// A wheel whose horizon is `buckets` ticks (a power of two); later deadlines are looked at once per horizon.
    #[must_use]
    pub fn new(buckets: usize, now: Tick) -> Self {
        assert!(
            buckets.is_power_of_two(),
            "so that the bucket of a tick is a mask away"
        );
        Self {
            buckets: vec![NONE; buckets],
            links: Vec::new(),
            now,
        }
    }

    /// Schedules `slot` to be looked at in tick `at` or, if that is beyond the horizon or past, as near to it as
    /// the wheel can; replaces what was scheduled for it.
    pub fn schedule(&mut self, slot: u32, at: Tick) {
        self.cancel(slot);
        let horizon = self.buckets.len() as u32 - 1;
        let ahead = at.saturating_sub(self.now).clamp(1, horizon);
        let bucket = self.now.wrapping_add(ahead) & horizon;
        let index = slot as usize;
        if index >= self.links.len() {
            self.links.resize(
                index + 1,
                Link {
                    previous: NONE,
                    next: NONE,
                    bucket: NONE,
                },
            );
        }
        let first = std::mem::replace(&mut self.buckets[bucket as usize], slot);
        self.links[index] = Link {
            previous: NONE,
            next: first,
            bucket,
        };
        if first != NONE {
            self.links[first as usize].previous = slot;
        }
    }

    /// Takes `slot` off the wheel.
    pub fn cancel(&mut self, slot: u32) {
        let Some(link) = self.links.get_mut(slot as usize) else {
            return;
        };
        let Link {
            previous,
            next,
            bucket,
        } = *link;
        if bucket == NONE {
            return;
        }
        link.bucket = NONE;
        if previous == NONE {
            self.buckets[bucket as usize] = next;
        } else {
            self.links[previous as usize].next = next;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
    }

    /// Turns the wheel to `now` and appends the slots whose time has come to `due`; they are off the wheel then.
    /// After a long stall each bucket is visited once, not once per missed tick.
    pub fn advance(&mut self, now: Tick, due: &mut Vec<u32>) {
        let horizon = self.buckets.len() as u32;
        let steps = now.saturating_sub(self.now).min(horizon);
        let first = now.saturating_sub(steps);
        for step in 1..=steps {
            let bucket = (first.wrapping_add(step) & (horizon - 1)) as usize;
            let mut slot = std::mem::replace(&mut self.buckets[bucket], NONE);
            while slot != NONE {
                let link = &mut self.links[slot as usize];
                link.bucket = NONE;
                due.push(slot);
                slot = link.next;
            }
        }
        self.now = self.now.max(now);
    }

    /// The tick that the wheel was last turned to.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u32),
        Cancel(u32),
        Advance(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..40, 0u32..40).prop_map(|(slot, ahead)| Step::Schedule(slot, ahead)),
            (0u32..40).prop_map(Step::Cancel),
            (0u32..50).prop_map(Step::Advance),
        ]
    }

    proptest! {
        /// Against a map from slot to tick: nothing comes early within the horizon, nothing is forgotten.
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec(step(), 0..300), start in 0u32..1000) {
            let mut wheel = Wheel::new(32, start);
            let mut model: BTreeMap<u32, u32> = BTreeMap::new();
            let mut now = start;
            for step in steps {
                match step {
                    Step::Schedule(slot, ahead) => {
                        wheel.schedule(slot, now + ahead);
                        model.insert(slot, now + ahead.clamp(1, 31));
                    }
                    Step::Cancel(slot) => {
                        wheel.cancel(slot);
                        model.remove(&slot);
                    }
                    Step::Advance(ticks) => {
                        now += ticks;
                        let mut due = Vec::new();
                        wheel.advance(now, &mut due);
                        due.sort_unstable();
                        let expected: Vec<u32> =
                            model.iter().filter(|(_, at)| **at <= now).map(|(slot, _)| *slot).collect();
                        model.retain(|_, at| *at > now);
                        prop_assert_eq!(due, expected);
                    }
                }
            }
        }
    }
}
