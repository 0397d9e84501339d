//! The steps of an upgrade in place: each one write, after which whoever looks next knows what comes next.

use serde_json::Value;

/// A pod, as it was when a step was planned for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its name.
    pub name: String,
    /// Of this pod and no later one of its name.
    pub uid: String,
    /// What the step was planned from.
    pub resource_version: String,
}

/// An object that isn't a pod, as it was when a step was planned for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its name.
    pub name: String,
    /// What the step was planned from.
    pub resource_version: String,
}

/// A gateway's handover lease: while somebody holds it, SIGTERM means that the next process takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The gateway's control, `address:port`.
    pub address: String,
    /// Under this name; whoever knows it may take it again.
    pub name: String,
    /// Of the pod, for messages.
    pub pod: String,
}

/// What is written.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A pod that tries the images on a node is made.
    Preflight {
        /// The pod, whole.
        pod: Value,
    },
    /// A container of a running pod gets another image, upon which the kubelet replaces it.
    Replace {
        /// The pod.
        pod: PodRef,
        /// Which step it counts as.
        name: StepName,
        /// A strategic merge patch: the image, and the annotation that says what is being done.
        patch: Value,
        /// Taken first, and the step isn't done without it.
        lease: Option<Lease>,
    },
    /// A container has been replaced and verified: the pod isn't in hand any more.
    Release {
        /// The pod.
        pod: PodRef,
        /// A merge patch of its annotations.
        patch: Value,
    },
    /// The Deployment is paused, so that its template can be changed without a rollout.
    Pause {
        /// The Deployment.
        deployment: ObjectRef,
        /// A merge patch.
        patch: Value,
    },
    /// The ReplicaSet's template is told what its pods have.
    ReplicaSet {
        /// The ReplicaSet.
        replica_set: ObjectRef,
        /// A strategic merge patch.
        patch: Value,
    },
    /// The Deployment, whose template equals the ReplicaSet's now, goes on.
    Resume {
        /// The Deployment.
        deployment: ObjectRef,
        /// A merge patch.
        patch: Value,
    },
    /// A pod that has tried images is removed.
    Clear {
        /// The pod.
        pod: PodRef,
    },
}

/// What steps are called, in logs, metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepName {
    /// [`Step::Preflight`].
    Preflight,
    /// [`Step::Replace`] of the sidecar.
    ReplaceState,
    /// [`Step::Replace`] of the gateway.
    ReplaceGateway,
    /// [`Step::Release`].
    Release,
    /// The rendered template is kept with the new images: a [`Child`](crate::plan::Child), the ConfigMap.
    Record,
    /// [`Step::Pause`].
    Pause,
    /// [`Step::ReplicaSet`].
    ReplicaSet,
    /// The Deployment's template is told the same: a [`Child`](crate::plan::Child), the Deployment.
    Template,
    /// [`Step::Resume`].
    Resume,
    /// [`Step::Clear`].
    Clear,
    /// [`Step::Replace`] of a sidecar that failed by the one before.
    RestoreState,
    /// [`Step::Replace`] of a gateway that failed by the one before.
    RestoreGateway,
}

impl StepName {
    /// All of them, in the order in which an upgrade takes them; the way back last.
    pub const ALL: [StepName; 12] = [
        StepName::Preflight,
        StepName::ReplaceState,
        StepName::ReplaceGateway,
        StepName::Release,
        StepName::Record,
        StepName::Pause,
        StepName::ReplicaSet,
        StepName::Template,
        StepName::Resume,
        StepName::Clear,
        StepName::RestoreState,
        StepName::RestoreGateway,
    ];

    /// In lower case, with dashes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            StepName::Preflight => "preflight",
            StepName::ReplaceState => "replace-state",
            StepName::ReplaceGateway => "replace-gateway",
            StepName::Release => "release",
            StepName::Record => "record",
            StepName::Pause => "pause",
            StepName::ReplicaSet => "replica-set",
            StepName::Template => "template",
            StepName::Resume => "resume",
            StepName::Clear => "clear",
            StepName::RestoreState => "restore-state",
            StepName::RestoreGateway => "restore-gateway",
        }
    }
}

impl Step {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> StepName {
        match self {
            Step::Preflight { .. } => StepName::Preflight,
            Step::Replace { name, .. } => *name,
            Step::Release { .. } => StepName::Release,
            Step::Pause { .. } => StepName::Pause,
            Step::ReplicaSet { .. } => StepName::ReplicaSet,
            Step::Resume { .. } => StepName::Resume,
            Step::Clear { .. } => StepName::Clear,
        }
    }
}
