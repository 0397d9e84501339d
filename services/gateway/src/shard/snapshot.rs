//! The stream to state: attached or not, and the snapshot with which every attachment begins.

use std::sync::atomic::Ordering;

use imaccess_common::generation::{self, Span};
use imaccess_net::handle::Handle;
use imaccess_net::wheel::Tick;
use imaccess_proto::v1::{GatewayBatch, GatewayHello, Quiesce, StateBatch, StateHello};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::Shard;
use super::connection::Phase;
use super::groups::VACANT;
use crate::link::Attach;

/// Connections looked at, or members listed, per turn while a snapshot is sent: about 50 KB of rows.
const ROWS_PER_TURN: u32 = 512;
const MEMBERS_PER_TURN: usize = 4_096;
/// Bytes of a snapshot in one batch. State opens every ticket, which takes it longer than sending takes us.
const SNAPSHOT_AHEAD: usize = 256 << 10;

/// The stream to state.
#[derive(Debug)]
pub(crate) enum Link {
    /// Nobody there since this tick.
    Detached { since: Tick },
    /// State is there; attachments are counted.
    Attached {
        number: u32,
        /// Link generation in common; 0 until state has said its own.
        generation: u32,
        leaving: Leaving,
        inbound: Box<Streaming<StateBatch>>,
        outbound: mpsc::Sender<Result<GatewayBatch, Status>>,
    },
}

/// Whether one side is about to leave in order (see `Quiesce` in link.proto).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    Nobody,
    /// State has said so, and gets nothing more from us.
    State,
    /// We have said so.
    Gateway,
    /// The other side has sent its last message.
    Done,
}

impl Link {
    pub(crate) fn detached(since: Tick) -> Self {
        Self::Detached { since }
    }

    /// The attachment's number, if state is there.
    #[inline]
    pub(crate) fn attachment(&self) -> Option<u32> {
        match self {
            Self::Attached { number, .. } => Some(*number),
            Self::Detached { .. } => None,
        }
    }

    /// The attachment's number, if state can be sent something now.
    #[inline]
    pub(crate) fn usable(&self) -> Option<u32> {
        match self {
            Self::Attached {
                number,
                leaving: Leaving::Nobody,
                ..
            } => Some(*number),
            _ => None,
        }
    }

    /// Whether state names the ended connections of which nothing is owed any more. A state that isn't there will.
    pub(crate) fn settles(&self) -> bool {
        !matches!(self, Self::Attached { generation: 1, .. })
    }

    /// Whether both sides can leave without losing anything.
    pub(crate) fn quiesces(&self) -> bool {
        matches!(self, Self::Attached { generation: 2.., .. })
    }

    /// Whether the other side has sent its last message.
    pub(crate) fn is_done(&self) -> bool {
        matches!(
            self,
            Self::Attached {
                leaving: Leaving::Done,
                ..
            }
        )
    }

    pub(crate) fn leaving(&mut self, now: Leaving) {
        if let Self::Attached { leaving, .. } = self {
            *leaving = now;
        }
    }

    /// The other side has sent its last message.
    pub(crate) fn heard_done(&mut self) {
        self.leaving(Leaving::Done);
    }

    pub(crate) fn detached_since(&self) -> Option<Tick> {
        match self {
            Self::Detached { since } => Some(*since),
            Self::Attached { .. } => None,
        }
    }

    /// The next batch; never ready while nobody is there. Cancel-safe.
    pub(crate) async fn message(&mut self) -> Received {
        match self {
            Self::Attached { inbound, .. } => inbound.message().await,
            Self::Detached { .. } => std::future::pending().await,
        }
    }

    /// The next batch, or room for another one of ours if that is waited for. Cancel-safe.
    pub(crate) async fn activity(&mut self, for_room: bool) -> Activity {
        match self {
            Self::Attached {
                inbound, outbound, ..
            } => tokio::select! {
                biased;
                message = inbound.message() => Activity::Received(Box::new(message)),
                // An error is found out by the send that follows.
                _ = outbound.reserve(), if for_room => Activity::Room,
            },
            Self::Detached { .. } => std::future::pending().await,
        }
    }
}

/// What the stream brought.
pub(crate) type Received = Result<Option<StateBatch>, Status>;

/// What happened on the stream.
#[derive(Debug)]
pub(crate) enum Activity {
    Received(Box<Received>),
    Room,
}

/// How far the snapshot has come: first the connections that have ended, then those that are there, then the groups.
#[derive(Debug)]
pub(crate) struct Snapshot {
    ended: bool,
    slot: u32,
    group: u32,
    /// Members of it before this position are still to be listed.
    member: usize,
}

impl Shard {
    /// A sidecar has come; it replaces the one before.
    pub(crate) fn attach(&mut self, attach: Attach) {
        if self.link.attachment().is_some() {
            self.link_lost("another sidecar attached");
        }
        self.attachments += 1;
        let spoken = generation::spoken().link;
        let hello = GatewayBatch {
            hello: Some(GatewayHello {
                instance: self.instance.clone(),
                incarnation: self.incarnation,
                shard: self.id.into(),
                shards: self.shards,
                link_generation: spoken.oldest,
                newest_generation: spoken.newest,
                takeover: self.takeover.into(),
            }),
            ..GatewayBatch::default()
        };
        if attach.outbound.try_send(Ok(hello)).is_err() {
            return;
        }
        tracing::info!(shard = self.id, sessions = self.sessions, "state attached");
        self.link = Link::Attached {
            number: self.attachments,
            generation: 0,
            leaving: Leaving::Nobody,
            inbound: Box::new(attach.inbound),
            outbound: attach.outbound,
        };
        self.snapshot = Some(Snapshot {
            ended: false,
            slot: 0,
            group: 0,
            member: usize::MAX,
        });
        self.metrics.links.inc();
        self.metrics.link_attached.inc();
        self.link_up.set(true);
        // A state that has just come has brought its custodian.
        self.dial_custodian();
    }

    /// State has said which generations it speaks.
    pub(crate) fn heard_hello(&mut self, hello: &StateHello) {
        let spoken = generation::spoken().link;
        let theirs = Span::new(hello.link_generation, hello.newest_generation);
        let Some(common) = spoken.common(theirs) else {
            let why = format!(
                "state speaks link generation {theirs}, this gateway {spoken}: run versions that share one"
            );
            return self.link_lost(&why);
        };
        if let Link::Attached { generation, .. } = &mut self.link
            && std::mem::replace(generation, common) == 0
            && common >= 2
        {
            self.handover.links.fetch_add(1, Ordering::AcqRel);
        }
        if common < 2 {
            // It won't say when it is ready, and never leaves in order.
            self.state_is_ready();
        }
    }

    /// State is about to leave: it gets what is ready, and then nothing more; what clients send waits in the kernel until the next
    /// state is there.
    pub(crate) fn state_leaves(&mut self) {
        tracing::info!(
            shard = self.id,
            sessions = self.sessions,
            "state is being replaced"
        );
        self.holding = Some(self.tick);
        if self.link.quiesces() {
            // This gateway can't be replaced as well now.
            self.handover.links.fetch_sub(1, Ordering::AcqRel);
        }
        self.outbox.quiesce(Quiesce::Done);
        self.link.leaving(Leaving::State);
        self.state_leaves = true;
    }

    /// State can be asked.
    pub(crate) fn state_is_ready(&mut self) {
        self.state_was_ready = true;
        self.release_held();
    }

    /// State is gone. Connections stay; logins wait for the next one. If it went without a word, what it was asked is
    /// answered retry.
    pub(crate) fn link_lost(&mut self, why: &str) {
        if self.link.attachment().is_none() {
            return;
        }
        let in_order = self.link.is_done();
        let state_left = std::mem::take(&mut self.state_leaves);
        if in_order {
            tracing::info!(shard = self.id, sessions = self.sessions, "state has left");
        } else {
            tracing::warn!(
                shard = self.id,
                sessions = self.sessions,
                why,
                "the link to state is down"
            );
        }
        if self.link.quiesces() && !state_left {
            self.handover.links.fetch_sub(1, Ordering::AcqRel);
        }
        if std::mem::take(&mut self.state_was_ready) {
            self.state_lost_at = self.tick;
            // What is asked now waits in the kernel for as long as a restart takes.
            self.holding.get_or_insert(self.tick);
        }
        self.link = Link::detached(self.state_lost_at);
        self.snapshot = None;
        self.outbox.clear();
        self.metrics.links.dec();
        self.link_up.set(false);
        for slot in 0..self.connections.slots() {
            if let Some(connection) = self.connections.get_mut(slot)
                && connection.phase == Phase::Authenticating
            {
                connection.announced = 0;
                self.logins_wait = true;
            }
        }
        if !in_order {
            // Nobody else will answer what was asked.
            self.answer_unanswered();
        }
    }

    /// Hands the growing batch to the stream, if that takes it.
    pub(crate) fn flush_outbox(&mut self) {
        if !self.outbox.has_events() {
            return self.recycle();
        }
        let Link::Attached { outbound, .. } = &self.link else {
            self.outbox.clear();
            return self.recycle();
        };
        match outbound
            .try_reserve()
            .map(|permit| permit.send(Ok(self.outbox.take())))
        {
            Ok(()) => {
                self.counts.link_out += 1;
                self.recycle();
            }
            Err(mpsc::error::TrySendError::Full(())) => {}
            Err(mpsc::error::TrySendError::Closed(())) => self.link_lost("state closed its stream"),
        }
    }

    /// Lets the slots be used again whose connections' ends are on their way to state.
    fn recycle(&mut self) {
        for slot in self.retired.drain(..) {
            self.connections.recycle(slot);
        }
    }

    /// The next chunk of the snapshot, between live traffic; whether there was one.
    pub(crate) fn snapshot_chunk(&mut self) -> bool {
        let (Some(mut snapshot), Some(attachment)) = (self.snapshot.take(), self.link.usable()) else {
            return false;
        };
        if self.outbox.bytes() > self.limits.link_queue / 2 || self.outbox.snapshot_bytes() > SNAPSHOT_AHEAD {
            // State is behind: live traffic first.
            self.snapshot = Some(snapshot);
            return false;
        }
        if !std::mem::replace(&mut snapshot.ended, true) && self.ended.len() > 0 {
            // One message: at most 100,000 of 200 bytes, after a storm of ends.
            let rows = self.ended.rows(self.tick).collect();
            self.outbox.ended(rows);
            self.snapshot = Some(snapshot);
            return true;
        }
        let last = self.connections.slots();
        if snapshot.slot < last {
            let end = (snapshot.slot + ROWS_PER_TURN).min(last);
            for slot in snapshot.slot..end {
                match self.connections.get(slot) {
                    Some(connection) if connection.phase == Phase::Online => self.announce(slot, attachment),
                    Some(connection)
                        if connection.phase == Phase::Authenticating
                            && connection.announced != attachment =>
                    {
                        self.repeat_login(slot);
                    }
                    _ => {}
                }
            }
            snapshot.slot = end;
            self.snapshot = Some(snapshot);
            return true;
        }
        match self.groups.next_from(snapshot.group) {
            Some((business, id, members, next)) => {
                // From the end: who leaves meanwhile is replaced by the last, which was listed before. Where the places of many are
                // closed at once some are listed twice, which does no harm, and nobody is left out.
                let end = snapshot.member.min(members.len());
                let start = end.saturating_sub(MEMBERS_PER_TURN);
                let handles: Vec<u64> = members[start..end]
                    .iter()
                    .filter(|&&slot| slot != VACANT)
                    .map(|&slot| Handle::new(self.id, slot, self.connections.generation(slot)).bits())
                    .collect();
                if !handles.is_empty() {
                    self.outbox.group(business, id, handles);
                }
                if start == 0 {
                    (snapshot.group, snapshot.member) = (next, usize::MAX);
                } else {
                    snapshot.member = start;
                }
                self.snapshot = Some(snapshot);
            }
            None => self.outbox.snapshot_done(),
        }
        true
    }
}
