//! The stream to state: attached or not, and the snapshot with which every attachment begins.

use imaccess_net::handle::Handle;
use imaccess_net::wheel::Tick;
use imaccess_proto::LINK_GENERATION;
use imaccess_proto::v1::{GatewayBatch, GatewayHello, StateBatch};
use imaccess_wire::Code;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::Shard;
use super::connection::Phase;
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
        inbound: Box<Streaming<StateBatch>>,
        outbound: mpsc::Sender<Result<GatewayBatch, Status>>,
    },
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

/// How far the snapshot has come: first the connections, then the groups.
#[derive(Debug)]
pub(crate) struct Snapshot {
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
        let hello = GatewayBatch {
            hello: Some(GatewayHello {
                instance: self.instance.clone(),
                incarnation: self.incarnation,
                shard: self.id.into(),
                shards: self.shards,
                link_generation: LINK_GENERATION,
                ..GatewayHello::default()
            }),
            ..GatewayBatch::default()
        };
        if attach.outbound.try_send(Ok(hello)).is_err() {
            return;
        }
        tracing::info!(shard = self.id, sessions = self.sessions, "state attached");
        self.link = Link::Attached {
            number: self.attachments,
            inbound: Box::new(attach.inbound),
            outbound: attach.outbound,
        };
        self.snapshot = Some(Snapshot {
            slot: 0,
            group: 0,
            member: usize::MAX,
        });
        self.metrics.links.inc();
        self.metrics.link_attached.inc();
        self.link_up.set(true);
    }

    /// State is gone. Connections stay; logins that were with it are refused, because nobody will answer them.
    pub(crate) fn link_lost(&mut self, why: &str) {
        if self.link.attachment().is_none() {
            return;
        }
        tracing::warn!(
            shard = self.id,
            sessions = self.sessions,
            why,
            "the link to state is down"
        );
        self.link = Link::detached(self.tick);
        self.snapshot = None;
        self.outbox.clear();
        self.metrics.links.dec();
        self.link_up.set(false);
        for slot in 0..self.connections.slots() {
            if self
                .connections
                .get(slot)
                .is_some_and(|connection| connection.phase == Phase::Authenticating)
            {
                self.refuse_login(slot, Code::LoginUnavailable);
            }
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
        let (Some(mut snapshot), Some(attachment)) = (self.snapshot.take(), self.link.attachment()) else {
            return false;
        };
        if self.outbox.bytes() > self.limits.link_queue / 2 || self.outbox.snapshot_bytes() > SNAPSHOT_AHEAD {
            // State is behind: live traffic first.
            self.snapshot = Some(snapshot);
            return false;
        }
        let last = self.connections.slots();
        if snapshot.slot < last {
            let end = (snapshot.slot + ROWS_PER_TURN).min(last);
            for slot in snapshot.slot..end {
                if self
                    .connections
                    .get(slot)
                    .is_some_and(|connection| connection.phase == Phase::Online)
                {
                    self.announce(slot, attachment);
                }
            }
            snapshot.slot = end;
            self.snapshot = Some(snapshot);
            return true;
        }
        match self.groups.next_from(snapshot.group) {
            Some((business, id, members, next)) => {
                // From the end: who leaves meanwhile is replaced by the last, which was listed before.
                let end = snapshot.member.min(members.len());
                let start = end.saturating_sub(MEMBERS_PER_TURN);
                let handles = members[start..end]
                    .iter()
                    .map(|&slot| Handle::new(self.id, slot, self.connections.generation(slot)).bits())
                    .collect();
                self.outbox.group(business, id, handles);
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
