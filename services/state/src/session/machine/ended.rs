//! Connections that ended: what the gateway remembers of each until it is *settled*, which is when nothing is owed of
//! it any more. That is how a killed sidecar loses no offline event.
//!
//! A serial is settled when its session goes on over another connection, was superseded, or when every business that
//! wants to know has acknowledged that the device is offline (or the event was dropped, or nobody wants it).
//! Saying it twice does no harm; a serial that the gateway doesn't know means nothing.

use std::collections::{HashMap, HashSet, VecDeque};

use imaccess_proto::v1::EndedConnection;
use imaccess_wire::Code;

use super::{LinkState, Machine};
use crate::session::Now;
use crate::session::record::{Identity, Phase, Record};
use crate::session::table::Key;

/// Serials remembered after they were settled, for the case that the gateway didn't hear it: 512 KiB, and 6 s of 10,000
/// ends a second. One that is forgotten here and listed again tells its business twice.
const MAX_SAID: usize = 65_536;

/// Connections that are being closed by this side, and whose end the gateway is yet to report. One more than these is
/// settled only once.
const MAX_CLOSING: usize = 65_536;

/// How a connection is closed by this side.
#[derive(Debug, Clone)]
pub(super) struct Farewell {
    code: Code,
    /// For people; of a kick.
    reason: Box<str>,
    /// The session that a kick has ended, of which businesses are told.
    kicked: Option<Key>,
}

impl From<Code> for Farewell {
    fn from(code: Code) -> Self {
        Self {
            code,
            reason: Box::default(),
            kicked: None,
        }
    }
}

#[derive(Debug)]
struct Closing {
    serial: u64,
    farewell: Farewell,
}

/// What is known of ended connections beside the sessions' own records.
#[derive(Debug, Default)]
pub(super) struct Settlements {
    /// Settled, oldest first; whether the gateway heard of it is known with its next snapshot.
    said: VecDeque<u64>,
    /// How many of them were said before the current stream.
    before: usize,
    /// Offline events that businesses haven't acknowledged, by serial: how many businesses. Bounded by their backlogs.
    owed: HashMap<u64, u32>,
    /// Handles that this side has closed, until the gateway has said that they are.
    closing: HashMap<u64, Closing>,
    /// By serial, connections to be closed of which it isn't known whether the gateway heard it: it couldn't be told, or its stream broke
    /// before it said that they are. The next snapshot may have them.
    unsaid: HashMap<u64, Farewell>,
    /// Serials that another worker, whose shard is gone, will settle.
    pub(super) elsewhere: HashSet<u64>,
    /// Serials to be settled by the worker that has this one's shard now.
    pub(super) forwarded: Vec<u64>,
}

impl Settlements {
    /// A new stream begins. `foreign`: of another gateway instance, to which serials of before mean nothing.
    pub(super) fn link_up(&mut self, foreign: bool) {
        self.before = self.said.len();
        self.link_down();
        if foreign {
            self.unsaid.clear();
        }
    }

    /// The stream broke: whether the gateway has closed what it was told to isn't known. One that hung hasn't even read it.
    pub(super) fn link_down(&mut self) {
        let told = self
            .closing
            .drain()
            .map(|(_, closing)| (closing.serial, closing.farewell));
        let room = MAX_CLOSING.saturating_sub(self.unsaid.len());
        self.unsaid
            .extend(told.filter(|(serial, _)| *serial != 0).take(room));
    }

    /// The gateway's list is complete: what it didn't name, it has heard of, or never knew.
    pub(super) fn snapshot_done(&mut self) {
        self.said.drain(..self.before.min(self.said.len()));
        self.before = 0;
        self.unsaid.clear();
    }

    /// What was to be said to this connection while nothing could be.
    pub(super) fn take_unsaid(&mut self, serial: u64) -> Option<Farewell> {
        self.unsaid.remove(&serial)
    }

    /// All that this worker would settle, or has and may not have been heard: for the worker that takes over.
    pub(super) fn hand_over(&mut self) -> (Vec<u64>, Vec<u64>) {
        let said = std::mem::take(&mut self.said).into();
        (said, self.owed.keys().copied().collect())
    }
}

impl Machine {
    /// Nothing is owed any more of this connection, which has ended or is about to.
    pub(super) fn settle(&mut self, serial: u64) {
        if serial == 0 || self.generation < 2 {
            return;
        }
        if self.retired_to.is_some() {
            self.settlements.forwarded.push(serial);
            return;
        }
        let said = &mut self.settlements.said;
        if said.len() >= MAX_SAID {
            said.pop_front();
            self.settlements.before = self.settlements.before.saturating_sub(1);
        }
        said.push_back(serial);
        if self.may_send() {
            self.link.settled(serial);
            self.shared.metrics.settled.inc();
        }
    }

    /// Closes a connection whose session is gone or elsewhere: nothing is owed of it.
    pub(super) fn close_for_good(&mut self, handle: u64, serial: u64, code: Code) {
        if handle != 0 && self.may_send() {
            self.close(handle, serial, code.into());
        } else if self.link_state != LinkState::Live
            && self.generation >= 2
            && serial != 0
            && self.settlements.unsaid.len() < MAX_CLOSING
        {
            // The next snapshot may have its connection.
            self.settlements.unsaid.insert(serial, code.into());
        }
        self.settle(serial);
    }

    /// Has the gateway close a connection, and again if its stream breaks before it has said that it did.
    pub(super) fn close(&mut self, handle: u64, serial: u64, farewell: Farewell) {
        if farewell.reason.is_empty() {
            self.link.close(handle, farewell.code);
        } else {
            self.link.close_saying(handle, farewell.code, &farewell.reason);
        }
        if self.generation >= 2 && self.settlements.closing.len() < MAX_CLOSING {
            self.settlements
                .closing
                .insert(handle, Closing { serial, farewell });
        }
    }

    /// Closes the connection of a device that a business doesn't want, whose session is over already.
    pub(super) fn close_kicked(&mut self, handle: u64, serial: u64, key: Key, reason: &str) {
        let farewell = Farewell {
            code: Code::Kicked,
            reason: reason.into(),
            kicked: Some(key),
        };
        self.close(handle, serial, farewell);
    }

    /// A connection that the gateway was to close is there still.
    pub(super) fn close_again(&mut self, handle: u64, serial: u64, farewell: Farewell) {
        if farewell.kicked.is_some() {
            // Settled when businesses have heard of it.
            self.close(handle, serial, farewell);
        } else {
            self.close_for_good(handle, serial, farewell.code);
        }
    }

    /// A connection without a session has ended: if this side closed it, that is settled, also when the gateway noted its end after
    /// it had heard so. A kick is settled when businesses have heard of it, which may have been before.
    pub(super) fn closed_by_us(&mut self, handle: u64) {
        let Some(Closing { serial, farewell }) = self.settlements.closing.remove(&handle) else {
            return;
        };
        let is_to_be_told = farewell.kicked.is_some_and(|key| self.table.get(key).is_some());
        if !is_to_be_told && !self.settlements.owed.contains_key(&serial) {
            self.settle(serial);
        }
    }

    /// This many businesses are to hear that the connection's device is offline.
    pub(super) fn owe(&mut self, serial: u64, businesses: u32) {
        if businesses == 0 {
            self.settle(serial);
        } else if serial != 0 {
            *self.settlements.owed.entry(serial).or_default() += businesses;
        }
    }

    /// Settles whose events were acknowledged or dropped.
    pub(super) fn events_done(&mut self) {
        for business in 0..self.businesses.len() {
            for serial in self.businesses[business].events.take_done() {
                if let Some(owed) = self.settlements.owed.get_mut(&serial) {
                    *owed -= 1;
                    if *owed == 0 {
                        self.settlements.owed.remove(&serial);
                        self.settle(serial);
                    }
                }
            }
        }
    }

    /// Tells a gateway process that has taken over of all that ended and isn't settled: the one before may have died with its
    /// list, and without it the next sidecar would never tell businesses of these.
    pub(super) fn list_ended(&mut self, now: Now) {
        if self.generation < 2 || self.link_state == LinkState::Down {
            return;
        }
        let window = self.resume_window();
        let mut until = HashMap::new();
        let suspended = self.suspended.iter();
        let restored = self.restored_suspended.iter().map(|entry| &entry.0);
        for &(at, key, phase_no) in suspended.chain(restored) {
            if self.is_suspended_since(key, phase_no) {
                until.insert(key, at);
            }
        }
        for index in 0..self.table.end() {
            let Some(key) = self.table.key_at(index) else {
                continue;
            };
            let Some(record) = self.table.get(key) else {
                continue;
            };
            if record.phase == Phase::Online || record.serial == 0 {
                continue;
            }
            let (serial, code) = (record.serial, u32::from(record.reason));
            let left = until.get(&key).map_or(0, |at| at.saturating_sub(now.micros));
            let Some(ticket) = self.sealed(key, now) else {
                continue;
            };
            self.link.ended(EndedConnection {
                serial,
                ticket,
                code,
                age_ms: u32::try_from(window.saturating_sub(left) / 1_000).unwrap_or(u32::MAX),
            });
        }
        // Sessions that are over, of which a business hasn't acknowledged the event.
        let mut owed = HashMap::new();
        for business in &self.businesses {
            owed.extend(business.events.owed());
        }
        let over: Vec<EndedConnection> = owed
            .into_iter()
            .filter_map(|(serial, event)| {
                let id = event.session[..].try_into().ok()?;
                Some(EndedConnection {
                    serial,
                    ticket: self.seal(id, event.epoch, &event.app, &event.device, now),
                    code: event.reason,
                    age_ms: u32::try_from(window / 1_000).unwrap_or(u32::MAX),
                })
            })
            .collect();
        for ended in over {
            self.link.ended(ended);
        }
    }

    /// A connection that ended and that the gateway doesn't know to be settled.
    pub(super) fn ended_row(&mut self, ended: &EndedConnection, now: Now) {
        let serial = ended.serial;
        let unsaid = self.settlements.take_unsaid(serial);
        let to_settle = unsaid.is_some_and(|farewell| farewell.kicked.is_none());
        if self.was_settled(serial) || to_settle {
            return self.settle(serial);
        }
        if self.settlements.owed.contains_key(&serial) || self.settlements.elsewhere.contains(&serial) {
            return;
        }
        if let Some(key) = self.by_serial(serial) {
            let unheard = self
                .table
                .get(key)
                .is_some_and(|record| record.phase == Phase::Online && record.seen_link != self.link_no);
            if unheard {
                self.end_as_told(key, ended, now);
            }
            return;
        }
        if self.sync.awaits_imports() {
            self.sync.ended.push(ended.clone());
            return;
        }
        let Ok(ticket) = self.shared.tickets.open(&ended.ticket, 0) else {
            self.count_lost();
            return self.settle(serial);
        };
        let known = self.table.by_session(ticket.session.as_bytes());
        let other = known.or_else(|| self.table.by_device(&ticket.app, &ticket.device));
        if let Some(other) = other
            && let Some(record) = self.table.get(other)
        {
            let online = record.phase == Phase::Online && known.is_some();
            if online || record.epoch >= ticket.epoch.0 {
                return self.settle(serial);
            }
            // What is here is the older one.
            if known.is_none() {
                self.supersede(other, Code::Superseded);
            }
        }
        let key = if let Some(key) = known {
            self.renumber(key, serial);
            key
        } else {
            let who = Identity::new(&ticket.app, &ticket.device);
            let mut record = Record::new(*ticket.session.as_bytes(), ticket.epoch.0, who);
            record.serial = serial;
            self.shared.metrics.restored.inc();
            self.table.insert(record)
        };
        if let Some(record) = self.table.get_mut(key) {
            record.epoch = record.epoch.max(ticket.epoch.0);
        }
        self.announce(key);
        self.end_as_told(key, ended, now);
    }

    /// The session goes on, or went on, over another connection: nothing is owed of its old one.
    pub(super) fn renumber(&mut self, key: Key, serial: u64) {
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        let before = std::mem::replace(&mut record.serial, serial);
        if before != serial {
            self.settle(before);
        }
    }

    fn end_as_told(&mut self, key: Key, ended: &EndedConnection, now: Now) {
        let ago = u64::from(ended.age_ms) * 1_000;
        match close_code(ended.code) {
            code @ (Code::ClientLeft | Code::Kicked) => self.leave(key, Some(code)),
            code => self.suspend_since(key, code, ago, now),
        }
    }

    fn was_settled(&mut self, serial: u64) -> bool {
        if self.settlements.before == 0 {
            return false;
        }
        let said = &self.settlements.said;
        let before = self.settlements.before;
        self.sync
            .settled
            .get_or_insert_with(|| said.iter().take(before).copied().collect())
            .contains(&serial)
    }
}

/// The code of a connection's end, as the gateway says it.
pub(super) fn close_code(number: u32) -> Code {
    u16::try_from(number)
        .ok()
        .and_then(Code::from_u16)
        .unwrap_or(Code::Internal)
}
