//! A shard's last turns before a planned exit: nothing is read any more, state has all that was read, all that state said is
//! written or queued, and what is left of each connection goes into a record for the process that comes after.
//!
//! The order matters. Custody first: a socket without a second holder would die with this process. Then state ([`Quiesce`] in
//! link.proto), because only a link that has said DONE both ways leaves nothing unknown. Then the sweeps of fan-out, for a frame that
//! half of a group has got is owed to the other half. The records last, when no byte moves any more.
//!
//! [`Quiesce`]: imaccess_proto::v1::Quiesce

use std::time::Duration;

use imaccess_proto::v1::{HandedEnded, HandedFrame, HandedOver, HandedPhase, Quiesce};
use tokio::time::{Instant, timeout_at};

use super::Shard;
use super::connection::{Connection, Phase};
use super::requests::listed;
use super::snapshot::Leaving;
use super::timers::TICK;

/// For all of it. The whole process has 200 ms, and writing the records takes a few.
const TIME: Duration = Duration::from_millis(150);

/// For writing the rest of a sweep, at 5 µs a member; queueing it costs a twentieth of that, and the next process writes it.
const SWEEPS: Duration = Duration::from_millis(20);

/// What a shard leaves.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) connections: Vec<HandedOver>,
    pub(crate) ended: Vec<HandedEnded>,
    /// Connections that nobody else holds, which end with this process.
    pub(crate) unheld: usize,
    /// Whether state has all that was read and has said all that it had.
    pub(crate) quiesced: bool,
}

impl Shard {
    /// Comes to rest and says what there is. Custody is settled ([`Self::settle_custody`]).
    pub(crate) async fn hand_over(mut self) -> Left {
        let deadline = Instant::now() + TIME;
        let quiesced = self.quiesce(deadline).await;
        if !quiesced {
            // Whoever waits for an answer is told to ask again: it may have been lost between us and state.
            self.link_lost("state didn't come to rest in time");
            self.finish_fanout();
        }
        let mut left = Left {
            quiesced,
            ..Left::default()
        };
        let now = self.tick;
        left.ended = self.ended.handed(self.id, now).collect();
        for slot in 0..self.connections.slots() {
            let Some(connection) = self.connections.get(slot) else {
                continue;
            };
            if connection.deposited {
                left.connections.push(self.record(slot, connection));
            } else if connection.admitted {
                left.unheld += 1;
            }
        }
        for slot in 0..self.connections.slots() {
            // The cell stays as it is: the next process counts on from it.
            if let Some(connection) = self.connections.remove(slot) {
                if connection.deposited {
                    drop(connection.socket.detach());
                } else {
                    connection.socket.close();
                }
            }
        }
        for listener in self.listeners.drain(..) {
            drop(listener.socket.detach());
        }
        self.report();
        left
    }

    /// Waits until the custodian has everything; whether it is there and does.
    pub(crate) async fn settle_custody(&mut self) -> bool {
        let deadline = Instant::now() + TIME / 2;
        // Nothing is read from here on, so nobody is put off by it.
        self.holding = None;
        while !self.custody.is_settled() {
            if self.serve_custody() {
                continue;
            }
            if self.custody.is_settled() || timeout_at(deadline, self.custody.activity()).await.is_err() {
                break;
            }
        }
        self.custody.is_connected()
    }

    /// Leaves the link in order; whether that came to its end.
    async fn quiesce(&mut self, deadline: Instant) -> bool {
        if !self.link.quiesces() || self.link.usable().is_none() {
            self.finish_fanout();
            return self.unanswered_requests() == 0;
        }
        self.snapshot = None;
        self.outbox.quiesce(Quiesce::Begin);
        if !self.send_outbox(deadline).await {
            return false;
        }
        self.link.leaving(Leaving::Gateway);
        while !self.link.is_done() {
            match timeout_at(deadline, self.link.message()).await {
                Ok(message) => self.received(message),
                Err(_) => return false,
            }
            if self.link.attachment().is_none() {
                return false;
            }
        }
        self.finish_fanout();
        self.outbox.quiesce(Quiesce::Done);
        if !self.send_outbox(deadline).await {
            return false;
        }
        // It ends the stream when it has read our last message.
        while self.link.attachment().is_some() {
            match timeout_at(deadline, self.link.message()).await {
                Ok(message) => self.received(message),
                Err(_) => return false,
            }
        }
        true
    }

    /// Hands everything that waits for state to the stream.
    async fn send_outbox(&mut self, deadline: Instant) -> bool {
        loop {
            self.flush_outbox();
            if !self.outbox.has_events() {
                return self.link.attachment().is_some();
            }
            match timeout_at(deadline, self.link.activity(true)).await {
                Ok(super::Activity::Received(message)) => self.received(*message),
                Ok(super::Activity::Room) => {}
                Err(_) => return false,
            }
            if self.link.attachment().is_none() {
                return false;
            }
        }
    }

    /// Ends the sweeps under way: members that aren't reached in time get their frames into their queues, and so from the next
    /// process.
    fn finish_fanout(&mut self) {
        let until = Instant::now() + SWEEPS;
        while self.fanout_slice() {
            self.queue_only |= Instant::now() >= until;
        }
    }

    fn unanswered_requests(&self) -> usize {
        (0..self.connections.slots())
            .filter_map(|slot| self.connections.get(slot)?.unanswered.as_ref())
            .map(|list| list.len())
            .sum()
    }

    fn record(&self, slot: u32, connection: &Connection) -> HandedOver {
        let ms = |since: u32| {
            self.tick
                .saturating_sub(since)
                .saturating_mul(TICK.as_millis() as u32)
        };
        let mut record = HandedOver {
            serial: connection.serial,
            shard: self.id.into(),
            phase: match connection.phase {
                Phase::Connecting => HandedPhase::Connecting,
                Phase::Authenticating => HandedPhase::Authenticating,
                Phase::Online => HandedPhase::Online,
                Phase::Closing => HandedPhase::Closing,
            }
            .into(),
            code: u32::from(connection.code as u16),
            ping_interval_s: connection.ping_interval_s.into(),
            ticket: self.tickets.get(slot).to_vec().into(),
            attributes: self.attributes.get(slot).to_vec().into(),
            silent_ms: ms(connection.last_seen),
            phase_ms: ms(connection.since),
            requests: listed(connection.unanswered.as_deref()),
            login: connection.login,
            ended: connection.ended,
            ..HandedOver::default()
        };
        if let Some(partial) = &connection.partial {
            record.partial = partial.bytes.clone().into();
            record.partial_ms = ms(partial.since);
        }
        if let Some(queue) = &connection.queue {
            let (frames, written) = queue.content();
            record.queue = frames
                .map(|frame| HandedFrame {
                    bytes: frame.bytes.clone(),
                    business: frame.business,
                    expires_ms: frame.expires_ms,
                })
                .collect();
            record.written = written as u32;
        }
        record
    }
}
