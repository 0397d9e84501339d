//! Businesses: which streams are up, what goes out on them, what comes back, what takes too long.

use imaccess_common::business::{BusinessConfig, Protocol, SlowConsumer};
use imaccess_proto::v1::{
    BusinessQueue, BusinessReply, BusinessRequest, EventKind, FromAccess, FromBusiness, SlowConsumerPolicy,
};
use imaccess_wire::Code;
use imaccess_wire::frame::Reply;
use imaccess_wire::limits::MAX_BODY;

use super::Machine;
use super::streams::{Kind, Late, Moment, Refusal, Streams};
use crate::session::Now;
use crate::session::events::{Backlog, of_session};
use crate::session::inflight::{Entry, InFlight, NONE};
use crate::session::metrics::BusinessMetrics;
use crate::session::record::Phase;

/// Events per batch: keeps one below 200 KiB.
const EVENTS_PER_BATCH: usize = 512;

/// Sessions looked at for one batch of a snapshot.
const ROWS_PER_BATCH: u32 = 1_024;

/// Answers remembered while the link is down, 24 bytes each: half a second's at 100,000 a second. Clients whose
/// answer is forgotten repeat the request when their own patience ends.
const MAX_UNDELIVERED: usize = 65_536;

/// Longest payload that fits a reply frame with its fixed and tagged fields.
const MAX_REPLY_PAYLOAD: usize = MAX_BODY - 64;

/// Where a business is in its life here; see `reload`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// Requests and events are for it.
    Serving,
    /// Its successor isn't there yet: requests still go here.
    Replaced,
    /// It finishes what it has.
    Retiring,
    /// Nothing is left of it.
    Done,
}

/// One business as a worker sees it.
#[derive(Debug)]
pub(super) struct Business {
    pub(super) config: BusinessConfig,
    pub(super) life: Life,
    pub(super) metrics: BusinessMetrics,
    /// Requests without an answer.
    pub(super) in_flight: u32,
    pub(super) events: Backlog,
    /// The record from which a snapshot goes on that the business has asked for.
    pub(super) snapshot: Option<u32>,
    streams: Streams,
}

impl Business {
    pub(super) fn new(config: BusinessConfig, metrics: BusinessMetrics, backlog_bytes: usize) -> Self {
        let streams = Streams::new(&config);
        Self {
            config,
            life: Life::Serving,
            metrics,
            in_flight: 0,
            events: Backlog::new(backlog_bytes),
            snapshot: None,
            streams,
        }
    }

    /// Whether it can be asked.
    pub(super) fn is_up(&self) -> bool {
        self.streams.any_up()
    }

    /// From now on it is counted under these.
    pub(super) fn count_under(&mut self, metrics: BusinessMetrics) {
        self.streams
            .count_circuits(&self.metrics.circuit_open, Some(&metrics.circuit_open));
        self.metrics = metrics;
    }

    /// Nothing of it is counted any more.
    pub(super) fn end_counts(&self) {
        self.streams.count_circuits(&self.metrics.circuit_open, None);
    }

    /// Its events, for the one that takes its place.
    pub(super) fn take_events(&mut self, backlog_bytes: usize) -> Backlog {
        std::mem::replace(&mut self.events, Backlog::new(backlog_bytes))
    }

    /// The stream for one more message, or why there is none. `full`: its session has as many requests in flight as it may.
    pub(super) fn admit(&mut self, kind: Kind, full: bool, moment: Moment) -> Result<u16, Refusal> {
        if kind == Kind::Request {
            if full {
                return Err(Refusal::Session);
            }
            if self.in_flight >= self.config.concurrency {
                return Err(Refusal::Concurrency);
            }
        }
        self.streams.admit(kind, &self.config, moment)
    }

    pub(super) fn timeout_ms(&self) -> u32 {
        u32::try_from(self.config.timeout.as_millis()).unwrap_or(u32::MAX)
    }

    pub(super) fn hand_on(&mut self, stream: u16, request: BusinessRequest) {
        self.streams.hand_on(stream, request);
    }

    /// Whether requests wait for a stream that is there.
    pub(super) fn has_requests(&self) -> bool {
        self.streams.any_has_requests()
    }

    /// Whether it is there and hasn't acknowledged all events.
    pub(super) fn has_events(&self) -> bool {
        self.streams.is_up(0) && !self.events.is_empty()
    }

    pub(super) fn note_events(&mut self) {
        self.metrics.events_waiting.set(self.events.len() as i64);
        self.metrics.events_dropped.inc_by(self.events.take_dropped());
    }

    pub(super) fn queue_policy(&self) -> BusinessQueue {
        let policy = match self.config.slow_consumer {
            SlowConsumer::DropOldest => SlowConsumerPolicy::DropOldest,
            SlowConsumer::DropNewest => SlowConsumerPolicy::DropNewest,
            SlowConsumer::Close => SlowConsumerPolicy::Close,
        };
        BusinessQueue {
            business: self.config.id,
            queue_bytes: u32::try_from(self.config.queue_bytes.0).unwrap_or(u32::MAX),
            policy: policy as i32,
        }
    }
}

impl Machine {
    /// A stream to a business is open. Events go over its first one, from the first unacknowledged.
    pub fn stream_up(&mut self, business: usize, stream: usize) {
        if self.businesses[business].streams.takes_requests(stream) {
            self.succeeded(business);
        }
        let business = &mut self.businesses[business];
        business.streams.up(stream);
        if stream == 0 {
            business.events.restart();
        }
    }

    /// A stream broke: whether its requests were acted on isn't known, so they may be repeated.
    pub fn stream_down(&mut self, business: usize, stream: usize, now: Now) {
        self.businesses[business].streams.down(stream, now.micros);
        if stream == 0 {
            // It asks again, on its new stream.
            self.businesses[business].snapshot = None;
        }
        for id in self.in_flight.on_stream(business as u16, stream as u16) {
            if let Some(entry) = self.finish(id) {
                self.deliver(&entry, Code::Retry as u16, 0, &[], now);
            }
        }
    }

    /// Whether a stream has something to send.
    #[must_use]
    pub fn stream_is_ready(&self, business: usize, stream: usize) -> bool {
        let business = &self.businesses[business];
        let waits = business.events.is_ready() || business.snapshot.is_some();
        let events = stream == 0 && business.streams.is_up(0) && waits;
        events || business.streams.has_requests(stream)
    }

    /// What a stream has to send next: its requests, as far as one batch goes, and the events that are due.
    pub fn take_stream(&mut self, business: usize, stream: usize) -> FromAccess {
        let place = business;
        let business = &mut self.businesses[place];
        let mut out = FromAccess {
            requests: business.streams.take(stream),
            ..FromAccess::default()
        };
        if business.config.protocol != Protocol::Grpc {
            // Calls are bounded, so requests may have waited: some for too long.
            out.requests
                .retain_mut(|request| wait_less(&self.in_flight, request, self.clock));
        }
        if stream == 0 {
            out.events = business.events.next(EVENTS_PER_BATCH);
            self.take_snapshot(place, &mut out);
        }
        out
    }

    /// The next rows of a snapshot that a business has asked for.
    fn take_snapshot(&mut self, place: usize, out: &mut FromAccess) {
        let Some(from) = self.businesses[place].snapshot else {
            return;
        };
        let end = self.table.end();
        let until = from.saturating_add(ROWS_PER_BATCH).min(end);
        let records = (from..until).filter_map(|index| self.table.at(index));
        out.snapshot = records
            .filter(|record| record.phase != Phase::Leaving)
            .map(|record| of_session(EventKind::Online, record, 0, 0))
            .collect();
        out.snapshot_done = until == end;
        self.businesses[place].snapshot = (until < end).then_some(until);
    }

    /// Replies and acknowledgements from a business.
    pub fn business(&mut self, business: usize, stream: usize, batch: &FromBusiness, now: Now) {
        if batch.event_ack > 0 && stream == 0 {
            let business = &mut self.businesses[business];
            let done = business.events.acknowledge(batch.event_ack);
            business.metrics.events.inc_by(done as u64);
            business.note_events();
            self.events_done();
        }
        if batch.resync && stream == 0 && self.businesses[business].config.events {
            self.businesses[business].snapshot = Some(0);
        }
        if !batch.replies.is_empty() {
            // Also one that comes too late says that somebody is there.
            let business = &mut self.businesses[business];
            business.streams.succeeded(stream, &business.metrics);
        }
        for reply in &batch.replies {
            match self.awaited(business, stream, reply.id) {
                Some(entry) => self.answer_with(&entry, reply, now),
                // A call that was a send: it only says that somebody is there.
                None if reply.id == 0 => {}
                None => self.businesses[business].metrics.late.inc(),
            }
        }
    }

    /// Calls that got no answer, and what their clients are to be told; an id of 0 is a send's.
    pub fn calls_failed(&mut self, business: usize, stream: usize, replies: &[BusinessReply], now: Now) {
        for reply in replies {
            let entry = self.awaited(business, stream, reply.id);
            if entry.is_some() || reply.id == 0 {
                let jitter = self.rng.f32();
                let business = &mut self.businesses[business];
                business
                    .streams
                    .failed(stream, reply.id, now.micros, jitter, &business.metrics);
            }
            if let Some(entry) = entry {
                self.answer_with(&entry, reply, now);
            }
        }
    }

    /// Takes out a request for which an answer came over this stream, if it is still waited for.
    fn awaited(&mut self, business: usize, stream: usize, id: u64) -> Option<Entry> {
        let entry = self.in_flight.get(id)?;
        if usize::from(entry.business) == business && usize::from(entry.stream) == stream {
            self.finish(id)
        } else {
            None
        }
    }

    /// Nobody waits for this request any more.
    pub(super) fn time_out(&mut self, id: u64, now: Now) {
        if let Some(entry) = self.finish(id) {
            let late = Late {
                id,
                waited: now.micros.saturating_sub(entry.since_micros),
                now: now.micros,
                jitter: self.rng.f32(),
            };
            let business = &mut self.businesses[usize::from(entry.business)];
            business.streams.timed_out(
                usize::from(entry.stream),
                &late,
                &business.config,
                &business.metrics,
            );
            self.deliver(&entry, Code::DeadlineExceeded as u16, 0, &[], now);
        }
    }

    fn answer_with(&mut self, entry: &Entry, reply: &BusinessReply, now: Now) {
        match u16::try_from(reply.code) {
            Ok(code) if reply.payload.len() <= MAX_REPLY_PAYLOAD => {
                self.deliver(entry, code, reply.retry_after_ms, &reply.payload, now);
            }
            _ => self.deliver(entry, Code::BusinessFailed as u16, 0, &[], now),
        }
    }

    /// Takes a request out of every count.
    pub(super) fn finish(&mut self, id: u64) -> Option<Entry> {
        let key = self.in_flight.get(id)?.session;
        let record = self.table.get_mut(key);
        let first = record.as_ref().map_or(NONE, |record| record.first_in_flight);
        let (entry, first) = self.in_flight.remove(id, first)?;
        if let Some(record) = record {
            record.first_in_flight = first;
            record.in_flight = record.in_flight.saturating_sub(1);
        }
        let business = &mut self.businesses[usize::from(entry.business)];
        business.in_flight -= 1;
        business.streams.finished(entry.stream);
        business.metrics.in_flight.set(i64::from(business.in_flight));
        Some(entry)
    }

    /// Answers a request of a session, wherever its connection is now.
    pub(super) fn deliver(
        &mut self,
        entry: &Entry,
        code: u16,
        retry_after_ms: u32,
        payload: &[u8],
        now: Now,
    ) {
        let metrics = &self.businesses[usize::from(entry.business)].metrics;
        metrics
            .latency
            .observe((now.micros.saturating_sub(entry.since_micros)) as f64 / 1e6);
        if code == Code::Ok as u16 {
            metrics.ok.inc();
        } else {
            let name = Code::from_u16(code).map_or("other", Code::name);
            self.shared
                .metrics
                .answers
                .with_label_values(&[metrics.name.as_str(), name])
                .inc();
        }
        let may_send = self.may_send();
        let Some(record) = self.table.get_mut(entry.session) else {
            return;
        };
        let message_id = entry.message_id;
        let reply = Reply {
            message_id,
            code,
            retry_after_ms,
            reason: "",
            payload,
        };
        let repeatable = Code::from_u16(code).is_some_and(Code::retryable);
        if repeatable {
            record.window.forget(message_id);
        }
        if record.handle != 0 && may_send {
            let frame = self.link.reply(record.handle, &reply);
            if !repeatable {
                self.replies.keep(entry.session, message_id, frame, now.micros);
            }
            return;
        }
        // One that is online without a handle has its row still to come.
        let will_be_linked = record.handle != 0 || record.phase == Phase::Online;
        if will_be_linked && self.undelivered.len() < MAX_UNDELIVERED {
            self.undelivered.push((entry.session, message_id, code));
        }
        if !repeatable {
            let mut frame = Vec::with_capacity(32 + payload.len());
            reply.encode(&mut frame);
            self.replies.keep(entry.session, message_id, &frame, now.micros);
        }
    }

    /// The link is complete again: says what was answered meanwhile, as far as it is kept.
    pub(super) fn deliver_undelivered(&mut self) {
        for (key, message_id, code) in std::mem::take(&mut self.undelivered) {
            let Some(record) = self.table.get(key).filter(|record| record.handle != 0) else {
                continue;
            };
            if let Some(frame) = self.replies.find(key, message_id) {
                self.link
                    .control(record.handle, |out| out.extend_from_slice(&frame));
            } else if Code::from_u16(code).is_some_and(Code::retryable) || self.generation >= 2 {
                let kept = Code::from_u16(code).is_none_or(|code| !code.retryable());
                let code = if kept { Code::AlreadyAnswered as u16 } else { code };
                self.link.reply(
                    record.handle,
                    &Reply {
                        message_id,
                        code,
                        ..Reply::default()
                    },
                );
            }
        }
    }

    /// Counts an answer that no business gave.
    pub(super) fn count_answer(&self, business: u32, code: Code) {
        let name = self
            .business_index(business)
            .map_or("unknown", |index| self.businesses[index].metrics.name.as_str());
        self.shared
            .metrics
            .answers
            .with_label_values(&[name, code.name()])
            .inc();
    }
}

/// Whether this request is still waited for; then it says for how long.
fn wait_less(in_flight: &InFlight, request: &mut BusinessRequest, now_micros: u64) -> bool {
    if request.id == 0 {
        return true;
    }
    let Some(entry) = in_flight.get(request.id) else {
        return false;
    };
    let left = entry.due_micros.saturating_sub(now_micros) / 1_000;
    request.deadline_ms = u32::try_from(left).unwrap_or(u32::MAX).max(1);
    true
}
