//! `spec.businesses[]`: the services behind the connections.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

/// Service accounts that may push for one business, at most.
pub const MAX_PUSHERS: usize = 32;

/// One business service.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BusinessSpec {
    /// The number in every data frame; never given to another business.
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub id: i32,
    /// The name that people and commands use.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9_.]*[a-z0-9])?$")
    )]
    pub name: String,
    /// Where its gRPC server listens, such as `http://echo.default.svc:9000`.
    #[schemars(length(min = 10, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^http://[^/ ]+:[0-9]+/?$')").message("a business's endpoint must read http://host:port"))]
    pub endpoint: String,
    /// A request that isn't answered within this many seconds gets a timeout code.
    #[serde(default = "timeout")]
    #[schemars(range(min = 1, max = 300))]
    pub timeout_seconds: i32,
    /// Requests in flight per worker thread of a sidecar; more are refused at once, so that a slow business costs a bounded
    /// amount.
    #[serde(default = "concurrency")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrency: i32,
    /// Connections to the server per worker thread of a sidecar.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 64))]
    pub connections: i32,
    /// Whether it wants to hear of online, offline and lost sessions.
    #[serde(default)]
    pub events: bool,
    /// Whether clients may join its groups on their own.
    #[serde(default)]
    pub client_groups: bool,
    /// Bytes of this business that may wait for one connection: a whole quantity above 0.
    #[serde(default = "queue_bytes")]
    #[schemars(extend("minimum" = 1, "pattern" = "^[0-9]*[1-9][0-9]*(k|M|G|Ki|Mi|Gi)?$"))]
    pub queue_bytes: Quantity,
    /// What happens when those are full.
    #[serde(default)]
    pub slow_consumer: SlowConsumer,
    /// Service accounts that may push for it with a token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_PUSHERS))]
    pub pushers: Vec<Pusher>,
}

/// What becomes of a message for a connection whose queue is full.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlowConsumer {
    /// The oldest make room.
    #[default]
    DropOldest,
    /// The new one is refused, and its sender told.
    DropNewest,
    /// The connection is closed, resumably.
    Close,
}

/// A service account.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pusher {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub service_account: String,
}

impl SlowConsumer {
    /// As the parts' configuration writes it.
    #[must_use]
    pub fn as_configuration(self) -> &'static str {
        match self {
            Self::DropOldest => "drop-oldest",
            Self::DropNewest => "drop-newest",
            Self::Close => "close",
        }
    }
}

fn timeout() -> i32 {
    10
}

fn concurrency() -> i32 {
    1_024
}

fn connections() -> i32 {
    1
}

fn queue_bytes() -> Quantity {
    Quantity("64Ki".to_owned())
}
