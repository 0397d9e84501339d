//! Thin helpers over the `prometheus` crate: one line per metric, no global registry.
//!
//! Names begin with `imaccess_`, use base units (seconds, bytes) and, for counters, end in `_total`, so that every page
//! passes `promtool check metrics`. A name registered twice, or one that breaks these rules, is a programming error
//! and panics at start.

mod process;

use prometheus::core::Collector;
use prometheus::{
    Counter, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

pub use self::process::ProcessMetrics;

/// What every name begins with.
pub const PREFIX: &str = "imaccess_";

/// Bounds of latency histograms in seconds, 100 µs to 10 s in steps of 2 to 2.5: sixteen buckets in which no
/// quantile is off by more than that factor.
pub const LATENCY_BUCKETS: [f64; 16] = [
    0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

/// A counter; `name` ends in `_total`.
pub fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    assert!(name.ends_with("_total"), "the counter {name} must end in _total");
    register(registry, name, IntCounter::new(name, help))
}

/// A counter per combination of `labels`; `name` ends in `_total`.
pub fn counter_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    assert!(name.ends_with("_total"), "the counter {name} must end in _total");
    register(registry, name, IntCounterVec::new(Opts::new(name, help), labels))
}

/// A counter of fractions (seconds); `name` ends in `_total`.
pub fn float_counter(registry: &Registry, name: &str, help: &str) -> Counter {
    assert!(name.ends_with("_total"), "the counter {name} must end in _total");
    register(registry, name, Counter::new(name, help))
}

/// A gauge of whole numbers.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, name, IntGauge::new(name, help))
}

/// A gauge of whole numbers per combination of `labels`.
pub fn gauge_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, name, IntGaugeVec::new(Opts::new(name, help), labels))
}

/// A gauge of fractions.
pub fn float_gauge(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, name, Gauge::new(name, help))
}

/// A gauge of fractions per combination of `labels`.
pub fn float_gauge_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, name, GaugeVec::new(Opts::new(name, help), labels))
}

/// A histogram of seconds over [`LATENCY_BUCKETS`]; `name` ends in `_seconds`.
pub fn histogram(registry: &Registry, name: &str, help: &str) -> Histogram {
    register(registry, name, Histogram::with_opts(latency(name, help)))
}

/// A histogram of seconds over [`LATENCY_BUCKETS`] per combination of `labels`; `name` ends in `_seconds`.
pub fn histogram_vec(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    register(registry, name, HistogramVec::new(latency(name, help), labels))
}

/// The page: every metric of `registry` in the Prometheus text format.
#[must_use]
pub fn render(registry: &Registry) -> String {
    let mut page = Vec::with_capacity(16 * 1_024);
    let families = registry.gather();
    // Writing to memory can't fail; a family without samples is an error of the encoder that spoils nothing else.
    if let Err(fault) = TextEncoder::new().encode(&families, &mut page) {
        tracing::error!(%fault, "the metrics page is incomplete");
    }
    String::from_utf8(page).unwrap_or_default()
}

fn latency(name: &str, help: &str) -> HistogramOpts {
    assert!(
        name.ends_with("_seconds"),
        "the latency histogram {name} must end in _seconds"
    );
    HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec())
}

fn register<M>(registry: &Registry, name: &str, metric: prometheus::Result<M>) -> M
where
    M: Collector + Clone + 'static,
{
    assert!(
        name.starts_with(PREFIX),
        "the metric {name} must begin with {PREFIX}"
    );
    let metric = metric.expect("names, labels and buckets are literals of this code and well formed");
    registry
        .register(Box::new(metric.clone()))
        .expect("each metric is registered once per registry");
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_what_was_counted() {
        let registry = Registry::new();
        counter(&registry, "imaccess_frames_total", "Frames.").inc_by(3);
        counter_vec(&registry, "imaccess_closes_total", "Closes.", &["reason"])
            .with_label_values(&["idle"])
            .inc();
        gauge(&registry, "imaccess_links", "Links.").set(-2);
        gauge_vec(&registry, "imaccess_groups", "Groups.", &["business"])
            .with_label_values(&["1"])
            .set(9);
        float_gauge(&registry, "imaccess_share_ratio", "Share.").set(0.5);
        float_counter(&registry, "imaccess_wait_seconds_total", "Waited.").inc_by(1.5);
        histogram(&registry, "imaccess_login_seconds", "Logins.").observe(0.003);
        histogram_vec(&registry, "imaccess_uplink_seconds", "Uplinks.", &["business"])
            .with_label_values(&["1"])
            .observe(20.0);
        let page = render(&registry);
        for line in [
            "imaccess_frames_total 3",
            "imaccess_closes_total{reason=\"idle\"} 1",
            "imaccess_links -2",
            "imaccess_groups{business=\"1\"} 9",
            "imaccess_share_ratio 0.5",
            "imaccess_wait_seconds_total 1.5",
            "imaccess_login_seconds_bucket{le=\"0.002\"} 0",
            "imaccess_login_seconds_bucket{le=\"0.005\"} 1",
            "imaccess_uplink_seconds_bucket{business=\"1\",le=\"10\"} 0",
            "imaccess_uplink_seconds_bucket{business=\"1\",le=\"+Inf\"} 1",
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "{line} is missing in\n{page}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "registered once")]
    fn a_second_registration_is_a_programming_error() {
        let registry = Registry::new();
        gauge(&registry, "imaccess_links", "Links.");
        gauge(&registry, "imaccess_links", "Links.");
    }

    #[test]
    #[should_panic(expected = "must end in _total")]
    fn a_counter_is_named_as_one() {
        counter(&Registry::new(), "imaccess_frames", "Frames.");
    }
}
