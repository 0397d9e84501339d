//! What ipconfig counts.

use std::collections::HashSet;

use imaccess_common::metrics::{
    ProcessMetrics, counter, counter_vec, float_gauge, float_gauge_vec, gauge, gauge_vec, histogram,
};
use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::picture::Census;
use crate::scores::Standing;
use crate::targets::PodCounts;

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
    /// Changes of the list of gateways that couldn't be used.
    pub(crate) target_faults: IntCounter,
    /// Rounds in which the source of the figures itself didn't answer, by reason.
    pub(crate) source_faults: IntCounterVec,
    gateways: IntGaugeVec,
    scraper_ill: IntGauge,
    source: IntGaugeVec,
    pods: IntGaugeVec,
    annotation_faults: IntCounter,
    watch_faults: IntCounter,
    watch_down: Gauge,
}

/// Each gateway's scores, for as long as it is known: bounded by their number.
pub(crate) struct ScoreGauges {
    scores: GaugeVec,
    shown: HashSet<String>,
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
                "Readings of gateways' figures, from their pages or from Prometheus, by result.",
                &["result"],
            ),
            round: histogram(
                registry,
                "imaccess_ipconfig_scrape_round_seconds",
                "Duration of a round: every gateway's page at the same time, or one query.",
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
                "Changes of the list of gateways that could not be used.",
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
                "1 while more than half of the gateways can't be read, or Prometheus is away, and the last picture stays.",
            ),
            source_faults: counter_vec(
                registry,
                "imaccess_ipconfig_source_faults_total",
                "Rounds in which Prometheus gave no answer that could be used, by reason.",
                &["reason"],
            ),
            source: gauge_vec(
                registry,
                "imaccess_ipconfig_source_info",
                "Where the gateways' figures come from: scrape (their pages) or prometheus.",
                &["source"],
            ),
            pods: gauge_vec(
                registry,
                "imaccess_ipconfig_pods",
                "Gateway pods that the watch sees, by state: listed, waiting (for their endpoints), malformed (annotation).",
                &["state"],
            ),
            annotation_faults: counter(
                registry,
                "imaccess_ipconfig_pod_annotation_faults_total",
                "Annotations of pods that could not be understood.",
            ),
            watch_faults: counter(
                registry,
                "imaccess_ipconfig_pod_watch_faults_total",
                "Failed lists and watches of the pods.",
            ),
            watch_down: float_gauge(
                registry,
                "imaccess_ipconfig_pod_watch_down_seconds",
                "For how long the API server hasn't answered the pod watch; 0 while it does.",
            ),
        }
    }

    /// Shows where the figures come from.
    pub(crate) fn show_source(&self, name: &str) {
        self.source.with_label_values(&[name]).set(1);
    }

    /// Shows what the pod watch sees, and how it is doing.
    pub(crate) fn show_pods(&self, pods: &PodCounts) {
        let states = [
            ("listed", pods.listed),
            ("waiting", pods.waiting),
            ("malformed", pods.malformed),
        ];
        for (state, count) in states {
            self.pods.with_label_values(&[state]).set(count as i64);
        }
        let totals = [
            (&self.annotation_faults, pods.annotation_faults),
            (&self.watch_faults, pods.watch_faults),
        ];
        for (counter, total) in totals {
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        self.watch_down.set(pods.down_for.as_secs_f64());
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

impl ScoreGauges {
    /// Registers them.
    pub(crate) fn register(registry: &Registry) -> ScoreGauges {
        ScoreGauges {
            scores: float_gauge_vec(
                registry,
                "imaccess_ipconfig_score",
                "Scores: dynamic is the remaining bandwidth in GB/s, static the remaining connections.",
                &["gateway", "kind"],
            ),
            shown: HashSet::new(),
        }
    }

    /// Shows those that have been read, and takes away the others.
    pub(crate) fn show(&mut self, standings: &[Standing]) {
        let mut shown = HashSet::with_capacity(standings.len());
        for standing in standings {
            let Some(figures) = standing.figures else { continue };
            let kinds = [("dynamic", figures.dynamic), ("static", figures.static_ as f64)];
            for (kind, score) in kinds {
                self.scores
                    .with_label_values(&[standing.name.as_str(), kind])
                    .set(score);
            }
            shown.insert(standing.name.clone());
        }
        for gone in self.shown.difference(&shown) {
            for kind in ["dynamic", "static"] {
                // An error means that it isn't there.
                let _ = self.scores.remove_label_values(&[gone.as_str(), kind]);
            }
        }
        self.shown = shown;
    }
}
