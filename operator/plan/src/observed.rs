//! What the controller has gathered about one cluster.

use std::collections::BTreeMap;

use imaccess_common::handover::Handover;
use imaccess_operator_api::ImAccessCluster;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::plan::Kind;

/// One cluster and all that belongs to it, as the API server has it.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The custom resource.
    pub cluster: ImAccessCluster,
    /// Every object with the cluster's labels of a kind that the operator makes, owned by this custom resource or not, whole,
    /// but for Secrets, whose `data` has the right keys and no values.
    pub children: BTreeMap<ChildId, Value>,
    /// All pods of the cluster's parts, in every phase.
    pub pods: Vec<Pod>,
    /// The ReplicaSets of the gateways' Deployment, whole.
    pub replica_sets: Vec<Value>,
    /// By the pod's UID, the `/handover` pages of the gateways in [`gateways_to_ask`](crate::gateways_to_ask), or why there is none.
    pub gateways: BTreeMap<String, Result<Handover, String>>,
    /// Secrets that are looked at: those that the operator makes, and those that the user names, as far as they exist.
    pub secrets: BTreeMap<String, SecretFacts>,
    /// What the API server has.
    pub capabilities: Capabilities,
    /// The operator's own version.
    pub operator_version: String,
}

/// An object's kind and name; its namespace is the cluster's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChildId {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

/// What may be known of a Secret: never what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFacts {
    /// The keys of its data, sorted.
    pub keys: Vec<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// A hash of its data, for annotations that make the kubelet look again.
    pub hash: String,
    /// Whether the operator made it for this cluster.
    pub ours: bool,
    /// Whether its data is what the operator made, by the annotation `imaccess.io/contents`; the authority's certificates beside a
    /// certificate aside, which are compared with the authority's own.
    pub as_made: bool,
}

/// What the API server has beyond the ordinary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `monitoring.coreos.com/v1` PodMonitor.
    pub pod_monitors: bool,
}
