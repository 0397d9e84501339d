//! What is to be done about one cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use imaccess_operator_api::ImAccessClusterStatus;
use imaccess_operator_api::names::Identity;
use serde_json::Value;

use crate::observed::ChildId;
pub use crate::upgrade::step::{Lease, ObjectRef, PodRef, Step, StepName};

/// The outcome of one look.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Secrets to make or renew before anything that mounts them is applied.
    pub secrets: Vec<SecretStep>,
    /// Objects that aren't as they should be, in the order in which to apply them. What is as it should be isn't here.
    pub apply: Vec<Child>,
    /// Metadata of running pods that isn't as it should be.
    pub pods: Vec<PodPatch>,
    /// Steps of an upgrade in place, in this order, before everything else.
    pub steps: Vec<Step>,
    /// Handover leases that are taken again, so that they don't run out while a kubelet is slow.
    pub leases: Vec<Lease>,
    /// What the operator made once and nothing needs any more.
    pub delete: Vec<Deletion>,
    /// The whole status. Equal to the one there is when nothing has changed.
    pub status: ImAccessClusterStatus,
    /// What to tell people.
    pub notices: Vec<Notice>,
    /// When to look again although nothing has happened, such as for a certificate that comes of age.
    pub look_again: Option<Duration>,
}

/// The kinds that the operator makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1`.
    ServiceAccount,
    /// `v1`; made by [`SecretStep`], never by [`Child`].
    Secret,
    /// `v1`.
    ConfigMap,
    /// `rbac.authorization.k8s.io/v1`.
    Role,
    /// `rbac.authorization.k8s.io/v1`.
    RoleBinding,
    /// `v1`.
    Service,
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy/v1`.
    PodDisruptionBudget,
    /// `apps/v1`.
    Deployment,
    /// `autoscaling/v2`.
    HorizontalPodAutoscaler,
    /// `monitoring.coreos.com/v1`.
    PodMonitor,
}

impl Kind {
    /// All of them, in the order in which they are applied: what others mount, name or are allowed by comes first, workloads
    /// last.
    pub const ALL: [Kind; 11] = [
        Kind::ServiceAccount,
        Kind::Role,
        Kind::RoleBinding,
        Kind::Secret,
        Kind::ConfigMap,
        Kind::Service,
        Kind::NetworkPolicy,
        Kind::PodDisruptionBudget,
        Kind::PodMonitor,
        Kind::Deployment,
        Kind::HorizontalPodAutoscaler,
    ];

    /// Its group and version.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        match self {
            Kind::ServiceAccount | Kind::Secret | Kind::ConfigMap | Kind::Service => "v1",
            Kind::Role | Kind::RoleBinding => "rbac.authorization.k8s.io/v1",
            Kind::NetworkPolicy => "networking.k8s.io/v1",
            Kind::PodDisruptionBudget => "policy/v1",
            Kind::Deployment => "apps/v1",
            Kind::HorizontalPodAutoscaler => "autoscaling/v2",
            Kind::PodMonitor => "monitoring.coreos.com/v1",
        }
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::ServiceAccount => "ServiceAccount",
            Kind::Secret => "Secret",
            Kind::ConfigMap => "ConfigMap",
            Kind::Role => "Role",
            Kind::RoleBinding => "RoleBinding",
            Kind::Service => "Service",
            Kind::NetworkPolicy => "NetworkPolicy",
            Kind::PodDisruptionBudget => "PodDisruptionBudget",
            Kind::Deployment => "Deployment",
            Kind::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Kind::PodMonitor => "PodMonitor",
        }
    }
}

/// One object to apply, whole: all fields that the operator owns, with `apiVersion`, `kind`, name, namespace, labels and owner
/// reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// Which.
    pub id: ChildId,
    /// The fields.
    pub object: Value,
    /// The resource version that it was planned from; none when it isn't there.
    pub resource_version: Option<String>,
    /// Why: `missing`, `changed: spec.template.spec…` (the first field that differs), for the log.
    pub why: String,
    /// Which step of an upgrade it is, if it is one.
    pub step: Option<StepName>,
}

/// Labels and annotations of a running pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPatch {
    /// The pod.
    pub name: String,
    /// Of this pod and no later one of its name.
    pub uid: String,
    /// What it was planned from.
    pub resource_version: String,
    /// All labels that the operator owns on the pod.
    pub labels: BTreeMap<String, String>,
    /// All annotations that the operator owns on the pod.
    pub annotations: BTreeMap<String, String>,
}

/// An object to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Which.
    pub id: ChildId,
    /// Its UID.
    pub uid: String,
    /// What it was planned from.
    pub resource_version: String,
}

/// What the controller makes with random bytes or the authority's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretStep {
    /// The cluster's certificate authority: made, or the next step of its rotation.
    Authority(AuthorityStep),
    /// A certificate, signed by the authority's current key.
    Certificate {
        /// Whose.
        identity: Identity,
        /// The names in it.
        dns_names: Vec<String>,
        /// Goes into the annotation [`imaccess_operator_api::names::ISSUED_FOR_ANNOTATION`].
        issued_for: String,
    },
    /// Ticket keys.
    TicketKeys,
    /// Development token keys.
    DevelopmentTokens,
}

/// The authority's life: made; joined by the next one, which parts learn to trust; replaced by it; the old one forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthorityStep {
    /// There is none.
    Make,
    /// The next one is made and trusted beside the current one, which still signs.
    AddNext,
    /// The next one signs; the former is still trusted.
    Switch,
    /// The former isn't trusted any more.
    Forget,
}

/// An Event on the custom resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is a warning.
    pub warning: bool,
    /// In CamelCase.
    pub reason: String,
    /// One sentence.
    pub note: String,
    /// The pod and the container that it is about, if it is about one. Kubernetes takes Events that differ in nothing but their
    /// sentence for one.
    pub container: Option<(String, &'static str)>,
}
