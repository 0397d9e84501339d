//! `status`: what the operator observed. Nothing in it is a clock or a fast-changing number: those are metrics.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was observed at the last pass.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImAccessClusterStatus {
    /// The generation of the specification that was looked at last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready says whether clients are served; Reconciling and Stalled are there only while they are true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Gateway pods there are, for the scale subresource.
    #[serde(default)]
    pub replicas: i32,
    /// Selects the gateway pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The gateways.
    #[serde(default)]
    pub gateway: PartStatus,
    /// The routing layer.
    #[serde(default)]
    pub state: PartStatus,
    /// ipconfig.
    #[serde(default)]
    pub ipconfig: PartStatus,
    /// How the last change of the gateways' specification reached, or reaches, their pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    /// The upgrade in place that is under way, or has stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
    /// Where things are.
    #[serde(default)]
    pub addresses: Addresses,
    /// The operator that wrote this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_version: Option<String>,
}

/// One Deployment.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartStatus {
    /// Pods there are.
    #[serde(default)]
    pub replicas: i32,
    /// Pods that serve.
    #[serde(default)]
    pub ready: i32,
    /// Pods of the newest template.
    #[serde(default)]
    pub updated: i32,
    /// Pods that are draining.
    #[serde(default)]
    pub terminating: i32,
    /// The image that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// How a change reaches the gateways' pods, and why in that way.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The way.
    pub method: Method,
    /// Why, in a sentence.
    pub why: String,
}

/// The ways in which a change reaches running pods.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Running processes read it: no container ends.
    Reload,
    /// Containers are replaced in their pods, and no connection is closed.
    InPlace,
    /// New pods come, and clients are moved to them.
    Replacement,
}

/// An upgrade in place.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// How far it is.
    pub phase: UpgradePhase,
    /// The gateway's image, which it brings.
    pub gateway_image: String,
    /// The sidecar's image, which it brings.
    pub state_image: String,
    /// Gateway pods that have both.
    #[serde(default)]
    pub upgraded: i32,
    /// Gateway pods there are.
    #[serde(default)]
    pub pods: i32,
    /// Pods in which a container is being replaced, with its name: `demo-gateway-x7b2/state`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replacing: Vec<String>,
    /// What it waits for, or why it has stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of what has stopped: the reason, in CamelCase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of what has stopped: what it was about, so that it isn't tried again before something has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<String>,
}

/// How far an upgrade in place is.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpgradePhase {
    /// The images are tried on each node, before anything is touched.
    Preflight,
    /// Containers are replaced in the pods.
    Pods,
    /// Deployment and ReplicaSet are told what the pods have.
    Settling,
    /// It has failed at a pod, which has its former images again; the others weren't touched, or have been verified.
    Stopped,
}

/// Where things are, within the cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Addresses {
    /// Where clients ask for gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipconfig: Option<String>,
    /// Where businesses push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<String>,
}
