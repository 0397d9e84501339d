//! A node is lost as by a power cut: its devices connect elsewhere, and those that can't are offline when the architecture says,
//! not before, and not never.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_proto::v1::Outcome;
use tokio::time::{Instant, sleep};

use super::super::verdict::count;
use super::departure::{quantile, settled};
use super::drain::{ECHO, LISTED, echo};
use crate::fleet::{Fleet, Plan};
use crate::kubernetes::gateways::Gateway;
use crate::kubernetes::pushing::Pusher;
use crate::kubernetes::{Installation, Kubernetes, small_spec, with_kubernetes};
use crate::report::{Report, Size};

/// Between a client's pings: one that gets no pong for two and a half of them has lost its connection.
const PING: Duration = Duration::from_secs(5);
/// How long the sidecars' and the gateway's dead-man timers may keep a connection, and a little more.
const DEAD: Duration = Duration::from_secs(100);
/// For how long a session may be resumed elsewhere.
const RESUME: Duration = Duration::from_secs(30);
/// What routing takes to notice that a stream is silent, and the steps of its clocks.
const NOTICE: Duration = Duration::from_secs(15);
/// Lost connections are noticed, the dead endpoint is tried and the next one, with a wait before each.
const BACK: Duration = Duration::from_secs(60);
/// Between two pushes to the same devices.
const POLL: Duration = Duration::from_millis(500);
/// A node's start: kubelet, its pods, their readiness.
const RESTARTED: Duration = Duration::from_secs(240);
/// Devices that push outcomes are followed of.
const FOLLOWED: usize = 20;

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-lost-node", async |kubernetes| {
        lose(kubernetes, size, seed).await
    })
    .await
}

async fn lose(kubernetes: &Kubernetes, size: Size, seed: u64) -> Result<Report> {
    let namespace = kubernetes.namespace("").await?;
    kubernetes.operator(&namespace).await?;
    let endpoint = namespace.business_service("echo").await?;
    let mut spec = small_spec(kubernetes.environment.image()?);
    spec.state.replicas = 2;
    spec.ipconfig.replicas = 2;
    spec.state.sidecar.ping_interval_seconds = 5;
    spec.state.sidecar.resume_window_seconds = 30;
    spec.businesses = vec![echo(&endpoint)];
    let cluster = namespace.cluster("demo", spec).await?;
    cluster.ready(kubernetes).await?;
    let gateways = cluster.gateways_listed(kubernetes, 2, LISTED).await?;
    let (stays, lost) = (&gateways[0], &gateways[1]);
    ensure!(
        stays.node != lost.node,
        "both gateways are on {}: this scenario needs two nodes that take pods",
        stays.node
    );
    namespace.recorder(kubernetes, "echo", &stays.node).await?;
    let ipconfig = cluster.ipconfig_url().await?;
    let plan = Plan {
        seed,
        prefix: "device",
        devices: size.pick(60, 1_000),
        business: ECHO,
        every: None,
        group: None,
        only: None,
    };
    // These are sent by nobody, and know no other gateway.
    let stranded = Plan {
        prefix: "stranded",
        devices: FOLLOWED,
        only: Some(lost.endpoint()),
        ..plan.clone()
    };
    let stranded = Fleet::connect(&ipconfig, stranded).await?;
    let fleet = Fleet::connect(&ipconfig, plan).await?;
    let mut report = Report::new("k8s-lost-node", size, seed);
    let all = || fleet.present().len() + stranded.present().len();
    let devices = settled(all, lost, stays).await? - stranded.present().len();
    report.figure("devices_of_the_lost_gateway", devices);

    let (since, begun) = (fleet.now(), Instant::now());
    kubernetes.stop_node(&lost.node).await?;
    let seen = watch(&cluster, &fleet, &stranded, begun, seed).await;
    let back = match &seen {
        Ok(_) => back_online(&fleet, since, devices, &mut report),
        Err(_) => Ok(()),
    };
    stranded.close().await;
    // Whatever came of it, the node is there for the next scenario.
    kubernetes.start_node(&lost.node).await?;
    seen?.judge(&mut report);
    back?;
    cluster
        .ready_within(kubernetes, RESTARTED)
        .await
        .context("after the node came back")?;
    after(kubernetes, &cluster, &fleet, lost, &mut report).await?;
    fleet.close().await;
    Ok(report)
}

/// Every device of the lost gateway lost one connection, went on with its session elsewhere, and the others noticed nothing.
fn back_online(fleet: &Fleet, since: Duration, devices: usize, report: &mut Report) -> Result<()> {
    let courses = fleet.courses(since);
    let losses = || courses.iter().flat_map(|(_, course)| &course.losses);
    let lost = courses.iter().filter(|(_, course)| !course.losses.is_empty());
    report.exactly(
        "devices_that_lost_a_connection",
        count(lost.count() as u64),
        count(devices as u64),
    );
    let twice = courses.iter().filter(|(_, course)| course.losses.len() > 1);
    report.figure("devices_that_lost_more_than_one", twice.count());
    let away = losses().filter(|loss| loss.online.is_none()).count();
    report.exactly("devices_not_back", count(away as u64), 0.0);
    let strangers = losses()
        .filter(|loss| loss.online.is_some() && !loss.resumed)
        .count();
    report.exactly("devices_back_without_their_session", count(strangers as u64), 0.0);
    let closed = courses
        .iter()
        .filter(|(_, course)| course.closed.is_some())
        .count();
    report.exactly("devices_closed", count(closed as u64), 0.0);
    let since_loss = |at: Duration| (at - since).as_secs_f64();
    let mut noticed: Vec<f64> = losses().map(|loss| since_loss(loss.at)).collect();
    let mut back: Vec<f64> = losses().filter_map(|loss| loss.online.map(since_loss)).collect();
    noticed.sort_by(f64::total_cmp);
    back.sort_by(f64::total_cmp);
    ensure!(
        !noticed.is_empty(),
        "no device lost a connection: the node isn't lost"
    );
    for (what, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        report.figure(
            &format!("seconds_until_noticed_{what}"),
            quantile(&noticed, share),
        );
        report.figure(&format!("seconds_until_back_{what}"), quantile(&back, share));
    }
    report.at_most("seconds_until_back_max", quantile(&back, 1.0), BACK.as_secs_f64());
    // By silence alone: two and a half pings, the first of which may just have been answered.
    report.at_most(
        "seconds_until_noticed_max",
        quantile(&noticed, 1.0),
        PING.as_secs_f64() * 4.0,
    );
    Ok(())
}

/// What pushes to devices were answered while the node was away.
#[derive(Default)]
struct Answers {
    /// Of stranded devices, in seconds since the loss: the first and the last time that each outcome was given.
    first: BTreeMap<&'static str, f64>,
    last: BTreeMap<&'static str, f64>,
    /// By when each stranded device was offline.
    offline: BTreeMap<String, f64>,
    /// Stranded devices that were something else after they were offline.
    returned: u64,
    /// Pushes to stranded devices that were said to be written after the connections can only have been dead.
    written_into_nothing: u64,
    /// Outcomes of devices that connected elsewhere.
    others: BTreeMap<&'static str, u64>,
    /// The last outcomes of those.
    others_last: BTreeMap<String, Outcome>,
    /// Answers in all, and calls that weren't answered.
    answers: u64,
    unanswered: u64,
}

/// Pushes to the stranded and to some of the others, until the stranded have been offline for a while.
async fn watch(
    cluster: &Installation,
    fleet: &Fleet,
    stranded: &Fleet,
    begun: Instant,
    seed: u64,
) -> Result<Answers> {
    let mut seen = Answers::default();
    let stranded = stranded.present();
    let others = fastrand::Rng::with_seed(seed).choose_multiple(fleet.present(), FOLLOWED);
    let both: Vec<_> = stranded.iter().chain(&others).cloned().collect();
    let end = begun + DEAD + RESUME + NOTICE * 3;
    let mut pusher: Option<Pusher> = None;
    while Instant::now() < end && seen.offline.len() < stranded.len() {
        sleep(POLL).await;
        // The replica behind the Service may be the one that was lost with the node.
        let mut caller = match pusher.take() {
            Some(caller) => caller,
            None => match cluster.pusher().await {
                Ok(caller) => caller,
                Err(_) => {
                    seen.unanswered += 1;
                    continue;
                }
            },
        };
        let at = begun.elapsed().as_secs_f64();
        match caller.devices(ECHO, &both, b"are you there?").await {
            Ok(outcomes) => {
                seen.take(&outcomes, &stranded, at);
                pusher = Some(caller);
            }
            Err(_) => seen.unanswered += 1,
        }
    }
    fleet.all_online(BACK).await?;
    let mut caller = cluster.pusher().await?;
    seen.others_last = caller.devices(ECHO, &others, b"still there?").await?;
    Ok(seen)
}

impl Answers {
    fn take(&mut self, outcomes: &BTreeMap<String, Outcome>, stranded: &[String], at: f64) {
        self.answers += 1;
        for (device, outcome) in outcomes {
            let word = outcome.as_str_name();
            if !stranded.contains(device) {
                *self.others.entry(word).or_default() += 1;
                continue;
            }
            self.first.entry(word).or_insert(at);
            self.last.insert(word, at);
            match outcome {
                Outcome::Offline => {
                    self.offline.entry(device.clone()).or_insert(at);
                }
                _ if self.offline.contains_key(device) => self.returned += 1,
                Outcome::Written | Outcome::Acknowledged if at > NOTICE.as_secs_f64() => {
                    self.written_into_nothing += 1;
                }
                _ => {}
            }
        }
    }

    fn judge(&self, report: &mut Report) {
        report.figure("stranded_first_by_outcome_seconds", format!("{:.1?}", self.first));
        report.figure("stranded_last_by_outcome_seconds", format!("{:.1?}", self.last));
        report.figure("outcomes_of_others", format!("{:?}", self.others));
        report.figure("pushes_answered", self.answers);
        report.figure("pushes_not_answered", self.unanswered);
        let times = || self.offline.values().copied();
        let (first, last) = (times().fold(f64::INFINITY, f64::min), times().fold(0.0, f64::max));
        report.figure("seconds_until_the_first_was_offline", first);
        report.figure("seconds_until_all_were_offline", last);
        report.exactly(
            "stranded_offline",
            count(self.offline.len() as u64),
            count(FOLLOWED as u64),
        );
        let least = (DEAD + RESUME).as_secs_f64();
        report.exactly("offline_before_the_time", f64::from(u8::from(first < least)), 0.0);
        report.always_at_most(
            "seconds_until_all_were_offline",
            last,
            (DEAD + RESUME + NOTICE).as_secs_f64(),
        );
        report.exactly("stranded_back_from_offline", count(self.returned), 0.0);
        report.exactly("stranded_written_to", count(self.written_into_nothing), 0.0);
        let offline = self.others.get(Outcome::Offline.as_str_name()).copied();
        report.exactly("others_answered_offline", count(offline.unwrap_or_default()), 0.0);
        let written = self
            .others_last
            .values()
            .filter(|outcome| **outcome == Outcome::Written);
        report.exactly(
            "others_written_in_the_end",
            count(written.count() as u64),
            count(FOLLOWED as u64),
        );
    }
}

/// The node is back: nobody is moved or lost by that, and a device that comes now may be on either gateway.
async fn after(
    kubernetes: &Kubernetes,
    cluster: &Installation,
    fleet: &Fleet,
    lost: &Gateway,
    report: &mut Report,
) -> Result<()> {
    let gateways = cluster.gateways_listed(kubernetes, 2, RESTARTED).await?;
    report.figure(
        "same_pod_again",
        gateways.iter().any(|gateway| gateway.uid == lost.uid),
    );
    let (online, present) = fleet.online();
    report.exactly("online_in_the_end", count(online as u64), count(present as u64));
    Ok(())
}
