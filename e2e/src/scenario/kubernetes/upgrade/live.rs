//! A cluster with two gateways under a load that notices everything, and some clients that really leave.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::ImAccessClusterSpec;
use serde_json::{Value, json};

use super::super::drain::{ECHO, LISTED, echo};
use super::super::stage::DEMO;
use crate::events::{Event, offline};
use crate::kubernetes::containers::{GatewayPod, Which};
use crate::kubernetes::gateways::Gateway;
use crate::kubernetes::operator::Operator;
use crate::kubernetes::recorder::Recorder;
use crate::kubernetes::{Installation, Kubernetes, Namespace, small_spec};
use crate::wait::Seen;
use crate::witness::{Load, Testimony, Witness};

/// For the last event to be written.
const TOLD: Duration = Duration::from_secs(60);
/// For both containers of every pod to be together again.
const WHOLE: Duration = Duration::from_secs(90);

/// The cluster, before there is a load.
pub(super) struct Scene {
    pub(super) namespace: Namespace,
    pub(super) operator: Operator,
    pub(super) cluster: Installation,
    recorder: Recorder,
}

/// The cluster under load.
pub(super) struct Live {
    pub(super) scene: Scene,
    pub(super) witness: Witness,
    /// In the order in which the witness numbers them.
    pub(super) gateways: Vec<Gateway>,
    /// Numbers of the plain clients that have left.
    left: Vec<u32>,
}

/// All that was seen in the end.
pub(super) struct Ended {
    pub(super) testimony: Testimony,
    pub(super) events: Vec<Event>,
    /// Devices that never left.
    pub(super) present: Vec<String>,
    /// Devices that did.
    pub(super) left: Vec<String>,
    /// Of those that never left, how many were online at the end.
    pub(super) online: usize,
}

impl Scene {
    /// Two gateways, and two of each other part, so that replacing one of those is no gap.
    pub(super) async fn set(
        kubernetes: &Kubernetes,
        change: impl FnOnce(&mut ImAccessClusterSpec),
    ) -> Result<Self> {
        let namespace = kubernetes.namespace("").await?;
        let release = kubernetes.operator(&namespace).await?;
        let endpoint = namespace.business_service("echo").await?;
        let node = kubernetes.workers().await?;
        let node = node.first().context("there is no node for the business")?;
        let recorder = namespace.recorder(kubernetes, "echo", node).await?;
        let mut spec = small_spec(kubernetes.environment.image()?);
        spec.state.replicas = 2;
        spec.ipconfig.replicas = 2;
        spec.businesses = vec![echo(&endpoint)];
        change(&mut spec);
        let cluster = namespace.cluster(DEMO, spec).await?;
        cluster.ready(kubernetes).await?;
        Ok(Self {
            operator: release.operator(kubernetes),
            namespace,
            cluster,
            recorder,
        })
    }

    /// Puts it under load, the connections of plain clients split evenly.
    pub(super) async fn under(self, kubernetes: &Kubernetes, load: Load) -> Result<Live> {
        let count = self.cluster.get().await?.spec.gateway.replicas;
        let count = usize::try_from(count)?;
        let gateways = self.cluster.gateways_listed(kubernetes, count, LISTED).await?;
        whole(kubernetes, &self.cluster).await?;
        let place = self.cluster.place(ECHO, &gateways).await?;
        Ok(Live {
            witness: Witness::begin(place, load).await?,
            scene: self,
            gateways,
            left: Vec::new(),
        })
    }
}

impl Live {
    pub(super) fn cluster(&self) -> &Installation {
        &self.scene.cluster
    }

    /// The next clients, so many, say goodbye.
    pub(super) fn leave(&mut self, count: u32) {
        let next = u32::try_from(self.left.len()).unwrap_or(u32::MAX);
        for number in next..next.saturating_add(count) {
            self.witness.leave(number);
            self.left.push(number);
        }
    }

    /// By its place in the witness's list, the gateway of a pod.
    pub(super) fn number_of(&self, pod: &GatewayPod) -> Option<usize> {
        self.gateways.iter().position(|gateway| gateway.uid == pod.uid)
    }

    /// Waits until so many more requests of plain clients were answered well.
    pub(super) async fn answers(&self, kubernetes: &Kubernetes, more: u64) -> Result<()> {
        let answered = || {
            let seen = self.witness.so_far();
            seen.plain.answers.get("ok").copied().unwrap_or_default()
        };
        let before = answered();
        kubernetes
            .until("requests are answered", WHOLE, async || {
                let now = answered() - before;
                Ok(if now >= more {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(now)
                })
            })
            .await
    }

    /// Ends the load, and waits until everybody who has left was told of.
    pub(super) async fn end(self, kubernetes: &Kubernetes) -> Result<Ended> {
        self.witness.quiet().await?;
        let left: Vec<String> = self.left.iter().map(|number| Witness::device(*number)).collect();
        let recorder = &self.scene.recorder;
        let events = kubernetes
            .until("every leaver is told as offline", TOLD, async || {
                let events = recorder.events().await?;
                let told = offline(&events);
                let missing: Vec<_> = left
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
        let (present, online) = (self.witness.devices(), self.witness.count_online());
        Ok(Ended {
            testimony: self.witness.stop().await?,
            events,
            present,
            left,
            online,
        })
    }
}

/// Waits until every gateway pod serves, its links are up, and its sockets are all held twice.
pub(super) async fn whole(kubernetes: &Kubernetes, cluster: &Installation) -> Result<Vec<GatewayPod>> {
    kubernetes
        .until("gateways and sidecars are together", WHOLE, async || {
            let pods = cluster.gateway_pods().await?;
            for pod in &pods {
                if !pod.serving {
                    return Ok(Seen::NotYet(format!("{} doesn't serve", pod.name)));
                }
                let page = match pod.page(Which::Gateway).await {
                    Ok(page) => page,
                    Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
                };
                if page.sum("imaccess_gateway_custody_complete", &[]) < 1.0 {
                    return Ok(Seen::NotYet(format!("{} isn't held", pod.name)));
                }
            }
            Ok(if pods.is_empty() {
                Seen::NotYet("no gateway".to_owned())
            } else {
                Seen::Yes(pods)
            })
        })
        .await
}

/// The pods before and after are the same: nothing was replaced but what is in them. Returns how many weren't.
pub(super) fn replaced(before: &[GatewayPod], after: &[GatewayPod]) -> u64 {
    let stays = |pod: &&GatewayPod| {
        let mut same = after.iter().filter(|now| now.uid == pod.uid && now.ip == pod.ip);
        same.next().is_none()
    };
    before.iter().filter(stays).count() as u64
}

/// A patch of the specification's images; what is left out stays.
pub(super) fn images(gateway: Option<&str>, state: Option<&str>) -> Value {
    let mut spec = json!({});
    if let Some(image) = gateway {
        spec["gateway"] = json!({"image": image});
    }
    if let Some(image) = state {
        spec["state"] = json!({"image": image});
    }
    json!({"spec": spec})
}

/// Checks that images can be brought to the nodes: without other images there is nothing to try.
pub(super) fn needs_images(kubernetes: &Kubernetes) -> Result<()> {
    ensure!(
        kubernetes.loads_images(),
        "this scenario needs several images, and can't load any into a given cluster"
    );
    Ok(())
}
