//! What the session role counts. Workers share the metrics: each is one atomic, touched mostly by one thread.

use imaccess_common::metrics::{counter, counter_vec, gauge, gauge_vec, histogram_vec};
use imaccess_wire::Code;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

/// All of them.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Sessions by worker and phase.
    pub sessions: IntGaugeVec,
    /// Logins by result: `new`, `resumed`, or the refusal's code.
    pub logins: IntCounterVec,
    /// Tickets that couldn't be used, by reason.
    pub tickets_refused: IntCounterVec,
    /// Logins waiting for their turn, by worker.
    pub logins_waiting: IntGaugeVec,
    /// Sessions that ended or lost their connection, by what happened and why.
    pub session_ends: IntCounterVec,
    /// Sessions restored from tickets after a restart.
    pub restored: IntCounter,
    /// Answers to uplink messages, by business and code.
    pub answers: IntCounterVec,
    /// Answers `busy` that no business gave, by business and what there was too much of.
    pub busy: IntCounterVec,
    /// Request to reply, by business.
    pub latency: HistogramVec,
    /// Requests in flight, by worker and business.
    pub in_flight: IntGaugeVec,
    /// Requests that were seen before, by what was done.
    pub repeats: IntCounterVec,
    /// Replies that nobody waited for any more.
    pub late_replies: IntCounterVec,
    /// Uplink frames that a gateway had read and that died with it.
    pub frames_lost: IntCounter,
    /// Frames that couldn't be used, by reason.
    pub frames_dropped: IntCounterVec,
    /// Streams to businesses that broke or couldn't be opened.
    pub stream_failures: IntCounterVec,
    /// Streams to businesses that are up, by business.
    pub streams: IntGaugeVec,
    /// Streams whose circuit is open, by business.
    pub circuit_open: IntGaugeVec,
    /// Circuits that opened, by business.
    pub circuit_opened: IntCounterVec,
    /// Events not acknowledged, by worker and business.
    pub events_waiting: IntGaugeVec,
    /// Events acknowledged, by business.
    pub events: IntCounterVec,
    /// Events dropped because the backlog was full, by business.
    pub events_dropped: IntCounterVec,
    /// Pushes to single devices, by outcome.
    pub pushes: IntCounterVec,
    /// Group pushes handed to the gateway.
    pub group_pushes: IntCounter,
    /// Group pushes and broadcasts that came from routing, by kind.
    pub fanout_received: IntCounterVec,
    /// Broadcasts handed to the gateway.
    pub broadcasts: IntCounter,
    /// Kicks, joins and leaves that businesses asked for, and whether they were done.
    pub commands: IntCounterVec,
    /// Group pushes waiting for a link, in bytes, by worker.
    pub held_bytes: IntGaugeVec,
    /// Links up.
    pub links: IntGauge,
    /// Links that broke.
    pub link_breaks: IntCounter,
    /// Ended connections named to the gateway because nothing is owed of them.
    pub settled: IntCounter,
    /// What businesses hadn't been told of when the sidecar ended with its pod: sessions, events.
    pub untold: IntCounterVec,
    /// Routing replicas that follow.
    pub followers: IntGauge,
    /// Followers dropped, by reason.
    pub followers_dropped: IntCounterVec,
    /// Sessions that were outranked, by what was done.
    pub outranked: IntCounterVec,
}

impl Metrics {
    /// Registers them all.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        let r = registry;
        Self {
            sessions: gauge_vec(r, "imaccess_state_sessions", "Sessions.", &["worker", "phase"]),
            logins: counter_vec(r, "imaccess_state_logins_total", "Logins by result.", &["result"]),
            tickets_refused: counter_vec(
                r,
                "imaccess_state_tickets_refused_total",
                "Tickets that couldn't be used, so that the token decided.",
                &["reason"],
            ),
            logins_waiting: gauge_vec(r, "imaccess_state_logins_waiting", "Logins waiting.", &["worker"]),
            session_ends: counter_vec(
                r,
                "imaccess_state_session_ends_total",
                "Sessions suspended, ended, superseded or lost, and why.",
                &["what", "reason"],
            ),
            restored: counter(
                r,
                "imaccess_state_sessions_restored_total",
                "Sessions restored from tickets.",
            ),
            answers: counter_vec(
                r,
                "imaccess_state_uplink_answers_total",
                "Answers to uplink messages.",
                &["business", "code"],
            ),
            busy: counter_vec(
                r,
                "imaccess_state_uplink_busy_total",
                "Messages answered busy: too many of the session or the business in flight, too much queued, or a rate exceeded.",
                &["business", "why"],
            ),
            latency: histogram_vec(
                r,
                "imaccess_state_uplink_seconds",
                "From a request's arrival to its answer.",
                &["business"],
            ),
            in_flight: gauge_vec(
                r,
                "imaccess_state_requests_in_flight",
                "Requests that a business hasn't answered.",
                &["worker", "business"],
            ),
            repeats: counter_vec(
                r,
                "imaccess_state_uplink_repeats_total",
                "Messages seen before, by what was done.",
                &["done"],
            ),
            late_replies: counter_vec(
                r,
                "imaccess_state_late_replies_total",
                "Replies that nobody waited for.",
                &["business"],
            ),
            frames_lost: counter(
                r,
                "imaccess_state_frames_lost_total",
                "Uplink frames that a gateway had read when it died, and that never came here.",
            ),
            frames_dropped: counter_vec(
                r,
                "imaccess_state_frames_dropped_total",
                "Frames that couldn't be used.",
                &["reason"],
            ),
            stream_failures: counter_vec(
                r,
                "imaccess_state_business_stream_failures_total",
                "Streams to a business that broke or couldn't be opened.",
                &["business"],
            ),
            streams: gauge_vec(
                r,
                "imaccess_state_business_streams",
                "Streams that are up.",
                &["business"],
            ),
            circuit_open: gauge_vec(
                r,
                "imaccess_state_business_circuit_open",
                "Streams that aren't asked because nothing came back.",
                &["business"],
            ),
            circuit_opened: counter_vec(
                r,
                "imaccess_state_business_circuit_opened_total",
                "How often a stream was given up for a while.",
                &["business"],
            ),
            events_waiting: gauge_vec(
                r,
                "imaccess_state_events_waiting",
                "Events not acknowledged yet.",
                &["worker", "business"],
            ),
            events: counter_vec(
                r,
                "imaccess_state_events_total",
                "Events acknowledged.",
                &["business"],
            ),
            events_dropped: counter_vec(
                r,
                "imaccess_state_events_dropped_total",
                "Events dropped because the backlog was full.",
                &["business"],
            ),
            pushes: counter_vec(
                r,
                "imaccess_state_pushes_total",
                "Pushes to single devices.",
                &["outcome"],
            ),
            fanout_received: counter_vec(
                r,
                "imaccess_state_fanout_received_total",
                "Group pushes and broadcasts that came from routing.",
                &["kind"],
            ),
            broadcasts: counter(
                r,
                "imaccess_state_broadcasts_total",
                "Broadcasts handed to the gateway, per worker.",
            ),
            commands: counter_vec(
                r,
                "imaccess_state_commands_total",
                "What businesses asked to be done with sessions.",
                &["action", "result"],
            ),
            group_pushes: counter(
                r,
                "imaccess_state_group_pushes_total",
                "Group pushes handed to the gateway.",
            ),
            held_bytes: gauge_vec(
                r,
                "imaccess_state_group_pushes_held_bytes",
                "Group pushes that wait for a gateway.",
                &["worker"],
            ),
            links: gauge(
                r,
                "imaccess_state_links",
                "Links to the gateway that are up and complete.",
            ),
            link_breaks: counter(
                r,
                "imaccess_state_link_breaks_total",
                "Links to the gateway that broke.",
            ),
            settled: counter(
                r,
                "imaccess_state_connections_settled_total",
                "Ended connections of which nothing is owed any more, named to the gateway.",
            ),
            untold: counter_vec(
                r,
                "imaccess_state_untold_total",
                "Sessions and events that businesses hadn't been told of when the sidecar ended with its pod.",
                &["what"],
            ),
            followers: gauge(r, "imaccess_state_followers", "Routing replicas that follow."),
            followers_dropped: counter_vec(
                r,
                "imaccess_state_followers_dropped_total",
                "Routing replicas that left or were dropped.",
                &["reason"],
            ),
            outranked: counter_vec(
                r,
                "imaccess_state_outranked_total",
                "Sessions whose device has a higher epoch elsewhere, by what was done.",
                &["done"],
            ),
        }
    }

    /// The handles of one business's hot counters.
    #[must_use]
    pub fn of_business(&self, name: &str, worker: &str) -> BusinessMetrics {
        BusinessMetrics {
            name: name.to_owned(),
            ok: self.answers.with_label_values(&[name, Code::Ok.name()]),
            latency: self.latency.with_label_values(&[name]),
            late: self.late_replies.with_label_values(&[name]),
            in_flight: self.in_flight.with_label_values(&[worker, name]),
            circuit_open: self.circuit_open.with_label_values(&[name]),
            circuit_opened: self.circuit_opened.with_label_values(&[name]),
            events: self.events.with_label_values(&[name]),
            events_waiting: self.events_waiting.with_label_values(&[worker, name]),
            events_dropped: self.events_dropped.with_label_values(&[name]),
        }
    }
}

/// One business's metrics, looked up once.
#[derive(Debug)]
pub struct BusinessMetrics {
    /// Its label.
    pub name: String,
    /// Answered with code 0.
    pub ok: IntCounter,
    /// Request to reply.
    pub latency: Histogram,
    /// Replies that nobody waited for.
    pub late: IntCounter,
    /// Requests in flight on this worker.
    pub in_flight: IntGauge,
    /// Streams whose circuit is open, of all workers.
    pub circuit_open: IntGauge,
    /// Circuits that opened.
    pub circuit_opened: IntCounter,
    /// Events acknowledged.
    pub events: IntCounter,
    /// Events not acknowledged.
    pub events_waiting: IntGauge,
    /// Events dropped.
    pub events_dropped: IntCounter,
}
