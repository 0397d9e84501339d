//! What a gateway counts. Shards count in plain integers and hand them over once per tick, so that no message
//! costs an atomic.

use imaccess_common::{gateway_page, metrics};
use imaccess_wire::{Code, FrameType};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Registry};

use crate::config::GatewayConfig;

/// The gateway's metrics, shared by its shards.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) connections: IntGauge,
    pub(crate) sessions: IntGauge,
    pub(crate) connection_limit: IntGauge,
    pub(crate) bandwidth: IntGauge,
    pub(crate) draining: IntGauge,
    pub(crate) go_aways: IntCounter,
    /// By `client`, which left, `close`, because it stayed, or `deadline`.
    pub(crate) drained: IntCounterVec,
    pub(crate) accepted: IntCounter,
    refused: IntCounterVec,
    closed: IntCounterVec,
    logins: IntCounterVec,
    pub(crate) connect_seconds: Histogram,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
    received_frames: IntCounterVec,
    sent_frames: IntCounter,
    writes: IntCounter,
    blocked_writes: IntCounter,
    deliveries: IntCounter,
    dropped: IntCounterVec,
    shed: IntCounterVec,
    pub(crate) queued_bytes: IntGauge,
    link_batches: IntCounterVec,
    pub(crate) links: IntGauge,
    pub(crate) link_attached: IntCounter,
    pub(crate) accept_errors: IntCounter,
    pub(crate) without_verdict: IntGauge,
    pub(crate) bytes_per_connection: IntGauge,
    pub(crate) fanout_waiting_bytes: IntGauge,
    pub(crate) custody_held: IntGauge,
    pub(crate) custody_complete: IntGauge,
    pub(crate) custody_lost: IntCounter,
    takeovers: IntCounterVec,
    takeover_connections: IntCounterVec,
    frames_lost: IntCounterVec,
    ended_waiting: IntGauge,
    ended_forgotten: IntCounter,
}

/// Codes that say that something went wrong between a client and this gateway, and not merely that somebody left or was slow.
const FAULTS: [Code; 11] = [
    Code::BadMagic,
    Code::UnsupportedVersion,
    Code::UnknownType,
    Code::Oversized,
    Code::Malformed,
    Code::NotLoggedIn,
    Code::Unexpected,
    Code::SessionLost,
    Code::StateLost,
    Code::GatewayLost,
    Code::Internal,
];

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Self {
        Self {
            connections: metrics::gauge(registry, gateway_page::CONNECTIONS, "Client connections now."),
            sessions: metrics::gauge(
                registry,
                "imaccess_gateway_sessions",
                "Client connections that are logged in.",
            ),
            connection_limit: metrics::gauge(
                registry,
                gateway_page::CONNECTION_LIMIT,
                "Client connections that are accepted at most.",
            ),
            bandwidth: metrics::gauge(registry, gateway_page::BANDWIDTH, "Declared outbound bandwidth."),
            draining: metrics::gauge(
                registry,
                gateway_page::DRAINING,
                "1 while clients are sent elsewhere.",
            ),
            go_aways: metrics::counter(
                registry,
                "imaccess_gateway_go_aways_total",
                "Clients told to connect elsewhere.",
            ),
            drained: metrics::counter_vec(
                registry,
                "imaccess_gateway_drained_total",
                "Connections ended while the gateway drained: by the client, closed because it stayed after it was told to go, or closed at the deadline.",
                &["by"],
            ),
            accepted: metrics::counter(
                registry,
                "imaccess_gateway_accepted_total",
                "Connections taken from the listeners.",
            ),
            refused: metrics::counter_vec(
                registry,
                "imaccess_gateway_refused_total",
                "Connections told to come back later instead of being served, by reason.",
                &["reason"],
            ),
            closed: metrics::counter_vec(
                registry,
                "imaccess_gateway_closed_total",
                "Connections ended, by close code.",
                &["code"],
            ),
            logins: metrics::counter_vec(
                registry,
                "imaccess_gateway_logins_total",
                "Login attempts answered, by result.",
                &["result"],
            ),
            connect_seconds: metrics::histogram(
                registry,
                "imaccess_gateway_connect_seconds",
                "From accept to login-ok, of successful logins.",
            ),
            received_bytes: metrics::counter(
                registry,
                "imaccess_gateway_received_bytes_total",
                "Bytes read from clients.",
            ),
            sent_bytes: metrics::counter(registry, gateway_page::SENT_BYTES, "Bytes written to clients."),
            received_frames: metrics::counter_vec(
                registry,
                "imaccess_gateway_received_frames_total",
                "Frames read from clients, by type.",
                &["type"],
            ),
            sent_frames: metrics::counter(
                registry,
                "imaccess_gateway_sent_frames_total",
                "Frames written or queued for clients.",
            ),
            writes: metrics::counter(
                registry,
                "imaccess_gateway_writes_total",
                "System calls that wrote to clients.",
            ),
            blocked_writes: metrics::counter(
                registry,
                "imaccess_gateway_blocked_writes_total",
                "Writes that the kernel didn't take whole: the rest was queued.",
            ),
            deliveries: metrics::counter(
                registry,
                "imaccess_gateway_group_deliveries_total",
                "Group frames written or queued, one per member.",
            ),
            dropped: metrics::counter_vec(
                registry,
                "imaccess_gateway_dropped_frames_total",
                "Frames for clients that were dropped, by reason.",
                &["reason"],
            ),
            shed: metrics::counter_vec(
                registry,
                "imaccess_gateway_shed_frames_total",
                "Frames from clients that were answered with a retry code instead of being forwarded, by reason.",
                &["reason"],
            ),
            queued_bytes: metrics::gauge(
                registry,
                "imaccess_gateway_queued_bytes",
                "Bytes waiting in user memory for slow readers.",
            ),
            link_batches: metrics::counter_vec(
                registry,
                "imaccess_gateway_link_batches_total",
                "Batches over the link to state.",
                &["direction"],
            ),
            links: metrics::gauge(
                registry,
                "imaccess_gateway_links",
                "Shards whose link to state is up.",
            ),
            link_attached: metrics::counter(
                registry,
                "imaccess_gateway_link_attached_total",
                "Times that state attached to a shard.",
            ),
            accept_errors: metrics::counter(
                registry,
                "imaccess_gateway_accept_errors_total",
                "Failed accepts, such as for lack of descriptors; accepting pauses for a tick.",
            ),
            without_verdict: metrics::gauge(
                registry,
                "imaccess_gateway_sockets_without_verdict",
                "Sockets that were dropped without a verdict. Anything but 0 is a bug.",
            ),
            bytes_per_connection: metrics::gauge(
                registry,
                "imaccess_gateway_bytes_per_connection",
                "User memory of the process per connection: (PSS - PSS at start) / connections.",
            ),
            fanout_waiting_bytes: metrics::gauge(
                registry,
                "imaccess_gateway_fanout_waiting_bytes",
                "Group frames that wait for their turn.",
            ),
            custody_held: metrics::gauge(
                registry,
                "imaccess_gateway_custody_held",
                "Descriptors of ours that the custodian has acknowledged: sockets and listeners.",
            ),
            custody_complete: metrics::gauge(
                registry,
                "imaccess_gateway_custody_complete",
                "1 while every shard has everything in custody: the process could die and close nothing.",
            ),
            custody_lost: metrics::counter(
                registry,
                "imaccess_gateway_custody_connections_lost_total",
                "Connections to the custodian that broke.",
            ),
            takeovers: metrics::counter_vec(
                registry,
                "imaccess_gateway_takeovers_total",
                "How this process began: with nothing, from one that handed over, or from one that died.",
                &["kind"],
            ),
            takeover_connections: metrics::counter_vec(
                registry,
                "imaccess_gateway_takeover_connections_total",
                "Connections of the process before, by what became of them.",
                &["result"],
            ),
            frames_lost: metrics::counter_vec(
                registry,
                "imaccess_gateway_frames_lost_total",
                "Frames that were in the memory of a process that died: down, waiting for slow readers.",
                &["direction"],
            ),
            ended_waiting: metrics::gauge(
                registry,
                "imaccess_gateway_ended_waiting",
                "Ended connections that state hasn't settled yet.",
            ),
            ended_forgotten: metrics::counter(
                registry,
                "imaccess_gateway_ended_forgotten_total",
                "Ended connections that were forgotten before state settled them, for want of room.",
            ),
        }
    }

    /// What is declared of this pod.
    pub(crate) fn set_declared(&self, config: &GatewayConfig) {
        let connections = i64::try_from(config.limits.connections);
        self.connection_limit.set(connections.unwrap_or(i64::MAX));
        self.bandwidth
            .set(i64::try_from(config.bandwidth.0).unwrap_or(i64::MAX));
    }

    /// How this process began.
    pub(crate) fn takeover(&self, kind: &str) {
        self.takeovers.with_label_values(&[kind]).inc();
    }

    /// What became of a connection of the process before.
    pub(crate) fn taken_over(&self, result: &str) {
        self.takeover_connections.with_label_values(&[result]).inc();
    }

    /// Frames for one client that died with a process.
    pub(crate) fn frames_lost_down(&self, frames: u64) {
        if frames > 0 {
            self.frames_lost.with_label_values(&["down"]).inc_by(frames);
        }
    }

    /// How many ends wait for state, as a change.
    pub(crate) fn ended_changed(&self, by: i64) {
        self.ended_waiting.add(by);
    }

    /// A connection was told to come back later.
    pub(crate) fn refused(&self, code: Code) {
        self.refused.with_label_values(&[code.name()]).inc();
    }

    /// A connection ended.
    pub(crate) fn closed(&self, code: Code) {
        self.closed.with_label_values(&[code.name()]).inc();
    }

    /// Connections that were closed for faults so far: of frames, of sessions that were lost, or ours.
    pub(crate) fn faults(&self) -> u64 {
        FAULTS
            .iter()
            .map(|code| self.closed.with_label_values(&[code.name()]).get())
            .sum()
    }

    /// A login attempt was answered.
    pub(crate) fn login(&self, result: &str) {
        self.logins.with_label_values(&[result]).inc();
    }

    /// Takes over what a shard has counted since its last tick.
    pub(crate) fn collect(&self, counts: &mut Counts) {
        let counts = std::mem::take(counts);
        self.received_bytes.inc_by(counts.received_bytes);
        self.sent_bytes.inc_by(counts.sent_bytes);
        self.sent_frames.inc_by(counts.sent_frames);
        self.writes.inc_by(counts.writes);
        self.blocked_writes.inc_by(counts.blocked_writes);
        self.deliveries.inc_by(counts.deliveries);
        self.ended_forgotten.inc_by(counts.ended_forgotten);
        for (index, count) in counts.received_frames.into_iter().enumerate() {
            if count > 0 {
                self.received_frames
                    .with_label_values(&[frame_type_name(index)])
                    .inc_by(count);
            }
        }
        for (reason, count) in [
            ("drop_oldest", counts.dropped_oldest),
            ("drop_newest", counts.dropped_newest),
            ("expired", counts.dropped_expired),
            ("connection_gone", counts.dropped_gone),
            ("fanout_queue_full", counts.dropped_fanout),
        ] {
            if count > 0 {
                self.dropped.with_label_values(&[reason]).inc_by(count);
            }
        }
        for (reason, count) in [
            ("no_state", counts.shed_no_state),
            ("link_queue_full", counts.shed_busy),
            ("state_died", counts.shed_state_died),
        ] {
            if count > 0 {
                self.shed.with_label_values(&[reason]).inc_by(count);
            }
        }
        for (direction, count) in [("to_state", counts.link_out), ("from_state", counts.link_in)] {
            if count > 0 {
                self.link_batches.with_label_values(&[direction]).inc_by(count);
            }
        }
    }
}

/// What one shard counts between ticks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) sent_frames: u64,
    pub(crate) writes: u64,
    pub(crate) blocked_writes: u64,
    pub(crate) deliveries: u64,
    /// By the type's number; 0: unknown, ignorable.
    pub(crate) received_frames: [u64; FrameType::ALL.len() + 1],
    pub(crate) dropped_oldest: u64,
    pub(crate) dropped_newest: u64,
    pub(crate) dropped_expired: u64,
    pub(crate) dropped_gone: u64,
    pub(crate) dropped_fanout: u64,
    pub(crate) shed_no_state: u64,
    pub(crate) shed_busy: u64,
    pub(crate) shed_state_died: u64,
    pub(crate) ended_forgotten: u64,
    pub(crate) link_out: u64,
    pub(crate) link_in: u64,
}

fn frame_type_name(index: usize) -> &'static str {
    match u8::try_from(index).ok().and_then(FrameType::from_u8) {
        None => "unknown",
        Some(FrameType::Login) => "login",
        Some(FrameType::LoginOk) => "login_ok",
        Some(FrameType::LoginRefused) => "login_refused",
        Some(FrameType::Ping) => "ping",
        Some(FrameType::Pong) => "pong",
        Some(FrameType::Request) => "request",
        Some(FrameType::Reply) => "reply",
        Some(FrameType::Send) => "send",
        Some(FrameType::Accepted) => "accepted",
        Some(FrameType::Push) => "push",
        Some(FrameType::PushAck) => "push_ack",
        Some(FrameType::GroupPush) => "group_push",
        Some(FrameType::Join) => "join",
        Some(FrameType::Leave) => "leave",
        Some(FrameType::GoAway) => "go_away",
        Some(FrameType::Close) => "close",
        Some(FrameType::Repeat) => "repeat",
    }
}
