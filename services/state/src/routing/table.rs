//! Routes: where each device's session is. Pure: no time, no I/O.
//!
//! - One entry of 72 bytes per device in a slab, and its name beside it (see `names`), found through hash tables of 4-byte indices. The tables are
//!   partitions of one: growing any of them re-reads 1/256 of the entries, which is what a push may have to wait for.
//! - The only write is compare-by-epoch. What an instance said on an earlier stream is *stale*: its own new word
//!   replaces it whatever the epochs say, because the instance is the truth about its sessions.
//! - The entries of an instance form a list, latest word last, so that the stale ones are its beginning: dropping
//!   them, or all of a dead instance, visits nothing else.

use hashbrown::HashTable;
use imaccess_common::identity::{Epoch, SessionId};

use super::key::Key;
use super::names::{NameIndex, Names};
use super::slab::Slab;

/// Partitions of the index: growing one of a table of 10 million routes takes milliseconds instead of a second.
const PARTITIONS: usize = 256;
/// The end of a list.
const NIL: u32 = u32::MAX;

/// An instance's place in a replica's tables, below 65,536; given by the replica, reused only after it was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceIndex(pub u32);

/// Where a device's session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The session's own id.
    pub session: SessionId,
    /// Low half of the connection's id.
    pub serial: u64,
    /// What fences it.
    pub epoch: Epoch,
    /// Opaque; given back to the sidecar with every push.
    pub locator: u64,
    /// Who announced it.
    pub instance: InstanceIndex,
}

/// What became of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds now.
    Applied,
    /// It holds now, and the route of another instance doesn't any more.
    Replaced {
        /// The route that was replaced.
        loser: Route,
    },
    /// It lost against a higher epoch.
    Outranked {
        /// The route that holds.
        winner: Route,
    },
}

#[derive(Debug)]
struct Entry {
    key: Key,
    session: SessionId,
    serial: u64,
    epoch: Epoch,
    locator: u64,
    instance: u16,
    /// Of the stream on which the instance said it.
    generation: u16,
    name: NameIndex,
    previous: u32,
    next: u32,
}

/// What the table knows of an instance: its rank among equals, and its entries, oldest word first.
#[derive(Debug, Clone, Copy)]
struct Owner {
    key: u64,
    /// Counts streams. It may begin again: what is stale is dropped at each stream's snapshot, long before.
    generation: u16,
    first: u32,
    last: u32,
}

/// A route that went with its instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRoute {
    /// App of the device.
    pub app: String,
    /// The device.
    pub device: String,
    /// Its session.
    pub session: SessionId,
    /// The route's epoch.
    pub epoch: Epoch,
}

/// The routes of all devices.
#[derive(Debug)]
pub(crate) struct RouteTable {
    partitions: Vec<HashTable<u32>>,
    entries: Slab<Entry>,
    names: Names,
    owners: Vec<Option<Owner>>,
}

impl RouteTable {
    pub(crate) fn new() -> RouteTable {
        RouteTable {
            partitions: std::iter::repeat_with(HashTable::new).take(PARTITIONS).collect(),
            entries: Slab::new(),
            names: Names::default(),
            owners: Vec::new(),
        }
    }

    /// A new stream of `instance` begins: whatever it said before is stale until said again. `key` breaks ties of
    /// epochs. Returns the stream's generation.
    pub(crate) fn begin(&mut self, instance: InstanceIndex, key: u64) -> u32 {
        let place = instance.0 as usize;
        if self.owners.len() <= place {
            self.owners.resize(place + 1, None);
        }
        let owner = self.owners[place].get_or_insert(Owner {
            key,
            generation: 0,
            first: NIL,
            last: NIL,
        });
        owner.key = key;
        owner.generation = owner.generation.wrapping_add(1);
        owner.generation.into()
    }

    /// The one write. Refused (as `None`) for an instance that never began. `app` and `device` are what the key is of.
    pub(crate) fn apply(&mut self, key: Key, (app, device): (&str, &str), new: Route) -> Option<Verdict> {
        let owner = self.owner(new.instance)?;
        let instance = u16::try_from(new.instance.0).ok()?;
        let Some(index) = self.find(key) else {
            let name = self.names.insert(app, device);
            let index = self.entries.insert(Entry {
                key,
                session: new.session,
                serial: new.serial,
                epoch: new.epoch,
                locator: new.locator,
                instance,
                generation: owner.generation,
                name,
                previous: NIL,
                next: NIL,
            });
            let entries = &self.entries;
            self.partitions[key.partition(PARTITIONS)]
                .insert_unique(key.hash(), index, |&at| entries[at].key.hash());
            self.append(index);
            return Some(Verdict::Applied);
        };
        let held = self.entries[index].route();
        let own = held.instance == new.instance;
        let stands = if own {
            self.entries[index].generation == owner.generation && held.epoch > new.epoch
        } else {
            let rank = self.owner(held.instance).map_or(0, |owner| owner.key);
            (held.epoch, rank) > (new.epoch, owner.key)
        };
        if stands {
            return Some(Verdict::Outranked { winner: held });
        }
        self.unlink(index);
        let entry = &mut self.entries[index];
        entry.session = new.session;
        entry.serial = new.serial;
        entry.epoch = new.epoch;
        entry.locator = new.locator;
        entry.instance = instance;
        entry.generation = owner.generation;
        self.append(index);
        Some(if own {
            Verdict::Applied
        } else {
            Verdict::Replaced { loser: held }
        })
    }

    /// Takes back what `instance` announced up to `epoch`; a later or foreign route stays. Says whether one went.
    pub(crate) fn retract(&mut self, key: Key, instance: InstanceIndex, epoch: Epoch) -> bool {
        let Some(index) = self.find(key) else { return false };
        let entry = &self.entries[index];
        if u32::from(entry.instance) != instance.0 || entry.epoch > epoch {
            return false;
        }
        self.remove(index);
        true
    }

    /// The route of a device.
    pub(crate) fn get(&self, key: Key) -> Option<Route> {
        self.find(key).map(|index| self.entries[index].route())
    }

    /// Drops up to `limit` stale routes of an instance, which are appended to `lost`, if that is given; `false` when none is left.
    pub(crate) fn drop_stale(
        &mut self,
        instance: InstanceIndex,
        limit: usize,
        mut lost: Option<&mut Vec<LostRoute>>,
    ) -> bool {
        for _ in 0..limit {
            let Some(owner) = self.owner(instance) else {
                return false;
            };
            if owner.first == NIL || self.entries[owner.first].generation == owner.generation {
                return false;
            }
            if let Some(lost) = &mut lost {
                let entry = &self.entries[owner.first];
                let (app, device) = self.names.get(entry.name);
                lost.push(LostRoute {
                    app: app.to_owned(),
                    device: device.to_owned(),
                    session: entry.session,
                    epoch: entry.epoch,
                });
            }
            self.remove(owner.first);
        }
        true
    }

    /// Forgets an instance that has no routes left; its index may then be given to another.
    pub(crate) fn release(&mut self, instance: InstanceIndex) {
        if let Some(owner) = self.owners.get_mut(instance.0 as usize) {
            debug_assert!(
                owner.is_none_or(|owner| owner.first == NIL),
                "released with routes"
            );
            *owner = None;
        }
    }

    /// Devices with a route.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Memory taken, all in.
    pub(crate) fn bytes(&self) -> usize {
        let index: usize = self.partitions.iter().map(HashTable::allocation_size).sum();
        self.entries.bytes() + self.names.bytes() + index
    }

    fn owner(&self, instance: InstanceIndex) -> Option<Owner> {
        self.owners.get(instance.0 as usize).copied().flatten()
    }

    fn owner_mut(&mut self, instance: u16) -> &mut Owner {
        self.owners[usize::from(instance)]
            .as_mut()
            .expect("an owner stays until it has no entries")
    }

    fn find(&self, key: Key) -> Option<u32> {
        self.partitions[key.partition(PARTITIONS)]
            .find(key.hash(), |&at| self.entries[at].key == key)
            .copied()
    }

    fn remove(&mut self, index: u32) {
        self.unlink(index);
        let key = self.entries[index].key;
        let found = self.partitions[key.partition(PARTITIONS)].find_entry(key.hash(), |&at| at == index);
        found.expect("every entry is in the index").remove();
        self.names.remove(self.entries[index].name);
        self.entries.remove(index);
    }

    /// Puts the entry at the end of its instance's list.
    fn append(&mut self, index: u32) {
        let instance = self.entries[index].instance;
        let last = std::mem::replace(&mut self.owner_mut(instance).last, index);
        self.entries[index].previous = last;
        self.entries[index].next = NIL;
        match last {
            NIL => self.owner_mut(instance).first = index,
            last => self.entries[last].next = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry {
            previous,
            next,
            instance,
            ..
        } = self.entries[index];
        match previous {
            NIL => self.owner_mut(instance).first = next,
            previous => self.entries[previous].next = next,
        }
        match next {
            NIL => self.owner_mut(instance).last = previous,
            next => self.entries[next].previous = previous,
        }
    }
}

impl Entry {
    fn route(&self) -> Route {
        Route {
            session: self.session,
            serial: self.serial,
            epoch: self.epoch,
            locator: self.locator,
            instance: InstanceIndex(self.instance.into()),
        }
    }
}

#[cfg(test)]
mod tests;
