//! What gateway pods say of containers that are replaced in place, as annotations: the operator goes on by it, people read it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One of a gateway pod's two containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Side {
    /// The gateway.
    Gateway,
    /// Its sidecar.
    State,
}

impl Side {
    /// The container's name.
    #[must_use]
    pub fn container(self) -> &'static str {
        match self {
            Side::Gateway => "gateway",
            Side::State => "state",
        }
    }
}

/// What is being replaced, [`REPLACING_ANNOTATION`](crate::names::REPLACING_ANNOTATION): written with the image in one patch, so
/// that whoever looks next knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replacing {
    /// Which container.
    pub container: Side,
    /// The image that it gets.
    pub image: String,
    /// The image before.
    pub from: String,
    /// The container that is to end; none when none was running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Restarts until then: the new one is one more.
    pub restarts: i32,
    /// When it was begun, by the operator's clock.
    pub since: Timestamp,
    /// Of the gateway before.
    pub incarnation: u32,
    /// Connections that the gateway had.
    pub connections: u64,
    /// Connections that the gateway had closed for faults.
    #[serde(default)]
    pub faults: u64,
    /// The name of the handover lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// Whether there was nothing to keep: the container, or its neighbour, wasn't working.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blind: bool,
    /// Whether this is the way back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back: bool,
}

/// What became of it, [`REPLACED_ANNOTATION`](crate::names::REPLACED_ANNOTATION).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replaced {
    /// Which container.
    pub container: Side,
    /// The image that it has.
    pub image: String,
    /// Connections there were when it began.
    pub connections: u64,
    /// Connections that were closed by it.
    pub closed: u64,
    /// For how long a gateway's sockets weren't read; 0 for a sidecar.
    pub stall_milliseconds: u64,
    /// Whether it was the way back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back: bool,
}
