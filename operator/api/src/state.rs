//! `spec.state`: the session layer in the gateways' pods, and the routing layer.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::options::{Resources, Scheduling};

/// The state parts: one crate in two roles.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateSpec {
    /// Its own image, instead of `spec.image`, in both roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// The sidecar beside each gateway.
    #[serde(default)]
    pub sidecar: SidecarSpec,

    /// Replicas of the routing layer, each complete by itself: about 100 bytes of memory per device.
    #[serde(default = "replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,

    /// Of the routing layer's container.
    #[serde(default)]
    pub resources: Resources,

    /// Where the routing layer's pods run.
    #[serde(default)]
    pub scheduling: Scheduling,

    /// The push API, which business servers call.
    #[serde(default)]
    pub push: PushSpec,
}

/// The session layer.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarSpec {
    /// Of the state container in the gateways' pods.
    #[serde(default)]
    pub resources: Resources,
    /// Seconds between a client's pings.
    #[serde(default = "ping_interval")]
    #[schemars(range(min = 5, max = 3_600))]
    pub ping_interval_seconds: i32,
    /// For how long a session without a connection may be resumed, on any gateway.
    #[serde(default = "resume_window")]
    #[schemars(range(min = 1, max = 600))]
    pub resume_window_seconds: i32,
}

/// Who may push. A caller shows a client certificate of the cluster's own authority (Secret `NAME-push-tls`), which may push
/// for every business, or a service-account token of the audience below, which may push for the businesses that name it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushSpec {
    /// The audience that a service-account token must be bound to.
    #[serde(default = "audience")]
    #[schemars(length(min = 1, max = 253))]
    pub audience: String,
}

impl Default for StateSpec {
    fn default() -> Self {
        Self {
            image: None,
            sidecar: SidecarSpec::default(),
            replicas: replicas(),
            resources: Resources::default(),
            scheduling: Scheduling::default(),
            push: PushSpec::default(),
        }
    }
}

impl Default for SidecarSpec {
    fn default() -> Self {
        Self {
            resources: Resources::default(),
            ping_interval_seconds: ping_interval(),
            resume_window_seconds: resume_window(),
        }
    }
}

impl Default for PushSpec {
    fn default() -> Self {
        Self { audience: audience() }
    }
}

fn replicas() -> i32 {
    2
}

fn ping_interval() -> i32 {
    60
}

fn resume_window() -> i32 {
    30
}

fn audience() -> String {
    "imaccess.io/push".to_owned()
}
