//! Requests that a business hasn't answered yet, and the coarse wheel that ends them.
//!
//! One table per worker: entries are chained twice, per session (to find a duplicate) and per wheel bucket (to
//! find what is due), so that neither costs an allocation or a timer. Deadlines are kept to within one tick.

use super::table::Key;

/// No entry.
pub const NONE: u32 = u32::MAX;

/// Width of a wheel bucket: timeouts are seconds, so a twentieth of one is exact enough.
pub const TICK_MICROS: u64 = 50_000;

/// Buckets: 12.8 s, which covers the default timeout of 10 s in one round; longer ones go round again.
const BUCKETS: usize = 256;

/// In no bucket.
const UNLINKED: u16 = u16::MAX;

/// One request in flight.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its session.
    pub session: Key,
    /// The client's number.
    pub message_id: u64,
    /// When it was handed on.
    pub since_micros: u64,
    /// When nobody waits any more.
    pub due_micros: u64,
    /// Position of the business in the worker's list.
    pub business: u16,
    /// Which of its streams carries it.
    pub stream: u16,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    generation: u32,
    live: bool,
    next_of_session: u32,
    next: u32,
    /// Previous in the bucket, or `NONE` for its first.
    prev: u32,
    bucket: u16,
}

/// The requests in flight of one worker.
#[derive(Debug)]
pub struct InFlight {
    slots: Vec<Slot>,
    free: Vec<u32>,
    buckets: Box<[u32; BUCKETS]>,
    /// The tick up to which buckets were swept.
    swept: u64,
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            buckets: Box::new([NONE; BUCKETS]),
            swept: 0,
        }
    }
}

impl InFlight {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a request before `first_of_session`. Its id (never 0) and the session's new first.
    pub fn insert(&mut self, entry: Entry, first_of_session: u32) -> (u64, u32) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                entry,
                generation: 0,
                live: false,
                next_of_session: NONE,
                next: NONE,
                prev: NONE,
                bucket: 0,
            });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.entry = entry;
        slot.live = true;
        slot.next_of_session = first_of_session;
        // Never 0, so that no id is.
        slot.generation = slot.generation.checked_add(1).unwrap_or(1);
        let id = u64::from(slot.generation) << 32 | u64::from(index);
        self.link(index);
        (id, index)
    }

    /// The request with this id, if it is still in flight.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Entry> {
        let slot = self.slots.get(id as u32 as usize)?;
        (slot.live && u64::from(slot.generation) == id >> 32).then_some(&slot.entry)
    }

    /// Takes a request out. Its session's chain begins at `first`; what it begins at afterwards comes back.
    pub fn remove(&mut self, id: u64, first: u32) -> Option<(Entry, u32)> {
        let entry = *self.get(id)?;
        let index = id as u32;
        self.unlink(index);
        let after = self.slots[index as usize].next_of_session;
        let mut first = first;
        if first == index {
            first = after;
        } else {
            let mut at = first;
            while at != NONE {
                let next = self.slots[at as usize].next_of_session;
                if next == index {
                    self.slots[at as usize].next_of_session = after;
                    break;
                }
                at = next;
            }
        }
        self.slots[index as usize].live = false;
        self.free.push(index);
        Some((entry, first))
    }

    /// Whether a session, whose chain begins at `first`, has this message in flight.
    #[must_use]
    pub fn has(&self, first: u32, message_id: u64) -> bool {
        self.of_session(first)
            .any(|id| self.get(id).is_some_and(|entry| entry.message_id == message_id))
    }

    /// The ids of a session's requests.
    pub fn of_session(&self, first: u32) -> impl Iterator<Item = u64> {
        let mut at = first;
        std::iter::from_fn(move || {
            let slot = self.slots.get(at as usize)?;
            let id = u64::from(slot.generation) << 32 | u64::from(at);
            at = slot.next_of_session;
            Some(id)
        })
    }

    /// The ids of all requests on one stream; looks at every entry, for when a stream breaks.
    #[must_use]
    pub fn on_stream(&self, business: u16, stream: u16) -> Vec<u64> {
        let live =
            self.slots.iter().enumerate().filter(|(_, slot)| {
                slot.live && slot.entry.business == business && slot.entry.stream == stream
            });
        live.map(|(index, slot)| u64::from(slot.generation) << 32 | index as u64)
            .collect()
    }

    /// The ids of all requests.
    #[must_use]
    pub fn all(&self) -> Vec<u64> {
        let live = self.slots.iter().enumerate().filter(|(_, slot)| slot.live);
        live.map(|(index, slot)| u64::from(slot.generation) << 32 | index as u64)
            .collect()
    }

    /// Puts the ids that are due at `now_micros` into `due`, once: the caller removes them.
    pub fn sweep(&mut self, now_micros: u64, due: &mut Vec<u64>) {
        let now = now_micros / TICK_MICROS;
        // After a long pause every bucket is looked at once.
        self.swept = self.swept.max(now.saturating_sub(BUCKETS as u64));
        while self.swept < now {
            self.swept += 1;
            let mut at = std::mem::replace(&mut self.buckets[(self.swept % BUCKETS as u64) as usize], NONE);
            while at != NONE {
                let slot = &mut self.slots[at as usize];
                let next = slot.next;
                (slot.next, slot.prev) = (NONE, NONE);
                if slot.entry.due_micros <= now_micros {
                    // In no bucket until the caller takes it out.
                    slot.bucket = UNLINKED;
                    due.push(u64::from(slot.generation) << 32 | u64::from(at));
                } else {
                    self.link(at);
                }
                at = next;
            }
        }
    }

    fn link(&mut self, index: u32) {
        let due = self.slots[index as usize].entry.due_micros.div_ceil(TICK_MICROS);
        let tick = due.clamp(self.swept + 1, self.swept + BUCKETS as u64 - 1);
        let bucket = (tick % BUCKETS as u64) as usize;
        let next = std::mem::replace(&mut self.buckets[bucket], index);
        let slot = &mut self.slots[index as usize];
        (slot.bucket, slot.next, slot.prev) = (bucket as u16, next, NONE);
        if next != NONE {
            self.slots[next as usize].prev = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        let (bucket, next, prev) = (usize::from(slot.bucket), slot.next, slot.prev);
        if slot.bucket == UNLINKED {
            return;
        }
        if prev == NONE {
            self.buckets[bucket] = next;
        } else {
            self.slots[prev as usize].next = next;
        }
        if next != NONE {
            self.slots[next as usize].prev = prev;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(message_id: u64, due_micros: u64) -> Entry {
        let session = Key {
            index: 0,
            generation: 0,
        };
        Entry {
            session,
            message_id,
            since_micros: 0,
            due_micros,
            business: 0,
            stream: 0,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(
            steps in prop::collection::vec((0u8..4, 1u64..60, 0u64..40_000_000), 1..300),
        ) {
            let mut table = InFlight::default();
            let mut model: HashMap<u64, (u64, u64)> = HashMap::new();
            let (mut first, mut now) = (NONE, 0);
            for (step, message, span) in steps {
                match step {
                    0 | 1 => {
                        let (id, new_first) = table.insert(entry(message, now + span), first);
                        first = new_first;
                        model.insert(id, (message, now + span));
                    }
                    2 => {
                        if let Some(&id) = model.keys().min() {
                            let (entry, new_first) = table.remove(id, first).unwrap();
                            first = new_first;
                            prop_assert_eq!(entry.message_id, model.remove(&id).unwrap().0);
                        }
                    }
                    _ => {
                        now += span / 10;
                        let mut due = Vec::new();
                        table.sweep(now, &mut due);
                        for id in due {
                            let (_, at) = model.remove(&id).expect("due once, and live");
                            prop_assert!(at <= now, "early by {}", at - now);
                            first = table.remove(id, first).unwrap().1;
                        }
                        let late = model.values().find(|(_, at)| at + 2 * TICK_MICROS < now);
                        prop_assert_eq!(late, None, "still there at {}", now);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                for message in 1..60 {
                    prop_assert_eq!(
                        table.has(first, message),
                        model.values().any(|(other, _)| *other == message)
                    );
                }
            }
        }
    }
}
