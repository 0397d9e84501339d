//! What a routing replica counts.

use imaccess_common::metrics::{counter, counter_vec, float_gauge, gauge, gauge_vec, histogram_vec};
use imaccess_pods::WatchHealth;
use imaccess_proto::v1::Outcome;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::liveness::Phase;
use super::store::Sizes;

/// All metrics of the role. The children of hot paths are looked up once, here.
#[derive(Debug)]
pub(crate) struct RoutingMetrics {
    routes: IntGauge,
    groups: IntGauge,
    route_bytes: IntGauge,
    instances: IntGaugeVec,
    pub(crate) in_sync: IntGauge,
    pushes_awaited: IntGauge,
    /// Per outcome, by its number.
    pushes: [IntCounter; OUTCOMES.len()],
    commands: IntCounterVec,
    pub(crate) group_sent: IntCounter,
    pub(crate) group_full: IntCounter,
    /// Messages to sidecars, one per instance.
    pub(crate) group_messages: IntCounter,
    pub(crate) broadcast_messages: IntCounter,
    pub(crate) group_instance_full: IntCounter,
    pub(crate) rejected: IntCounter,
    pub(crate) device_seconds: Histogram,
    pub(crate) group_seconds: Histogram,
    pub(crate) broadcast_seconds: Histogram,
    pub(crate) announcements: IntCounter,
    pub(crate) malformed: IntCounter,
    pub(crate) retractions: IntCounter,
    pub(crate) outranked: IntCounter,
    pub(crate) replaced: IntCounter,
    pub(crate) snapshots: IntCounter,
    pub(crate) late_receipts: IntCounter,
    pub(crate) groups_lost: IntCounter,
    pub(crate) lost_devices: IntCounter,
    pub(crate) broken: IntCounter,
    pub(crate) refused: IntCounterVec,
    watch_faults: IntCounter,
    watch_down: Gauge,
}

impl RoutingMetrics {
    pub(crate) fn register(registry: &Registry) -> RoutingMetrics {
        let pushes = counter_vec(
            registry,
            "imaccess_routing_pushes_total",
            "Devices pushed to, by what became of it.",
            &["outcome"],
        );
        let group_pushes = counter_vec(
            registry,
            "imaccess_routing_group_pushes_total",
            "Group pushes: sent, refused because every instance's queue was full, or not sent to one instance for that.",
            &["result"],
        );
        let fanout_messages = counter_vec(
            registry,
            "imaccess_routing_fanout_messages_total",
            "Messages to sidecars that stand for many devices: one per instance that a group push or a broadcast went to.",
            &["kind"],
        );
        let seconds = histogram_vec(
            registry,
            "imaccess_routing_push_seconds",
            "From a push call's arrival to its answer.",
            &["kind"],
        );
        let count = |name: &str, help: &str| counter(registry, name, help);
        RoutingMetrics {
            routes: gauge(registry, "imaccess_routing_routes", "Devices with a route."),
            groups: gauge(
                registry,
                "imaccess_routing_groups",
                "Groups with members somewhere.",
            ),
            route_bytes: gauge(
                registry,
                "imaccess_routing_route_bytes",
                "User memory of the route table.",
            ),
            instances: gauge_vec(
                registry,
                "imaccess_routing_instances",
                "Known instances by state.",
                &["state"],
            ),
            in_sync: gauge(
                registry,
                "imaccess_routing_in_sync",
                "1 while a device without a route is known to be offline.",
            ),
            pushes_awaited: gauge(
                registry,
                "imaccess_routing_pushes_awaited",
                "Pushed devices without a receipt yet.",
            ),
            pushes: OUTCOMES.map(|label| pushes.with_label_values(&[label])),
            group_sent: group_pushes.with_label_values(&["sent"]),
            group_messages: fanout_messages.with_label_values(&["group"]),
            broadcast_messages: fanout_messages.with_label_values(&["broadcast"]),
            group_full: group_pushes.with_label_values(&["exhausted"]),
            group_instance_full: group_pushes.with_label_values(&["instance_full"]),
            rejected: count(
                "imaccess_routing_push_rejected_total",
                "Push calls refused as invalid or not served.",
            ),
            device_seconds: seconds.with_label_values(&["devices"]),
            group_seconds: seconds.with_label_values(&["group"]),
            broadcast_seconds: seconds.with_label_values(&["broadcast"]),
            commands: counter_vec(
                registry,
                "imaccess_routing_commands_total",
                "Devices that were to be kicked, or to join or leave a group, by what became of it.",
                &["command", "outcome"],
            ),
            announcements: count("imaccess_routing_announcements_total", "Announced routes."),
            malformed: count(
                "imaccess_routing_announcements_malformed_total",
                "Announcements without a whole session id.",
            ),
            retractions: count("imaccess_routing_retractions_total", "Retracted routes."),
            outranked: count(
                "imaccess_routing_outranked_total",
                "Announcements that lost against a higher epoch.",
            ),
            replaced: count(
                "imaccess_routing_replaced_total",
                "Routes that another instance's higher epoch replaced.",
            ),
            snapshots: count("imaccess_routing_snapshots_total", "Snapshots heard to the end."),
            late_receipts: count(
                "imaccess_routing_receipts_late_total",
                "Receipts nobody waited for any more.",
            ),
            lost_devices: count(
                "imaccess_routing_lost_devices_total",
                "Devices that were still at an instance when that was given up.",
            ),
            groups_lost: count(
                "imaccess_routing_moved_groups_lost_total",
                "Memberships that couldn't follow their session to another gateway.",
            ),
            broken: count("imaccess_routing_feed_broken_total", "Route streams that ended."),
            refused: counter_vec(
                registry,
                "imaccess_routing_feed_refused_total",
                "Sidecars that were not whom the membership names.",
                &["reason"],
            ),
            watch_faults: count(
                "imaccess_routing_pod_watch_faults_total",
                "Failed lists and watches of the pods.",
            ),
            watch_down: float_gauge(
                registry,
                "imaccess_routing_pod_watch_down_seconds",
                "For how long the API server hasn't answered the pod watch; 0 while it does.",
            ),
        }
    }

    /// Says how the pod watch is doing.
    pub(crate) fn set_watch(&self, health: &WatchHealth) {
        let new = health.faults().saturating_sub(self.watch_faults.get());
        self.watch_faults.inc_by(new);
        self.watch_down
            .set(health.down_for().unwrap_or_default().as_secs_f64());
    }

    /// Counts what became of the devices of a call.
    pub(crate) fn count_outcomes(&self, outcomes: &[i32]) {
        let mut counts = [0; OUTCOMES.len()];
        for &outcome in outcomes {
            counts[usize::try_from(outcome).unwrap_or(0).min(OUTCOMES.len() - 1)] += 1;
        }
        for (counter, count) in self.pushes.iter().zip(counts).filter(|&(_, count)| count > 0) {
            counter.inc_by(count);
        }
    }

    /// Counts what became of a command for devices.
    pub(crate) fn count_command(&self, command: &str, outcomes: &[Outcome]) {
        for &outcome in outcomes {
            let label = OUTCOMES.get(outcome as usize).copied().unwrap_or_default();
            self.commands.with_label_values(&[command, label]).inc();
        }
    }

    /// Says how much there is.
    pub(crate) fn set_sizes(&self, sizes: Sizes, awaited: usize) {
        let number = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
        self.routes.set(number(sizes.routes));
        self.groups.set(number(sizes.groups));
        self.route_bytes.set(number(sizes.route_bytes));
        self.pushes_awaited.set(number(awaited));
    }

    /// Says how many instances are in each state.
    pub(crate) fn set_instances(&self, phases: &[Phase]) {
        for (phase, label) in Phase::ALL {
            let count = phases.iter().filter(|&&other| other == phase).count();
            self.instances
                .with_label_values(&[label])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// Labels by an outcome's number.
const OUTCOMES: [&str; 9] = [
    "unspecified",
    "written",
    "acknowledged",
    "queued",
    "offline",
    "refused",
    "retry",
    "unknown",
    "done",
];
const _: () = assert!(Outcome::Done as usize + 1 == OUTCOMES.len());
