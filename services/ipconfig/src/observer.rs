//! The background: targets, scrapes and the picture become a new ranking, once a round and whenever somebody's absence
//! gets too long. It owns all of these alone; what it publishes is read without a lock.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use imaccess_common::admin::Condition;
use imaccess_common::clock::{CoarseInstant, Monotonic, unix_ms};
use imaccess_common::gateway_page::GatewayPage;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::answer::{Answers, Head};
use crate::metrics::Metrics;
use crate::picture::Picture;
use crate::scrape::{Round, Scraper};
use crate::targets::{Change, GatewayTarget, Targets};

/// What does the looking.
pub(crate) struct Observer {
    pub(crate) targets: Targets,
    pub(crate) scraper: Scraper,
    pub(crate) picture: Picture,
    pub(crate) published: Arc<ArcSwap<Answers>>,
    pub(crate) metrics: Metrics,
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
            }
            if self.refresh_targets() {
                // Who is gone from the list is gone at once, not after the round.
                self.publish();
            }
            let begun = self.clock.now();
            let timer = self.metrics.round.start_timer();
            let mut round = std::pin::pin!(self.scraper.clone().round(self.targets.current().to_vec()));
            let round = loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    round = &mut round => break round,
                    () = departure(&self.clock, &self.picture) => self.publish(),
                }
            };
            timer.observe_duration();
            self.picture.take_round(begun, self.judge(round));
            self.publish();
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
                tracing::warn!(fault, "the targets file can't be used; the last list stays");
                return false;
            }
        }
        self.picture.take_targets(self.targets.current());
        true
    }

    /// Counts the results; a failure is news for people who look at debug logs, a gauge for all others.
    fn judge(&self, round: Round) -> impl Iterator<Item = (Arc<GatewayTarget>, Option<GatewayPage>)> + use<> {
        let scrapes = self.metrics.scrapes.clone();
        round.into_iter().map(move |(target, result)| {
            let label = match &result {
                Ok(_) => "ok",
                Err(fault) => {
                    tracing::debug!(gateway = target.name, %fault, "scrape failed");
                    fault.label()
                }
            };
            scrapes.with_label_values(&[label]).inc();
            (target, result.ok())
        })
    }

    /// Ranks and writes all answers anew, having counted the clients sent by the old ones.
    fn publish(&mut self) {
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
        self.metrics.show(&self.picture.census());
        self.metrics.rankings.inc();
        self.metrics
            .version
            .set(i64::try_from(head.version).unwrap_or(i64::MAX));
        self.metrics.updated.set(unix_ms() as f64 / 1e3);
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
