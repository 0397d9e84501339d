//! One shard: one thread, one epoll set, one slab of connections, one stream to state.
//!
//! Concurrency rules. Everything here is owned by the shard's thread and touched only in its turns; nothing is
//! locked on a message's way. A turn takes what state sent, what sockets have, one slice of fan-out, and hands
//! state one batch; each part of a turn is bounded, so that none can starve another. The only awaits are at the end
//! of a turn: a yield while there is work, a wait for anything to happen when there is none.

mod accept;
mod adopt;
mod attributes;
mod close;
mod connection;
mod custody;
mod drain;
mod ended;
mod fanout;
mod groups;
pub(crate) mod handover;
mod inbound;
mod login;
mod outbox;
mod queue;
mod read;
mod requests;
mod snapshot;
mod timers;
mod write;

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures_util::FutureExt;
use hashbrown::HashMap;
use imaccess_common::clock::Monotonic;
use imaccess_common::drain::Drain;
use imaccess_net::cursors::Cursors;
use imaccess_net::epoll::Epoll;
use imaccess_net::slab::Slab;
use imaccess_net::socket::Listener;
use imaccess_net::wheel::{Tick, Wheel};
use imaccess_proto::v1::{CustodyHello, HandedEnded, Takeover};
use imaccess_wire::header::HEADER_LEN;
use imaccess_wire::limits::MAX_BODY;
use imaccess_wire::{Code, Limits};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::GatewayConfig;
use crate::drain::{Course, Stage};
use crate::handover::lease::Handover;
use crate::limits::Admission;
use crate::link::Attach;
use crate::metrics::{Counts, Metrics};
use crate::takeover::Adopted;
use attributes::Attributes;
use connection::{Connection, Phase, Tickets};
use custody::Custody;
use drain::Telling;
use ended::Ended;
use fanout::Fanout;
use groups::Groups;
use handover::Left;
use outbox::Outbox;
use queue::Share;
use requests::Unanswered;
use snapshot::{Activity, Link, Received, Snapshot};
use timers::{BUCKETS, Deadlines, FIRST_TICK, TICK, ticks, ticks_since_start};

/// The custodian's socket in the socket directory.
pub(crate) const CUSTODY_SOCKET: &str = "custody.sock";
/// Tokens from here on are listeners; connections are `generation(24) ‖ slot(32)`.
const LISTENER_TOKEN: u64 = 1 << 60;
/// Events per wait.
const EVENTS: usize = 512;
/// Batches of state applied per turn.
const BATCHES_PER_TURN: usize = 8;
/// What is read at once: the longest frame, and as much again so that its beginning can stand before it.
const READ_BUFFER: usize = 2 * (HEADER_LEN + MAX_BODY);

/// A listener, and the number under which it is in custody.
#[derive(Debug)]
pub(crate) struct OwnListener {
    pub(crate) socket: Listener,
    pub(crate) id: u64,
}

/// How a shard is to end.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// Says when everything must have ended.
    pub(crate) drain: Drain,
    /// Clients are told, flushed and closed, stage by stage.
    pub(crate) courses: Arc<watch::Sender<Course>>,
    /// Connections stay, and the next process goes on with them.
    pub(crate) handover: CancellationToken,
}

/// What a shard is given by the gateway.
#[derive(Debug)]
pub(crate) struct ShardParts {
    pub(crate) id: u8,
    pub(crate) shards: u32,
    pub(crate) config: Arc<GatewayConfig>,
    pub(crate) instance: String,
    pub(crate) incarnation: u32,
    pub(crate) listeners: Vec<OwnListener>,
    pub(crate) cursors: Cursors,
    /// How this process came by what it has.
    pub(crate) takeover: Takeover,
    pub(crate) adopted: Vec<Adopted>,
    pub(crate) ended: Vec<HandedEnded>,
    pub(crate) handover: Arc<Handover>,
    /// Called once everything is adopted.
    pub(crate) begun: mpsc::Sender<()>,
    pub(crate) admission: Arc<Admission>,
    /// Clients of all shards that are still to be told to go.
    pub(crate) untold: Arc<AtomicU64>,
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
    listeners: Vec<OwnListener>,
    accepting: bool,
    stage: Stage,
    telling: Option<Telling>,
    /// Clients of all shards that are still to be told to go.
    untold: Arc<AtomicU64>,
    connections: Slab<Connection>,
    tickets: Tickets,
    attributes: Attributes,
    groups: Groups,
    cursors: Cursors,
    custody: Custody,
    handover: Arc<Handover>,
    takeover: Takeover,
    /// Ends that state hasn't settled.
    ended: Ended,
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
    /// What the shared gauges were last told: sessions, connections, queued bytes, waiting group bytes,
    /// unsettled ends.
    reported: [i64; 5],
    sessions: usize,
    refused_lingering: usize,
    queued_bytes: usize,

    read_buffer: Vec<u8>,
    frame_buffer: Vec<u8>,
    /// Connections of which more may be read without another event.
    unread: Vec<u32>,
    /// Since when what clients send waits in the kernel, because state is being replaced.
    holding: Option<Tick>,
    /// The state that is attached has said that it can be asked. One that never did so changes nothing by going: else a state that
    /// comes and goes would put clients off for ever.
    state_was_ready: bool,
    /// When the last state that could be asked went.
    state_lost_at: Tick,
    /// State has said that it leaves.
    state_leaves: bool,
    /// Group frames are queued without a try to write them: this process is about to leave.
    queue_only: bool,
    /// Connections whose bytes wait.
    held: Vec<u32>,
    /// A login may wait for state.
    logins_wait: bool,
    /// The next connection to be told that frames may be lost.
    repeat_from: Option<u32>,
    /// Empty lists of unanswered requests.
    #[expect(
        clippy::vec_box,
        reason = "the boxes are what is used again: they move between here and connections"
    )]
    spare_lists: Vec<Box<Unanswered>>,
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
        let custodian = config.custody.then(|| config.socket_dir.join(CUSTODY_SOCKET));
        let hello = CustodyHello {
            instance: instance.clone(),
            incarnation,
            shard: id.into(),
            shards,
            ..CustodyHello::default()
        };
        let clock = Monotonic::start();
        let deadlines = &config.deadlines;
        let limits = &config.limits;
        let bytes = |size: imaccess_common::config::ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
        let mut shard = Self {
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
            cursors: parts.cursors,
            custody: Custody::new(custodian, hello, Arc::clone(&parts.handover)),
            handover: parts.handover,
            takeover: parts.takeover,
            ended: Ended::default(),
            listeners,
            accepting: false,
            stage: Stage::Serving,
            telling: None,
            untold: parts.untold,
            connections: Slab::new(),
            tickets: Tickets::default(),
            attributes: Attributes::default(),
            groups: Groups::default(),
            wheel: Wheel::new(BUCKETS, FIRST_TICK),
            fanout: Fanout::default(),
            outbox: Outbox::default(),
            link: Link::detached(FIRST_TICK),
            snapshot: None,
            attaches: parts.attaches,
            link_up: parts.link_up,
            attachments: 0,
            admission: parts.admission,
            metrics: parts.metrics,
            counts: Counts::default(),
            reported: [0; 5],
            sessions: 0,
            refused_lingering: 0,
            queued_bytes: 0,
            read_buffer: vec![0; READ_BUFFER],
            frame_buffer: Vec::with_capacity(64),
            unread: Vec::new(),
            holding: None,
            state_was_ready: false,
            state_lost_at: FIRST_TICK,
            state_leaves: false,
            held: Vec::new(),
            queue_only: false,
            logins_wait: false,
            repeat_from: None,
            spare_lists: Vec::new(),
            due: Vec::new(),
            retired: Vec::new(),
            answers: Vec::new(),
        };
        shard.adopt(parts.adopted, &parts.ended);
        // Before the first scrape: a gateway that looked empty would be sent everybody.
        shard.report();
        // Its receiver waits for one word of every shard.
        let _ = parts.begun.try_send(());
        Ok(shard)
    }

    /// Serves until the drain is over, or until it is handed over: then with what is left.
    ///
    /// # Errors
    /// The kernel's, when the epoll set fails.
    pub(crate) async fn run(mut self, ending: Ending) -> io::Result<Option<Left>> {
        let Ending {
            drain,
            courses,
            handover,
        } = ending;
        let mut course = courses.subscribe();
        self.dial_custodian();
        self.watch_listeners()?;
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            self.look_at_clock();
            while let Ok(attach) = self.attaches.try_recv() {
                // Also while there is no end of work: without state there soon would be.
                self.attach(attach);
            }
            let mut busy = self.poll_link();
            busy |= self.poll_sockets()?;
            busy |= self.read_on();
            let sweeps = self.fanout_slice();
            busy |= sweeps;
            busy |= self.snapshot_chunk();
            busy |= self.tell_repeats();
            busy |= self.serve_custody();
            busy |= self.tell_away();
            self.turn_wheel();
            self.flush_outbox();
            // A snapshot that waits for room is woken by it; one that doesn't goes on.
            busy |= self.snapshot.is_some() && !self.outbox.has_events();
            if course.has_changed().unwrap_or(false) {
                let entered = *course.borrow_and_update();
                self.enter(&entered);
            }
            let is_over = self.stage > Stage::Serving && drain.remaining().is_zero();
            if is_over || self.is_drained() {
                return self.finish().await.map(|()| None);
            }
            if handover.is_cancelled() && self.stage == Stage::Serving {
                if self.settle_custody().await {
                    return Ok(Some(self.hand_over().await));
                }
                // State has just died: if this process ended now as well, every connection would.
                tracing::error!(
                    shard = self.id,
                    "nobody holds the sockets: draining instead of handing over"
                );
                courses.send_modify(|course| course.stage = Stage::Closing);
                continue;
            }
            if busy {
                // The stream's own tasks run on this thread too.
                tokio::task::yield_now().await;
                if sweeps {
                    // Without a processor of its own a sweep would keep state and routing from theirs, and with them every single message,
                    // for as long as the scheduler lets a thread run.
                    std::thread::yield_now();
                }
                continue;
            }
            let waiting_for_room = self.outbox.has_events();
            tokio::select! {
                biased;
                Ok(()) = course.changed() => course.mark_changed(),
                () = handover.cancelled(), if self.stage == Stage::Serving => {}
                Some(attach) = self.attaches.recv() => {
                    self.look_at_clock();
                    self.attach(attach);
                }
                activity = self.link.activity(waiting_for_room) => if let Activity::Received(message) = activity {
                    self.look_at_clock();
                    self.received(*message);
                },
                guard = self.epoll.readable() => guard?.clear_ready(),
                () = self.custody.activity() => {}
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
            Ok(Some(batch)) => {
                if let Some(hello) = &batch.hello {
                    self.heard_hello(hello);
                }
                if self.link.attachment().is_some() {
                    self.apply(batch);
                }
            }
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
                    self.hung_up(slot, generation);
                }
            }
        }
        Ok(more || count == self.epoll.get_ref().batch())
    }

    /// The peer has shut its side: what it sent before counts, then the end shows. Edge-triggered, so it has to be
    /// read for now.
    fn hung_up(&mut self, slot: u32, generation: u32) {
        let Some(connection) = self.connections.get_exact(slot, generation) else {
            return;
        };
        if connection.phase == Phase::Authenticating {
            // Its login stays in the kernel, so the end behind it never shows in what is read.
            return self.gone(slot, Code::ConnectionLost);
        }
        connection.hung_up = true;
        if !connection.has_more {
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

    /// The deadline: what is left ends now.
    async fn finish(mut self) -> io::Result<()> {
        let mut closing = Course::serving();
        closing.stage = Stage::Closing;
        // Nothing, but when the time was shorter than its stages.
        self.enter(&closing);
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
        // What the custodian isn't told now it finds by itself, but later: the sockets are shut down. State asks it whether anything is
        // left when it ends with its pod.
        self.settle_custody().await;
        self.report();
        // One turn for the stream to carry the last batch away.
        tokio::task::yield_now().await;
        Ok(())
    }
}

/// A descriptor of the runtime's: the shard's own epoll set, or its connection to the custodian.
#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for types that can change their descriptor; ours can't"
)]
fn registered<T: AsRawFd>(descriptor: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
