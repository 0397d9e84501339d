//! `spec.businesses[]`: the services behind the connections.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

/// Service accounts that may push for one business, at most.
pub const MAX_PUSHERS: usize = 32;

/// Endpoints of one business, at most.
pub const MAX_ENDPOINTS: usize = 64;

/// One business service.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.endpoint) != has(self.endpoints)").message("a business needs an endpoint, or a list of endpoints, and not both"))]
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
    /// Where its server listens, such as `http://echo.default.svc:9000`. A host with several addresses, such as a headless
    /// Service's, is spread over.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 10, max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^http://[^/ @]+:[0-9]+/?$')").message("a business's endpoint must read http://host:port"))]
    pub endpoint: String,
    /// Where its servers listen, each like `endpoint` and instead of it: requests are spread over them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = MAX_ENDPOINTS),
        inner(length(min = 10, max = 256), regex(pattern = r"^http://[^/ @]+:[0-9]+/?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub endpoints: Vec<String>,
    /// How it is asked.
    #[serde(default)]
    pub protocol: Protocol,
    /// A request that isn't answered within this many seconds gets a timeout code.
    #[serde(default = "timeout")]
    #[schemars(range(min = 1, max = 300))]
    pub timeout_seconds: i32,
    /// Requests in flight per worker thread of a sidecar; more are refused at once, so that a slow business costs a bounded
    /// amount.
    #[serde(default = "concurrency")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub concurrency: i32,
    /// Streams to its servers per worker thread of a sidecar; as many as there are endpoints or addresses, up to 8, if those are
    /// more.
    #[serde(default = "connections")]
    #[schemars(range(min = 1, max = 64))]
    pub connections: i32,
    /// Requests and sends a second that a gateway pod lets through to it, with bursts of one second; more are answered busy. 0: no
    /// limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub request_rate: i32,
    /// Devices a second that a replica of the push API takes pushes for; a push to a group or to all counts as one. 0: no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 10_000_000))]
    pub push_rate: i32,
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

/// How a business is asked; `docs/businesses.md` has each in full.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// gRPC, streams that carry many requests.
    #[default]
    Grpc,
    /// gRPC, a call per request.
    GrpcUnary,
    /// HTTP, a POST of JSON per request.
    Http,
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

impl Protocol {
    /// As the parts' configuration writes it.
    #[must_use]
    pub fn as_configuration(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::GrpcUnary => "grpc-unary",
            Self::Http => "http",
        }
    }
}

fn is_zero(number: &i32) -> bool {
    *number == 0
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
