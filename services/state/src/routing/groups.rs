//! Groups: which instances have members of each. Pure: no time, no I/O.
//!
//! An instance's word on a group is marked with the stream's generation, as routes are. What wasn't said again is
//! dropped by a sweep in slices: groups are few beside devices, and a list per instance would cost more than it saves.

use hashbrown::HashTable;

use super::key::Key;
use super::slab::Slab;
use super::table::InstanceIndex;

/// An instance with members, and the generation of the stream that said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Presence {
    instance: u32,
    generation: u32,
}

/// Most groups live on one or two instances; those need no allocation.
#[derive(Debug)]
enum Instances {
    Few(u8, [Presence; 2]),
    Many(Vec<Presence>),
}

#[derive(Debug)]
struct Group {
    key: Key,
    instances: Instances,
}

/// The groups that have members somewhere.
#[derive(Debug)]
pub(crate) struct GroupTable {
    index: HashTable<u32>,
    groups: Slab<Group>,
}

impl GroupTable {
    pub(crate) fn new() -> GroupTable {
        GroupTable {
            index: HashTable::new(),
            groups: Slab::new(),
        }
    }

    /// The instance has members.
    pub(crate) fn enter(&mut self, key: Key, instance: InstanceIndex, generation: u32) {
        let presence = Presence {
            instance: instance.0,
            generation,
        };
        if let Some(at) = self.find(key) {
            self.groups[at].instances.insert(presence);
            return;
        }
        let mut instances = Instances::none();
        instances.insert(presence);
        let at = self.groups.insert(Group { key, instances });
        let groups = &self.groups;
        self.index
            .insert_unique(key.hash(), at, |&at| groups[at].key.hash());
    }

    /// The instance has no members any more.
    pub(crate) fn leave(&mut self, key: Key, instance: InstanceIndex) {
        if let Some(at) = self.find(key) {
            self.groups[at]
                .instances
                .retain(|presence| presence.instance != instance.0);
            self.drop_if_empty(at);
        }
    }

    /// Appends the instances that have members.
    pub(crate) fn members(&self, key: Key, found: &mut Vec<InstanceIndex>) {
        if let Some(at) = self.find(key) {
            let instances = self.groups[at].instances.as_slice();
            found.extend(instances.iter().map(|presence| InstanceIndex(presence.instance)));
        }
    }

    /// Drops what `instance` said in another generation than `generation`, in `limit` places from `cursor` on.
    /// Returns where to go on, `None` at the end.
    pub(crate) fn sweep(
        &mut self,
        instance: InstanceIndex,
        generation: u32,
        cursor: u32,
        limit: u32,
    ) -> Option<u32> {
        let places = u32::try_from(self.groups.places()).expect("places are numbered in 32 bits");
        let end = places.min(cursor.saturating_add(limit));
        for at in cursor..end {
            let instances = &mut self.groups[at].instances;
            // A free place has no instances, and nothing happens to it.
            if instances
                .retain(|presence| presence.instance != instance.0 || presence.generation == generation)
            {
                self.drop_if_empty(at);
            }
        }
        (end < places).then_some(end)
    }

    /// Groups with members.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    fn find(&self, key: Key) -> Option<u32> {
        self.index
            .find(key.hash(), |&at| self.groups[at].key == key)
            .copied()
    }

    fn drop_if_empty(&mut self, at: u32) {
        if !self.groups[at].instances.as_slice().is_empty() {
            return;
        }
        self.groups[at].instances = Instances::none();
        if let Ok(found) = self
            .index
            .find_entry(self.groups[at].key.hash(), |&other| other == at)
        {
            found.remove();
            self.groups.remove(at);
        }
    }
}

impl Instances {
    fn none() -> Instances {
        Instances::Few(
            0,
            [Presence {
                instance: 0,
                generation: 0,
            }; 2],
        )
    }

    fn as_slice(&self) -> &[Presence] {
        match self {
            Instances::Few(count, few) => &few[..usize::from(*count)],
            Instances::Many(many) => many,
        }
    }

    fn insert(&mut self, new: Presence) {
        let known = match self {
            Instances::Few(count, few) => few[..usize::from(*count)]
                .iter_mut()
                .find(|p| p.instance == new.instance),
            Instances::Many(many) => many.iter_mut().find(|p| p.instance == new.instance),
        };
        if let Some(known) = known {
            known.generation = new.generation;
            return;
        }
        match self {
            Instances::Few(count, few) => match few.get_mut(usize::from(*count)) {
                Some(place) => {
                    *place = new;
                    *count += 1;
                }
                None => *self = Instances::Many(few.iter().copied().chain([new]).collect()),
            },
            Instances::Many(many) => many.push(new),
        }
    }

    /// Says whether any went.
    fn retain(&mut self, keep: impl Fn(&Presence) -> bool) -> bool {
        match self {
            Instances::Few(count, few) => {
                let mut kept = 0;
                for at in 0..usize::from(*count) {
                    if keep(&few[at]) {
                        few[kept] = few[at];
                        kept += 1;
                    }
                }
                let some_went = kept < usize::from(*count);
                *count = u8::try_from(kept).expect("at most two are kept");
                some_went
            }
            Instances::Many(many) => {
                let before = many.len();
                many.retain(keep);
                many.len() < before
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Key {
        Key([u64::from(number) % 3, u64::from(number)])
    }

    fn members(table: &GroupTable, group: u8) -> BTreeSet<u32> {
        let mut found = Vec::new();
        table.members(key(group), &mut found);
        let set: BTreeSet<u32> = found.iter().map(|instance| instance.0).collect();
        assert_eq!(set.len(), found.len(), "an instance is named once");
        set
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_of_sets(
            steps in prop::collection::vec((0..4u8, 0..8u8, 0..5u32), 1..300),
        ) {
            let mut table = GroupTable::new();
            let mut model: BTreeMap<(u8, u32), u32> = BTreeMap::new();
            let mut generations = [1; 5];
            for (step, group, instance) in steps {
                let index = InstanceIndex(instance);
                let generation = &mut generations[instance as usize];
                match step {
                    0 | 1 => {
                        table.enter(key(group), index, *generation);
                        model.insert((group, instance), *generation);
                    }
                    2 => {
                        table.leave(key(group), index);
                        model.remove(&(group, instance));
                    }
                    _ => {
                        // A new stream says one group again before the sweep.
                        *generation += 1;
                        table.enter(key(group), index, *generation);
                        model.insert((group, instance), *generation);
                        let mut cursor = Some(0);
                        while let Some(at) = cursor {
                            cursor = table.sweep(index, *generation, at, 3);
                        }
                        model.retain(|&(_, of), said| of != instance || said == generation);
                    }
                }
                let groups: BTreeSet<u8> = model.keys().map(|&(group, _)| group).collect();
                prop_assert_eq!(table.len(), groups.len());
                for group in 0..8 {
                    let want: BTreeSet<u32> =
                        model.keys().filter(|&&(of, _)| of == group).map(|&(_, instance)| instance).collect();
                    prop_assert_eq!(members(&table, group), want);
                }
            }
        }
    }
}
