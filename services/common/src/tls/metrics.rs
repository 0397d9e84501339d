//! What is counted of TLS.

use prometheus::{IntCounterVec, IntGaugeVec, Registry};

use super::failure::Failure;
use crate::metrics::{counter_vec, gauge_vec};

/// The metrics of a part's identity and handshakes; clones share them.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    not_after: IntGaugeVec,
    reloads: IntCounterVec,
    handshakes: IntCounterVec,
    failures: IntCounterVec,
}

impl TlsMetrics {
    /// Registers them; once per registry.
    #[must_use]
    pub fn register(registry: &Registry) -> TlsMetrics {
        let metrics = TlsMetrics {
            not_after: gauge_vec(
                registry,
                "imaccess_tls_certificate_not_after_seconds",
                "When the certificate in use ends, in seconds since 1970: this part's own, and the last of the authorities'.",
                &["certificate"],
            ),
            reloads: counter_vec(
                registry,
                "imaccess_tls_reloads_total",
                "Changes of the certificate files: taken, or failed, which leaves the former certificate in use.",
                &["result"],
            ),
            handshakes: counter_vec(
                registry,
                "imaccess_tls_handshakes_total",
                "Handshakes that succeeded, as server or as client.",
                &["side"],
            ),
            failures: counter_vec(
                registry,
                "imaccess_tls_handshake_failures_total",
                "Handshakes that failed, as server or as client, by reason.",
                &["side", "reason"],
            ),
        };
        // What has never happened shows as 0, so that a rate over the first time sees it.
        for result in ["taken", "failed"] {
            metrics.reloads.with_label_values(&[result]);
        }
        for side in [Side::Server, Side::Client] {
            metrics.handshakes.with_label_values(&[side.label()]);
        }
        metrics
    }

    pub(super) fn set_not_after(&self, own: i64, authority: i64) {
        self.not_after.with_label_values(&["own"]).set(own);
        self.not_after.with_label_values(&["authority"]).set(authority);
    }

    pub(super) fn reloaded(&self, taken: bool) {
        let result = if taken { "taken" } else { "failed" };
        self.reloads.with_label_values(&[result]).inc();
    }

    pub(super) fn succeeded(&self, side: Side) {
        self.handshakes.with_label_values(&[side.label()]).inc();
    }

    pub(super) fn failed(&self, side: Side, reason: Failure) {
        self.failures
            .with_label_values(&[side.label(), reason.label()])
            .inc();
    }
}

/// Which end of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Client,
}

impl Side {
    fn label(self) -> &'static str {
        match self {
            Side::Server => "server",
            Side::Client => "client",
        }
    }
}
