//! The resource itself.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::business::BusinessSpec;
use crate::gateway::GatewaySpec;
use crate::ipconfig::IpconfigSpec;
use crate::options::{AuthSpec, MonitoringSpec, NetworkPolicySpec};
use crate::state::StateSpec;
use crate::status::ImAccessClusterStatus;

/// Businesses at most: validation costs the API server time for each.
pub const MAX_BUSINESSES: usize = 256;

/// A cluster that keeps the long connections of devices: gateways with their state sidecars, the routing layer, and
/// ipconfig, which tells clients where to connect.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "imaccess.io",
    version = "v1alpha1",
    kind = "ImAccessCluster",
    plural = "imaccessclusters",
    shortname = "imac",
    category = "all",
    namespaced,
    status = "ImAccessClusterStatus",
    derive = "PartialEq",
    doc = "The access layer of an instant-messaging platform: gateways that keep the devices' long connections, their state sidecars, the routing layer with the push API, and ipconfig.",
    scale(
        spec_replicas_path = ".spec.gateway.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Gateways",
        type_ = "integer",
        json_path = ".status.gateway.ready",
        description = "Gateway pods that serve."
    ),
    printcolumn(name = "Wanted", type_ = "integer", json_path = ".spec.gateway.replicas"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(
        name = "Image",
        type_ = "string",
        json_path = ".spec.image",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must have at most 40 characters, begin with a letter and have only a-z, 0-9 and '-': the names of Services and pods are made from it")
)]
#[serde(rename_all = "camelCase")]
pub struct ImAccessClusterSpec {
    /// The image of every part that doesn't name its own, such as `registry.example/imaccess:0.1.0`.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,

    /// When the image is pulled.
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,

    /// Secrets of this namespace with credentials for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<SecretName>,

    /// Nothing is changed while this is true; the status is still kept up to date.
    #[serde(default)]
    pub paused: bool,

    /// The gateways and their state sidecars.
    #[serde(default)]
    pub gateway: GatewaySpec,

    /// The session layer (in the gateway's pods) and the routing layer with the push API.
    #[serde(default)]
    pub state: StateSpec,

    /// What tells clients where to connect.
    #[serde(default)]
    pub ipconfig: IpconfigSpec,

    /// The business services behind the connections. Changes reach running pods within seconds and restart nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_BUSINESSES))]
    #[x_kube(
        validation = Rule::new("self.all(a, self.exists_one(b, a.id == b.id))").message("two businesses have the same id; ids must differ"),
        validation = Rule::new("self.all(a, self.exists_one(b, a.name == b.name))").message("two businesses have the same name; names must differ"),
    )]
    pub businesses: Vec<BusinessSpec>,

    /// Who may log in, and how tickets are sealed.
    #[serde(default)]
    pub auth: AuthSpec,

    /// Objects for the Prometheus operator.
    #[serde(default)]
    pub monitoring: MonitoringSpec,

    /// Restricts who may reach the parts.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
}

/// When the kubelet pulls an image.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImagePullPolicy {
    /// When it isn't on the node yet.
    #[default]
    IfNotPresent,
    /// Each time.
    Always,
    /// Never: it must be on the node.
    Never,
}

/// A Secret of the cluster's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

impl ImAccessClusterSpec {
    /// A specification with every default.
    #[must_use]
    pub fn new(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            image_pull_policy: ImagePullPolicy::default(),
            image_pull_secrets: Vec::new(),
            paused: false,
            gateway: GatewaySpec::default(),
            state: StateSpec::default(),
            ipconfig: IpconfigSpec::default(),
            businesses: Vec::new(),
            auth: AuthSpec::default(),
            monitoring: MonitoringSpec::default(),
            network_policy: NetworkPolicySpec::default(),
        }
    }
}

impl ImagePullPolicy {
    /// As Kubernetes writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}
