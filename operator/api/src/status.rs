//! `status`: what the operator observed. Nothing in it is a clock or a fast-changing number: those are metrics.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
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
