//! `spec.ipconfig`: the control layer.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::options::{Resources, Scheduling};

/// What tells clients which gateways to connect to, ranked by what is left of their bandwidth and connections.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpconfigSpec {
    /// Its own image, instead of `spec.image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Replicas, each complete by itself.
    #[serde(default = "replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,

    /// Seconds of the sliding window over which the scores are means.
    #[serde(default = "window")]
    #[schemars(range(min = 1, max = 60))]
    pub window_seconds: i32,

    /// Where the gateways' figures come from.
    #[serde(default)]
    pub metrics: MetricsSource,

    /// How clients reach it.
    #[serde(default)]
    pub service: IpconfigService,

    /// Of its container.
    #[serde(default)]
    pub resources: Resources,

    /// Where its pods run.
    #[serde(default)]
    pub scheduling: Scheduling,
}

/// The source of bandwidth and connection figures. Left empty, ipconfig reads every gateway's page itself, once a second.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricsSource {
    /// A Prometheus server that scrapes the gateways' pods, asked instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<Prometheus>,
}

/// A Prometheus server.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prometheus {
    /// Its address, such as `http://prometheus.monitoring:9090`.
    #[schemars(length(min = 8, max = 512), regex(pattern = r"^http://[^\s/]+(/[^\s]*)?$"))]
    pub url: String,
    /// How often it scrapes the gateways, in seconds. The scores need two scrapes to react.
    #[serde(default = "scrape_interval")]
    #[schemars(range(min = 1, max = 60))]
    pub scrape_interval_seconds: i32,
}

/// The Service in front of ipconfig.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.nodePort) || self.type == 'NodePort'").message("service.nodePort needs service.type NodePort"))]
pub struct IpconfigService {
    /// Its type.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// The port on the nodes, for type NodePort; else one is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub node_port: Option<i32>,
    /// Annotations, such as a cloud's load-balancer settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The type of a Service.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Within the cluster.
    #[default]
    ClusterIP,
    /// A port on every node.
    NodePort,
    /// A load balancer.
    LoadBalancer,
}

impl Default for IpconfigSpec {
    fn default() -> Self {
        Self {
            image: None,
            replicas: replicas(),
            window_seconds: window(),
            metrics: MetricsSource::default(),
            service: IpconfigService::default(),
            resources: Resources::default(),
            scheduling: Scheduling::default(),
        }
    }
}

impl ServiceType {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

fn replicas() -> i32 {
    2
}

fn window() -> i32 {
    5
}

fn scrape_interval() -> i32 {
    1
}
