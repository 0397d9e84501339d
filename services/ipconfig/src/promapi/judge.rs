//! What an answer is worth for each gateway. Pure: time and answers in, readings out.
//!
//! When the server is away, it is the reader that is ill, and nobody fails. When it comes back it has to find and
//! scrape the gateways again, one after the other: until then, who isn't in its answers isn't called failing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use imaccess_common::clock::CoarseInstant;

use super::answer::Figures;
use crate::reading::{Reading, Unread};
use crate::targets::GatewayTarget;

/// How long a server that has just started takes until it hands out what it discovered: it does so every 5 s.
const DISCOVERY: Duration = Duration::from_secs(5);

/// A reading, or why there is none, by gateway.
pub(crate) type Readings = Vec<(Arc<GatewayTarget>, Result<Reading, Unread>)>;

/// The judge's memory.
#[derive(Debug)]
pub(crate) struct Judge {
    fresh_for: Duration,
    grace: Duration,
    /// Whether the last round had no answer.
    away: bool,
    /// Until when the server is still finding the gateways.
    finding_until: CoarseInstant,
}

impl Judge {
    /// A judge for figures of which those older than `fresh_for` count as none, scraped every `scrape_interval`.
    pub(crate) fn new(fresh_for: Duration, scrape_interval: Duration) -> Judge {
        Judge {
            fresh_for,
            grace: DISCOVERY + 2 * scrape_interval,
            away: true,
            finding_until: CoarseInstant(0),
        }
    }

    /// The server didn't answer.
    pub(crate) fn away(&mut self) {
        self.away = true;
    }

    /// It answered a question asked at `at`: what that says of `targets`. Who can't be judged yet isn't in it.
    pub(crate) fn judge(
        &mut self,
        at: CoarseInstant,
        targets: Vec<Arc<GatewayTarget>>,
        answer: &HashMap<String, Figures>,
    ) -> Readings {
        if std::mem::take(&mut self.away) {
            self.finding_until = at.after(self.grace);
        }
        let finding = at < self.finding_until;
        let judged = targets.into_iter().map(|target| {
            let figures = answer.get(&target.name).copied().unwrap_or_default();
            let reading = figures.reading(self.fresh_for);
            (target, reading)
        });
        let certain = |reading: &Result<Reading, Unread>| match reading {
            Err(Unread::Absent | Unread::Stale(_)) => !finding,
            _ => true,
        };
        judged.filter(|(_, reading)| certain(reading)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::answer::{FIGURES, parse};
    use super::super::query::FIGURE;
    use super::*;

    fn targets(names: &[&str]) -> Vec<Arc<GatewayTarget>> {
        let target = |name: &&str| {
            Arc::new(GatewayTarget {
                name: (*name).to_owned(),
                metrics: "h:1".to_owned(),
                endpoints: Vec::new(),
                draining: false,
            })
        };
        names.iter().map(target).collect()
    }

    /// An answer with these pods and the ages of their figures.
    fn answer(ages: &[(&str, &str)]) -> HashMap<String, Figures> {
        let mut samples = Vec::new();
        for (pod, age) in ages {
            for figure in FIGURES {
                let value = if figure == "age" { *age } else { "1" };
                samples.push(json!({ "metric": { "pod": pod, FIGURE: figure }, "value": [1.0, value] }));
            }
        }
        let body = json!({ "status": "success", "data": { "resultType": "vector", "result": samples } });
        parse(body.to_string().as_bytes(), "pod").unwrap()
    }

    fn shown(readings: &Readings) -> String {
        let show = |(target, reading): &(Arc<GatewayTarget>, Result<Reading, Unread>)| {
            let what = reading.as_ref().map_or_else(Unread::label, |_| "ok");
            format!("{}:{what}", target.name)
        };
        readings.iter().map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn who_is_missing_fails_but_not_while_the_server_is_still_finding_them() {
        let mut judge = Judge::new(Duration::from_secs(3), Duration::from_secs(1));
        let all = || targets(&["a", "b", "c", "d"]);
        let found = answer(&[("a", "0.2"), ("b", "2.9"), ("c", "3.5"), ("stranger", "0")]);
        let at = |seconds: u64| CoarseInstant(seconds * 1_000);
        assert_eq!(shown(&judge.judge(at(10), all(), &found)), "a:ok b:ok");
        assert_eq!(shown(&judge.judge(at(16), all(), &found)), "a:ok b:ok");
        let certain = "a:ok b:ok c:stale d:absent";
        assert_eq!(shown(&judge.judge(at(17), all(), &found)), certain);
        judge.away();
        assert_eq!(shown(&judge.judge(at(60), all(), &found)), "a:ok b:ok");
        assert_eq!(shown(&judge.judge(at(66), all(), &found)), "a:ok b:ok");
        assert_eq!(shown(&judge.judge(at(67), all(), &found)), certain);
    }
}
