//! Which connections of this shard are in which group.
//!
//! A member costs 4 bytes in its group and 8 in its connection's row. Lists grow by an eighth, not to twice their size: what they hold
//! is most of what groups cost.
//!
//! A sweep goes round the group's own list, as a copy would cost as much again. So while one is under way nobody changes places:
//! who leaves leaves the place vacant, who joins stands behind those whom the sweep began with. Once the last sweep has let go, or a
//! third of the places is vacant, they are closed, in order, so that sweeps can tell where they stand.

use hashbrown::HashMap;
use imaccess_net::slab::Slab;

/// The group's place in this shard; may be given to another group once the last member has left.
pub(crate) type GroupIndex = u32;

/// No group.
const NONE: u32 = u32::MAX;
/// Several groups.
const SEVERAL: u32 = u32::MAX - 1;
/// In a list of members: nobody stands here any more.
pub(crate) const VACANT: u32 = u32::MAX;
/// Fewer vacant places than this are no matter.
const MANY_VACANT: usize = if cfg!(test) { 2 } else { 64 };

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
    /// Slots, and [`VACANT`] where somebody left while the list was held.
    members: Vec<u32>,
    vacant: usize,
    /// Sweeps that go round the list.
    holders: u32,
    /// How many have ever joined.
    joins: u64,
}

impl Group {
    /// A room that was full once must not hold its memory for ever.
    fn give_back(&mut self) {
        if self.members.capacity() > 64 && self.members.len() < self.members.capacity() / 4 {
            self.members.shrink_to(self.members.len() * 2);
        }
    }
}

/// A group whose members keep their places until [`Groups::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) group: GroupIndex,
    generation: u32,
    /// How many places there were.
    pub(crate) places: usize,
    joins: u64,
}

impl Held {
    /// The places `vacant` were closed: which place a place is now.
    pub(crate) fn now(vacant: &[usize], place: usize) -> usize {
        place - vacant.partition_point(|vacant| *vacant < place)
    }
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
                    vacant: 0,
                    holders: 0,
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
        let place = membership.position as usize;
        if entry.vacant + 1 == entry.members.len() {
            if let Some(entry) = self.groups.remove(group) {
                self.by_key.remove(&entry.key);
            }
            return;
        }
        if entry.holders > 0 {
            entry.members[place] = VACANT;
            entry.vacant += 1;
            return;
        }
        entry.members.swap_remove(place);
        if let Some(moved) = entry.members.get(place).copied() {
            self.rows.moved(moved, group, membership.position);
        }
        entry.give_back();
    }

    /// Whether so many places of a group that is held are vacant that they are to be closed nevertheless: the list must not grow for as
    /// long as sweeps follow each other.
    pub(crate) fn is_sparse(&self, group: GroupIndex) -> bool {
        let sparse = |group: &Group| group.vacant > MANY_VACANT && group.vacant > group.members.len() / 3;
        self.groups.get(group).is_some_and(sparse)
    }

    /// Closes the vacant places; the others stay in order. Answers which they were, in order.
    pub(crate) fn close_up(&mut self, group: GroupIndex) -> Vec<usize> {
        let Some(entry) = self.groups.get_mut(group) else {
            return Vec::new();
        };
        let mut vacant = Vec::with_capacity(entry.vacant);
        for place in 0..entry.members.len() {
            let slot = entry.members[place];
            if slot == VACANT {
                vacant.push(place);
            } else if !vacant.is_empty() {
                let to = place - vacant.len();
                entry.members[to] = slot;
                self.rows.moved(slot, group, to as u32);
            }
        }
        entry.members.truncate(entry.members.len() - vacant.len());
        entry.vacant = 0;
        entry.give_back();
        vacant
    }

    /// Keeps the members of a group, if it has some here, in their places.
    pub(crate) fn hold(&mut self, business: u32, id: &[u8]) -> Option<Held> {
        let group = *self.by_key.get(&KeyRef { business, id })?;
        let entry = self.groups.get_mut(group)?;
        entry.holders += 1;
        let (places, joins) = (entry.members.len(), entry.joins);
        Some(Held {
            group,
            generation: self.groups.generation(group),
            places,
            joins,
        })
    }

    /// Ends what [`Self::hold`] began. If the group is gone there is nothing to do.
    pub(crate) fn release(&mut self, held: Held) {
        if !self.is_current(&held) {
            return;
        }
        let Some(entry) = self.groups.get_mut(held.group) else {
            return;
        };
        entry.holders -= 1;
        if entry.holders == 0 && entry.vacant > 0 {
            self.close_up(held.group);
        }
    }

    /// Whether the group that is held is still there: it goes with its last member.
    pub(crate) fn is_current(&self, held: &Held) -> bool {
        self.groups.get(held.group).is_some() && self.groups.generation(held.group) == held.generation
    }

    /// Whether nobody has joined since the group was held. Must be current.
    pub(crate) fn nobody_joined(&self, held: &Held) -> bool {
        let joins = self.groups.get(held.group).map(|group| group.joins);
        joins == Some(held.joins)
    }

    /// Who stands at a place of a group's list.
    #[inline]
    pub(crate) fn member_at(&self, group: GroupIndex, place: usize) -> Option<u32> {
        let slot = *self.groups.get(group)?.members.get(place)?;
        (slot != VACANT).then_some(slot)
    }

    /// Business, id and list of members, with [`VACANT`] places, of the first group at or behind `from`, and where to go on.
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
mod tests;
