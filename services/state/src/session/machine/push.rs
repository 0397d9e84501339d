//! Pushes: fenced by session, serial and epoch, handed to the gateway, answered per device.

use std::collections::VecDeque;

use bytes::Bytes;
use imaccess_proto::v1::{GroupFrame, GroupPush, Outcome, Receipts, UnicastPush};
use imaccess_wire::frame::{DeliveryClass, GroupPush as GroupPushFrame, Priority, Push};
use imaccess_wire::limits::MAX_BODY;

use super::{LinkState, Machine, PendingPush};
use crate::session::Now;
use crate::session::out::{PushReceipt, PushTerms};
use crate::session::record::Phase;
use crate::session::table::Key;

/// Pushes that may wait for the gateway's receipt; more are answered retry. At 100,000 a second it is two thirds
/// of a second's worth, and 1.5 MiB.
const MAX_PENDING: usize = 64 * 1024;

/// Longest payload that fits a push frame with its fixed and tagged fields.
pub(super) const MAX_PUSH_PAYLOAD: usize = MAX_BODY - 160;

/// Bytes of pushes that may wait for the link to have room: a call for 10,000 devices with a few hundred bytes each comes at once. What is
/// more is answered retry.
const MAX_WAITING: usize = 8 * 1024 * 1024;

/// What has waited for so long is answered retry: its caller soon is, by the patience of routing, and would push again.
const LONGEST_WAIT: u64 = 2_000_000;

/// Pushes that wait for the link to have room, in order.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Each with who sent it, and since when it waits.
    pushes: VecDeque<(u32, UnicastPush, u64)>,
    bytes: usize,
}

fn weight(push: &UnicastPush) -> usize {
    128 + push.payload.len()
}

impl Machine {
    /// A push for one device, from a routing replica. It goes out when fewer than `room` bytes wait for the link.
    pub fn push(&mut self, follower: u32, push: UnicastPush, room: usize, now: Now) {
        if self.waiting.pushes.is_empty() && self.link.bytes() < room {
            return self.send_push(follower, &push);
        }
        if self.waiting.bytes + weight(&push) > MAX_WAITING || !self.takes_pushes() {
            return self.receipt(follower, push.id, Outcome::Retry);
        }
        self.waiting.bytes += weight(&push);
        self.waiting.pushes.push_back((follower, push, now.micros));
    }

    /// Sends what waits, as far as `room` bytes go. Call it in every turn.
    pub fn release_pushes(&mut self, room: usize, now: Now) {
        while !self.takes_pushes() || self.link.bytes() < room {
            let Some((follower, push, since)) = self.waiting.pushes.pop_front() else {
                return;
            };
            self.waiting.bytes -= weight(&push);
            if now.micros.saturating_sub(since) > LONGEST_WAIT {
                self.receipt(follower, push.id, Outcome::Retry);
            } else {
                self.send_push(follower, &push);
            }
        }
    }

    fn takes_pushes(&self) -> bool {
        self.link_state == LinkState::Live && !self.quiescing
    }

    fn send_push(&mut self, follower: u32, push: &UnicastPush) {
        match self.fence(push) {
            Ok(handle) => {
                let receipt = self.await_receipt(follower, push.id);
                let terms = PushTerms {
                    business: push.business,
                    class: push.class,
                    priority: push.priority,
                    expires_ms: push.expires_ms,
                    receipt,
                };
                let frame = Push {
                    business: push.business,
                    sequence: 0,
                    class: DeliveryClass::AtMostOnce,
                    message_id: &push.message_id,
                    expires_unix_ms: push.expires_ms,
                    priority: priority(push.priority),
                    payload: &push.payload,
                };
                self.link.push(handle, terms, |out| frame.encode(out));
            }
            Err(outcome) => self.receipt(follower, push.id, outcome),
        }
    }

    /// A push for a group's members on this shard; nothing if it has none. While the gateway is being replaced it waits.
    pub fn group_push(&mut self, push: &GroupPush, room: bool, now: Now) {
        let number = self.groups.find(push.business, &push.group);
        if number.is_none_or(|number| self.groups.members(number) == 0) {
            return;
        }
        if push.payload.len() > MAX_PUSH_PAYLOAD {
            return self.drop_group_push();
        }
        if self.hold(push, now) {
            return;
        }
        if !room || !self.may_send() {
            return self.drop_group_push();
        }
        self.send_group_push(push);
    }

    pub(super) fn send_group_push(&mut self, push: &GroupPush) {
        let frame = GroupPushFrame {
            business: push.business,
            group: &push.group,
            group_epoch: push.group_epoch,
            sequence: push.sequence,
            message_id: &[],
            expires_unix_ms: push.expires_ms,
            payload: &push.payload,
        };
        let mut bytes = Vec::with_capacity(push.payload.len() + push.group.len() + 64);
        frame.encode(&mut bytes);
        self.link.group(GroupFrame {
            business: push.business,
            group: push.group.clone(),
            frame: Bytes::from(bytes),
            class: push.class,
            priority: push.priority,
            expires_ms: push.expires_ms,
            sequence: push.sequence,
        });
        self.shared.metrics.group_pushes.inc();
    }

    /// What became of pushes, from the gateway.
    pub fn receipts(&mut self, receipts: &Receipts) {
        for (&id, &outcome) in receipts.id.iter().zip(receipts.outcome.iter()) {
            let index = id as u32 as usize;
            let Some(pending) = self.pushes.get_mut(index) else {
                continue;
            };
            if !pending.live || u64::from(pending.generation) != id >> 32 {
                continue;
            }
            pending.live = false;
            let (follower, push) = (pending.follower, pending.id);
            self.free_pushes.push(index as u32);
            let outcome = Outcome::try_from(i32::from(outcome)).unwrap_or(Outcome::Retry);
            self.receipt(follower, push, outcome);
        }
    }

    /// The link is gone: whether the pushes on it were written isn't known.
    pub(super) fn fail_pushes(&mut self, outcome: Outcome) {
        for index in 0..self.pushes.len() {
            let pending = &mut self.pushes[index];
            if std::mem::replace(&mut pending.live, false) {
                let (follower, id) = (pending.follower, pending.id);
                self.free_pushes.push(index as u32);
                self.receipt(follower, id, outcome);
            }
        }
    }

    /// Whether the session that routing means is the one that is here, and can be reached.
    fn fence(&self, push: &UnicastPush) -> Result<u64, Outcome> {
        if !self.takes_pushes() {
            return Err(Outcome::Retry);
        }
        // A session that isn't the one meant, or is over, was superseded or retracted: routing hears of it, and
        // knows better soon. To say offline is routing's; from here it could be false.
        let Some(record) = self.table.get(Key::from_locator(push.locator)) else {
            return Err(Outcome::Retry);
        };
        let same = record.epoch == push.epoch && record.serial == push.serial;
        if !same || record.phase != Phase::Online || record.handle == 0 {
            return Err(Outcome::Retry);
        }
        if self.pushes.len() - self.free_pushes.len() >= MAX_PENDING {
            return Err(Outcome::Retry);
        }
        if push.payload.len() > MAX_PUSH_PAYLOAD {
            return Err(Outcome::Refused);
        }
        Ok(record.handle)
    }

    fn await_receipt(&mut self, follower: u32, id: u64) -> u64 {
        let index = self.free_pushes.pop().unwrap_or_else(|| {
            self.pushes.push(PendingPush {
                follower,
                id,
                generation: 0,
                live: false,
            });
            (self.pushes.len() - 1) as u32
        });
        let pending = &mut self.pushes[index as usize];
        let generation = pending.generation.checked_add(1).unwrap_or(1);
        *pending = PendingPush {
            follower,
            id,
            generation,
            live: true,
        };
        u64::from(generation) << 32 | u64::from(index)
    }

    fn receipt(&mut self, follower: u32, id: u64, outcome: Outcome) {
        let name = match outcome {
            Outcome::Unspecified => "unspecified",
            Outcome::Written => "written",
            Outcome::Acknowledged => "acknowledged",
            Outcome::Queued => "queued",
            Outcome::Offline => "offline",
            Outcome::Refused => "refused",
            Outcome::Retry => "retry",
            Outcome::Unknown => "unknown",
            Outcome::Done => "done",
        };
        self.shared.metrics.pushes.with_label_values(&[name]).inc();
        self.routes.receipts.push(PushReceipt {
            follower,
            id,
            outcome,
        });
    }
}

pub(super) fn priority(number: i32) -> Priority {
    match number {
        1 => Priority::High,
        2 => Priority::Low,
        _ => Priority::Normal,
    }
}
