//! Which connections of this shard are in which group.
//!
//! A member costs 4 bytes in its group and 8 in its connection's row. Lists grow by an eighth, not to twice their size: what they hold
//! is most of what groups cost.

use hashbrown::HashMap;
use imaccess_net::slab::Slab;

/// The group's place in this shard; may be given to another group once the last member has left.
pub(crate) type GroupIndex = u32;

/// No group.
const NONE: u32 = u32::MAX;
/// Several groups.
const SEVERAL: u32 = u32::MAX - 1;

/// The groups of one shard. Every change goes through here, so that both directions agree.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    by_key: HashMap<Key, GroupIndex, foldhash::fast::RandomState>,
    groups: Slab<Group>,
    rows: Rows,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    business: u32,
    id: Box<[u8]>,
}

/// Looks a key up without building one.
#[derive(Hash)]
struct KeyRef<'a> {
    business: u32,
    id: &'a [u8],
}

impl hashbrown::Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.business == key.business && *self.id == *key.id
    }
}

#[derive(Debug)]
struct Group {
    key: Key,
    members: Vec<u32>,
    /// How many have ever joined.
    joins: u64,
}

/// A membership: which group, and where the connection stands in its list of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Membership {
    group: GroupIndex,
    position: u32,
}

impl Membership {
    const NONE: Membership = Membership {
        group: NONE,
        position: NONE,
    };
}

/// The memberships of each connection, by slot. One stands in place; of several the place says where they are.
#[derive(Debug, Default)]
struct Rows {
    rows: Vec<Membership>,
    several: Slab<Vec<Membership>>,
}

impl Rows {
    /// A connection's memberships.
    #[inline]
    fn of(&self, slot: u32) -> &[Membership] {
        match self.rows.get(slot as usize) {
            None | Some(Membership { group: NONE, .. }) => &[],
            Some(Membership {
                group: SEVERAL,
                position,
            }) => self.several.get(*position).map_or(&[], Vec::as_slice),
            Some(one) => std::slice::from_ref(one),
        }
    }

    /// Rows for so many slots.
    fn make_room(&mut self, slots: u32) {
        let slots = slots as usize;
        if slots > self.rows.len() {
            grow(&mut self.rows, slots);
            self.rows.resize(slots, Membership::NONE);
        }
    }

    fn find(&self, slot: u32, group: GroupIndex) -> Option<Membership> {
        let mut memberships = self.of(slot).iter();
        memberships.find(|membership| membership.group == group).copied()
    }

    fn add(&mut self, slot: u32, membership: Membership) {
        let index = slot as usize;
        if index >= self.rows.len() {
            self.make_room(slot + 1);
        }
        match self.rows[index].group {
            NONE => self.rows[index] = membership,
            SEVERAL => {
                if let Some(several) = self.several.get_mut(self.rows[index].position) {
                    several.push(membership);
                }
            }
            _ => {
                let (position, _) = self.several.insert(vec![self.rows[index], membership]);
                self.rows[index] = Membership {
                    group: SEVERAL,
                    position,
                };
            }
        }
    }

    fn remove(&mut self, slot: u32, group: GroupIndex) -> Option<Membership> {
        let found = self.find(slot, group)?;
        let row = self.rows.get_mut(slot as usize)?;
        if row.group != SEVERAL {
            *row = Membership::NONE;
            return Some(found);
        }
        let several = self.several.get_mut(row.position)?;
        several.retain(|membership| membership.group != group);
        if let [last] = several[..] {
            self.several.remove(row.position);
            *row = last;
        }
        Some(found)
    }

    /// The connection stands elsewhere in the group's list now.
    fn moved(&mut self, slot: u32, group: GroupIndex, position: u32) {
        let Some(row) = self.rows.get_mut(slot as usize) else {
            return;
        };
        let membership = if row.group == SEVERAL {
            let several = self.several.get_mut(row.position);
            several.and_then(|several| several.iter_mut().find(|membership| membership.group == group))
        } else {
            Some(row).filter(|row| row.group == group)
        };
        if let Some(membership) = membership {
            membership.position = position;
        }
    }
}

/// Makes room for `len` and an eighth more.
fn grow<T>(list: &mut Vec<T>, len: usize) {
    if len > list.capacity() {
        list.reserve_exact(len - list.len() + len / 8);
    }
}

impl Groups {
    /// Whoever joins is in one of so many slots. Said before a join, it makes rows for all at once: lists that grow side by side, a
    /// little each time, leave more memory behind them than they hold.
    pub(crate) fn make_room(&mut self, slots: u32) {
        self.rows.make_room(slots);
    }

    /// Makes the connection in `slot` a member; nothing happens if it is one.
    pub(crate) fn join(&mut self, slot: u32, business: u32, id: &[u8]) {
        let group = match self.by_key.get(&KeyRef { business, id }) {
            Some(group) => *group,
            None => {
                let key = Key {
                    business,
                    id: id.into(),
                };
                let (group, _) = self.groups.insert(Group {
                    key: key.clone(),
                    members: Vec::new(),
                    joins: 0,
                });
                self.by_key.insert(key, group);
                group
            }
        };
        if self.rows.find(slot, group).is_some() {
            return;
        }
        let Some(entry) = self.groups.get_mut(group) else {
            return;
        };
        let position = entry.members.len() as u32;
        let members = &mut entry.members;
        grow(members, position as usize + 1);
        members.push(slot);
        entry.joins += 1;
        self.rows.add(slot, Membership { group, position });
    }

    /// Ends a membership, if there is one.
    pub(crate) fn leave(&mut self, slot: u32, business: u32, id: &[u8]) {
        if let Some(group) = self.by_key.get(&KeyRef { business, id }).copied() {
            self.leave_index(slot, group);
        }
    }

    /// Ends all memberships of a connection.
    pub(crate) fn leave_all(&mut self, slot: u32) {
        while let Some(group) = self.rows.of(slot).first().map(|membership| membership.group) {
            self.leave_index(slot, group);
        }
    }

    fn leave_index(&mut self, slot: u32, group: GroupIndex) {
        let Some(membership) = self.rows.remove(slot, group) else {
            return;
        };
        let Some(entry) = self.groups.get_mut(group) else {
            return;
        };
        let position = membership.position as usize;
        entry.members.swap_remove(position);
        if let Some(moved) = entry.members.get(position).copied() {
            self.rows.moved(moved, group, membership.position);
        }
        if entry.members.capacity() > 64 && entry.members.len() < entry.members.capacity() / 4 {
            // A room that was full once must not hold its memory for ever.
            entry.members.shrink_to(entry.members.len() * 2);
        }
        if entry.members.is_empty()
            && let Some(entry) = self.groups.remove(group)
        {
            self.by_key.remove(&entry.key);
        }
    }

    /// The group's place and that place's generation, if it has members here.
    pub(crate) fn find(&self, business: u32, id: &[u8]) -> Option<(GroupIndex, u32)> {
        let group = *self.by_key.get(&KeyRef { business, id })?;
        Some((group, self.groups.generation(group)))
    }

    /// Whether `generation` still names the group that stands at `group`.
    pub(crate) fn is_current(&self, group: GroupIndex, generation: u32) -> bool {
        self.groups.get(group).is_some() && self.groups.generation(group) == generation
    }

    /// The members of a group, as slots.
    pub(crate) fn members(&self, group: GroupIndex) -> &[u32] {
        self.groups.get(group).map_or(&[], |group| &group.members)
    }

    /// How many have ever joined a group: the same number means that nobody has since.
    pub(crate) fn joins(&self, group: GroupIndex) -> u64 {
        self.groups.get(group).map_or(0, |group| group.joins)
    }

    /// Whether the connection in `slot` is in `group` now.
    #[inline]
    pub(crate) fn is_member(&self, slot: u32, group: GroupIndex) -> bool {
        self.rows.find(slot, group).is_some()
    }

    /// Business, id and members of the first group at or behind `from`, and where to go on.
    pub(crate) fn next_from(&self, from: GroupIndex) -> Option<(u32, &[u8], &[u32], GroupIndex)> {
        (from..self.groups.slots()).find_map(|index| {
            let group = self.groups.get(index)?;
            Some((
                group.key.business,
                &*group.key.id,
                group.members.as_slice(),
                index + 1,
            ))
        })
    }

    /// How many groups have members here.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Clone, Debug)]
    enum Step {
        Join(u32, u8),
        Leave(u32, u8),
        LeaveAll(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..20, 0u8..6).prop_map(|(slot, group)| Step::Join(slot, group)),
            2 => (0u32..20, 0u8..6).prop_map(|(slot, group)| Step::Leave(slot, group)),
            1 => (0u32..20).prop_map(Step::LeaveAll),
        ]
    }

    proptest! {
        /// Against a map from group to set of slots.
        #[test]
        fn behaves_like_sets(steps in proptest::collection::vec(step(), 0..300)) {
            let mut groups = Groups::default();
            let mut model: BTreeMap<u8, BTreeSet<u32>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Join(slot, group) => {
                        groups.join(slot, 1, &[group]);
                        model.entry(group).or_default().insert(slot);
                    }
                    Step::Leave(slot, group) => {
                        groups.leave(slot, 1, &[group]);
                        model.entry(group).or_default().remove(&slot);
                    }
                    Step::LeaveAll(slot) => {
                        groups.leave_all(slot);
                        model.values_mut().for_each(|members| { members.remove(&slot); });
                    }
                }
                model.retain(|_, members| !members.is_empty());
                prop_assert_eq!(groups.len(), model.len());
                for (group, expected) in &model {
                    let (index, generation) = groups.find(1, &[*group]).expect("it has members");
                    prop_assert!(groups.is_current(index, generation));
                    let members: BTreeSet<u32> = groups.members(index).iter().copied().collect();
                    prop_assert_eq!(&members, expected);
                    for slot in 0..20 {
                        prop_assert_eq!(groups.is_member(slot, index), expected.contains(&slot));
                    }
                }
            }
        }
    }

    #[test]
    fn a_member_fits_its_budget() {
        // With 4 in the group's list a member costs 12 bytes, and an eighth of that for room to grow.
        assert_eq!(size_of::<Membership>(), 8);
        let mut groups = Groups::default();
        const MEMBERS: u32 = 15_000;
        (0..MEMBERS).for_each(|slot| groups.join(slot, 1, b"room"));
        let (group, _) = groups.find(1, b"room").unwrap();
        let list = groups.groups.get(group).unwrap().members.capacity() * size_of::<u32>();
        let rows = groups.rows.rows.capacity() * size_of::<Membership>();
        let each = (list + rows) as f64 / f64::from(MEMBERS);
        assert!(each <= 13.5, "{each} bytes per member");
    }
}
