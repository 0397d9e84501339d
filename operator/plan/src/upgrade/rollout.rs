//! The gateways' Deployment with its ReplicaSets: which of them is the current one, and whether pods of two are there.

use imaccess_operator_api::names::{IN_PLACE_ANNOTATION, Part, SETTLING_ANNOTATION};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::step::ObjectRef;
use crate::cluster::{Cluster, is_terminating};
use crate::health;
use crate::plan::Kind;

/// Kubernetes' own, on Deployments and ReplicaSets.
const REVISION_ANNOTATION: &str = "deployment.kubernetes.io/revision";

/// What there is.
pub(crate) struct Rollout<'a> {
    pub(crate) deployment: &'a Value,
    /// The Deployment's ReplicaSets, in no order.
    pub(crate) replica_sets: Vec<&'a Value>,
    current: Option<&'a Value>,
}

impl<'a> Rollout<'a> {
    /// Nothing, while there is no Deployment.
    pub(crate) fn of(cluster: &Cluster<'a>) -> Option<Rollout<'a>> {
        let deployment = cluster.live(Kind::Deployment, &cluster.names.part(Part::Gateway))?;
        let replica_sets: Vec<&Value> = cluster
            .observed
            .replica_sets
            .iter()
            .filter(|replica_set| is_owned(replica_set, &deployment["metadata"]["uid"]))
            .collect();
        let revision = &deployment["metadata"]["annotations"][REVISION_ANNOTATION];
        let is_current = |one: &&&Value| {
            revision.is_string() && one["metadata"]["annotations"][REVISION_ANNOTATION] == *revision
        };
        let current = replica_sets.iter().find(is_current).copied();
        Some(Rollout {
            deployment,
            replica_sets,
            current,
        })
    }

    /// Whether the Deployment controller has seen the Deployment as it is, and no pods but the current ReplicaSet's are wanted.
    pub(crate) fn is_at_rest(&self) -> bool {
        let generation = |value: &Value| value.as_i64().unwrap_or(0);
        let seen = generation(&self.deployment["status"]["observedGeneration"])
            >= generation(&self.deployment["metadata"]["generation"]);
        seen && self.current.is_some() && self.others().all(|other| !has_pods(other))
    }

    fn others(&self) -> impl Iterator<Item = &&'a Value> {
        let current = self.current.map(|current| &current["metadata"]["uid"]);
        self.replica_sets
            .iter()
            .filter(move |other| Some(&other["metadata"]["uid"]) != current)
    }

    /// The ReplicaSet of the Deployment's revision.
    pub(crate) fn current(&self) -> Option<&'a Value> {
        self.current
    }

    /// The current ReplicaSet's pods that haven't been told to end, oldest first.
    pub(crate) fn pods(&self, cluster: &Cluster<'a>) -> Vec<&'a Pod> {
        let Some(current) = self.current else {
            return Vec::new();
        };
        let uid = current["metadata"]["uid"].as_str().unwrap_or_default();
        let belongs = |pod: &&Pod| {
            let mut owners = pod.metadata.owner_references.iter().flatten();
            owners.any(|owner| owner.uid == uid) && !is_terminating(pod)
        };
        cluster.pods(Part::Gateway).into_iter().filter(belongs).collect()
    }

    /// Whether it won't come to an end by itself: the new pods don't come up.
    pub(crate) fn is_stuck(&self, cluster: &Cluster<'a>) -> bool {
        let conditions = self.deployment["status"]["conditions"].as_array();
        let late = conditions.into_iter().flatten().any(|condition| {
            condition["type"] == json!("Progressing") && condition["status"] == json!("False")
        });
        let pods = self.pods(cluster);
        late || pods
            .iter()
            .any(|pod| health::broken(cluster, Part::Gateway, pod).is_some())
    }

    /// The change that the operator has paused the Deployment for.
    pub(crate) fn settling(&self) -> Option<&'a str> {
        self.deployment["metadata"]["annotations"][SETTLING_ANNOTATION].as_str()
    }

    /// Whether somebody else has paused it.
    pub(crate) fn is_paused_by_hand(&self) -> bool {
        self.deployment["spec"]["paused"] == json!(true) && self.settling().is_none()
    }
}

/// The change in place that an object's pod template has.
pub(crate) fn in_place(object: &Value) -> Option<&str> {
    in_place_of_template(&object["spec"]["template"])
}

/// The change in place that a pod template has.
pub(crate) fn in_place_of_template(template: &Value) -> Option<&str> {
    template["metadata"]["annotations"][IN_PLACE_ANNOTATION].as_str()
}

/// As it was read.
pub(crate) fn reference(object: &Value) -> ObjectRef {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    ObjectRef {
        name: text("name"),
        resource_version: text("resourceVersion"),
    }
}

fn is_owned(object: &Value, owner: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array();
    owners
        .into_iter()
        .flatten()
        .any(|reference| reference["uid"] == *owner)
}

fn has_pods(replica_set: &Value) -> bool {
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    number(&replica_set["spec"]["replicas"]) > 0 || number(&replica_set["status"]["replicas"]) > 0
}
