//! What state says, applied.

use std::collections::HashSet;

use bytes::Bytes;
use imaccess_net::handle::Handle;
use imaccess_proto::v1 as wire;
use imaccess_proto::v1::{
    CloseConnection, EndedConnection, LinkPolicy, LoginResult, Membership, Outcome, Quiesce, SessionRow,
    SlowConsumerPolicy, StateBatch, Unicast,
};
use imaccess_wire::Code;

use super::Shard;
use super::connection::Phase;
use super::fanout::{FanoutFrame, Receivers};
use super::queue::{Policy, Priority, Share};
use super::write::{Delivered, Terms};
use crate::takeover::plan;

/// Longest run of control frames that share a write: the longest single frame.
const MOST_AT_ONCE: usize = imaccess_wire::HEADER_LEN + imaccess_wire::limits::MAX_BODY;

impl Shard {
    /// Applies a batch, field by field in the order of their numbers.
    pub(crate) fn apply(&mut self, batch: StateBatch) {
        self.counts.link_in += 1;
        let quiesce = batch.quiesce();
        if let Some(policy) = &batch.policy {
            self.set_policy(policy);
        }
        for row in &batch.sessions {
            self.session_row(row);
        }
        for result in &batch.logins {
            self.login_result(result);
        }
        for membership in &batch.memberships {
            self.membership(membership);
        }
        if let Some(unicast) = &batch.unicast {
            self.unicast(unicast);
        }
        for group in batch.groups {
            // Copies, once per frame: a slice would hold the whole batch for as long as one slow member's queue does.
            let priority = group.priority().into();
            self.fan_out(FanoutFrame {
                business: group.business,
                receivers: Receivers::Group(Bytes::copy_from_slice(&group.group)),
                frame: Bytes::copy_from_slice(&group.frame),
                priority,
                expires_ms: group.expires_ms,
            });
        }
        for close in &batch.closes {
            self.close(close);
        }
        if !batch.ended.is_empty() {
            self.hear_of_ends(&batch.ended);
        }
        self.ended.settle(&batch.settled);
        if batch.ready {
            self.state_is_ready();
        }
        for multicast in batch.multicasts {
            let priority = multicast.priority().into();
            self.fan_out(FanoutFrame {
                business: multicast.business,
                frame: Bytes::copy_from_slice(&multicast.frame),
                receivers: Receivers::Connections(multicast.handle.into_boxed_slice()),
                priority,
                expires_ms: multicast.expires_ms,
            });
        }
        match quiesce {
            Quiesce::Unspecified => {}
            Quiesce::Begin => self.state_leaves(),
            Quiesce::Done => self.link.heard_done(),
        }
    }

    fn fan_out(&mut self, frame: FanoutFrame) {
        if !self.fanout.push(frame, self.limits.fanout_queue) {
            self.counts.dropped_fanout += 1;
        }
    }

    /// After a takeover: what ended before, as state knows it.
    fn hear_of_ends(&mut self, ended: &[EndedConnection]) {
        // A connection whose login wasn't answered before a crash isn't over, whatever state believes: its login is passed on
        // again. Those that are online state has seen.
        let unanswered: HashSet<u64> = (0..self.connections.slots())
            .filter_map(|slot| self.connections.get(slot))
            .filter(|connection| matches!(connection.phase, Phase::Connecting | Phase::Authenticating))
            .map(|connection| connection.serial)
            .collect();
        for ended in ended.iter().filter(|ended| !unanswered.contains(&ended.serial)) {
            self.ended.told(ended, self.tick);
        }
    }

    /// What a connection that was taken over is to state.
    fn session_row(&mut self, row: &SessionRow) {
        let Some(slot) = self.slot(row.handle) else { return };
        if !self.tickets.put(slot, &row.ticket) {
            tracing::error!(len = row.ticket.len(), "a ticket is too long to be kept");
        }
        self.attributes.put(slot, &row.attributes);
        if let Some(connection) = self.connections.get_mut(slot)
            && row.ping_interval_s > 0
        {
            connection.ping_interval_s = u16::try_from(row.ping_interval_s).unwrap_or(u16::MAX);
        }
        self.look_again(slot);
    }

    fn set_policy(&mut self, policy: &LinkPolicy) {
        self.ping_interval_s = u16::try_from(policy.ping_interval_s).unwrap_or(u16::MAX);
        self.shares.clear();
        for queue in &policy.businesses {
            let share = Share {
                bytes: queue.queue_bytes as usize,
                policy: match queue.policy() {
                    SlowConsumerPolicy::DropNewest => Policy::DropNewest,
                    SlowConsumerPolicy::Close => Policy::Close,
                    SlowConsumerPolicy::DropOldest | SlowConsumerPolicy::Unspecified => Policy::DropOldest,
                },
            };
            self.shares.insert(queue.business, share);
        }
    }

    /// The slot that a handle names, if the connection there is still the one that was meant.
    fn slot(&mut self, bits: u64) -> Option<u32> {
        let handle = Handle::from_bits(bits);
        let exact = self.connections.get_exact(handle.slot(), handle.generation())?;
        (handle.shard() == self.id && exact.phase != Phase::Closing).then_some(handle.slot())
    }

    fn login_result(&mut self, result: &LoginResult) {
        let Some(slot) = self.slot(result.handle) else {
            return;
        };
        let now_ms = self.clock.now().as_millis();
        let ping_interval_s = match result.ping_interval_s {
            0 => self.ping_interval_s,
            seconds => u16::try_from(seconds).unwrap_or(u16::MAX),
        };
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.phase != Phase::Authenticating || !self.take_login(slot) {
            return;
        }
        if !result.accepted {
            let code = refusal_code(&result.frame);
            self.metrics.login(code.name());
            self.send_control(slot, &result.frame);
            self.begin_closing(slot, code);
            return;
        }
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.phase = Phase::Online;
        connection.ping_interval_s = ping_interval_s;
        connection.since = self.tick;
        let waited_ms = now_ms.saturating_sub(connection.accepted_ms);
        self.sessions += 1;
        if !self.tickets.put(slot, &result.ticket) {
            tracing::error!(len = result.ticket.len(), "a ticket is too long to be kept");
        }
        self.attributes.put(slot, &result.attributes);
        self.metrics.login("ok");
        self.metrics.connect_seconds.observe(waited_ms as f64 / 1_000.0);
        self.send_control(slot, &result.frame);
        self.cursors.set_phase(slot, plan::ONLINE);
        self.look_again(slot);
    }

    fn membership(&mut self, membership: &Membership) {
        let Some(slot) = self.slot(membership.handle) else {
            return;
        };
        if !self
            .connections
            .get(slot)
            .is_some_and(|connection| connection.phase == Phase::Online)
        {
            return;
        }
        if membership.member {
            self.groups.make_room(self.connections.slots());
            self.groups.join(slot, membership.business, &membership.group);
        } else {
            self.groups.leave(slot, membership.business, &membership.group);
        }
    }

    fn unicast(&mut self, unicast: &Unicast) {
        let frames = &unicast.frames;
        let count = unicast.handle.len().min(unicast.length.len());
        let plain = unicast.business.is_empty() && unicast.receipt.is_empty();
        let mut start = 0;
        let mut index = 0;
        while index < count {
            let bits = unicast.handle[index];
            let mut end = start + unicast.length[index] as usize;
            let mut next = index + 1;
            // Control frames for one connection that follow each other share a write.
            while plain && next < count && unicast.handle[next] == bits {
                let longer = end + unicast.length[next] as usize;
                if longer - start > MOST_AT_ONCE {
                    break;
                }
                end = longer;
                next += 1;
            }
            let Some(bytes) = frames.get(start..end) else {
                tracing::error!(
                    "a batch from state is shorter than its lengths say; the rest of it is dropped"
                );
                return;
            };
            let terms = Terms {
                business: unicast.business.get(index).copied().unwrap_or(0),
                priority: unicast
                    .priority
                    .get(index)
                    .and_then(|number| wire::Priority::try_from(*number).ok())
                    .map_or_else(Priority::default, Priority::from),
                expires_ms: unicast.expires_ms.get(index).copied().unwrap_or(0),
            };
            let delivered = match self.slot(bits) {
                // A copy is queued, not a slice: one slow reader mustn't hold a whole batch's memory.
                Some(slot) => {
                    let delivered = self.send(slot, bytes, terms, || Bytes::copy_from_slice(bytes));
                    if delivered == Delivered::Queued {
                        self.look_again(slot);
                    }
                    if terms.business == 0 && delivered != Delivered::Gone {
                        self.note_answered(slot, bytes);
                    }
                    delivered
                }
                None => {
                    self.counts.dropped_gone += (next - index) as u64;
                    Delivered::Gone
                }
            };
            if let Some(receipt) = unicast.receipt.get(index).copied()
                && receipt != 0
            {
                self.outbox.receipt(receipt, outcome(delivered));
            }
            start = end;
            index = next;
        }
    }

    fn close(&mut self, close: &CloseConnection) {
        let Some(slot) = self.slot(close.handle) else {
            return;
        };
        let code = u16::try_from(close.code)
            .ok()
            .and_then(Code::from_u16)
            .unwrap_or(Code::Internal);
        self.end_with(slot, code, &close.frame);
    }

    /// One slice of the sweep under way; whether there was anything to do.
    pub(crate) fn fanout_slice(&mut self) -> bool {
        if self.fanout.is_idle() {
            return false;
        }
        let now_ms = imaccess_common::clock::unix_ms();
        let most = self.limits.fanout_slice;
        let mut expired = 0;
        let slice = self.fanout.slice(&mut self.groups, now_ms, most, &mut expired);
        self.counts.dropped_expired += expired;
        let Some((sweep, range)) = slice else { return true };
        for index in range.clone() {
            let connections = &self.connections;
            let receiver = sweep.receiver(index, &self.groups, |slot| connections.generation(slot));
            let online = |slot: &u32| {
                connections
                    .get(*slot)
                    .is_some_and(|one| one.phase == Phase::Online)
            };
            let Some(slot) = receiver.filter(online) else {
                continue;
            };
            self.counts.deliveries += sweep.frames() as u64;
            self.deliver_run(slot, &sweep);
        }
        self.fanout.resume(sweep, &range);
        true
    }

    /// Writes a sweep's run of frames to one member; what the kernel doesn't take is queued frame by frame.
    fn deliver_run(&mut self, slot: u32, sweep: &super::fanout::Sweep) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let mut written = 0;
        self.counts.sent_frames += sweep.frames() as u64;
        if connection.queue.is_none() && !self.queue_only {
            self.counts.writes += 1;
            self.cursors.intend_write(slot, sweep.run.len());
            match connection.socket.write(&sweep.run) {
                Ok(taken) => {
                    self.counts.sent_bytes += taken as u64;
                    if taken == sweep.run.len() {
                        return self.cursors.add_written(slot, taken as u64);
                    }
                    written = taken;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return self.lost(slot),
            }
            self.counts.blocked_writes += 1;
        }
        let mut start = 0;
        for (length, expires_ms) in sweep.parts() {
            let end = start + length;
            if end <= written {
                self.cursors.add_written(slot, length as u64);
            } else {
                let begun = written.saturating_sub(start);
                let frame = super::queue::Queued {
                    bytes: sweep.run.slice(start..end),
                    business: sweep.business,
                    priority: sweep.priority,
                    expires_ms,
                };
                if self.enqueue(slot, frame, begun) == Delivered::Gone {
                    return;
                }
            }
            start = end;
        }
        self.look_again(slot);
    }
}

fn outcome(delivered: Delivered) -> Outcome {
    match delivered {
        Delivered::Written => Outcome::Written,
        Delivered::Queued => Outcome::Queued,
        Delivered::Refused => Outcome::Refused,
        // State will hear of the close and knows whether the session can be resumed.
        Delivered::Gone => Outcome::Retry,
    }
}

/// The code in a LOGIN_REFUSED frame, for the counter.
fn refusal_code(frame: &[u8]) -> Code {
    frame
        .get(imaccess_wire::HEADER_LEN..)
        .and_then(|body| imaccess_wire::frame::LoginRefused::decode(body).ok())
        .and_then(|refused| refused.known_code())
        .unwrap_or(Code::Internal)
}
