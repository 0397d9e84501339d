//! What is asked. Pure.
//!
//! One instant query, a union of seven vectors told apart by the label [`FIGURE`]: so all figures of a round are of the
//! same moment, and a round is answered as a whole or not at all.
//!
//! - Each figure is summed over what a gateway's series differ by (`sum by (pod, job, instance)`), and of several jobs
//!   that scrape the same pod the greatest is taken: a pod that is scraped twice doesn't look twice as big.
//! - `rate(x[5s])` isn't the mean of five seconds: with a sample a second, five samples lie in the range, they span
//!   four seconds, and the rest is extrapolated, so that 20 MB sent within one second count as 5 MB/s instead of 4. The
//!   plain difference `(x - x offset 5s) / 5` has no answer for young pods and is negative after a restart. So
//!   the range is one scrape interval longer than the window: six samples span five seconds, `rate` divides their
//!   difference by that span when they fill the range, and counter resets are its business. A young pod's rate is
//!   underestimated until it has filled the window.
//! - The window is at least two scrape intervals, or there would be nothing to take a difference of.
//! - The age is told by the server's own clock, from the time of the sample itself: a selector gives a sample for five
//!   minutes after a target vanished without a trace (the server itself was away), and that must not pass for fresh.

use std::fmt::Write as _;
use std::time::Duration;

use imaccess_common::gateway_page::{BANDWIDTH, CONNECTION_LIMIT, CONNECTIONS, DRAINING, SENT_BYTES};

use super::answer::FIGURES;
use crate::config::PrometheusConfig;

/// The label that says which figure a sample is.
pub(super) const FIGURE: &str = "imaccess_figure";

/// The query for all figures over `window`.
pub(super) fn figures(config: &PrometheusConfig, window: Duration) -> String {
    let scrape = config.scrape_interval;
    let window = window.max(2 * scrape);
    let (range, window) = ((window + scrape).as_millis(), window.as_millis());
    let pod = &config.pod_label;
    let per_target = [pod.as_str(), "job", "instance"];
    let mut by = Vec::new();
    for label in per_target {
        if !by.contains(&label) {
            by.push(label);
        }
    }
    let by = by.join(", ");
    let series = |name: &str| format!("{name}{}", matchers(config));
    let greatest = |figure: String| format!("max by ({pod}) (sum by ({by}) ({figure}))");
    let expressions = [
        format!("time() - max by ({pod}) (timestamp({}))", series(CONNECTIONS)),
        greatest(format!("rate({}[{range}ms])", series(SENT_BYTES))),
        greatest(format!("avg_over_time({}[{window}ms])", series(CONNECTIONS))),
        greatest(series(CONNECTIONS)),
        greatest(series(CONNECTION_LIMIT)),
        greatest(series(BANDWIDTH)),
        greatest(series(DRAINING)),
    ];
    let named = FIGURES.iter().zip(expressions).map(|(figure, expression)| {
        format!("label_replace({expression}, \"{FIGURE}\", \"{figure}\", \"\", \"\")")
    });
    named.collect::<Vec<_>>().join(" or ")
}

/// `{label="value",…}`; nothing without matchers.
fn matchers(config: &PrometheusConfig) -> String {
    if config.matchers.is_empty() {
        return String::new();
    }
    let mut text = String::new();
    for (label, value) in &config.matchers {
        // What JSON escapes, PromQL's strings understand.
        let value = serde_json::Value::from(value.as_str());
        // Writing to a string can't fail.
        let _ = write!(text, "{}{label}={value}", if text.is_empty() { "{" } else { "," });
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> PrometheusConfig {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn it_asks_for_all_figures_at_once() {
        let config = config("{url: 'http://p', matchers: {namespace: games, job: 'a\"b\\c'}}");
        let query = figures(&config, Duration::from_secs(5));
        let matchers = r#"{job="a\"b\\c",namespace="games"}"#;
        let rate = format!(
            "label_replace(max by (pod) (sum by (pod, job, instance) (rate({SENT_BYTES}{matchers}[6000ms]))), \
             \"imaccess_figure\", \"rate\", \"\", \"\")"
        );
        let age = format!(
            "label_replace(time() - max by (pod) (timestamp({CONNECTIONS}{matchers})), \"imaccess_figure\", \
             \"age\", \"\", \"\")"
        );
        assert!(query.contains(&rate), "{query}");
        assert!(query.contains(&age), "{query}");
        assert!(
            query.contains(&format!("avg_over_time({CONNECTIONS}{matchers}[5000ms])")),
            "{query}"
        );
        assert_eq!(query.matches(" or label_replace(").count(), FIGURES.len() - 1);
    }

    #[test]
    fn a_slow_scrape_makes_the_window_longer() {
        let config = config("{url: 'http://p', scrape_interval: 15s, pod_label: instance}");
        let query = figures(&config, Duration::from_secs(5));
        assert!(query.contains("_total[45000ms])"), "{query}");
        assert!(query.contains("connections[30000ms])"), "{query}");
        assert!(query.contains("sum by (instance, job) ("), "{query}");
    }
}
