//! ipconfig ranks by what gateways send, with its own readings of their pages and with those of a Prometheus server: a steady load
//! puts a gateway last in time and lets it come back in time, a spike moves nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::ipconfig::Prometheus as PrometheusSpec;
use imaccess_operator_api::quantity::Quantity;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::super::verdict::count;
use super::drain::{ECHO, LISTED, echo};
use super::timeline::{Look, Timeline};
use crate::fleet::sink::{Sinks, megabytes_per_second};
use crate::kubernetes::gateways::{CLIENTS, listed};
use crate::kubernetes::prometheus::Prometheus;
use crate::kubernetes::pushing::Pusher;
use crate::kubernetes::scores::ScoresPage;
use crate::kubernetes::{Kubernetes, small_spec, with_kubernetes};
use crate::report::{Report, Size};
use crate::tokens::Tokens;

/// Bytes of all members of a push together: ten pushes a second are 20 MB/s.
const PUSH: usize = 2_000_000;
const PUSHES_PER_SECOND: u32 = 10;
/// The window of the scores, and two scrapes.
const IN_TIME: f64 = 5.0 + 2.0;
/// How much longer a busy machine may take before it is a finding at every size.
const MUCH_LATER: f64 = 20.0;
/// What is watched before anything happens, and after each change.
const QUIET: Duration = Duration::from_secs(4);
const LOADED: Duration = Duration::from_secs(15);
const SETTLING: Duration = Duration::from_secs(15);
/// A spike's traces are gone when the window is, and a scrape or two.
const AFTER_THE_SPIKE: Duration = Duration::from_secs(9);
/// Between two looks at the scores, and between two questions as a client. Each question counts as a client on its way to the
/// gateway that it names first, for as long as the window: they are few, against the difference in connections.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS_PER_QUESTION: usize = 4;
/// Group of those who make the load.
const GROUP: &str = "load";
/// The gateway's declared bandwidth and what is left of it under the load, in GB/s.
const IDLE: f64 = 1.0;
const UNDER_LOAD: f64 = 0.98;

/// Where ipconfig's figures come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Scrape,
    Prometheus,
}

pub(super) async fn scrape(size: Size, seed: u64) -> Result<Report> {
    run("k8s-scoring", Source::Scrape, size, seed).await
}

pub(super) async fn prometheus(size: Size, seed: u64) -> Result<Report> {
    run("k8s-scoring-prometheus", Source::Prometheus, size, seed).await
}

async fn run(name: &str, source: Source, size: Size, seed: u64) -> Result<Report> {
    with_kubernetes(name, async |kubernetes| {
        let mut report = Report::new(name, size, seed);
        score(kubernetes, source, size, &mut report).await?;
        Ok(report)
    })
    .await
}

async fn score(kubernetes: &Kubernetes, source: Source, size: Size, report: &mut Report) -> Result<()> {
    let namespace = kubernetes.namespace("").await?;
    kubernetes.operator(&namespace).await?;
    let endpoint = namespace.echo(kubernetes, "echo").await?;
    let cluster = namespace.existing_cluster("demo");
    let server = match source {
        Source::Scrape => None,
        Source::Prometheus => Some(Prometheus::start(kubernetes, &cluster).await?),
    };
    let mut spec = small_spec(kubernetes.environment.image()?);
    spec.gateway.bandwidth = Quantity("1G".to_owned());
    // Nobody pings meanwhile, and nobody is closed for it.
    spec.state.sidecar.ping_interval_seconds = 600;
    spec.businesses = vec![echo(&endpoint)];
    spec.ipconfig.metrics.prometheus = server.as_ref().map(|server| PrometheusSpec {
        url: server.url.clone(),
        scrape_interval_seconds: 1,
    });
    let cluster = namespace.cluster("demo", spec).await?;
    cluster.ready(kubernetes).await?;
    let gateways = cluster.gateways_listed(kubernetes, 2, LISTED).await?;
    if let Some(server) = &server {
        server.scrapes(gateways.len()).await?;
    }

    // The loaded gateway has fewer connections, so it is first for as long as the dynamic scores tie, and last when they don't.
    let (loaded, idle) = (&gateways[0], &gateways[1]);
    let (members, others) = size.pick((100, 250), (500, 800));
    let ipconfig = cluster.ipconfig_url().await?;
    let tokens = Tokens::new(&ipconfig)?;
    let group = Some((ECHO, GROUP));
    let sinks = Sinks::connect(&loaded.at(CLIENTS).to_string(), &tokens, "load", members, group).await?;
    let others = Sinks::connect(&idle.at(CLIENTS).to_string(), &tokens, "idle", others, None).await?;
    let page = cluster.scores().await?;
    let said = page.read().await?.source;
    let expected = match source {
        Source::Scrape => "scrape",
        Source::Prometheus => "prometheus",
    };
    ensure!(
        said == expected,
        "ipconfig's figures come from {said:?}, not {expected:?}"
    );
    let mut load = Load {
        pusher: cluster.pusher().await?,
        payload: vec![b'x'; PUSH / members],
    };
    settled(kubernetes, &page, &ipconfig, &loaded.name).await?;

    let watch = Watch::start(page, ipconfig, loaded.name.clone());
    sleep(QUIET).await;
    let (begun, before) = (watch.now(), sinks.bytes());
    load.push_for(LOADED).await?;
    let ended = watch.now();
    let rate = megabytes_per_second(sinks.bytes() - before, ended - begun);
    sleep(SETTLING).await;
    let (spike, before) = (watch.now(), sinks.bytes());
    load.push_for(Duration::from_secs(1)).await?;
    let spike_took = watch.now() - spike;
    sleep(AFTER_THE_SPIKE).await;
    let spiked = megabytes_per_second(sinks.bytes() - before, Duration::from_secs(1));
    let timeline = watch.stop().await?;
    sinks.whole()?;
    others.whole()?;

    report.figure("steady_megabytes_per_second", rate);
    report.figure("spike_megabytes", spiked);
    report.figure("spike_seconds", spike_took.as_secs_f64());
    // Without these the rest would say nothing: 0.98 stands for 15 to 25 MB/s, and a spike of less would be none.
    ensure!(
        (17.0..23.0).contains(&rate),
        "the load was {rate:.1} MB/s, not 20"
    );
    ensure!(spiked > 19.0, "the spike was {spiked:.1} MB, not 20");
    judge(report, &timeline, (begun, ended), spike);
    Ok(())
}

fn judge(report: &mut Report, timeline: &Timeline, (begun, ended): (Duration, Duration), spike: Duration) {
    report.figure("looks", timeline.looks());
    let before = timeline.between(begun.saturating_sub(QUIET), begun);
    report.exactly("not_first_before_the_load", count(before.not_first()), 0.0);
    report.exactly("score_before_the_load", before.lowest(), IDLE);

    let under = timeline.between(begun, ended);
    report.exactly("score_under_load", under.last_score(), UNDER_LOAD);
    let last = under.always_last_from().map(|at| (at - begun).as_secs_f64());
    report.exactly("put_last_under_load", f64::from(u8::from(last.is_some())), 1.0);
    let last = last.unwrap_or(f64::NAN);
    report.at_most("seconds_until_last", last, IN_TIME);
    report.always_at_most("seconds_until_last_at_all", last, IN_TIME + MUCH_LATER);

    let after = timeline.between(ended, spike);
    report.exactly("score_after_the_load", after.last_score(), IDLE);
    let back = after.always_first_from().map(|at| (at - ended).as_secs_f64());
    report.exactly("back_after_the_load", f64::from(u8::from(back.is_some())), 1.0);
    let back = back.unwrap_or(f64::NAN);
    report.at_most("seconds_until_back", back, IN_TIME);
    report.always_at_most("seconds_until_back_at_all", back, IN_TIME + MUCH_LATER);

    let spiked = timeline.between(spike, spike + AFTER_THE_SPIKE);
    report.figure("highest_mean_rate_in_the_spike", spiked.highest_rate());
    // The spike must have been seen, or nothing was resisted.
    report.exactly(
        "spike_unseen",
        f64::from(u8::from(spiked.highest_rate() < 2.0)),
        0.0,
    );
    report.exactly("lowest_score_in_the_spike", spiked.lowest(), IDLE);
    report.exactly("not_first_in_the_spike", count(spiked.not_first()), 0.0);
}

/// Waits until the connections of both gateways are in the order.
async fn settled(kubernetes: &Kubernetes, page: &ScoresPage, ipconfig: &str, first: &str) -> Result<()> {
    use crate::wait::Seen;
    kubernetes
        .until("the order is that of connections", LISTED, async || {
            let (scores, order) = (page.read().await?, listed(ipconfig).await?);
            let idle = scores.dynamic().values().all(|score| (score - IDLE).abs() < 1e-9);
            Ok(if idle && order.first().is_some_and(|name| name == first) {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("{order:?}, {scores:?}"))
            })
        })
        .await?;
    // The questions above, and those for a thousand tokens, count as clients for as long as the window; the scrapes after it show that.
    sleep(Duration::from_secs_f64(IN_TIME)).await;
    Ok(())
}

/// Pushes to the group.
struct Load {
    pusher: Pusher,
    payload: Vec<u8>,
}

impl Load {
    async fn push_for(&mut self, time: Duration) -> Result<()> {
        let mut ticks = interval(Duration::from_secs(1) / PUSHES_PER_SECOND);
        // What is late is made up for: the mean is what counts.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let pushes = time.as_secs() * u64::from(PUSHES_PER_SECOND);
        for _ in 0..pushes {
            ticks.tick().await;
            let (gateways, unsynced) = self.pusher.group(ECHO, GROUP, &self.payload).await?;
            ensure!(
                (gateways, unsynced) == (1, 0),
                "a push went to {gateways} gateways, {unsynced} of them not in sync"
            );
        }
        // The last one's time belongs to the load.
        ticks.tick().await;
        Ok(())
    }
}

/// Looks all the time.
struct Watch {
    begun: Instant,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Vec<Look>>>,
}

impl Watch {
    fn start(page: ScoresPage, ipconfig: String, name: String) -> Self {
        let (begun, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut ticks = interval(LOOK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut looks = Vec::new();
            for number in 0_usize.. {
                ticks.tick().await;
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let scores = page.read().await?;
                let order = if number % LOOKS_PER_QUESTION == 0 {
                    listed(&ipconfig).await?
                } else {
                    Vec::new()
                };
                looks.push(Look {
                    at: begun.elapsed(),
                    score: scores.dynamic().get(name.as_str()).copied(),
                    rate: scores.megabytes_per_second(&name),
                    place: order.iter().position(|listed| *listed == name),
                    places: order.len(),
                });
            }
            Ok(looks)
        });
        Self { begun, stop, task }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn stop(self) -> Result<Timeline> {
        self.stop.store(true, Ordering::Relaxed);
        let looks = self.task.await.context("the watch")?;
        Ok(Timeline::new(looks.context("a look at ipconfig")?))
    }
}
