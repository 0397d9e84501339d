//! All sessions of one shard, found by slot, by session id and by device.
//!
//! Records live in chunks, so that growing moves nothing and wastes at most one chunk. The indices hold record
//! numbers only and read their keys from the records.

use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::attributes::Attributes;
use super::record::{Identity, Record};

/// Records per chunk: 512 × 136 B = 68 KiB, the most that growing can waste.
const CHUNK: usize = 512;

/// Bits of a generation; it shares a locator with the worker (8 bits) and the record's number (32 bits).
const GENERATION_BITS: u32 = 24;

/// Names one session for as long as it is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Record number.
    pub index: u32,
    /// Generation of the record.
    pub generation: u32,
}

impl Key {
    /// The locator by which routing names this session: `worker(8) ‖ generation(24) ‖ index(32)`.
    #[must_use]
    pub fn locator(self, worker: u8) -> u64 {
        u64::from(worker) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key in a locator.
    #[must_use]
    pub fn from_locator(locator: u64) -> Self {
        Self {
            index: locator as u32,
            generation: (locator >> 32) as u32 & ((1 << GENERATION_BITS) - 1),
        }
    }
}

/// The worker in a locator.
#[must_use]
pub fn worker_of(locator: u64) -> u8 {
    (locator >> 56) as u8
}

/// The slot in a link handle: `shard(8) ‖ generation(24) ‖ slot(32)`.
fn slot_of(handle: u64) -> usize {
    handle as u32 as usize
}

/// The sessions.
#[derive(Debug, Default)]
pub struct Table {
    chunks: Vec<Vec<Record>>,
    free: Vec<u32>,
    live: usize,
    /// Slot → record number + 1; 0: none.
    by_slot: Vec<u32>,
    by_session: HashTable<u32>,
    by_device: HashTable<u32>,
    /// What is known of the sessions' devices.
    attributes: Attributes,
    hasher: foldhash::fast::RandomState,
}

impl Table {
    /// How many sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Record numbers are below this.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.chunks
            .last()
            .map_or(0, |last| ((self.chunks.len() - 1) * CHUNK + last.len()) as u32)
    }

    /// The session with this key, if it is still there.
    #[inline]
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&Record> {
        self.at(key.index)
            .filter(|record| record.generation == key.generation)
    }

    /// The session with this key, if it is still there.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut Record> {
        let record = self
            .chunks
            .get_mut(key.index as usize / CHUNK)?
            .get_mut(key.index as usize % CHUNK)?;
        (record.generation == key.generation && record.epoch != 0).then_some(record)
    }

    /// The session in this record, if there is one.
    #[must_use]
    pub fn at(&self, index: u32) -> Option<&Record> {
        let record = self
            .chunks
            .get(index as usize / CHUNK)?
            .get(index as usize % CHUNK)?;
        (record.epoch != 0).then_some(record)
    }

    /// The key of the session in this record.
    #[must_use]
    pub fn key_at(&self, index: u32) -> Option<Key> {
        self.at(index).map(|record| Key {
            index,
            generation: record.generation,
        })
    }

    /// The session whose connection has this address.
    #[inline]
    #[must_use]
    pub fn by_handle(&self, handle: u64) -> Option<Key> {
        let index = self.by_slot.get(slot_of(handle))?.checked_sub(1)?;
        let record = self.at(index)?;
        (record.handle == handle).then_some(Key {
            index,
            generation: record.generation,
        })
    }

    /// The session with this id.
    #[must_use]
    pub fn by_session(&self, id: &[u8; 16]) -> Option<Key> {
        let found = self
            .by_session
            .find(self.hasher.hash_one(id), |&index| self.record(index).id == *id);
        found.and_then(|&index| self.key_at(index))
    }

    /// The latest session of this device.
    #[must_use]
    pub fn by_device(&self, app: &str, device: &str) -> Option<Key> {
        let hash = self.hasher.hash_one((app, device));
        let found = self
            .by_device
            .find(hash, |&index| self.record(index).who.is(app, device));
        found.and_then(|&index| self.key_at(index))
    }

    /// Adds a session, whose epoch is not 0 and whose id and device aren't in the table.
    pub fn insert(&mut self, mut record: Record) -> Key {
        debug_assert!(record.epoch != 0);
        let index = match self.free.pop() {
            Some(index) => {
                let place = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
                record.generation = place.generation;
                *place = record;
                index
            }
            None => {
                if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
                    self.chunks.push(Vec::with_capacity(CHUNK));
                }
                let index = self.end();
                self.chunks.last_mut().expect("pushed above").push(record);
                index
            }
        };
        self.live += 1;
        let (chunks, hasher) = (&self.chunks, &self.hasher);
        let record = |index: &u32| &chunks[*index as usize / CHUNK][*index as usize % CHUNK];
        let of_session = |index: &u32| hasher.hash_one(record(index).id);
        let of_device = |index: &u32| hash_device(hasher, &record(index).who);
        self.by_session
            .insert_unique(of_session(&index), index, of_session);
        self.by_device.insert_unique(of_device(&index), index, of_device);
        Key {
            index,
            generation: record(&index).generation,
        }
    }

    /// Takes a session out; the record still has the address that it had.
    pub fn remove(&mut self, key: Key) -> Option<Record> {
        let handle = self.get(key)?.handle;
        self.set_handle(key, 0);
        let record = &self.chunks[key.index as usize / CHUNK][key.index as usize % CHUNK];
        let session = self.hasher.hash_one(record.id);
        let device = hash_device(&self.hasher, &record.who);
        for (table, hash) in [(&mut self.by_session, session), (&mut self.by_device, device)] {
            if let Ok(entry) = table.find_entry(hash, |other| *other == key.index) {
                entry.remove();
            }
        }
        let place = &mut self.chunks[key.index as usize / CHUNK][key.index as usize % CHUNK];
        let mut vacant = Record::new([0; 16], 0, Identity::vacant());
        vacant.generation = (place.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.free.push(key.index);
        self.live -= 1;
        let removed = std::mem::replace(place, vacant);
        self.attributes.leave(removed.who.attributes());
        Some(Record { handle, ..removed })
    }

    /// Gives a session another connection address; 0 takes it away.
    pub fn set_handle(&mut self, key: Key, handle: u64) {
        let Some(record) = self.get_mut(key) else { return };
        let before = std::mem::replace(&mut record.handle, handle);
        if before != 0
            && let Some(place) = self.by_slot.get_mut(slot_of(before))
            && *place == key.index + 1
        {
            *place = 0;
        }
        if handle != 0 {
            let slot = slot_of(handle);
            if self.by_slot.len() <= slot {
                self.by_slot.resize(slot + 1, 0);
            }
            self.by_slot[slot] = key.index + 1;
        }
    }

    /// What is known of the sessions' devices, by the numbers in their identities.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// What is known of a session's device, in one text; empty: nothing.
    #[must_use]
    pub fn attributes_of(&self, key: Key) -> &str {
        self.get(key)
            .map_or("", |record| self.attributes.text(record.who.attributes()))
    }

    /// Notes the platform and version of a session's device.
    pub fn describe(&mut self, key: Key, platform: &str, version: &str) {
        let number = self.attributes.enter(platform, version);
        self.number(key, number);
    }

    /// The same, as [`attributes_of`](Table::attributes_of) gave it.
    pub fn describe_as(&mut self, key: Key, text: &str) {
        let number = self.attributes.enter_text(text);
        self.number(key, number);
    }

    fn number(&mut self, key: Key, number: u16) {
        let before = match self.get_mut(key) {
            Some(record) => {
                let before = record.who.attributes();
                record.who.set_attributes(number);
                before
            }
            None => number,
        };
        self.attributes.leave(before);
    }

    /// Forgets all addresses: they were given by another gateway incarnation.
    pub fn forget_handles(&mut self) {
        self.by_slot.clear();
        for record in self.chunks.iter_mut().flatten() {
            record.handle = 0;
        }
    }

    fn record(&self, index: u32) -> &Record {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

fn hash_device(hasher: &foldhash::fast::RandomState, who: &Identity) -> u64 {
    hasher.hash_one((who.app(), who.device()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn record(number: u8) -> Record {
        Record::new([number; 16], 1, Identity::new("app", &format!("device-{number}")))
    }

    #[test]
    fn a_stale_key_or_handle_finds_nothing() {
        let mut table = Table::default();
        let first = table.insert(record(1));
        table.set_handle(first, 0x0100_0000_0000_0005);
        assert_eq!(table.by_handle(0x0100_0000_0000_0005), Some(first));
        assert_eq!(
            table.by_handle(0x0200_0000_0000_0005),
            None,
            "another generation of the slot"
        );
        table.remove(first);
        assert_eq!(table.by_handle(0x0100_0000_0000_0005), None);
        let second = table.insert(record(1));
        assert_eq!((second.index, table.get(first).is_none()), (first.index, true));
        assert_eq!(Key::from_locator(second.locator(7)), second);
        assert_eq!(worker_of(second.locator(7)), 7);
    }

    proptest! {
        #[test]
        fn agrees_with_maps(steps in prop::collection::vec((0u8..40, 0u64..30, any::<bool>()), 1..400)) {
            let mut table = Table::default();
            let mut keys: HashMap<u8, Key> = HashMap::new();
            let mut handles: HashMap<u64, u8> = HashMap::new();
            for (number, slot, add) in steps {
                if let Some(&key) = keys.get(&number) {
                    if add {
                        handles.retain(|_, other| *other != number);
                        // As in a gateway: a slot has one owner at a time.
                        if let Some(old) = handles.insert(slot + 1, number) {
                            table.set_handle(keys[&old], 0);
                        }
                        table.set_handle(key, slot + 1);
                    } else {
                        prop_assert!(table.remove(key).is_some());
                        keys.remove(&number);
                        handles.retain(|_, other| *other != number);
                    }
                } else {
                    keys.insert(number, table.insert(record(number)));
                }
                prop_assert_eq!(table.len(), keys.len());
                for number in 0..40 {
                    let key = keys.get(&number).copied();
                    prop_assert_eq!(table.by_session(&[number; 16]), key);
                    prop_assert_eq!(table.by_device("app", &format!("device-{number}")), key);
                }
                for slot in 1..=31 {
                    let owner = handles.get(&slot).map(|number| keys[number]);
                    prop_assert_eq!(table.by_handle(slot), owner);
                }
            }
        }
    }
}
