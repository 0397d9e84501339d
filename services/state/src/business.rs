//! Ways to business servers: the part of the isolation (B12) that does I/O.
//!
//! Each worker keeps streams of its own to each business, each with a task and connections of its own. What a stream is depends on the
//! business's protocol: one gRPC stream ([`grpc`]), or calls that run beside each other ([`calls`]), by gRPC ([`unary`]) or as HTTP
//! with JSON ([`http`]); where calls are made, the events have a stream of their own ([`events`]). To its worker all look alike: batches go into a mailbox, [`StreamEvent`]s come back. A business that hangs,
//! breaks or isn't there costs its own requests their answers and nobody else anything: what decides (limits, timeouts, which stream,
//! when one isn't asked) is [`crate::session::machine`].

mod calls;
mod events;
mod grpc;
mod http;
mod json;
mod places;
mod unary;

use std::sync::Arc;
use std::time::Duration;

use imaccess_common::business::{BusinessConfig, Protocol};
use imaccess_proto::v1::{AccessHello, BusinessReply, FromAccess, FromBusiness};
use prometheus::IntGauge;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::session::link::Chain;
use crate::session::machine::first_for_requests;
use crate::session::mailbox::Mailbox;
use crate::session::metrics::Metrics;

use self::http::HttpCaller;
use self::places::Places;
pub use self::places::first_place;
use self::unary::UnaryCaller;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A business that was away is found again within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a server may take to accept a connection, and a stream.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A server whose machine is gone is noticed within both together; requests time out on their own anyway.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// How long a stream that isn't wanted any more may take to carry its last batch away.
const LAST_BATCH: Duration = Duration::from_secs(1);

/// How often hosts are looked up for addresses that have come: as long as a resolver's cache commonly keeps them.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Which stream: position of the business in the worker's list, and number of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId {
    /// Position of the business.
    pub business: usize,
    /// Number of the stream, from 0.
    pub stream: usize,
}

/// What a stream's task tells its worker.
#[derive(Debug)]
pub enum StreamEvent {
    /// It is open.
    Up(Mailbox<FromAccess>),
    /// A batch came.
    Batch(FromBusiness),
    /// Calls got no answer; what their clients are to be told. An id of 0 is a one-way send's.
    Failed(Vec<BusinessReply>),
    /// It broke.
    Down,
    /// It couldn't be opened anew; that is tried again.
    Away,
}

/// What all streams of a worker share.
#[derive(Debug, Clone)]
pub struct StreamContext {
    /// Cluster id.
    pub cluster: String,
    /// Instance and worker, as businesses see them.
    pub dialler: String,
    /// Where among a business's places the worker's first stream begins; see [`first_place`].
    pub place: usize,
    /// Told when a stream can take another batch.
    pub room: Arc<Notify>,
    /// Where events go.
    pub events: mpsc::Sender<(StreamId, StreamEvent)>,
    /// Counts failures.
    pub metrics: Metrics,
}

impl StreamContext {
    /// How a stream introduces itself.
    fn hello(&self, config: &BusinessConfig, id: StreamId) -> AccessHello {
        AccessHello {
            cluster: self.cluster.clone(),
            instance: format!("{}.{}", self.dialler, id.stream),
            business: config.id,
        }
    }

    async fn tell(&self, id: StreamId, event: StreamEvent) -> Result<(), Fault> {
        self.events.send((id, event)).await.map_err(|_| Fault::WorkerGone)
    }
}

/// Keeps the streams of a business until the worker is gone, or until `stop`: then they may take what was handed to them along.
pub fn start(config: &BusinessConfig, business: usize, context: &StreamContext, stop: &CancellationToken) {
    let first = first_for_requests(config);
    let from = if config.events { 0 } else { first };
    for stream in from..first + config.least_streams() as usize {
        spawn(config, StreamId { business, stream }, context, stop);
    }
    if config.most_streams() > config.least_streams() {
        tokio::spawn(keep_more(config.clone(), business, context.clone(), stop.clone()));
    }
}

fn spawn(
    config: &BusinessConfig,
    id: StreamId,
    context: &StreamContext,
    stop: &CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(keep(config.clone(), id, context.clone(), stop.clone()))
}

/// Keeps a stream more for each address more that the hosts have.
async fn keep_more(config: BusinessConfig, business: usize, context: StreamContext, stop: CancellationToken) {
    let places = Places::new(&config, context.place);
    let least = config.least_streams() as usize;
    let first = first_for_requests(&config);
    let mut more: Vec<Option<JoinHandle<()>>> = Vec::new();
    more.resize_with(config.most_streams() as usize - least, || None);
    loop {
        let count = places.count().await;
        for (index, task) in more.iter_mut().enumerate() {
            let stream = first + least + index;
            if least + index < count && task.as_ref().is_none_or(JoinHandle::is_finished) {
                *task = Some(spawn(&config, StreamId { business, stream }, &context, &stop));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = context.events.closed() => return,
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

async fn keep(config: BusinessConfig, id: StreamId, context: StreamContext, stop: CancellationToken) {
    tokio::select! {
        () = keep_on(&config, id, &context, &stop) => {}
        () = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_BATCH).await;
        } => {}
    }
}

async fn keep_on(config: &BusinessConfig, id: StreamId, context: &StreamContext, stop: &CancellationToken) {
    // How many there are before it of those that take requests; the events begin where the first of these does.
    let number = id.stream.saturating_sub(first_for_requests(config));
    let is_for_events = id.stream < first_for_requests(config);
    let places = Places::new(config, context.place + number);
    let way = match config.protocol {
        Protocol::Grpc => Way::Stream,
        Protocol::GrpcUnary => Way::Unary(UnaryCaller::new(&places)),
        Protocol::Http => Way::Http(HttpCaller::new(&places)),
    };
    let failures = context.metrics.stream_failures.with_label_values(&[&config.name]);
    let mut outage = Outage::new(config, context);
    // One that is kept for an address ends with it.
    while number < config.least_streams() as usize || number < places.count().await {
        // Boxed: each is a few kilobytes, and only one of them is used.
        let out = &mut outage;
        let served = match &way {
            Way::Stream => Box::pin(grpc::serve(config, id, context, &places, out)).await,
            Way::Unary(caller) if is_for_events => {
                Box::pin(events::serve(caller, config, id, context, out)).await
            }
            Way::Http(caller) if is_for_events => {
                Box::pin(events::serve(caller, config, id, context, out)).await
            }
            Way::Unary(caller) => Box::pin(calls::serve(caller, config, id, context, out)).await,
            Way::Http(caller) => Box::pin(calls::serve(caller, config, id, context, out)).await,
        };
        if stop.is_cancelled() {
            return;
        }
        match served {
            Ok(()) => {}
            Err(Fault::WorkerGone) => return,
            Err(Fault::Stream(fault)) => {
                outage.report(&*fault);
                if context.tell(id, StreamEvent::Away).await.is_err() {
                    return;
                }
            }
        }
        failures.inc();
        outage.pause().await;
    }
}

/// How a stream is served.
enum Way<'a> {
    Stream,
    Unary(UnaryCaller<'a>),
    Http(HttpCaller<'a>),
}

/// Why a stream isn't up any more.
enum Fault {
    WorkerGone,
    Stream(Box<dyn std::error::Error + Send + Sync>),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Fault {
    fn from(fault: E) -> Self {
        Self::Stream(Box::new(fault))
    }
}

/// A stream's times of being away: how long to wait before the next attempt, and that each is said once.
struct Outage {
    business: String,
    up: IntGauge,
    pause: Duration,
    reported: bool,
}

impl Outage {
    fn new(config: &BusinessConfig, context: &StreamContext) -> Self {
        Self {
            business: config.name.clone(),
            up: context.metrics.streams.with_label_values(&[&config.name]),
            pause: FIRST_PAUSE,
            reported: false,
        }
    }

    /// It is over.
    fn end(&mut self) {
        self.pause = FIRST_PAUSE;
        if std::mem::take(&mut self.reported) {
            tracing::info!(business = self.business, "the business is reached again");
        }
    }

    /// The same for a stream that takes requests, which counts as up until what comes back is dropped.
    fn end_up(&mut self) -> Up {
        self.end();
        Up::new(self.up.clone())
    }

    fn report(&mut self, fault: &(dyn std::error::Error + Send + Sync)) {
        // Once per outage: a business that stays away would fill the log.
        if !std::mem::replace(&mut self.reported, true) {
            tracing::warn!(business = self.business, fault = %Chain(fault), "a business can't be reached");
        }
    }

    async fn pause(&mut self) {
        tokio::time::sleep(jittered(self.pause)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// Between half of it and all of it.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f32(0.5 + fastrand::f32() / 2.0)
}

/// A stream that is up, for the gauge; also when its task is dropped.
struct Up(IntGauge);

impl Up {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.dec();
    }
}
