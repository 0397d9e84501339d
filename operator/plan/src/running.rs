//! What running pods are told by their labels and annotations: their slot, their address, what they read, and whether they are to go
//! first.

use std::collections::BTreeMap;

use imaccess_operator_api::names::{
    CONFIGURATION_ANNOTATION, DELETION_COST_ANNOTATION, ENDPOINTS_ANNOTATION, Part, SLOT_LABEL,
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::canonical::hash;
use crate::cluster::{Cluster, Desired, annotation, is_terminating};
use crate::configuration;
use crate::endpoints;
use crate::observed::ChildId;
use crate::plan::{Kind, PodPatch};
use crate::secrets::{self, Secrets};
use crate::slots::Slots;

/// Below the cost of any pod that is to stay.
const CONDEMNED: i64 = -1_000;

/// The gateway pods as they should be labelled, and how many replicas their Deployment may have now.
#[derive(Debug)]
pub(crate) struct Gateways<'a> {
    pods: Vec<&'a Pod>,
    slots: Slots,
    /// UIDs of those that go with the next reduction.
    condemned: Vec<String>,
}

impl<'a> Gateways<'a> {
    pub(crate) fn of(cluster: &Cluster<'a>) -> Self {
        let pods = cluster.pods(Part::Gateway);
        let slots = Slots::assign(&pods);
        let running: Vec<&Pod> = pods.iter().copied().filter(|pod| !is_terminating(pod)).collect();
        let condemned = condemned(cluster, &running, &slots);
        Self {
            pods,
            slots,
            condemned,
        }
    }

    /// How many slots have a Service.
    pub(crate) fn services(&self, cluster: &Cluster<'_>) -> u32 {
        let gateway = &cluster.spec.gateway;
        self.slots.services(gateway.exposure.kind, gateway.replicas)
    }

    /// Replicas of the Deployment: those wanted; but it isn't reduced before the pods that should go are marked.
    pub(crate) fn replicas(&self, cluster: &Cluster<'_>) -> i32 {
        let wanted = cluster.spec.gateway.replicas;
        let unmarked = |pod: &&Pod| {
            self.is_condemned(pod) && annotation(pod, DELETION_COST_ANNOTATION) != self.cost(pod).as_deref()
        };
        if !self.pods.iter().any(unmarked) {
            return wanted;
        }
        live_replicas(cluster).map_or(wanted, |live| live.max(wanted))
    }

    /// Running pods for which clients wait in vain: nobody knows their address.
    pub(crate) fn without_address(&self, cluster: &Cluster<'_>) -> bool {
        endpoints::are_said(cluster.spec.gateway.exposure.kind)
            && self
                .pods
                .iter()
                .filter(|pod| !is_terminating(pod))
                .any(|pod| self.endpoints(cluster, pod).is_none())
    }

    fn endpoints(&self, cluster: &Cluster<'_>, pod: &Pod) -> Option<String> {
        endpoints::of(cluster, pod, self.slots.of(pod)?)
    }

    fn is_condemned(&self, pod: &Pod) -> bool {
        pod.metadata
            .uid
            .as_ref()
            .is_some_and(|uid| self.condemned.contains(uid))
    }

    /// The higher the slot, the sooner a pod goes: slots stay dense.
    fn cost(&self, pod: &Pod) -> Option<String> {
        let slot = i64::from(self.slots.of(pod)?);
        let base = if self.is_condemned(pod) { CONDEMNED } else { 0 };
        Some((base - slot).to_string())
    }
}

/// The pods with the highest slots, as many as there will be too many. What is marked stays so until it has gone: the Deployment is
/// reduced in one moment, and its pods are told to end in another.
fn condemned(cluster: &Cluster<'_>, running: &[&Pod], slots: &Slots) -> Vec<String> {
    let wanted = usize::try_from(cluster.spec.gateway.replicas).unwrap_or(0);
    let surplus = running.len().saturating_sub(wanted);
    let live = live_replicas(cluster).and_then(|live| usize::try_from(live).ok());
    // During a rollout there are more pods than wanted, and none of them is condemned for that.
    let reduction = live.map_or(0, |live| live.saturating_sub(wanted));
    let marked = running.iter().filter(|pod| {
        let cost = annotation(pod, DELETION_COST_ANNOTATION).and_then(|cost| cost.parse::<i64>().ok());
        let steady = slots.of(pod).map_or(0, |slot| -i64::from(slot));
        cost.is_some_and(|cost| cost <= CONDEMNED && cost < steady)
    });
    let number = surplus.min(reduction.max(marked.count()));
    let mut by_slot: Vec<&&Pod> = running.iter().collect();
    by_slot.sort_by_key(|pod| std::cmp::Reverse(slots.of(pod)));
    let uid = |pod: &&&Pod| pod.metadata.uid.clone().unwrap_or_default();
    by_slot.iter().take(number).map(uid).collect()
}

fn live_replicas(cluster: &Cluster<'_>) -> Option<i32> {
    cluster.deployment(Part::Gateway)?.spec?.replicas
}

/// Patches for all pods whose labels or annotations aren't as they should be. Those that are ending are left alone.
pub(crate) fn patches(
    cluster: &Cluster<'_>,
    gateways: &Gateways<'_>,
    desired: &[Desired],
    secrets: &Secrets,
) -> Vec<PodPatch> {
    let mut all = Vec::new();
    for part in Part::ALL {
        let configuration = configuration_hash(cluster, part, desired, secrets);
        for pod in cluster.pods(part).into_iter().filter(|pod| !is_terminating(pod)) {
            let mut labels = BTreeMap::new();
            let mut annotations =
                BTreeMap::from([(CONFIGURATION_ANNOTATION.to_owned(), configuration.clone())]);
            if part == Part::Gateway {
                let slot = gateways.slots.of(pod).map(|slot| slot.to_string());
                labels.extend(slot.map(|slot| (SLOT_LABEL.to_owned(), slot)));
                let endpoints = gateways.endpoints(cluster, pod);
                annotations.extend(endpoints.map(|text| (ENDPOINTS_ANNOTATION.to_owned(), text)));
                let cost = gateways.cost(pod);
                annotations.extend(cost.map(|cost| (DELETION_COST_ANNOTATION.to_owned(), cost)));
            }
            all.extend(patch(pod, labels, annotations));
        }
    }
    all
}

/// Labels and annotations of pods that are the operator's: one that isn't wanted any more must go.
const OUR_LABELS: [&str; 1] = [SLOT_LABEL];
const OUR_ANNOTATIONS: [&str; 3] = [
    CONFIGURATION_ANNOTATION,
    DELETION_COST_ANNOTATION,
    ENDPOINTS_ANNOTATION,
];

fn patch(
    pod: &Pod,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) -> Option<PodPatch> {
    let metadata = &pod.metadata;
    let as_wanted =
        |ours: &[&str], wanted: &BTreeMap<String, String>, live: &Option<BTreeMap<String, String>>| {
            let live = |key: &str| live.as_ref().and_then(|live| live.get(key));
            ours.iter().all(|key| live(key) == wanted.get(*key))
        };
    if as_wanted(&OUR_LABELS, &labels, &metadata.labels)
        && as_wanted(&OUR_ANNOTATIONS, &annotations, &metadata.annotations)
    {
        return None;
    }
    Some(PodPatch {
        name: metadata.name.clone()?,
        uid: metadata.uid.clone()?,
        resource_version: metadata.resource_version.clone()?,
        labels,
        annotations,
    })
}

/// A hash of all that running pods of a part read again.
fn configuration_hash(cluster: &Cluster<'_>, part: Part, desired: &[Desired], secrets: &Secrets) -> String {
    let files: BTreeMap<String, &Value> = configuration::mounted(cluster, part)
        .into_iter()
        .filter_map(|name| {
            let is_it = |id: &ChildId| id.kind == Kind::ConfigMap && id.name == name;
            let map = desired.iter().find(|desired| is_it(&desired.id))?;
            Some((name, &map.object["data"]))
        })
        .collect();
    let hashes: BTreeMap<String, Option<&String>> = secrets::mounted(cluster, part, secrets)
        .into_iter()
        .map(|name| {
            let hash = cluster.secret(&name).map(|facts| &facts.hash);
            (name, hash)
        })
        .collect();
    hash(&json!([files, hashes]))
}
