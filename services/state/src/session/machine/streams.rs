//! The streams of one business: what waits for each, which is asked next, what is refused instead.

use std::time::Duration;

use imaccess_common::business::{BusinessConfig, Protocol};
use imaccess_proto::v1::BusinessRequest;
use imaccess_wire::Code;
use prometheus::IntGauge;

use super::circuit::{Change, Circuit, Passage};
use super::rate::Bucket;
use crate::session::metrics::BusinessMetrics;

/// Bytes that may wait for one stream: at 100,000 messages of 128 bytes a second, 0.3 s. Beyond it: busy.
const STREAM_QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes per batch: well below the 4 MiB that gRPC servers take by default.
const BATCH_BYTES: usize = 1024 * 1024;

/// Timeouts that say something of a server: a client that waits for less may only be impatient, and mustn't shut a business for
/// others.
const PATIENCE: Duration = Duration::from_secs(1);

/// The first stream that takes requests. Where a call is made for each, the one before it is for the events; else they go over the first
/// beside the requests.
#[must_use]
pub fn first_for_requests(config: &BusinessConfig) -> usize {
    usize::from(config.protocol != Protocol::Grpc)
}

/// How many streams there may be.
#[must_use]
pub fn count_streams(config: &BusinessConfig) -> usize {
    first_for_requests(config) + config.most_streams() as usize
}

/// Why a message isn't handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The session has as many requests in flight as it may.
    Session,
    /// The business has.
    Concurrency,
    /// Too many bytes wait for the stream.
    Queue,
    /// It gets more messages a second than it is to have. Until there is room:
    Rate(Duration),
    /// No stream is up, or none is asked for now.
    Unavailable,
}

impl Refusal {
    pub(super) fn code(self) -> Code {
        match self {
            Self::Unavailable => Code::BusinessUnavailable,
            Self::Session | Self::Concurrency | Self::Queue | Self::Rate(_) => Code::Busy,
        }
    }

    /// For the metric, where the code doesn't say it all.
    pub(super) fn why(self) -> Option<&'static str> {
        match self {
            Self::Session => Some("session"),
            Self::Concurrency => Some("concurrency"),
            Self::Queue => Some("queue"),
            Self::Rate(_) => Some("rate"),
            Self::Unavailable => None,
        }
    }

    /// How long it takes at least until the same message could be taken.
    pub(super) fn wait_ms(self) -> u32 {
        match self {
            Self::Rate(wait) => u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            _ => 0,
        }
    }
}

/// Whether a reply is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is, and holds a place in flight.
    Request,
    /// It isn't.
    Send,
}

/// What has to be known of the moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Microseconds.
    pub(super) now: u64,
    /// Workers that share the business's rate.
    pub(super) workers: u32,
}

#[derive(Debug, Default)]
struct Stream {
    up: bool,
    /// Opening it has failed since it was up.
    away: bool,
    requests: Vec<BusinessRequest>,
    bytes: usize,
    /// Requests that it carries, or that wait for it, without an answer.
    in_flight: u32,
    circuit: Circuit,
}

impl Stream {
    fn take(&mut self) -> Vec<BusinessRequest> {
        if self.bytes <= BATCH_BYTES {
            self.bytes = 0;
            let next = Vec::with_capacity(self.requests.len());
            return std::mem::replace(&mut self.requests, next);
        }
        let mut bytes = 0;
        let fits = |request: &BusinessRequest| {
            bytes += weight(request);
            bytes <= BATCH_BYTES
        };
        let count = self
            .requests
            .iter()
            .map(fits)
            .position(|fits| !fits)
            .unwrap_or(self.requests.len())
            .max(1);
        let batch: Vec<_> = self.requests.drain(..count).collect();
        self.bytes -= batch.iter().map(weight).sum::<usize>();
        batch
    }
}

/// What a request costs on its stream, roughly.
fn weight(request: &BusinessRequest) -> usize {
    160 + request.payload.len() + request.metadata.len()
}

/// All streams of a business.
#[derive(Debug)]
pub(super) struct Streams {
    all: Vec<Stream>,
    /// The first one that takes requests.
    first: usize,
    /// One more than the last of those that is up: those that hosts have no addresses for cost nothing. `first` if none is.
    reach: usize,
    /// The stream after the one used last.
    next: usize,
    bucket: Bucket,
}

impl Streams {
    pub(super) fn new(config: &BusinessConfig) -> Self {
        let first = first_for_requests(config);
        Self {
            all: (0..count_streams(config)).map(|_| Stream::default()).collect(),
            first,
            reach: first,
            next: first,
            bucket: Bucket::default(),
        }
    }

    /// Whether any that takes requests is up.
    pub(super) fn any_up(&self) -> bool {
        self.reach > self.first
    }

    /// Whether this one takes requests.
    pub(super) fn takes_requests(&self, stream: usize) -> bool {
        stream >= self.first
    }

    /// Whether this one is.
    pub(super) fn is_up(&self, stream: usize) -> bool {
        self.all.get(stream).is_some_and(|stream| stream.up)
    }

    pub(super) fn up(&mut self, stream: usize) {
        let opened = &mut self.all[stream];
        (opened.up, opened.away) = (true, false);
        self.find_reach();
    }

    /// It can't be opened.
    pub(super) fn away(&mut self, stream: usize) {
        self.all[stream].away = true;
    }

    /// Whether the first so many for requests all can't be opened.
    pub(super) fn is_away(&self, streams: usize) -> bool {
        self.all[self.first..]
            .iter()
            .take(streams)
            .all(|stream| stream.away)
    }

    /// It broke. What it carried is still to be taken out.
    pub(super) fn down(&mut self, stream: usize, now: u64) {
        let broken = &mut self.all[stream];
        broken.up = false;
        broken.requests = Vec::new();
        broken.bytes = 0;
        broken.circuit.disconnected(now);
        self.find_reach();
    }

    fn find_reach(&mut self) {
        let last = self.all[self.first..].iter().rposition(|stream| stream.up);
        self.reach = self.first + last.map_or(0, |last| last + 1);
    }

    /// The stream for one more message. It isn't taken yet: [`Self::hand_on`] follows.
    pub(super) fn admit(
        &mut self,
        kind: Kind,
        config: &BusinessConfig,
        moment: Moment,
    ) -> Result<u16, Refusal> {
        let stream = self.choose(kind, moment.now).ok_or(Refusal::Unavailable)?;
        if self.all[stream].bytes >= STREAM_QUEUE_BYTES {
            return Err(Refusal::Queue);
        }
        // Last, so that what is refused for another reason costs none of the rate.
        self.bucket
            .take(config.request_rate, moment.workers, moment.now)
            .map_err(Refusal::Rate)?;
        Ok(stream as u16)
    }

    /// Of the streams that may be asked the one with the fewest requests in flight, so that a slow place gets less than the others;
    /// in turn where they are equal. A stream that waits for its probe comes first: else it would wait while others answer.
    fn choose(&mut self, kind: Kind, now: u64) -> Option<usize> {
        let (mut chosen, mut fewest) = (None, u32::MAX);
        let mut at = self.next;
        for _ in self.first..self.reach {
            if at >= self.reach {
                at = self.first;
            }
            let stream = &self.all[at];
            if stream.up {
                match stream.circuit.passage(now) {
                    Passage::Probe if kind == Kind::Request => {
                        chosen = Some(at);
                        break;
                    }
                    Passage::Nothing => {}
                    Passage::Sends if kind == Kind::Request => {}
                    Passage::Free | Passage::Probe | Passage::Sends => {
                        if stream.in_flight < fewest {
                            (chosen, fewest) = (Some(at), stream.in_flight);
                        }
                    }
                }
            }
            at += 1;
        }
        self.next = chosen? + 1;
        chosen
    }

    pub(super) fn hand_on(&mut self, stream: u16, request: BusinessRequest) {
        let stream = &mut self.all[usize::from(stream)];
        stream.bytes += weight(&request);
        if request.id != 0 {
            stream.in_flight += 1;
            stream.circuit.passed(request.id);
        }
        stream.requests.push(request);
    }

    /// A request on this stream is in flight no more.
    pub(super) fn finished(&mut self, stream: u16) {
        let stream = &mut self.all[usize::from(stream)];
        stream.in_flight = stream.in_flight.saturating_sub(1);
    }

    /// Whether this one has something to send.
    pub(super) fn has_requests(&self, stream: usize) -> bool {
        let stream = &self.all[stream];
        stream.up && !stream.requests.is_empty()
    }

    /// Whether any that is up has.
    pub(super) fn any_has_requests(&self) -> bool {
        (self.first..self.reach).any(|stream| self.has_requests(stream))
    }

    /// What this one sends next, as far as one batch goes.
    pub(super) fn take(&mut self, stream: usize) -> Vec<BusinessRequest> {
        self.all[stream].take()
    }

    /// An answer came over this stream.
    pub(super) fn succeeded(&mut self, stream: usize, metrics: &BusinessMetrics) {
        if self.all[stream].circuit.succeeded() == Some(Change::Closed) {
            metrics.circuit_open.dec();
            tracing::info!(
                business = metrics.name,
                stream,
                "a stream answers again: its circuit is closed"
            );
        }
    }

    /// A request of this stream failed. `jitter` is in 0..1.
    pub(super) fn failed(
        &mut self,
        stream: usize,
        id: u64,
        now: u64,
        jitter: f32,
        metrics: &BusinessMetrics,
    ) {
        if self.all[stream].circuit.failed(id, now, jitter) == Some(Change::Opened) {
            metrics.circuit_open.inc();
            metrics.circuit_opened.inc();
            tracing::warn!(
                business = metrics.name,
                stream,
                "a stream answers nothing any more: its circuit is open, and requests are answered business_unavailable"
            );
        }
    }

    /// A request wasn't answered in its time.
    pub(super) fn timed_out(
        &mut self,
        stream: usize,
        late: &Late,
        config: &BusinessConfig,
        metrics: &BusinessMetrics,
    ) {
        if u128::from(late.waited) >= config.timeout.min(PATIENCE).as_micros() {
            self.failed(stream, late.id, late.now, late.jitter, metrics);
        } else {
            self.all[stream].circuit.undecided(late.id, late.now);
        }
    }

    /// Moves the count of open circuits from one gauge to another, or takes it out.
    pub(super) fn count_circuits(&self, from: &IntGauge, to: Option<&IntGauge>) {
        let open = self.all.iter().filter(|stream| stream.circuit.is_open()).count() as i64;
        from.sub(open);
        if let Some(to) = to {
            to.add(open);
        }
    }
}

/// A request that timed out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Late {
    pub(super) id: u64,
    /// Microseconds since it was handed on.
    pub(super) waited: u64,
    /// Microseconds.
    pub(super) now: u64,
    /// In 0..1.
    pub(super) jitter: f32,
}
