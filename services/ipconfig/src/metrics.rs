//! What ipconfig counts.

use imaccess_common::metrics::{
    ProcessMetrics, counter, counter_vec, float_gauge, gauge, gauge_vec, histogram,
};
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::picture::Census;

/// ipconfig's metrics; clones count into the same.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// Endpoint answers given out, as of the last ranking: counted there, so that a query pays nothing for it.
    pub(crate) answers: IntCounter,
    /// Queries that got no endpoints, by reason.
    pub(crate) refused: IntCounterVec,
    /// Development tokens issued.
    pub(crate) tokens: IntCounter,
    /// Scrapes by result.
    pub(crate) scrapes: IntCounterVec,
    /// Duration of a round of scrapes.
    pub(crate) round: Histogram,
    /// Rankings published.
    pub(crate) rankings: IntCounter,
    /// Version of the ranking in use.
    pub(crate) version: IntGauge,
    /// When it was made.
    pub(crate) updated: Gauge,
    /// Changes of the targets file that couldn't be used.
    pub(crate) target_faults: IntCounter,
    gateways: IntGaugeVec,
    scraper_ill: IntGauge,
}

impl Metrics {
    /// Registers them, and the process's.
    pub(crate) fn register(registry: &Registry) -> Metrics {
        ProcessMetrics::register(registry, "ipconfig", env!("CARGO_PKG_VERSION"));
        Metrics {
            answers: counter(
                registry,
                "imaccess_ipconfig_answers_total",
                "Endpoint answers given out.",
            ),
            refused: counter_vec(
                registry,
                "imaccess_ipconfig_refused_total",
                "Endpoint queries that got no endpoints, by reason.",
                &["reason"],
            ),
            tokens: counter(
                registry,
                "imaccess_ipconfig_tokens_total",
                "Development tokens issued.",
            ),
            scrapes: counter_vec(
                registry,
                "imaccess_ipconfig_scrapes_total",
                "Scrapes of gateways' pages, by result.",
                &["result"],
            ),
            round: histogram(
                registry,
                "imaccess_ipconfig_scrape_round_seconds",
                "Duration of a round: every gateway's page, at the same time.",
            ),
            rankings: counter(
                registry,
                "imaccess_ipconfig_rankings_total",
                "Rankings published.",
            ),
            version: gauge(
                registry,
                "imaccess_ipconfig_ranking_version",
                "Version of the ranking in use.",
            ),
            updated: float_gauge(
                registry,
                "imaccess_ipconfig_ranking_timestamp_seconds",
                "When the ranking in use was made, in Unix time.",
            ),
            target_faults: counter(
                registry,
                "imaccess_ipconfig_target_faults_total",
                "Changes of the targets file that could not be used.",
            ),
            gateways: gauge_vec(
                registry,
                "imaccess_ipconfig_gateways",
                "Known gateways, by state: listed, draining, left (not scraped for too long), unseen.",
                &["state"],
            ),
            scraper_ill: gauge(
                registry,
                "imaccess_ipconfig_scraper_ill",
                "1 while more than half of the gateways can't be scraped and the last picture stays.",
            ),
        }
    }

    /// Shows who is what.
    pub(crate) fn show(&self, census: &Census) {
        let states = [
            ("listed", census.listed),
            ("draining", census.draining),
            ("left", census.left),
            ("unseen", census.unseen),
        ];
        for (state, count) in states {
            self.gateways.with_label_values(&[state]).set(count as i64);
        }
        self.scraper_ill.set(i64::from(census.scraper_ill));
    }
}
