//! The background: targets, scrapes and the picture become a new ranking, once a round and whenever somebody's absence
//! gets too long. It owns all of these alone; what it publishes is read without a lock.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use imaccess_common::admin::Condition;
use imaccess_common::clock::{CoarseInstant, Monotonic, unix_ms};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::answer::{Answers, Head};
use crate::metrics::{Metrics, ScoreGauges};
use crate::picture::Picture;
use crate::scores::Scores;
use crate::source::{Source, Verdict};
use crate::targets::{Change, Targets};

/// What does the looking.
pub(crate) struct Observer {
    pub(crate) targets: Targets,
    pub(crate) source: Source,
    pub(crate) picture: Picture,
    pub(crate) published: Arc<ArcSwap<Answers>>,
    pub(crate) scores: Arc<ArcSwap<Scores>>,
    pub(crate) metrics: Metrics,
    pub(crate) score_gauges: ScoreGauges,
    /// What is wrong with the source as a whole: told once per change of the text.
    pub(crate) trouble: Option<String>,
    /// Holds while there is something to answer.
    pub(crate) listed: Condition,
    pub(crate) interval: Duration,
    pub(crate) clock: Monotonic,
    pub(crate) head: HeadSource,
}

/// What makes the head of the next ranking's answers.
pub(crate) struct HeadSource {
    pub(crate) cluster: String,
    pub(crate) ttl_s: u32,
    pub(crate) retry_after_s: u32,
    /// The last version given out.
    pub(crate) version: u64,
}

impl Observer {
    /// Looks until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.refresh_targets();
        self.publish();
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = ticks.tick() => (),
                () = departure(&self.clock, &self.picture) => {
                    self.publish();
                    continue;
                }
                () = self.targets.changed() => {
                    self.follow_targets();
                    continue;
                }
            }
            self.follow_targets();
            let begun = self.clock.now();
            let timer = self.metrics.round.start_timer();
            let mut round = self.source.ask(self.targets.current().to_vec());
            let brought = loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    brought = &mut round => break brought,
                    () = departure(&self.clock, &self.picture) => self.publish(),
                    () = self.targets.changed() => self.follow_targets(),
                }
            };
            timer.observe_duration();
            let verdict = self.source.weigh(begun, brought);
            self.take(begun, verdict);
            self.publish();
        }
    }

    /// Takes another list if there is one: who is gone from it is gone at once, not after the round.
    fn follow_targets(&mut self) {
        if self.refresh_targets() {
            self.publish();
        } else {
            self.show_pods();
        }
    }

    /// What the pods' watch sees: also when it leaves the list as it is.
    fn show_pods(&self) {
        if let Some(pods) = self.targets.pod_counts() {
            self.metrics.show_pods(&pods);
        }
    }

    /// Whether there is another list.
    fn refresh_targets(&mut self) -> bool {
        match self.targets.refresh() {
            Change::None => return false,
            Change::List => tracing::info!(
                gateways = self.targets.current().len(),
                "another list of gateways"
            ),
            Change::Fault(fault) => {
                self.metrics.target_faults.inc();
                tracing::warn!(fault, "the list of gateways can't be used; the last one stays");
                return false;
            }
        }
        self.picture.take_targets(self.targets.current());
        true
    }

    /// Counts and takes what a round says. One gateway's failure is news for people who look at debug logs, a gauge for
    /// all others; the source's own is told, once.
    fn take(&mut self, begun: CoarseInstant, verdict: Verdict) {
        let readings = match verdict {
            Verdict::Readings(readings) => readings,
            Verdict::Away(fault, label) => {
                self.metrics.scrapes.with_label_values(&[label]).inc();
                self.metrics.source_faults.with_label_values(&[label]).inc();
                self.picture.take_outage();
                self.tell(Some(fault));
                return;
            }
        };
        let mut answered = 0;
        for (target, result) in &readings {
            let label = match result {
                Ok(_) => "ok",
                Err(fault) => {
                    tracing::debug!(gateway = target.name, %fault, "no reading");
                    fault.label()
                }
            };
            answered += usize::from(result.is_ok());
            self.metrics.scrapes.with_label_values(&[label]).inc();
        }
        let nobody = answered == 0 && !readings.is_empty();
        self.tell(nobody.then(|| "not one gateway could be read".to_owned()));
        let readings = readings.into_iter().map(|(target, result)| (target, result.ok()));
        self.picture.take_round(begun, readings);
    }

    /// Tells what is wrong with the source, or that it is well again, when that changes.
    fn tell(&mut self, trouble: Option<String>) {
        let source = self.source.name();
        match &trouble {
            Some(fault) if self.trouble.as_ref() != Some(fault) => {
                tracing::warn!(
                    source,
                    fault,
                    "the gateways' figures can't be had; the last picture stays"
                );
            }
            None if self.trouble.is_some() => tracing::info!(source, "the gateways' figures are there again"),
            _ => (),
        }
        self.trouble = trouble;
    }

    /// Ranks and writes all answers anew, having counted the clients sent by the old ones.
    fn publish(&mut self) {
        self.show_pods();
        let now = self.clock.now();
        let old = self.published.load();
        let mut expected = 0;
        for (name, count) in old.sent().filter(|(_, count)| *count > 0) {
            self.picture.count_answers(name, count);
            expected += count;
        }
        self.metrics.answers.inc_by(expected);
        let mut candidates = self.picture.candidates(now);
        let head = self.head.next();
        let answers = Answers::new(&head, &mut candidates, expected, |index| {
            self.picture.target(index)
        });
        self.listed.set(!answers.is_empty());
        let (census, standings) = (self.picture.census(), self.picture.standings());
        self.metrics.show(&census);
        self.score_gauges.show(&standings);
        self.metrics.rankings.inc();
        self.metrics
            .version
            .set(i64::try_from(head.version).unwrap_or(i64::MAX));
        self.metrics.updated.set(unix_ms() as f64 / 1e3);
        let scores = Scores {
            cluster: head.cluster.to_owned(),
            version: head.version,
            source: self.source.name(),
            scraper_ill: census.scraper_ill,
            gateways: standings,
        };
        self.scores.store(Arc::new(scores));
        self.published.store(Arc::new(answers));
    }
}

impl HeadSource {
    /// The version rises with each ranking, also over a restart: it is the time, or one more than the last.
    fn next(&mut self) -> Head<'_> {
        self.version = unix_ms().max(self.version + 1);
        Head {
            version: self.version,
            cluster: &self.cluster,
            ttl_s: self.ttl_s,
            retry_after_s: self.retry_after_s,
        }
    }
}

/// Waits for the next moment at which somebody has been absent too long; forever if nobody is.
async fn departure(clock: &Monotonic, picture: &Picture) {
    let now = clock.now();
    match picture.next_departure(now) {
        Some(at) => tokio::time::sleep(until(now, at)).await,
        None => std::future::pending().await,
    }
}

fn until(now: CoarseInstant, at: CoarseInstant) -> Duration {
    at.since(now)
}
