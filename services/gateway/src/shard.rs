//! One shard: one thread, one epoll set, one slab of connections, one stream to state.
//!
//! Concurrency rules. Everything here is owned by the shard's thread and touched only in its turns; nothing is
//! locked on a message's way. A turn takes what state sent, what sockets have, one slice of fan-out, and hands
//! state one batch; each part of a turn is bounded, so that none can starve another. The only awaits are at the end
//! of a turn: a yield while there is work, a wait for anything to happen when there is none.

mod accept;
mod close;
mod connection;
mod fanout;
mod groups;
mod inbound;
mod outbox;
mod queue;
mod read;
mod snapshot;
mod timers;
mod write;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::FutureExt;
use hashbrown::HashMap;
use imaccess_common::clock::Monotonic;
use imaccess_common::drain::Drain;
use imaccess_net::epoll::Epoll;
use imaccess_net::slab::Slab;
use imaccess_net::socket::Listener;
use imaccess_net::wheel::{Tick, Wheel};
use imaccess_proto::LINK_GENERATION;
use imaccess_wire::header::HEADER_LEN;
use imaccess_wire::limits::MAX_BODY;
use imaccess_wire::{Code, Limits};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::config::GatewayConfig;
use crate::limits::Admission;
use crate::link::Attach;
use crate::metrics::{Counts, Metrics};
use connection::{Connection, Tickets};
use fanout::Fanout;
use groups::Groups;
use outbox::Outbox;
use queue::Share;
use snapshot::{Activity, Link, Received, Snapshot};
use timers::{BUCKETS, Deadlines, TICK, ticks, ticks_since_start};

/// Tokens from here on are listeners; connections are `generation(24) ‖ slot(32)`.
const LISTENER_TOKEN: u64 = 1 << 60;
/// Events per wait.
const EVENTS: usize = 512;
/// Batches of state applied per turn.
const BATCHES_PER_TURN: usize = 8;
/// What is read at once: the longest frame, and as much again so that its beginning can stand before it.
const READ_BUFFER: usize = 2 * (HEADER_LEN + MAX_BODY);

/// What a shard is given by the gateway.
#[derive(Debug)]
pub(crate) struct ShardParts {
    pub(crate) id: u8,
    pub(crate) shards: u32,
    pub(crate) config: Arc<GatewayConfig>,
    pub(crate) instance: String,
    pub(crate) incarnation: u32,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) metrics: Metrics,
    pub(crate) attaches: mpsc::Receiver<Attach>,
    /// Told whether state is attached.
    pub(crate) link_up: imaccess_common::admin::Condition,
}

/// Bounds that are looked at often.
#[derive(Clone, Copy, Debug)]
struct ShardLimits {
    queue_per_connection: usize,
    queue_per_business: usize,
    link_queue: usize,
    fanout_queue: usize,
    fanout_slice: usize,
}

/// A shard, on its own thread.
#[derive(Debug)]
pub(crate) struct Shard {
    id: u8,
    shards: u32,
    instance: String,
    incarnation: u32,
    /// Incarnation and shard, above the counter in every serial born here.
    serial_base: u64,
    next_serial: u64,
    clock: Monotonic,
    tick: Tick,
    deadlines: Deadlines,
    limits: ShardLimits,
    wire_limits: Limits,
    ping_interval_s: u16,
    shares: HashMap<u32, Share, foldhash::fast::RandomState>,

    epoll: AsyncFd<Epoll>,
    listeners: Vec<Listener>,
    accepting: bool,
    draining: bool,
    connections: Slab<Connection>,
    tickets: Tickets,
    groups: Groups,
    wheel: Wheel,
    fanout: Fanout,
    outbox: Outbox,
    link: Link,
    snapshot: Option<Snapshot>,
    attaches: mpsc::Receiver<Attach>,
    link_up: imaccess_common::admin::Condition,
    attachments: u32,

    admission: Arc<Admission>,
    metrics: Metrics,
    counts: Counts,
    /// What the shared gauges were last told: sessions, connections, queued bytes, waiting group bytes.
    reported: [i64; 4],
    sessions: usize,
    refused_lingering: usize,
    queued_bytes: usize,

    read_buffer: Vec<u8>,
    frame_buffer: Vec<u8>,
    /// Connections of which more may be read without another event.
    unread: Vec<u32>,
    due: Vec<u32>,
    /// Slots whose connections are gone, until state has been sent word of it.
    retired: Vec<u32>,
    /// What the frames of one read are answered with by the gateway itself.
    answers: Vec<u8>,
}

impl Shard {
    /// Builds a shard; must be called in its runtime.
    ///
    /// # Errors
    /// The kernel's, when the epoll set can't be made.
    pub(crate) fn new(parts: ShardParts) -> io::Result<Self> {
        let ShardParts {
            id,
            shards,
            config,
            instance,
            incarnation,
            listeners,
            ..
        } = parts;
        let clock = Monotonic::start();
        let deadlines = &config.deadlines;
        let limits = &config.limits;
        let bytes = |size: imaccess_common::config::ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        Ok(Self {
            id,
            shards,
            instance,
            incarnation,
            serial_base: u64::from(incarnation) << 40 | u64::from(id) << 32,
            next_serial: 0,
            clock,
            tick: ticks_since_start(clock.now().as_millis()),
            deadlines: Deadlines {
                login: ticks(deadlines.login),
                frame: ticks(deadlines.frame),
                write_stall: ticks(deadlines.write_stall),
                linger: ticks(deadlines.linger),
                without_state: ticks(deadlines.without_state),
            },
            limits: ShardLimits {
                queue_per_connection: bytes(limits.queue_per_connection),
                queue_per_business: bytes(limits.queue_per_business),
                link_queue: bytes(limits.link_queue),
                fanout_queue: bytes(limits.fanout_queue),
                fanout_slice: limits.fanout_slice,
            },
            wire_limits: Limits {
                max_body: bytes(limits.frame_body).min(MAX_BODY),
            },
            ping_interval_s: 60,
            shares: HashMap::default(),
            epoll: registered(Epoll::new(EVENTS)?)?,
            listeners,
            accepting: false,
            draining: false,
            connections: Slab::new(),
            tickets: Tickets::default(),
            groups: Groups::default(),
            wheel: Wheel::new(BUCKETS, 0),
            fanout: Fanout::default(),
            outbox: Outbox::default(),
            link: Link::detached(0),
            snapshot: None,
            attaches: parts.attaches,
            link_up: parts.link_up,
            attachments: 0,
            admission: parts.admission,
            metrics: parts.metrics,
            counts: Counts::default(),
            reported: [0; 4],
            sessions: 0,
            refused_lingering: 0,
            queued_bytes: 0,
            read_buffer: vec![0; READ_BUFFER],
            frame_buffer: Vec::with_capacity(64),
            unread: Vec::new(),
            due: Vec::new(),
            retired: Vec::new(),
            answers: Vec::new(),
        })
    }

    /// Addresses that it listens on.
    pub(crate) fn addresses(listeners: &[Listener]) -> Vec<SocketAddr> {
        listeners.iter().map(Listener::address).collect()
    }

    /// Serves until the drain is over.
    ///
    /// # Errors
    /// The kernel's, when the epoll set fails.
    pub(crate) async fn run(mut self, drain: Drain) -> io::Result<()> {
        self.watch_listeners()?;
        let stop = drain.token();
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            while let Ok(attach) = self.attaches.try_recv() {
                // Also while there is no end of work: without state there soon would be.
                self.attach(attach);
            }
            let mut busy = self.poll_link();
            busy |= self.poll_sockets()?;
            busy |= self.read_on();
            busy |= self.fanout_slice();
            busy |= self.snapshot_chunk();
            self.turn_wheel();
            self.flush_outbox();
            // A snapshot that waits for room is woken by it; one that doesn't goes on.
            busy |= self.snapshot.is_some() && !self.outbox.has_events();
            if !self.draining && stop.is_cancelled() {
                self.begin_drain();
            }
            if self.draining && (drain.remaining().is_zero() || self.is_drained()) {
                return self.finish().await;
            }
            if busy {
                // The stream's own tasks run on this thread too.
                tokio::task::yield_now().await;
                continue;
            }
            let waiting_for_room = self.outbox.has_events();
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.draining => {}
                Some(attach) = self.attaches.recv() => self.attach(attach),
                activity = self.link.activity(waiting_for_room) => match activity {
                    Activity::Received(message) => self.received(*message),
                    Activity::Room => {}
                },
                guard = self.epoll.readable() => guard?.clear_ready(),
                _ = interval.tick() => {}
            }
        }
    }

    /// Takes what state has sent already.
    fn poll_link(&mut self) -> bool {
        for turn in 0..BATCHES_PER_TURN {
            let Some(message) = self.link.message().now_or_never() else {
                return turn > 0;
            };
            self.received(message);
        }
        true
    }

    fn received(&mut self, message: Received) {
        match message {
            Ok(Some(batch)) => match &batch.hello {
                Some(hello) if hello.link_generation != LINK_GENERATION => {
                    let why = format!(
                        "state speaks link generation {}, this gateway {LINK_GENERATION}: run versions that share one",
                        hello.link_generation
                    );
                    self.link_lost(&why);
                }
                _ => self.apply(batch),
            },
            Ok(None) => self.link_lost("state closed its stream"),
            Err(status) => self.link_lost(status.message()),
        }
    }

    /// Takes what sockets are ready for; whether there may be more. If not, the set is empty, and its descriptor
    /// shows the next event as a new edge: going to wait costs an idle connection's ping no further system call.
    fn poll_sockets(&mut self) -> io::Result<bool> {
        let count = self.epoll.get_mut().wait(Some(std::time::Duration::ZERO))?;
        let mut more = false;
        for index in 0..count {
            let ready = self.epoll.get_ref().event(index);
            if ready.token >= LISTENER_TOKEN {
                more |= self.accept((ready.token - LISTENER_TOKEN) as usize);
                continue;
            }
            let (slot, generation) = (ready.token as u32, (ready.token >> 32) as u32);
            if self.connections.get_exact(slot, generation).is_none() {
                continue;
            }
            if ready.writable {
                self.flush(slot, imaccess_common::clock::unix_ms);
            }
            if ready.readable {
                self.read(slot);
                if ready.hung_up {
                    self.read_to_end(slot, generation);
                }
            }
        }
        Ok(more || count == self.epoll.get_ref().batch())
    }

    /// The peer has shut its side: what it sent before counts, then the end shows. Edge-triggered, so it has to be
    /// read for now.
    fn read_to_end(&mut self, slot: u32, generation: u32) {
        if let Some(connection) = self.connections.get_exact(slot, generation)
            && !connection.has_more
        {
            connection.has_more = true;
            self.unread.push(slot);
        }
    }

    /// Reads on where a turn's share wasn't enough; whether there is still more.
    fn read_on(&mut self) -> bool {
        let mut unread = std::mem::take(&mut self.unread);
        for slot in unread.drain(..) {
            if let Some(connection) = self.connections.get_mut(slot)
                && std::mem::take(&mut connection.has_more)
            {
                self.read(slot);
            }
        }
        let more = !self.unread.is_empty();
        if !more {
            // The list's memory goes on being used.
            self.unread = unread;
        }
        more
    }

    fn begin_drain(&mut self) {
        self.draining = true;
        self.pause_listeners();
        // What waits in the kernel's queue is refused by closing; clients try the next endpoint.
        self.listeners.clear();
        self.end_all(Code::Draining);
    }

    fn is_drained(&self) -> bool {
        self.connections.is_empty() && !self.outbox.has_events()
    }

    /// The deadline: what is left ends now.
    async fn finish(mut self) -> io::Result<()> {
        let left = self.connections.len();
        if left > 0 {
            tracing::warn!(
                left,
                shard = self.id,
                "connections that had not read their close frame were cut"
            );
        }
        for slot in 0..self.connections.slots() {
            self.release(slot);
        }
        self.flush_outbox();
        self.report();
        // One turn for the stream to carry the last batch away.
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// The shard's own epoll set as one descriptor of the runtime's.
#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for types that can change their descriptor; `Epoll` can't"
)]
fn registered(epoll: Epoll) -> io::Result<AsyncFd<Epoll>> {
    AsyncFd::with_interest(epoll, Interest::READABLE)
}
