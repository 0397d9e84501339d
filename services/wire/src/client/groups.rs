//! The groups that a client joined, and the last push seen in each; also in those that a business put it into, of which it
//! hears only by their pushes.

use super::event::Continuity;
use crate::frame::{GroupPosition, GroupPush};
use crate::limits::MAX_LOGIN_GROUPS;

/// At most [`MAX_LOGIN_GROUPS`] groups, so that a login can name them all. Searched front to back: most
/// clients are in a few.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    entries: Vec<Entry>,
    /// Groups that it didn't join: to see gaps, not to be named at a login. Most clients are in none.
    given: Option<Box<AllGiven>>,
}

/// Latest heard last; the others are forgotten first.
#[derive(Clone, Debug, Default)]
struct AllGiven(Vec<Given>);

#[derive(Clone, Debug)]
struct Given {
    business: u32,
    group: Box<[u8]>,
    epoch: u64,
    sequence: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    business: u32,
    group: Box<[u8]>,
    membership: Membership,
    /// Numbering stream last seen; 0: none.
    epoch: u64,
    sequence: u64,
}

/// Where a membership stands. The number is the message id of the frame whose answer is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Membership {
    Joining(u64),
    Member,
    Leaving(u64),
}

impl Groups {
    /// Positions for a login: all groups to be in.
    pub(super) fn positions(&self) -> Vec<GroupPosition<'_>> {
        let wanted = |entry: &&Entry| !matches!(entry.membership, Membership::Leaving(_));
        self.entries
            .iter()
            .filter(wanted)
            .map(|entry| GroupPosition {
                business: entry.business,
                group: &entry.group,
                group_epoch: entry.epoch,
                sequence: entry.sequence,
            })
            .collect()
    }

    /// Notes that a join is about to be sent: its message id and the position to send; `None` if there are too
    /// many groups. A join without an answer is repeated with its message id, else `new_id` gives one.
    pub(super) fn join(
        &mut self,
        business: u32,
        group: &[u8],
        new_id: impl FnOnce() -> u64,
    ) -> Option<(u64, u64, u64)> {
        if let Some(entry) = self.find(business, group) {
            let id = match entry.membership {
                Membership::Joining(id) => id,
                Membership::Member | Membership::Leaving(_) => new_id(),
            };
            entry.membership = Membership::Joining(id);
            return Some((id, entry.epoch, entry.sequence));
        }
        if self.entries.len() >= MAX_LOGIN_GROUPS {
            return None;
        }
        let id = new_id();
        let membership = Membership::Joining(id);
        // Exact growth: nearly all clients are in very few groups and stay there.
        self.entries.reserve_exact(1);
        self.entries.push(Entry {
            business,
            group: group.into(),
            membership,
            epoch: 0,
            sequence: 0,
        });
        Some((id, 0, 0))
    }

    /// Notes that a leave is about to be sent, and says with which message id.
    pub(super) fn leave(&mut self, business: u32, group: &[u8], new_id: impl FnOnce() -> u64) -> u64 {
        let Some(entry) = self.find(business, group) else {
            return new_id();
        };
        let id = match entry.membership {
            Membership::Leaving(id) => id,
            Membership::Member | Membership::Joining(_) => new_id(),
        };
        entry.membership = Membership::Leaving(id);
        id
    }

    /// A join or leave was answered: for good, not with a code that asks to repeat it.
    pub(super) fn answered(&mut self, message_id: u64, accepted: bool) {
        let Some(index) = self.entries.iter().position(|entry| {
            matches!(entry.membership, Membership::Joining(id) | Membership::Leaving(id) if id == message_id)
        }) else {
            return;
        };
        let joining = matches!(self.entries[index].membership, Membership::Joining(_));
        if joining == accepted {
            self.entries[index].membership = Membership::Member;
        } else {
            self.entries.swap_remove(index);
            if self.entries.is_empty() {
                self.entries = Vec::new();
            }
        }
    }

    /// Notes a push's position and says how it follows the last one.
    pub(super) fn seen(&mut self, push: &GroupPush<'_>) -> Continuity {
        let Some(entry) = self.find(push.business, push.group) else {
            return self.seen_in_given(push);
        };
        follow(&mut entry.epoch, &mut entry.sequence, push)
    }

    fn seen_in_given(&mut self, push: &GroupPush<'_>) -> Continuity {
        let AllGiven(all) = &mut **self.given.get_or_insert_default();
        let known = all
            .iter()
            .position(|given| given.business == push.business && *given.group == *push.group);
        let mut given = match known {
            Some(place) => all.remove(place),
            None => Given {
                business: push.business,
                group: push.group.into(),
                epoch: 0,
                sequence: 0,
            },
        };
        let continuity = follow(&mut given.epoch, &mut given.sequence, push);
        if all.len() >= MAX_LOGIN_GROUPS {
            all.remove(0);
        }
        all.push(given);
        continuity
    }

    /// Takes over what another connection of the same session has seen and joined.
    pub(super) fn catch_up(&mut self, other: &Self) {
        for theirs in &other.entries {
            let room = self.entries.len() < MAX_LOGIN_GROUPS;
            match self.find(theirs.business, &theirs.group) {
                None if room => self.entries.push(theirs.clone()),
                None => {}
                Some(ours) if ours.epoch == theirs.epoch => {
                    ours.sequence = ours.sequence.max(theirs.sequence);
                }
                Some(ours) if ours.epoch == 0 => {
                    ours.epoch = theirs.epoch;
                    ours.sequence = theirs.sequence;
                }
                Some(_) => {}
            }
        }
    }

    fn find(&mut self, business: u32, group: &[u8]) -> Option<&mut Entry> {
        self.entries
            .iter_mut()
            .find(|entry| entry.business == business && *entry.group == *group)
    }
}

/// How a push follows the last one seen, which it is from now on, unless that was later.
fn follow(epoch: &mut u64, sequence: &mut u64, push: &GroupPush<'_>) -> Continuity {
    let continuity = if *epoch == 0 {
        Continuity::First
    } else if *epoch != push.group_epoch {
        Continuity::NewEpoch
    } else if push.sequence <= *sequence {
        return Continuity::Repeated;
    } else {
        match push.sequence - *sequence - 1 {
            0 => Continuity::Next,
            missing => Continuity::Gap { missing },
        }
    };
    *epoch = push.group_epoch;
    *sequence = push.sequence;
    continuity
}
