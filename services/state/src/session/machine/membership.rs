//! Which groups a session is in, and what becomes of that when its connection goes.
//!
//! A client says its groups again at each login; a membership that a business gave is kept while the session has no connection, and
//! follows it when it goes on elsewhere.

use bytes::Bytes;
use imaccess_proto::v1::{MovedGroup, MovedGroups};

use super::Machine;
use crate::session::groups::Left;
use crate::session::record::{GroupSet, Member, Phase};
use crate::session::table::Key;

impl Machine {
    /// Puts a session that has a connection into a group; whether it wasn't in there.
    pub(super) fn enter_group(&mut self, key: Key, business: u32, group: &[u8], given: bool) -> bool {
        let Some(record) = self.table.get_mut(key) else {
            return false;
        };
        let (number, first) = self.groups.add(business, group);
        if !record.groups.insert(Member::new(number, given)) {
            self.groups.remove(number);
            return false;
        }
        if first {
            self.presence(business, group, true);
        }
        true
    }

    /// The same for one that has lost it.
    pub(super) fn keep_group(&mut self, key: Key, business: u32, group: &[u8]) {
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        let number = self.groups.keep(business, group);
        if !record.groups.insert(Member::new(number, true)) {
            self.groups.forget(number);
        }
    }

    /// Takes a session out of a group; whether it was in there.
    pub(super) fn exit_group(&mut self, key: Key, number: u32) -> bool {
        let Some(record) = self.table.get_mut(key) else {
            return false;
        };
        if !record.groups.remove(number) {
            return false;
        }
        match record.phase {
            Phase::Online => self.left(number),
            Phase::Suspended | Phase::Leaving => self.groups.forget(number),
        }
        true
    }

    /// The session is over, or goes: it is in no group any more.
    pub(super) fn release_groups(&mut self, key: Key) {
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        let kept = record.phase != Phase::Online;
        for member in std::mem::take(&mut record.groups).as_slice() {
            if kept {
                self.groups.forget(member.group());
            } else {
                self.left(member.group());
            }
        }
    }

    /// An online session loses its connection: what businesses gave is kept, the rest is over. Its phase must be another one before
    /// its groups are looked at again, or [`take_groups_up`](Machine::take_groups_up) be called.
    pub(super) fn set_groups_aside(&mut self, key: Key) {
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        if record.phase != Phase::Online {
            return;
        }
        let groups = std::mem::take(&mut record.groups);
        let kept = groups
            .as_slice()
            .iter()
            .copied()
            .filter(|member| member.is_given());
        record.groups = kept.collect::<GroupSet>();
        for member in groups.as_slice() {
            let left = if member.is_given() {
                self.groups.set_aside(member.group())
            } else {
                self.groups.remove(member.group())
            };
            self.tell_left(left);
        }
    }

    /// A session whose memberships are kept has a connection again.
    pub(super) fn take_groups_up(&mut self, key: Key) {
        let Some(record) = self.table.get(key) else { return };
        let handle = record.handle;
        let members: Vec<Member> = record.groups.as_slice().to_vec();
        for member in members {
            let first = self.groups.take_up(member.group());
            let (business, name) = self.groups.name(member.group());
            self.link.membership(handle, business, name, true);
            if first {
                let name: Box<[u8]> = name.into();
                self.presence(business, &name, true);
            }
        }
    }

    /// A session goes on elsewhere: says which groups businesses have put it into.
    pub(super) fn send_groups_after(&mut self, key: Key) {
        let Some(record) = self.table.get(key) else { return };
        let given = record.groups.as_slice().iter().filter(|member| member.is_given());
        let groups: Vec<MovedGroup> = given
            .map(|member| {
                let (business, name) = self.groups.name(member.group());
                MovedGroup {
                    business,
                    group: Bytes::copy_from_slice(name),
                }
            })
            .collect();
        if !groups.is_empty() {
            self.routes.moved_groups.push(MovedGroups {
                app: record.who.app().to_owned(),
                device: record.who.device().to_owned(),
                session: Bytes::copy_from_slice(&record.id),
                groups,
            });
        }
    }

    /// A member less.
    fn left(&mut self, number: u32) {
        let left = self.groups.remove(number);
        self.tell_left(left);
    }

    fn tell_left(&mut self, left: Left) {
        if let Left::Last(business, name) = left {
            self.presence(business, &name, false);
        }
    }
}
