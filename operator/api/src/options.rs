//! What several parts have, and the options of the whole cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::SecretName;
use crate::quantity::Quantity;

/// Kinds of resources of one container, at most.
const MAX_RESOURCES: usize = 16;

/// A misspelt resource would be refused when the pods are made, far from who wrote it.
const KNOWN_RESOURCES: &str = "self.all(key, key in ['cpu', 'memory', 'ephemeral-storage'] || key.startsWith('hugepages-') || key.contains('/'))";

/// What a container asks for and may use at most.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// By resource: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = MAX_RESOURCES))]
    #[x_kube(validation = Rule::new(KNOWN_RESOURCES).message("resources are cpu, memory, ephemeral-storage, hugepages-…, or have a domain (example.com/nic)"))]
    pub requests: BTreeMap<String, Quantity>,
    /// By resource: `cpu`, `memory`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = MAX_RESOURCES))]
    #[x_kube(validation = Rule::new(KNOWN_RESOURCES).message("resources are cpu, memory, ephemeral-storage, hugepages-…, or have a domain (example.com/nic)"))]
    pub limits: BTreeMap<String, Quantity>,
}

/// On which nodes pods run.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that are put up with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// The pods' priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Whether pods must be spread over nodes and zones.
    #[serde(default)]
    pub spread: Spread,
}

/// How pods are spread over nodes and zones.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spread {
    /// Evenly where that is possible.
    #[default]
    Preferred,
    /// A pod that can't be placed evenly isn't placed.
    Required,
    /// As the scheduler likes.
    None,
}

/// Who may log in, and how tickets are sealed. Secrets left out are made by the operator.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// A Secret with the public keys of token issuers: a key `<key id>.pem` for each. Left out, the operator makes a development
    /// key, with which ipconfig gives a token to anyone who asks; a condition says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_keys_secret: Option<SecretName>,
    /// A Secret whose key `tickets` has a line `id key` for each ticket key (id at most 127, key in hexadecimal, 32 bytes); the
    /// first seals. Left out, the operator makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_keys_secret: Option<SecretName>,
}

/// Objects for the Prometheus operator.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringSpec {
    /// PodMonitors for the parts. Where the kind isn't installed a condition says so, and nothing else is held up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_monitor: Option<PodMonitorSpec>,
}

/// A PodMonitor.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodMonitorSpec {
    /// Labels by which a Prometheus finds it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Seconds between scrapes.
    #[serde(default = "interval")]
    #[schemars(range(min = 1, max = 300))]
    pub interval_seconds: i32,
}

/// NetworkPolicies for the parts: clients reach the client ports, parts reach each other, and nobody else reaches anything
/// but the metrics pages.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether they are made.
    #[serde(default)]
    pub enabled: bool,
    /// Labels of the namespaces from which businesses push, besides the cluster's own; left out, every namespace may try, and
    /// the push API asks who they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub push_namespace_labels: BTreeMap<String, String>,
    /// Labels of the namespaces from which metrics are scraped, besides the cluster's own; left out, every namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics_namespace_labels: BTreeMap<String, String>,
}

fn interval() -> i32 {
    15
}
