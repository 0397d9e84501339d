//! `spec.gateway`: the connection layer.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::options::{Resources, Scheduling};
use crate::quantity::Quantity;

/// Listeners at most.
pub const MAX_LISTENERS: usize = 8;

/// The gateways: a Deployment whose pods have a gateway and, as native sidecar, the state of its connections.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.autoscaling) || self.autoscaling.minReplicas <= self.autoscaling.maxReplicas").message("autoscaling.minReplicas must not be above autoscaling.maxReplicas"),
    validation = Rule::new("self.exposure.type != 'HostPort' || self.listeners.all(l, l.port >= 1024)").message("with exposure HostPort a listener's port must be 1024 or above: the gateway runs without privileges"),
    validation = Rule::new("self.drain.propagationSeconds < self.drain.deadlineSeconds").message("drain.deadlineSeconds must be longer than drain.propagationSeconds: it counts from the beginning of the drain"),
)]
pub struct GatewaySpec {
    /// Its own image, instead of `spec.image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// How many gateway pods; `kubectl scale imac/NAME` and autoscalers set this field.
    #[serde(default = "replicas")]
    #[schemars(range(min = 0, max = 2000))]
    pub replicas: i32,

    /// Asks for a HorizontalPodAutoscaler, which targets this resource and sets `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,

    /// Where clients connect.
    #[serde(default = "listeners")]
    #[schemars(length(min = 1, max = MAX_LISTENERS))]
    #[x_kube(
        validation = Rule::new("self.all(a, self.exists_one(b, a.port == b.port))").message("two listeners have the same port; give each its own"),
        validation = Rule::new("self.all(a, self.exists_one(b, a.name == b.name))").message("two listeners have the same name; names must differ"),
    )]
    pub listeners: Vec<Listener>,

    /// How clients outside the cluster reach a gateway. Each gateway has an address of its own, so that ipconfig can
    /// send each client to a gateway of its choice.
    #[serde(default)]
    pub exposure: Exposure,

    /// Outbound bandwidth of a gateway pod, in bytes per second, as a quantity: `125M` is a gigabit. ipconfig ranks by what
    /// is left of it.
    #[serde(default = "bandwidth")]
    pub bandwidth: Quantity,

    /// Connections that a gateway pod accepts at most. Left out, it follows from the pod's memory limit and the measured
    /// bytes per connection; without a memory limit it is 200,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_000_000))]
    pub connection_limit: Option<i64>,

    /// How a gateway pod ends: node drain, scale-in, rollout.
    #[serde(default)]
    pub drain: Drain,

    /// Whether changed images are brought to running pods without closing connections.
    #[serde(default)]
    pub handover: Handover,

    /// Of the gateway's container.
    #[serde(default)]
    pub resources: Resources,

    /// Where gateway pods run.
    #[serde(default)]
    pub scheduling: Scheduling,

    /// Pods that may be away at a time in voluntary disruptions, such as node drains, and pods that are upgraded in place at a
    /// time, after a first one alone.
    #[serde(default)]
    pub disruption: Disruption,
}

/// One port for clients.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Names the port in Services.
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// The protocol below the frames.
    pub protocol: Protocol,
    /// The port. 7300, 9300, 9301 and 9310 are the pod's own.
    #[schemars(range(min = 1, max = 65_535))]
    #[x_kube(validation = Rule::new("!(self in [7300, 9300, 9301, 9310])").message("ports 7300, 9300, 9301 and 9310 are used by the pod itself; choose another"))]
    pub port: i32,
}

/// A client protocol.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Frames over TCP.
    Tcp,
}

/// How a gateway's ports are reached from outside.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type in ['NodePort', 'LoadBalancer'] || !has(self.annotations)").message("exposure.annotations are put on the Services of the slots; they need exposure.type NodePort or LoadBalancer"))]
pub struct Exposure {
    /// The kind of address.
    #[serde(default, rename = "type")]
    pub kind: ExposureType,
    /// Annotations of the slots' Services, such as a cloud's load-balancer settings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The host name that clients are given, instead of the address that Kubernetes knows (a load balancer's address, or the
    /// node's): for addresses behind NAT. `{slot}` stands for the slot's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^([-A-Za-z0-9.]|[{]slot[}])+$')").message("exposure.host must be a host name or an IPv4 address, without a port; {slot} in it stands for the slot's number"))]
    pub host: Option<String>,
}

/// The kind of a gateway's address.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExposureType {
    /// The pod's own address: clients must be in the pods' network.
    #[default]
    PodIP,
    /// The port on the pod's node. Pods can't be admitted where `restricted` Pod Security is enforced, and one node runs one
    /// gateway.
    HostPort,
    /// A NodePort Service for each slot, whose traffic stays on the pod's node.
    NodePort,
    /// A LoadBalancer Service for each slot.
    LoadBalancer,
}

/// When pods are added and removed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.connectionsPerPod) || has(self.bandwidthPerPod) || has(self.cpuPercent)").message("autoscaling needs a target: connectionsPerPod, bandwidthPerPod or cpuPercent"))]
pub struct Autoscaling {
    /// Pods at least.
    #[schemars(range(min = 1, max = 2000))]
    pub min_replicas: i32,
    /// Pods at most.
    #[schemars(range(min = 1, max = 2000))]
    pub max_replicas: i32,
    /// Connections that a pod should have on average; needs an adapter that serves the pod metric
    /// `imaccess_gateway_connections`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connections_per_pod: Option<i64>,
    /// Bytes per second that a pod should send on average; needs an adapter that serves the pod metric
    /// `imaccess_gateway_sent_bytes_per_second`, computed as `rate(imaccess_gateway_sent_bytes_total[1m])`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_per_pod: Option<Quantity>,
    /// CPU use of its request, in percent; needs the metrics server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub cpu_percent: Option<i32>,
}

/// How a gateway pod ends: it takes new clients until the world knows, then sends its clients elsewhere at a pace, then closes.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// Clients told to move per second and pod. With the deadline it bounds how many can be moved in order.
    #[serde(default = "drain_rate")]
    #[schemars(range(min = 1, max = 100_000))]
    pub rate_per_second: i32,
    /// For how long new clients are still taken after the pod was told to end: until every ipconfig, proxy and load balancer
    /// knows.
    #[serde(default = "drain_propagation")]
    #[schemars(range(min = 0, max = 300))]
    pub propagation_seconds: i32,
    /// From the beginning of the drain until what is left is closed. Node upgrades of clouds wait for an hour at most, cluster
    /// autoscalers usually for ten minutes.
    #[serde(default = "drain_deadline")]
    #[schemars(range(min = 5, max = 3_600))]
    pub deadline_seconds: i32,
}

/// How a change of nothing but the images of gateway and state reaches running pods.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handover {
    /// The containers are replaced in their pods, one after the other, and connections are handed over: none is closed.
    #[default]
    Enabled,
    /// The pods are replaced, as with any other change; their clients are moved to other gateways.
    Disabled,
}

/// Voluntary disruptions, and upgrades in place.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// Pods that may be away at a time.
    #[serde(default = "max_unavailable")]
    #[schemars(range(min = 1, max = 2000))]
    pub max_unavailable: i32,
}

impl Default for GatewaySpec {
    fn default() -> Self {
        Self {
            image: None,
            replicas: replicas(),
            autoscaling: None,
            listeners: listeners(),
            exposure: Exposure::default(),
            bandwidth: bandwidth(),
            connection_limit: None,
            drain: Drain::default(),
            handover: Handover::default(),
            resources: Resources::default(),
            scheduling: Scheduling::default(),
            disruption: Disruption::default(),
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            rate_per_second: drain_rate(),
            propagation_seconds: drain_propagation(),
            deadline_seconds: drain_deadline(),
        }
    }
}

impl Default for Disruption {
    fn default() -> Self {
        Self {
            max_unavailable: max_unavailable(),
        }
    }
}

impl Protocol {
    /// As ipconfig names it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
        }
    }
}

fn replicas() -> i32 {
    2
}

fn listeners() -> Vec<Listener> {
    vec![Listener {
        name: "tcp".to_owned(),
        protocol: Protocol::Tcp,
        port: 7_000,
    }]
}

fn bandwidth() -> Quantity {
    Quantity("1G".to_owned())
}

fn drain_rate() -> i32 {
    200
}

fn drain_propagation() -> i32 {
    10
}

fn drain_deadline() -> i32 {
    300
}

fn max_unavailable() -> i32 {
    1
}
