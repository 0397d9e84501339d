//! Sessions that go to another worker, because the gateway has fewer shards now and its connections of the shards that
//! are gone are on others.

use std::cmp::Reverse;
use std::collections::HashMap;

use imaccess_proto::v1::Outcome;
use imaccess_wire::Code;

use super::{LinkState, Machine};
use crate::session::Now;
use crate::session::record::{GroupSet, Identity, Phase, Record};
use crate::session::window::Window;

/// All that one worker has for another.
#[derive(Debug)]
pub struct Transfer {
    /// The worker that had it.
    pub from: u8,
    /// Start of the gateway that has fewer shards.
    pub incarnation: u32,
    /// Its sessions that may go on.
    pub sessions: Vec<Moved>,
    /// Ended connections that it will settle itself, when businesses have acknowledged them.
    pub elsewhere: Vec<u64>,
    /// Those that it has settled; the gateway may not have heard it.
    pub settled: Vec<u64>,
}

/// One session on its way. The fields are those of [`Record`].
#[derive(Debug)]
#[allow(missing_docs, reason = "as in Record")]
pub struct Moved {
    pub id: [u8; 16],
    pub epoch: u64,
    pub serial: u64,
    pub who: Identity,
    pub window: Window,
    pub push_watermark: u64,
    pub forwarded: u32,
    pub reason: u16,
    pub fresh: bool,
    /// Microseconds for which it may still be resumed; `None`: it is online.
    pub resumable_for: Option<u64>,
    /// Business and name of each group, and whether a business gave the membership.
    pub groups: Vec<(u32, Box<[u8]>, bool)>,
    /// What is known of its device.
    pub attributes: Box<str>,
    /// Answers that its client hasn't got.
    pub answers: Vec<Answered>,
}

/// An answer that wasn't sent.
#[derive(Debug)]
pub struct Answered {
    /// The client's number.
    pub message_id: u64,
    /// Its code.
    pub code: u16,
    /// The whole frame, if it was kept.
    pub frame: Option<Vec<u8>>,
}

impl Machine {
    /// The gateway has no shard of this number any more. Sessions that are over stay here, so that their events keep their
    /// order; all others go. What is in flight is answered retry, by the one that gets them. Deltas up to `heard` are known to some replica:
    /// under their new numbers they wouldn't look it.
    pub fn export(&mut self, to: u8, incarnation: u32, heard: u64, now: Now) -> Transfer {
        self.link_state = LinkState::Down;
        self.link.clear();
        self.logins.clear();
        self.fail_pushes(Outcome::Unknown);
        // Nobody is linked: each answer goes to those that wait for a link.
        self.give_up_requests(now);
        let mut answers: HashMap<_, Vec<Answered>> = HashMap::new();
        for (key, message_id, code) in std::mem::take(&mut self.undelivered) {
            let frame = self.replies.find(key, message_id);
            answers.entry(key).or_default().push(Answered {
                message_id,
                code,
                frame,
            });
        }
        let until: HashMap<_, _> = self
            .suspended
            .drain(..)
            .chain(self.restored_suspended.drain().map(|Reverse(entry)| entry))
            .map(|(at, key, phase_no)| ((key, phase_no), at))
            .collect();
        let mut sessions = Vec::new();
        let mut elsewhere = Vec::new();
        for index in 0..self.table.end() {
            let Some(key) = self.table.key_at(index) else {
                continue;
            };
            let Some(record) = self.table.get(key) else {
                continue;
            };
            if record.phase == Phase::Leaving {
                elsewhere.push(record.serial);
                continue;
            }
            let members = record.groups.as_slice().iter();
            let groups = members
                .map(|member| {
                    let (business, name) = self.groups.name(member.group());
                    (business, name.into(), member.is_given())
                })
                .collect();
            let attributes = self.table.attributes_of(key).into();
            self.release_groups(key);
            let Some(record) = self.table.remove(key) else {
                continue;
            };
            debug_assert_eq!(record.groups, GroupSet::None);
            let resumable_for = (record.phase == Phase::Suspended).then(|| {
                let at = until.get(&(key, record.phase_no));
                at.map_or(0, |at| at.saturating_sub(now.micros))
            });
            sessions.push(Moved {
                id: record.id,
                epoch: record.epoch,
                serial: record.serial,
                window: record.window,
                push_watermark: record.push_watermark,
                forwarded: record.forwarded,
                reason: record.reason,
                fresh: record.fresh && record.announced > heard.max(self.confirmed),
                who: record.who,
                resumable_for,
                groups,
                attributes,
                answers: answers.remove(&key).unwrap_or_default(),
            });
        }
        let (settled, owed) = self.settlements.hand_over();
        elsewhere.extend(owed);
        self.retired_to = Some(to);
        self.restored = true;
        Transfer {
            from: self.settings.worker,
            incarnation,
            sessions,
            elsewhere,
            settled,
        }
    }

    /// Sessions of a worker whose shard is gone. What waited for them is judged when the last has come.
    pub fn import(&mut self, transfer: Transfer, now: Now) {
        self.settlements.elsewhere.extend(transfer.elsewhere);
        for serial in transfer.settled {
            self.settle(serial);
        }
        for moved in transfer.sessions {
            self.take_in(moved, now);
        }
        self.imported.push((transfer.incarnation, transfer.from));
        self.sync.imports.retain(|from| *from != transfer.from);
        if !self.sync.awaits_imports() {
            self.imports_done(now);
        }
    }

    /// What this worker has settled since its shard is gone, for the one that may say it.
    pub fn take_settled(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.settlements.forwarded)
    }

    /// Another worker has settled these.
    pub fn settled_elsewhere(&mut self, serials: &[u64]) {
        for &serial in serials {
            self.settlements.elsewhere.remove(&serial);
            self.settle(serial);
        }
    }

    fn take_in(&mut self, moved: Moved, now: Now) {
        let known = self.table.by_session(&moved.id);
        let other = known.or_else(|| self.table.by_device(moved.who.app(), moved.who.device()));
        if let Some(other) = other
            && let Some(record) = self.table.get(other)
        {
            // It has gone on here already, or was followed by another.
            if record.epoch >= moved.epoch {
                if record.serial != moved.serial {
                    self.close_for_good(0, moved.serial, Code::Moved);
                }
                return;
            }
            self.supersede(other, Code::Superseded);
        }
        let mut record = Record::new(moved.id, moved.epoch, moved.who);
        record.serial = moved.serial;
        record.window = moved.window;
        record.push_watermark = moved.push_watermark;
        record.forwarded = moved.forwarded;
        record.reason = moved.reason;
        record.fresh = moved.fresh;
        // Its number was the other worker's.
        record.who.set_attributes(0);
        let key = self.table.insert(record);
        self.table.describe_as(key, &moved.attributes);
        if let Some(serials) = &mut self.sync.serials {
            serials.insert(moved.serial, key);
        }
        match moved.resumable_for {
            Some(remaining) => {
                if let Some(record) = self.table.get_mut(key) {
                    record.enter(Phase::Suspended);
                    let until = now.micros.saturating_add(remaining);
                    self.restored_suspended
                        .push(Reverse((until, key, record.phase_no)));
                }
                for (business, name, _) in &moved.groups {
                    self.keep_group(key, *business, name);
                }
            }
            None => {
                for (business, name, given) in &moved.groups {
                    self.enter_group(key, *business, name, *given);
                }
                for answer in moved.answers {
                    if let Some(frame) = &answer.frame {
                        self.replies.keep(key, answer.message_id, frame, now.micros);
                    }
                    self.undelivered.push((key, answer.message_id, answer.code));
                }
            }
        }
        self.announce(key);
        if self.link_state == LinkState::Live && moved.resumable_for.is_none() {
            // The snapshot is over, and it wasn't in it.
            self.suspend(key, Code::ConnectionLost, now);
        }
    }
}
