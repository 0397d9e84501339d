//! The groups that sessions of this shard are in: each name kept once, with its members counted.
//!
//! Who the members are is the gateway's knowledge (it fans out) and each session's (it must be told apart from
//! a stranger's leave). Here is only how many, which is what routing must hear of. A session that has lost its connection is no
//! member; a membership that a business gave it is *kept* until the session goes on or is over.

use std::hash::BuildHasher;

use hashbrown::HashTable;

#[derive(Debug)]
struct Group {
    business: u32,
    name: Box<[u8]>,
    members: u32,
    kept: u32,
}

/// Names to numbers, and members per group.
#[derive(Debug, Default)]
pub struct Groups {
    groups: Vec<Group>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
}

/// What the end of a membership means for its group.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// It has members still, or had none.
    Others,
    /// That was the last: routing must hear that there are none.
    Last(u32, Box<[u8]>),
}

impl Groups {
    /// The number of a group that is known, which is one that has members or kept memberships.
    #[must_use]
    pub fn find(&self, business: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((business, name));
        self.index
            .find(hash, |&index| self.groups[index as usize].is(business, name))
            .copied()
    }

    /// How many members a group has.
    #[must_use]
    pub fn members(&self, index: u32) -> u32 {
        self.groups[index as usize].members
    }

    /// Counts one more member; the group's number, and whether it is the first.
    pub fn add(&mut self, business: u32, name: &[u8]) -> (u32, bool) {
        let index = self.number(business, name);
        let group = &mut self.groups[index as usize];
        group.members += 1;
        (index, group.members == 1)
    }

    /// Counts one member less.
    pub fn remove(&mut self, index: u32) -> Left {
        let group = &mut self.groups[index as usize];
        group.members -= 1;
        if group.members > 0 {
            return Left::Others;
        }
        let last = Left::Last(group.business, group.name.clone());
        self.tidy(index);
        last
    }

    /// Counts one more kept membership; the group's number.
    pub fn keep(&mut self, business: u32, name: &[u8]) -> u32 {
        let index = self.number(business, name);
        self.groups[index as usize].kept += 1;
        index
    }

    /// A member's membership is kept from now on.
    pub fn set_aside(&mut self, index: u32) -> Left {
        self.groups[index as usize].kept += 1;
        self.remove(index)
    }

    /// One whose membership was kept is a member again; whether it is the first.
    pub fn take_up(&mut self, index: u32) -> bool {
        let group = &mut self.groups[index as usize];
        group.kept -= 1;
        group.members += 1;
        group.members == 1
    }

    /// A kept membership is over.
    pub fn forget(&mut self, index: u32) {
        self.groups[index as usize].kept -= 1;
        self.tidy(index);
    }

    /// The business and name of a group.
    #[must_use]
    pub fn name(&self, index: u32) -> (u32, &[u8]) {
        let group = &self.groups[index as usize];
        (group.business, &group.name)
    }

    /// How many groups are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn number(&mut self, business: u32, name: &[u8]) -> u32 {
        if let Some(index) = self.find(business, name) {
            return index;
        }
        let group = Group {
            business,
            name: name.into(),
            members: 0,
            kept: 0,
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.groups[index as usize] = group;
                index
            }
            None => {
                self.groups.push(group);
                u32::try_from(self.groups.len() - 1)
                    .expect("members are sessions, of which there are fewer than 2^31")
            }
        };
        let (groups, hasher) = (&self.groups, &self.hasher);
        let hash_of = |index: &u32| groups[*index as usize].hash(hasher);
        self.index
            .insert_unique(groups[index as usize].hash(hasher), index, hash_of);
        index
    }

    /// Forgets a group in which nobody is.
    fn tidy(&mut self, index: u32) {
        let group = &mut self.groups[index as usize];
        if group.members > 0 || group.kept > 0 {
            return;
        }
        let hash = group.hash(&self.hasher);
        if let Ok(entry) = self.index.find_entry(hash, |other| *other == index) {
            entry.remove();
        }
        self.groups[index as usize].name = Box::default();
        self.free.push(index);
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
        assert_eq!(groups.remove(room), Left::Others);
        assert_eq!(groups.remove(room), Left::Last(1, (*b"room").into()));
        assert_eq!(groups.find(1, b"room"), None);
        assert_eq!(groups.add(3, b"new"), (room, true), "numbers are used again");
        assert_eq!(groups.len(), 2);
    }

    #[test]
    fn what_is_kept_is_no_member_and_comes_back_with_its_name() {
        let mut groups = Groups::default();
        let (room, _) = groups.add(1, b"room");
        assert_eq!(groups.set_aside(room), Left::Last(1, (*b"room").into()));
        assert_eq!((groups.find(1, b"room"), groups.members(room)), (Some(room), 0));
        assert_eq!(groups.name(room), (1, &b"room"[..]));
        assert!(groups.take_up(room));
        assert_eq!(groups.set_aside(room), Left::Last(1, (*b"room").into()));
        assert_eq!(groups.add(1, b"room"), (room, true));
        groups.forget(room);
        assert_eq!(groups.remove(room), Left::Last(1, (*b"room").into()));
        assert!(groups.is_empty());
        assert_eq!(groups.keep(4, b"only kept"), room);
        groups.forget(room);
        assert!(groups.is_empty());
    }
}
