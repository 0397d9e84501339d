//! What the custodian counts.

use imaccess_common::metrics::{counter_vec, gauge, gauge_vec};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

/// All of it; children are looked up once.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) sockets: IntGauge,
    pub(super) listeners: IntGauge,
    pub(super) released: IntCounter,
    pub(super) swept: IntCounter,
    pub(super) orphans: IntCounter,
    pub(super) dead_man_sockets: IntCounter,
    pub(super) dead_man_listeners: IntCounter,
    pub(super) away: IntGauge,
    /// Connections turned away, by reason.
    pub(super) refused: IntCounterVec,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Self {
        let held = gauge_vec(
            registry,
            "imaccess_state_custody_held",
            "Descriptors held for the gateway.",
            &["kind"],
        );
        let closed = counter_vec(
            registry,
            "imaccess_state_custody_closed_total",
            "Descriptors no longer held, and why.",
            &["reason"],
        );
        let closed = |reason: &str| closed.with_label_values(&[reason]);
        Self {
            sockets: held.with_label_values(&["sockets"]),
            listeners: held.with_label_values(&["listeners"]),
            released: closed("released"),
            swept: closed("swept"),
            orphans: closed("orphan"),
            dead_man_sockets: closed("dead_man_sockets"),
            dead_man_listeners: closed("dead_man_listeners"),
            away: gauge(
                registry,
                "imaccess_state_custody_gateway_away_seconds",
                "How long no gateway has been connected to the custodian; 0 while one is.",
            ),
            refused: counter_vec(
                registry,
                "imaccess_state_custody_refused_total",
                "Connections to the custodian that were turned away or ended for what they sent.",
                &["reason"],
            ),
        }
    }
}
