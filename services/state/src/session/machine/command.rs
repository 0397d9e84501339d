//! What businesses want done with sessions and groups: kick, join, leave, list, destroy.

use bytes::Bytes;
use imaccess_proto::v1::{GroupAction, GroupCommand, Member, Outcome, SessionAction, SessionCommand};
use imaccess_wire::Code;
use imaccess_wire::limits::MAX_LOGIN_GROUPS;

use super::{LinkState, Machine};
use crate::session::out::{PushReceipt, WorkerAnswer};
use crate::session::record::Phase;
use crate::session::table::Key;

/// Sessions looked at per turn while a group is destroyed: about 0.1 ms, and at most 200 KB for the gateway.
const ROWS_PER_TURN: u32 = 2_048;
/// Members named in one answer, at most.
const MOST_NAMED: usize = 10_000;
/// Groups that are being destroyed at a time; more are answered as not done.
const MOST_DESTROYING: usize = 64;

/// A group that is being destroyed, one part of the sessions per turn.
#[derive(Debug)]
pub(super) struct Destroying {
    follower: u32,
    id: u64,
    business: u32,
    group: Bytes,
    next: u32,
    count: u64,
}

impl Machine {
    /// A command for one session, from a routing replica.
    pub fn command(&mut self, follower: u32, command: &SessionCommand) {
        let outcome = match self.meant(command) {
            Some(key) => self.carry_out(key, command),
            // Superseded, or over: routing hears of it, and knows better soon.
            None => Outcome::Retry,
        };
        let action = match command.action() {
            SessionAction::Kick => "kick",
            SessionAction::Join => "join",
            SessionAction::Leave => "leave",
            SessionAction::Unspecified => "unknown",
        };
        let done = if outcome == Outcome::Done {
            "done"
        } else {
            "not_done"
        };
        self.shared
            .metrics
            .commands
            .with_label_values(&[action, done])
            .inc();
        if command.id != 0 {
            self.answer_command(follower, command.id, outcome);
        }
    }

    /// The session that routing means, if it is that one still and can be reached now.
    fn meant(&self, command: &SessionCommand) -> Option<Key> {
        if self.link_state != LinkState::Live || self.quiescing {
            return None;
        }
        let key = Key::from_locator(command.locator);
        let record = self.table.get(key)?;
        let same = record.epoch == command.epoch && record.serial == command.serial;
        let here = match record.phase {
            Phase::Online => record.handle != 0,
            Phase::Suspended => true,
            Phase::Leaving => false,
        };
        (same && here).then_some(key)
    }

    fn carry_out(&mut self, key: Key, command: &SessionCommand) -> Outcome {
        match command.action() {
            SessionAction::Kick => self.kick(key, &command.reason),
            SessionAction::Join => self.give_group(key, command.business, &command.group),
            SessionAction::Leave => self.take_group(key, command.business, &command.group),
            // Of a later version.
            SessionAction::Unspecified => Outcome::Retry,
        }
    }

    fn kick(&mut self, key: Key, reason: &str) -> Outcome {
        let connection = self.table.get(key).map(|record| (record.handle, record.serial));
        let (handle, serial) = connection.unwrap_or_default();
        self.leave(key, Some(Code::Kicked));
        if handle != 0 {
            self.close_kicked(handle, serial, key, reason);
        }
        Outcome::Done
    }

    fn give_group(&mut self, key: Key, business: u32, group: &[u8]) -> Outcome {
        let Some(record) = self.table.get(key) else {
            return Outcome::Retry;
        };
        let (handle, phase) = (record.handle, record.phase);
        let known = self.groups.find(business, group);
        let is_member = known.is_some_and(|number| record.groups.contains(number));
        let full = record.groups.as_slice().len() >= MAX_LOGIN_GROUPS && !is_member;
        if full || self.business_index(business).is_none() {
            return Outcome::Refused;
        }
        if phase == Phase::Online {
            self.enter_group(key, business, group, true);
            self.link.membership(handle, business, group, true);
        } else {
            self.keep_group(key, business, group);
        }
        Outcome::Done
    }

    fn take_group(&mut self, key: Key, business: u32, group: &[u8]) -> Outcome {
        let handle = self.table.get(key).map_or(0, |record| record.handle);
        if let Some(number) = self.groups.find(business, group) {
            self.exit_group(key, number);
        }
        if handle != 0 {
            // Also if it isn't in there as far as is known here: the gateway may know more.
            self.link.membership(handle, business, group, false);
        }
        Outcome::Done
    }

    /// A command for a whole group, as far as it is on this shard.
    pub fn group_command(&mut self, follower: u32, command: &GroupCommand) {
        let mut answer = WorkerAnswer::new(follower, command.id);
        let Some(number) = self.groups.find(command.business, &command.group) else {
            answer.partial = !self.restored;
            return self.routes.answers.push(answer);
        };
        match command.action() {
            GroupAction::List => {
                answer.count = u64::from(self.groups.members(number));
                answer.members = self.members(number, command.limit as usize);
                answer.partial = !self.restored;
                self.routes.answers.push(answer);
            }
            GroupAction::Destroy if self.destroying.len() < MOST_DESTROYING => {
                self.destroying.push_back(Destroying {
                    follower,
                    id: command.id,
                    business: command.business,
                    group: Bytes::copy_from_slice(&command.group),
                    next: 0,
                    count: 0,
                });
            }
            GroupAction::Destroy | GroupAction::Unspecified => {
                answer.partial = true;
                self.routes.answers.push(answer);
            }
        }
    }

    /// Some members of a group. Looks at sessions until there are enough: a question for people, not for every message.
    fn members(&self, number: u32, limit: usize) -> Vec<Member> {
        let records = (0..self.table.end()).filter_map(|index| self.table.at(index));
        records
            .filter(|record| record.phase == Phase::Online && record.groups.contains(number))
            .take(limit.min(MOST_NAMED))
            .map(|record| Member {
                app: record.who.app().to_owned(),
                device: record.who.device().to_owned(),
            })
            .collect()
    }

    /// Goes on with a group that is being destroyed, if the link has `room`. Whether there is more to do.
    pub fn run_destroying(&mut self, room: bool) -> bool {
        let Some(mut destroying) = self.destroying.pop_front() else {
            return false;
        };
        let gone = self.link_state != LinkState::Live || self.quiescing;
        if !gone && !room {
            self.destroying.push_front(destroying);
            // The link's mailbox wakes the worker when there is room.
            return false;
        }
        let number = self.groups.find(destroying.business, &destroying.group);
        if let (Some(number), false) = (number, gone) {
            let end = self.table.end();
            let until = destroying.next.saturating_add(ROWS_PER_TURN).min(end);
            for index in destroying.next..until {
                let Some(key) = self.table.key_at(index) else {
                    continue;
                };
                let handle = self.table.get(key).map_or(0, |record| record.handle);
                if self.exit_group(key, number) {
                    destroying.count += 1;
                    if handle != 0 {
                        self.link
                            .membership(handle, destroying.business, &destroying.group, false);
                    }
                }
                if self.groups.find(destroying.business, &destroying.group) != Some(number) {
                    break;
                }
            }
            if until < end && self.groups.find(destroying.business, &destroying.group) == Some(number) {
                destroying.next = until;
                self.destroying.push_back(destroying);
                return true;
            }
        }
        let mut answer = WorkerAnswer::new(destroying.follower, destroying.id);
        answer.count = destroying.count;
        answer.partial = gone;
        self.routes.answers.push(answer);
        !self.destroying.is_empty()
    }

    fn answer_command(&mut self, follower: u32, id: u64, outcome: Outcome) {
        self.routes.receipts.push(PushReceipt {
            follower,
            id,
            outcome,
        });
    }
}
