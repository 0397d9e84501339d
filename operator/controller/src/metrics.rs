//! What the operator counts.

use imaccess_common::metrics;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

/// All of it; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Passes, by result.
    pub reconciles: IntCounterVec,
    /// How long they took, by result.
    pub seconds: HistogramVec,
    /// Writes that the API server accepted, by kind and verb.
    pub writes: IntCounterVec,
    /// Writes that it didn't, by kind and class of failure.
    pub write_failures: IntCounterVec,
    /// Writes that came too late: the object had changed.
    pub conflicts: IntCounter,
    /// Writes that weren't repeated because they had changed nothing.
    pub repeats: IntCounter,
    /// Plans that panicked.
    pub panics: IntCounter,
    /// Steps of upgrades in place.
    pub upgrade_steps: IntCounterVec,
    /// Whether a cluster's upgrade in place has stopped.
    pub upgrade_stopped: IntGaugeVec,
    /// Clusters that wait after a failure.
    pub backoff: IntGauge,
    /// Clusters that can't be read.
    pub undecodable: IntGauge,
    /// Whether this operator leads.
    pub leader: IntGauge,
    /// How often that changed.
    pub transitions: IntCounter,
    /// Failed reads and renewals of the lease.
    pub lease_failures: IntCounter,
    /// Writes that weren't sent because the lease didn't allow it any more.
    pub refusals: IntCounter,
    /// Failures of watches.
    pub watch_failures: IntCounter,
    /// Unix time at which the first certificate of a cluster ends.
    pub certificate_not_after: IntGaugeVec,
    /// Whether the definition of the custom resource is missing.
    pub definition_missing: IntGauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Panics
    /// If they are registered already.
    #[must_use]
    pub fn register(registry: &Registry) -> Metrics {
        let counter = |name, help| metrics::counter(registry, name, help);
        let counters = |name, help, labels: &[&str]| metrics::counter_vec(registry, name, help, labels);
        let gauge = |name, help| metrics::gauge(registry, name, help);
        Metrics {
            reconciles: counters(
                "imaccess_operator_reconciles_total",
                "Passes over a cluster.",
                &["result"],
            ),
            seconds: metrics::histogram_vec(
                registry,
                "imaccess_operator_reconcile_seconds",
                "How long a pass over a cluster took.",
                &["result"],
            ),
            writes: counters(
                "imaccess_operator_writes_total",
                "Writes that the API server accepted.",
                &["kind", "verb"],
            ),
            write_failures: counters(
                "imaccess_operator_write_failures_total",
                "Writes that failed.",
                &["kind", "reason"],
            ),
            conflicts: counter(
                "imaccess_operator_conflicts_total",
                "Writes that the API server refused because the object had changed.",
            ),
            repeats: counter(
                "imaccess_operator_repeats_suppressed_total",
                "Writes that weren't repeated because they had changed nothing.",
            ),
            panics: counter("imaccess_operator_panics_total", "Passes that panicked."),
            upgrade_steps: counters(
                "imaccess_operator_upgrade_steps_total",
                "Steps of upgrades in place that were carried out.",
                &["step"],
            ),
            upgrade_stopped: metrics::gauge_vec(
                registry,
                "imaccess_operator_upgrade_stopped",
                "1 if an upgrade in place can't go on without a change by somebody.",
                &["namespace", "cluster"],
            ),
            backoff: gauge(
                "imaccess_operator_backoff_clusters",
                "Clusters that wait after a failure.",
            ),
            undecodable: gauge(
                "imaccess_operator_undecodable_clusters",
                "Clusters whose specification can't be read.",
            ),
            leader: gauge("imaccess_operator_leader", "1 if this operator leads."),
            transitions: counter(
                "imaccess_operator_leader_transitions_total",
                "How often this operator began or ceased to lead.",
            ),
            lease_failures: counter(
                "imaccess_operator_lease_failures_total",
                "Failed reads and renewals of the lease.",
            ),
            refusals: counter(
                "imaccess_operator_gate_refusals_total",
                "Writes that weren't sent because this operator doesn't surely lead.",
            ),
            watch_failures: counter(
                "imaccess_operator_watch_failures_total",
                "Watches that failed and were begun again.",
            ),
            certificate_not_after: metrics::gauge_vec(
                registry,
                "imaccess_operator_certificate_not_after_timestamp_seconds",
                "When the first of a cluster's certificates ends.",
                &["namespace", "cluster"],
            ),
            definition_missing: gauge(
                "imaccess_operator_crd_missing",
                "1 if the ImAccessCluster definition isn't installed.",
            ),
        }
    }
}
