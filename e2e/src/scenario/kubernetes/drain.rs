//! A gateway goes, first by scale-in, then by a drain of its node: its clients are moved, at a pace, and nobody notices more.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::business::BusinessSpec;
use tokio::time::sleep;

use super::super::verdict::count;
use super::departure::{self, Rules};
use crate::events::offline;
use crate::fleet::{Fleet, Plan};
use crate::kubernetes::echo::business;
use crate::kubernetes::recorder::Recorder;
use crate::kubernetes::release::kubectl;
use crate::kubernetes::{Kubernetes, small_spec, with_kubernetes};
use crate::report::{Report, Size};
use crate::wait::Seen;

/// The business's number.
pub(super) const ECHO: u32 = 1;
/// For gateways to serve and be listed: a pod's start, and two scrapes.
pub(super) const LISTED: Duration = Duration::from_secs(90);
/// For the last event to be written: state hands them over within milliseconds, and again every second.
const TOLD: Duration = Duration::from_secs(30);
/// Sessions without a connection are over after this.
const RESUME: Duration = Duration::from_secs(5);
/// How long `kubectl drain` may take for everything on a node.
const DRAINED: &str = "--timeout=200s";

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-drain", async |kubernetes| {
        drain(kubernetes, size, seed).await
    })
    .await
}

/// The echo business at this endpoint, which hears of devices and whose groups clients join.
pub(super) fn echo(endpoint: &str) -> BusinessSpec {
    BusinessSpec {
        events: true,
        client_groups: true,
        ..business(1, "echo", endpoint)
    }
}

async fn drain(kubernetes: &Kubernetes, size: Size, seed: u64) -> Result<Report> {
    let rules = Rules {
        rate: size.pick(20, 100),
        propagation: Duration::from_secs(3),
        deadline: Duration::from_secs(90),
        guests: size.pick(2, 10),
    };
    let namespace = kubernetes.namespace("").await?;
    kubernetes.operator(&namespace).await?;
    let endpoint = namespace.business_service("echo").await?;
    let mut spec = small_spec(kubernetes.environment.image()?);
    spec.state.replicas = 2;
    spec.ipconfig.replicas = 2;
    spec.gateway.drain.rate_per_second = rules.rate;
    spec.gateway.drain.propagation_seconds = 3;
    spec.gateway.drain.deadline_seconds = 90;
    spec.state.sidecar.resume_window_seconds = 5;
    spec.businesses = vec![echo(&endpoint)];
    let cluster = namespace.cluster("demo", spec).await?;
    cluster.ready(kubernetes).await?;
    let gateways = cluster.gateways_listed(kubernetes, 2, LISTED).await?;
    let (stays, goes) = (gateways[0].clone(), gateways[1].clone());
    ensure!(
        stays.node != goes.node,
        "both gateways are on {}: this scenario needs two nodes that take pods",
        stays.node
    );
    // The node of the gateway that goes by scale-in is the one that isn't drained afterwards.
    let recorder = namespace.recorder(kubernetes, "echo", &goes.node).await?;

    let fleet = Fleet::connect(
        &cluster.ipconfig_url().await?,
        Plan {
            seed,
            prefix: "device",
            devices: size.pick(60, 2_150),
            business: ECHO,
            every: Some(size.pick(Duration::from_secs(1), Duration::from_secs(5))),
            group: None,
            only: None,
        },
    )
    .await?;
    let mut report = Report::new("k8s-drain", size, seed);
    let mut leavers = Leavers::new(seed, size.pick(3, 10));

    leavers.leave(&fleet).await;
    let name = "scale_in";
    let seen = departure::watch(
        kubernetes,
        &cluster,
        &fleet,
        rules,
        (&goes, &stays),
        name,
        async || scale(kubernetes, &namespace.name, 1).await,
    )
    .await?;
    seen.judge(&mut report, name, &fleet, rules);
    report.at_least("scale_in_clients", count(seen.clients as u64), 1_000.0);
    leavers.leave(&fleet).await;

    scale(kubernetes, &namespace.name, 2).await?;
    let gateways = cluster.gateways_listed(kubernetes, 2, LISTED).await?;
    let new = gateways.iter().find(|gateway| gateway.uid != stays.uid);
    let new = new.context("there are two gateways")?.clone();
    ensure!(
        new.node != stays.node,
        "the new gateway is on the node of the old one"
    );
    cluster.ready(kubernetes).await?;
    let name = "node_drain";
    let seen = departure::watch(
        kubernetes,
        &cluster,
        &fleet,
        rules,
        (&stays, &new),
        name,
        async || drain_node(kubernetes, &stays.node).await,
    )
    .await;
    // Whatever came of it, the node takes pods again.
    kubectl(&kubernetes.environment, &["uncordon", &stays.node]).await?;
    let seen = seen?;
    seen.judge(&mut report, name, &fleet, rules);
    report.at_least("node_drain_clients", count(seen.clients as u64), 1_000.0);
    leavers.leave(&fleet).await;

    // An offline event of a session that nobody goes on with would come by now.
    sleep(RESUME + Duration::from_secs(2)).await;
    leavers.judge(kubernetes, &recorder, &fleet, &mut report).await?;
    let traffic = fleet.traffic();
    report.figure("requests", traffic.asked);
    report.figure("longest_answer_ms", traffic.longest.as_secs_f64() * 1e3);
    report.figure("slow_answers_asked_at_and_took", format!("{:.1?}", traffic.slow));
    report.figure("failed_requests_first", traffic.failed.join("; "));
    report.exactly("requests_that_failed", count(traffic.failures), 0.0);
    fleet.close().await;
    cluster.ready(kubernetes).await.context("after the drain")?;
    Ok(report)
}

/// As a user does it.
async fn scale(kubernetes: &Kubernetes, namespace: &str, replicas: u32) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let words = ["scale", "imac/demo", &replicas, "--namespace", namespace];
    kubectl(&kubernetes.environment, &words).await.map(drop)
}

async fn drain_node(kubernetes: &Kubernetes, node: &str) -> Result<()> {
    let words = [
        "drain",
        node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        DRAINED,
    ];
    kubectl(&kubernetes.environment, &words).await.map(drop)
}

/// Devices that really leave, a few at a time.
struct Leavers {
    random: fastrand::Rng,
    at_a_time: usize,
    gone: BTreeSet<String>,
}

impl Leavers {
    fn new(seed: u64, at_a_time: usize) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed ^ 0x1EAF),
            at_a_time,
            gone: BTreeSet::new(),
        }
    }

    async fn leave(&mut self, fleet: &Fleet) {
        let devices = self.random.choose_multiple(fleet.present(), self.at_a_time);
        fleet.leave(&devices).await;
        self.gone.extend(devices);
    }

    /// Each leaver was told as offline once, and nobody else at all.
    async fn judge(
        &self,
        kubernetes: &Kubernetes,
        recorder: &Recorder,
        fleet: &Fleet,
        report: &mut Report,
    ) -> Result<()> {
        let events = kubernetes
            .until("every leaver is told as offline", TOLD, async || {
                let events = recorder.events().await?;
                let told = offline(&events);
                let missing: Vec<_> = self
                    .gone
                    .iter()
                    .filter(|device| !told.contains_key(device.as_str()))
                    .cloned()
                    .collect();
                Ok(if missing.is_empty() {
                    Seen::Yes(events)
                } else {
                    Seen::NotYet(missing)
                })
            })
            .await?;
        let told = offline(&events);
        let once = self
            .gone
            .iter()
            .filter(|device| told.get(device.as_str()) == Some(&1));
        report.exactly(
            "leavers_told_as_offline_once",
            count(once.count() as u64),
            count(self.gone.len() as u64),
        );
        let present: BTreeSet<_> = fleet.present().into_iter().collect();
        let wrong = told.keys().filter(|device| present.contains(**device));
        report.exactly("moved_devices_told_as_offline", count(wrong.count() as u64), 0.0);
        let online = events.iter().filter(|event| event.kind == "online");
        let online: BTreeSet<_> = online.map(|event| event.device.as_str()).collect();
        let heard = present.iter().filter(|device| online.contains(device.as_str()));
        // Or the other two would hold because nothing was recorded at all.
        report.exactly(
            "devices_told_as_online",
            count(heard.count() as u64),
            count(present.len() as u64),
        );
        Ok(())
    }
}
