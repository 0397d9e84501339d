//! What a routing replica can be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use imaccess_common::config::{ByteSize, duration};
use serde::{Deserialize, Serialize};

use super::membership::Member;

/// Configuration of the routing role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoutingConfig {
    /// The cluster's id; a sidecar of another cluster is refused.
    pub cluster: String,
    /// Where the push API (gRPC) listens.
    pub push_listen: SocketAddr,
    /// Where metrics, health and readiness are served.
    pub admin_listen: SocketAddr,
    /// Which instances live.
    pub members: MembersConfig,
    /// A stream without a sign of life for this long is broken, and its instance suspect. A stream that breaks by
    /// itself makes its instance suspect at once.
    #[serde(with = "duration")]
    pub suspect_after: Duration,
    /// A suspect instance is dead after this long: longer than both dead-man timers (90 s) of a pod, so that no
    /// client can still be connected there.
    #[serde(with = "duration")]
    pub dead_after: Duration,
    /// How long the sessions of a dead instance may resume elsewhere before its devices are offline; the same as the
    /// sidecars'.
    #[serde(with = "duration")]
    pub resume_window: Duration,
    /// A push without a receipt for this long answers retry.
    #[serde(with = "duration")]
    pub receipt_timeout: Duration,
    /// Longest pause between two attempts to reach a sidecar.
    #[serde(with = "duration")]
    pub reconnect_max: Duration,
    /// Pushed devices that may wait for receipts; more answer retry. About 100 bytes each.
    pub pushes_in_flight: usize,
    /// Bytes that may wait to be sent to one instance; what exceeds it answers retry.
    pub instance_queue: ByteSize,
}

/// Where to learn which instances live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MembersConfig {
    /// A JSON file, read again when it changes: `{"gateways": [{"name", "instance", "routes"}]}`. Written whole and
    /// renamed into place. Takes precedence over `fixed`.
    pub file: Option<PathBuf>,
    /// How often the file is looked at.
    #[serde(with = "duration")]
    pub file_interval: Duration,
    /// The instances themselves, where they don't change.
    pub fixed: Vec<Member>,
    /// The pods of a Kubernetes cluster; instead of `file` and `fixed`.
    pub pods: Option<PodMembersConfig>,
}

/// Gateway pods as members: a pod's UID is its instance id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodMembersConfig {
    /// Their namespace; by default the service account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Their labels, as in `kubectl -l`.
    pub selector: String,
    /// Where each pod's sidecar serves its routes.
    #[serde(default = "routes_port")]
    pub routes_port: u16,
    /// How to reach the API server from outside a pod; by default what `KUBECONFIG` names, else the service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
}

/// The sidecars' usual route feed.
fn routes_port() -> u16 {
    7_300
}

impl Default for RoutingConfig {
    fn default() -> RoutingConfig {
        RoutingConfig {
            cluster: "default".to_owned(),
            push_listen: SocketAddr::from(([127, 0, 0, 1], 8100)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8101)),
            members: MembersConfig::default(),
            suspect_after: Duration::from_secs(10),
            dead_after: Duration::from_secs(100),
            resume_window: Duration::from_secs(30),
            receipt_timeout: Duration::from_secs(5),
            reconnect_max: Duration::from_millis(500),
            pushes_in_flight: 1_000_000,
            instance_queue: ByteSize(32 << 20),
        }
    }
}

impl Default for MembersConfig {
    fn default() -> MembersConfig {
        MembersConfig {
            file: None,
            file_interval: Duration::from_millis(200),
            fixed: Vec::new(),
            pods: None,
        }
    }
}
