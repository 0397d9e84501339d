//! The groups that have members on this shard: each name kept once, with its members counted.
//!
//! Who the members are is the gateway's knowledge (it fans out) and each session's (it must be told apart from
//! a stranger's leave). Here is only how many, which is what routing must hear of.

use std::hash::BuildHasher;

use hashbrown::HashTable;

#[derive(Debug)]
struct Group {
    business: u32,
    name: Box<[u8]>,
    members: u32,
}

/// Names to numbers, and members per group.
#[derive(Debug, Default)]
pub struct Groups {
    groups: Vec<Group>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
}

impl Groups {
    /// The number of a group that has members.
    #[must_use]
    pub fn find(&self, business: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((business, name));
        self.index
            .find(hash, |&index| self.groups[index as usize].is(business, name))
            .copied()
    }

    /// Counts one more member; the group's number, and whether it is the first.
    pub fn add(&mut self, business: u32, name: &[u8]) -> (u32, bool) {
        if let Some(index) = self.find(business, name) {
            self.groups[index as usize].members += 1;
            return (index, false);
        }
        let group = Group {
            business,
            name: name.into(),
            members: 1,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.groups[index as usize] = group;
                index
            }
            None => {
                self.groups.push(group);
                u32::try_from(self.groups.len() - 1)
                    .expect("members are sessions, of which there are fewer than 2^32")
            }
        };
        let (groups, hasher) = (&self.groups, &self.hasher);
        let hash_of = |index: &u32| groups[*index as usize].hash(hasher);
        self.index
            .insert_unique(groups[index as usize].hash(hasher), index, hash_of);
        (index, true)
    }

    /// Counts one member less; the group's name, if that was the last.
    pub fn remove(&mut self, index: u32) -> Option<(u32, Box<[u8]>)> {
        let group = &mut self.groups[index as usize];
        group.members -= 1;
        if group.members > 0 {
            return None;
        }
        let hash = group.hash(&self.hasher);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == index) {
            entry.remove();
        }
        self.free.push(index);
        let group = &mut self.groups[index as usize];
        Some((group.business, std::mem::take(&mut group.name)))
    }

    /// The business and name of a group.
    #[must_use]
    pub fn name(&self, index: u32) -> (u32, &[u8]) {
        let group = &self.groups[index as usize];
        (group.business, &group.name)
    }

    /// How many groups have members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

impl Group {
    fn is(&self, business: u32, name: &[u8]) -> bool {
        self.business == business && *self.name == *name
    }

    fn hash(&self, hasher: &foldhash::fast::RandomState) -> u64 {
        hasher.hash_one((self.business, &*self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_and_last_member_are_told() {
        let mut groups = Groups::default();
        let (room, first) = groups.add(1, b"room");
        assert!(first);
        assert_eq!(groups.add(1, b"room"), (room, false));
        let (other, first) = groups.add(2, b"room");
        assert!(first && other != room);
        assert_eq!(groups.find(1, b"room"), Some(room));
        assert_eq!(groups.remove(room), None);
        assert_eq!(groups.remove(room), Some((1, (*b"room").into())));
        assert_eq!(groups.find(1, b"room"), None);
        assert_eq!(groups.add(3, b"new"), (room, true), "numbers are used again");
        assert_eq!(groups.len(), 2);
    }
}
