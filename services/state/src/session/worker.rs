//! The loop around one machine: a thread with a `current_thread` runtime, fed by the link task, the stream tasks
//! and the hub.
//!
//! A turn takes what is ready (bounded), lets the machine decide, and hands on what it produced. The rules:
//! - The worker waits in one place only, the `select!` of [`Worker::run`]; it never waits for the hub or a mailbox.
//! - Bytes for the gateway above [`LINK_SOFT`]: businesses are not read, and pushes wait, within a bound. Above [`LINK_HARD`]:
//!   the gateway isn't read either. (The gateway always reads, so this ends.)
//! - Deltas for the hub above [`ROUTES_HARD`]: logins wait in their bounded queue.
//! - Dropping the worker closes its mailboxes and channels, which ends its tasks.

mod flush;
mod leaving;

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use imaccess_common::business::BusinessConfig;
use imaccess_common::clock;
use imaccess_common::drain::Drain;
use imaccess_common::ticket::TicketKeys;
use imaccess_common::token::TokenVerifier;
use imaccess_proto::v1::{
    BroadcastPush, FromAccess, GatewayBatch, GatewayHello, GroupCommand, GroupPush, LostSessions, Outranked,
    Quiesce, RouteAnnouncement, SessionCommand, StateBatch, UnicastPush,
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::Now;
use super::link::{self, LinkEvent};
use super::machine::{Gone, Machine, RouteChunk, Settings, Shared, Transfer, count_streams};
use super::mailbox::Mailbox;
use super::metrics::Metrics;
use super::out::RouteOut;
use crate::business::{self, StreamContext, StreamEvent, StreamId};

use self::leaving::Leaving;

/// Bytes waiting for the gateway above which nothing that can wait is taken on: 5 ms at 50 MB/s.
const LINK_SOFT: usize = 256 * 1024;
/// Bytes waiting for the gateway above which its own frames aren't read.
const LINK_HARD: usize = 1024 * 1024;
/// Things waiting for the hub above which no login is taken from the queue: about 10 MB.
const ROUTES_HARD: usize = 65_536;
/// Batches from businesses read ahead.
const STREAM_READ_AHEAD: usize = 16;
/// Batches taken per turn and source: keeps a turn below a few milliseconds.
const BATCHES_PER_TURN: usize = 8;
/// Rows per snapshot chunk for a follower: about 1 ms of work and 150 KB.
const CHUNK_ROWS: u32 = 1_024;
/// How long businesses may take to be there before a gateway that held back what clients sent is told to send it: a server on the
/// same network answers in milliseconds, one that is away is known to be as soon, and one that says nothing mustn't hold up the others.
const READY_PATIENCE: Duration = Duration::from_millis(500);
/// Timeouts are exact to this.
const TICK: Duration = Duration::from_millis(50);

/// Ticks between two counts of all sessions for the metrics: a second, at 0.3 ms per 100,000.
const NOTE_TICKS: u64 = 20;

/// From a worker to the hub.
#[derive(Debug)]
pub enum FromWorker {
    /// Its link is up; who the gateway is.
    Hello(GatewayHello),
    /// It knows all sessions of its shard, now or once before.
    Restored(u8),
    /// Its link is complete, or isn't any more.
    Live {
        /// Which worker.
        worker: u8,
        /// Whether it is.
        live: bool,
        /// It isn't because one side leaves in order.
        planned: bool,
    },
    /// All that a worker has whose shard is gone.
    Exported(Box<Transfer>),
    /// Ended connections that such a worker has settled since.
    Settled(u8, Vec<u64>),
    /// What happened to routes.
    Delta(u8, RouteOut),
    /// A part of a follower's snapshot.
    Chunk(u8, u32, RouteChunk),
}

/// From the hub to a worker.
pub enum ToWorker {
    /// Another worker announced these.
    Peers(Arc<Vec<RouteAnnouncement>>),
    /// Every replica in sync has acknowledged the deltas up to here.
    Confirm(u64),
    /// A follower wants the next part of the snapshot.
    Chunk {
        /// Which follower.
        follower: u32,
        /// From which record on.
        from: u32,
    },
    /// Pushes for sessions of this worker.
    Pushes(u32, Vec<UnicastPush>),
    /// Pushes for groups.
    Groups(Arc<Vec<GroupPush>>),
    /// Commands for sessions of this worker.
    Commands(u32, Vec<SessionCommand>),
    /// Commands for groups.
    GroupCommands(u32, Arc<Vec<GroupCommand>>),
    /// Sessions of a lost instance, whose businesses are to be told.
    Lost(u32, Vec<LostSessions>),
    /// Pushes for all whom a filter lets through.
    Broadcasts(u32, Arc<Vec<BroadcastPush>>),
    /// Sessions whose device has a higher epoch elsewhere, and the worker's deltas that some replica had acknowledged before.
    Outranked(Vec<Outranked>, u64),
    /// Connections ended while no gateway was there to say so.
    ConnectionsGone(Gone),
    /// The gateway has fewer shards now, and none for this worker: all that it has goes to another.
    Export {
        /// Which.
        to: u8,
        /// Which start of the gateway it is.
        incarnation: u32,
        /// The deltas that some replica has acknowledged.
        heard: u64,
    },
    /// What a worker has whose shard is gone.
    Import(Box<Transfer>),
    /// Ended connections that such a worker has settled.
    Settled(Vec<u64>),
    /// The businesses are these now.
    Businesses(Arc<Vec<BusinessConfig>>),
    /// The keys are these now.
    Keys(Arc<TicketKeys>, Arc<dyn TokenVerifier>),
}

impl std::fmt::Debug for ToWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keys are secrets, and the rest is large.
        f.write_str(match self {
            Self::Peers(_) => "Peers",
            Self::Confirm(_) => "Confirm",
            Self::Chunk { .. } => "Chunk",
            Self::Pushes(..) => "Pushes",
            Self::Groups(_) => "Groups",
            Self::Commands(..) => "Commands",
            Self::GroupCommands(..) => "GroupCommands",
            Self::Broadcasts(..) => "Broadcasts",
            Self::Lost(..) => "Lost",
            Self::Outranked(..) => "Outranked",
            Self::ConnectionsGone(_) => "ConnectionsGone",
            Self::Export { .. } => "Export",
            Self::Import(_) => "Import",
            Self::Settled(_) => "Settled",
            Self::Businesses(_) => "Businesses",
            Self::Keys(..) => "Keys",
        })
    }
}

/// What a worker is made of.
pub struct WorkerConfig {
    /// For its machine.
    pub settings: Settings,
    /// For its machine.
    pub shared: Shared,
    /// Cluster id, for businesses.
    pub cluster: String,
    /// Where the gateway's sockets are.
    pub socket_dir: PathBuf,
    /// How long a gateway may say nothing before its link is given up.
    pub gateway_silence: Duration,
    /// To the hub.
    pub to_hub: mpsc::Sender<FromWorker>,
    /// From the hub.
    pub from_hub: mpsc::Receiver<ToWorker>,
    /// How long requests in flight, and then events, may take when the sidecar leaves.
    pub drain_grace: Duration,
    /// How long sessions may take to go on elsewhere, or to be over, when the gateway has gone before the sidecar.
    pub end_grace: Duration,
    /// How many sockets are held for a gateway; `None`: there is no custody.
    pub held: Option<Arc<AtomicUsize>>,
    /// When to end, in order.
    pub drain: Drain,
    /// When to end at once: the sidecar itself is gone.
    pub stop: CancellationToken,
}

struct Worker {
    machine: Machine,
    number: u8,
    start: Instant,
    link: Option<Mailbox<StateBatch>>,
    /// Mailboxes by business and stream.
    streams: Vec<Vec<Option<Mailbox<FromAccess>>>>,
    /// What ends the streams of each business.
    stops: Vec<CancellationToken>,
    /// For the streams' tasks. Its dialler is empty until the gateway has said which instance this is: businesses are told it when
    /// they are dialled.
    context: StreamContext,
    metrics: Metrics,
    to_hub: mpsc::Sender<FromWorker>,
    /// When the machine is told the time next, in microseconds.
    next_tick: u64,
    ticks: u64,
    was_restored: bool,
    was_live: bool,
    /// Chunk requests that came before the snapshot was complete.
    asked: Vec<(u32, u32)>,
    /// Said to the hub as soon as it takes it.
    owed: Vec<FromWorker>,
    leaving: Leaving,
    grace: Duration,
    end_grace: Duration,
    held: Option<Arc<AtomicUsize>>,
    /// Keeps the link's task from beginning a stream anew.
    leaving_link: CancellationToken,
    /// The stream that was last has ended.
    link_has_ended: bool,
    /// The gateway hasn't been told yet that it may ask.
    unready: bool,
    /// When the businesses were dialled, in microseconds.
    dialled: u64,
}

/// Runs a worker until the drain is done. Call it on a thread of its own.
pub fn run(config: WorkerConfig) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(Box::pin(Worker::run(config)));
    // Ends the tasks of links and streams, which wait for peers.
    runtime.shutdown_background();
    Ok(())
}

impl Worker {
    async fn run(config: WorkerConfig) {
        let number = config.settings.worker;
        let room = Arc::new(Notify::new());
        let (link_tx, mut link_rx) = mpsc::channel(link::READ_AHEAD);
        let (stream_tx, mut stream_rx) = mpsc::channel(STREAM_READ_AHEAD);
        let leaving_link = CancellationToken::new();
        tokio::spawn(link::keep(
            config.socket_dir,
            number,
            config.gateway_silence,
            Arc::clone(&room),
            link_tx,
            leaving_link.clone(),
        ));
        let context = StreamContext {
            cluster: config.cluster,
            dialler: String::new(),
            place: 0,
            room: Arc::clone(&room),
            events: stream_tx,
            metrics: config.shared.metrics.clone(),
        };
        let mut worker = Self {
            machine: Machine::new(config.settings.clone(), config.shared.clone()),
            number,
            start: Instant::now(),
            link: None,
            streams: Vec::new(),
            stops: Vec::new(),
            context,
            metrics: config.shared.metrics.clone(),
            to_hub: config.to_hub,
            next_tick: 0,
            ticks: 0,
            was_restored: false,
            was_live: false,
            asked: Vec::new(),
            owed: Vec::new(),
            leaving: Leaving::No,
            grace: config.drain_grace,
            end_grace: config.end_grace,
            held: config.held,
            leaving_link,
            link_has_ended: true,
            unready: false,
            dialled: 0,
        };
        worker.add_streams();
        let mut from_hub = config.from_hub;
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut more = false;
        let mut stop = pin!(config.stop.cancelled());
        let mut begun = pin!(config.drain.begun());
        let mut deadline = pin!(config.drain.deadline());
        loop {
            let waiting = worker.machine.link.bytes();
            let link_gone = worker.link.as_ref().is_none_or(Mailbox::is_gone);
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = &mut deadline => break,
                () = &mut begun, if worker.leaving == Leaving::No => worker.begin_leaving(),
                Some(event) = from_hub.recv() => worker.hub(event),
                // What says that the gateway is gone comes this way too, and only that empties what waits for it.
                Some(event) = link_rx.recv(), if waiting < LINK_HARD || link_gone => worker.link(event),
                Some((id, event)) = stream_rx.recv(), if waiting < LINK_SOFT => worker.stream(id, event),
                () = room.notified() => {}
                _ = ticks.tick() => {}
                // Logins, and groups under destruction, that wait for another turn's budget, after I/O had its turn.
                () = tokio::task::yield_now(), if more => {}
            }
            for _ in 1..BATCHES_PER_TURN {
                if worker.machine.link.bytes() >= LINK_SOFT {
                    break;
                }
                let from_link = link_rx.try_recv().map(|event| worker.link(event));
                let from_stream = stream_rx.try_recv().map(|(id, event)| worker.stream(id, event));
                let from_hub = from_hub.try_recv().map(|event| worker.hub(event));
                if from_link.is_err() && from_stream.is_err() && from_hub.is_err() {
                    break;
                }
            }
            worker.tick(&config.shared.metrics);
            let may_log_in = worker.machine.routes_waiting() < ROUTES_HARD;
            more = may_log_in && worker.machine.run_logins(worker.now());
            more |= worker
                .machine
                .run_destroying(worker.machine.link.bytes() < LINK_SOFT);
            worker.flush();
            if worker.leave() {
                break;
            }
        }
        // One more turn of the runtime, so that what is in the mailboxes reaches the sockets.
        drop(worker);
        tokio::task::yield_now().await;
    }

    fn now(&self) -> Now {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Now {
            micros,
            unix_ms: clock::unix_ms(),
        }
    }

    fn link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up {
                hello,
                generation,
                outgoing,
            } => {
                let now = self.now();
                self.machine.link_up(&hello, generation, now);
                self.link_has_ended = false;
                self.unready = true;
                let policy = self.machine.policy();
                self.machine.link.policy(policy);
                self.link = Some(outgoing);
                if self.context.dialler.is_empty() {
                    self.dialled = now.micros;
                    self.context.dialler = format!("{}/{}", hello.instance, self.number);
                    self.context.place = business::first_place(&hello.instance, self.number);
                    let places: Vec<usize> = self.machine.places().collect();
                    places.into_iter().for_each(|place| self.dial(place));
                }
                self.owed.push(FromWorker::Hello(hello));
            }
            LinkEvent::Batch(batch) => self.batch(*batch),
            LinkEvent::Down => {
                self.link = None;
                self.link_has_ended = true;
                self.unready = false;
                self.machine.link_down();
            }
        }
    }

    fn dial(&self, business: usize) {
        let config = self.machine.business_at(business);
        business::start(config, business, &self.context, &self.stops[business]);
    }

    /// Makes room for the streams of businesses that have come.
    fn add_streams(&mut self) {
        for business in self.streams.len()..self.machine.count_places() {
            let count = count_streams(self.machine.business_at(business));
            self.streams.push((0..count).map(|_| None).collect());
            self.stops.push(CancellationToken::new());
        }
    }

    fn set_businesses(&mut self, listed: &[BusinessConfig]) {
        let places = self.machine.set_businesses(listed);
        self.add_streams();
        if !self.context.dialler.is_empty() {
            places.into_iter().for_each(|place| self.dial(place));
        }
        if self.link.is_some() && !self.machine.is_quiesced() {
            let policy = self.machine.policy();
            self.machine.link.policy(policy);
        }
    }

    /// Ends the streams of businesses that have nothing left to do, after what is in their mailboxes.
    fn end_streams(&mut self) {
        for place in self.machine.take_done_places() {
            self.streams[place].clear();
            self.stops[place].cancel();
        }
    }

    /// Applies the fields of a batch in the order of their numbers.
    fn batch(&mut self, batch: GatewayBatch) {
        let now = self.now();
        let quiesce = batch.quiesce();
        if let Some(chunk) = &batch.snapshot {
            self.machine.snapshot(chunk, now);
        }
        for attempt in batch.logins {
            self.machine.login(attempt);
        }
        if let Some(frames) = &batch.uplink {
            self.machine.uplink(frames, now);
        }
        if let Some(receipts) = &batch.receipts {
            self.machine.receipts(receipts);
        }
        if !batch.closed.is_empty() {
            self.machine.closed(&batch.closed, now);
        }
        self.machine.quiesce(quiesce);
        if quiesce == Quiesce::Done && self.machine.is_quiesced() {
            // The gateway has left, and waits for this end of the stream.
            self.link = None;
        }
    }

    fn stream(&mut self, id: StreamId, event: StreamEvent) {
        let StreamId { business, stream } = id;
        if stream >= self.streams[business].len() {
            // Its business is done with.
            return;
        }
        match event {
            StreamEvent::Up(outgoing) => {
                self.streams[business][stream] = Some(outgoing);
                self.machine.stream_up(business, stream);
            }
            StreamEvent::Batch(batch) => {
                let now = self.now();
                self.machine.business(business, stream, &batch, now);
            }
            StreamEvent::Failed(replies) => {
                let now = self.now();
                self.machine.calls_failed(business, stream, &replies, now);
            }
            StreamEvent::Down => {
                self.streams[business][stream] = None;
                let now = self.now();
                self.machine.stream_down(business, stream, now);
            }
            StreamEvent::Away => self.machine.stream_away(business, stream),
        }
    }

    fn hub(&mut self, event: ToWorker) {
        let now = self.now();
        match event {
            ToWorker::Peers(announcements) => {
                for announcement in announcements.iter() {
                    self.machine.peer(announcement);
                }
            }
            ToWorker::Confirm(upto) => self.machine.confirm(upto, now),
            ToWorker::Chunk { follower, from } => self.asked.push((follower, from)),
            ToWorker::Pushes(follower, pushes) => {
                for push in pushes {
                    self.machine.push(follower, push, LINK_SOFT, now);
                }
            }
            ToWorker::Groups(pushes) => {
                for push in pushes.iter() {
                    let room = self.machine.link.bytes() < LINK_SOFT;
                    self.machine.group_push(push, room, now);
                }
            }
            ToWorker::Commands(follower, commands) => {
                for command in &commands {
                    self.machine.command(follower, command);
                }
            }
            ToWorker::GroupCommands(follower, commands) => {
                for command in commands.iter() {
                    self.machine.group_command(follower, command);
                }
            }
            ToWorker::Broadcasts(follower, pushes) => {
                for push in pushes.iter() {
                    let room = self.machine.link.bytes() < LINK_SOFT;
                    self.machine.broadcast(follower, push, room, now);
                }
            }
            ToWorker::Lost(follower, lost) => {
                for lost in &lost {
                    self.machine.lost_elsewhere(follower, lost, now);
                }
            }
            ToWorker::Outranked(outranked, heard) => {
                for outranked in &outranked {
                    self.machine.outranked(outranked, heard, now);
                }
            }
            ToWorker::ConnectionsGone(gone) => self.machine.connections_gone(&gone, now),
            ToWorker::Export {
                to,
                incarnation,
                heard,
            } => {
                let transfer = self.machine.export(to, incarnation, heard, now);
                self.owed.push(FromWorker::Exported(Box::new(transfer)));
            }
            ToWorker::Import(transfer) => self.machine.import(*transfer, now),
            ToWorker::Settled(serials) => self.machine.settled_elsewhere(&serials),
            ToWorker::Businesses(listed) => self.set_businesses(&listed),
            ToWorker::Keys(tickets, tokens) => self.machine.set_keys(tickets, tokens),
        }
    }

    /// Asked in every turn: under load the interval's branch of the `select!` may not be reached.
    fn tick(&mut self, metrics: &Metrics) {
        let now = self.now();
        if now.micros < self.next_tick {
            return;
        }
        self.machine.tick(now);
        self.end_streams();
        self.next_tick = now.micros + u64::from(TICK.subsec_micros());
        self.ticks += 1;
        if self.ticks % NOTE_TICKS == 1 {
            self.note(metrics);
        }
    }

    fn note(&self, metrics: &Metrics) {
        let worker = self.number.to_string();
        for (phase, sessions) in self.machine.phases() {
            metrics
                .sessions
                .with_label_values(&[worker.as_str(), phase])
                .set(sessions as i64);
        }
        metrics
            .logins_waiting
            .with_label_values(&[&worker])
            .set(self.machine.logins_waiting() as i64);
    }
}
