//! Latencies: recorded in one process, added up in another.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency told apart; longer ones count as this.
const LONGEST_NS: u64 = 120_000_000_000;

/// A histogram of latencies with three significant digits.
#[derive(Clone, Debug)]
pub(crate) struct Latency(Histogram<u64>);

/// Its form between processes: (nanoseconds, how many).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct LatencyCounts(Vec<(u64, u64)>);

impl Latency {
    /// An empty one.
    #[must_use]
    pub(crate) fn new() -> Self {
        // Below a microsecond nothing travels between two processes.
        Self(Histogram::new_with_bounds(1_000, LONGEST_NS, 3).expect("the bounds are constants that fit"))
    }

    /// Counts one latency.
    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// The latency, in microseconds, that the share `quantile` of all stayed within.
    #[must_use]
    pub(crate) fn us(&self, quantile: f64) -> f64 {
        Duration::from_nanos(self.0.value_at_quantile(quantile)).as_secs_f64() * 1e6
    }

    /// Adds what another process counted.
    pub(crate) fn add(&mut self, counts: &LatencyCounts) {
        for &(ns, count) in &counts.0 {
            self.0.saturating_record_n(ns, count);
        }
    }

    /// For another process.
    #[must_use]
    pub(crate) fn counts(&self) -> LatencyCounts {
        let recorded = self.0.iter_recorded();
        LatencyCounts(
            recorded
                .map(|step| (step.value_iterated_to(), step.count_at_value()))
                .collect(),
        )
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> FromIterator<&'a LatencyCounts> for Latency {
    fn from_iter<I: IntoIterator<Item = &'a LatencyCounts>>(all: I) -> Self {
        let mut sum = Self::new();
        all.into_iter().for_each(|counts| sum.add(counts));
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_survive_the_way_between_processes() {
        let mut first = Latency::new();
        (1..=1_000).for_each(|us| first.record(us * 1_000));
        let mut second = Latency::new();
        second.record(u64::MAX);
        let json = serde_json::to_string(&[first.counts(), second.counts()]).unwrap();
        let read: Vec<LatencyCounts> = serde_json::from_str(&json).unwrap();
        let sum: Latency = read.iter().collect();
        assert_eq!(sum.0.len(), 1_001);
        // Three significant digits.
        assert!((sum.us(0.5) - 501.0).abs() <= 1.0, "{}", sum.us(0.5));
        assert!((sum.us(0.99) - 991.0).abs() <= 1.0, "{}", sum.us(0.99));
        assert!(sum.us(1.0) >= 119e6);
        assert_eq!(Latency::default().us(0.99), 0.0);
    }
}
