//! What keeps a cluster from being as it should be: what only somebody can mend, and what takes its time.

use imaccess_operator_api::gateway::ExposureType;
use imaccess_operator_api::names::{Part, REPLACING_ANNOTATION, SETTLING_ANNOTATION};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::cluster::{Cluster, annotation, is_terminating};

/// Restarts from which on a container that isn't ready is taken for one that crashes: the kubelet's back-off and the moments between are
/// one state then, and conditions don't flap between them.
const CRASHES: i32 = 3;

/// Something that keeps a cluster from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// In CamelCase.
    pub(crate) reason: &'static str,
    /// One sentence: what is wrong, and what to do.
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

/// Reasons of conditions and events.
pub(crate) mod reason {
    /// A Secret that the user names isn't there, or not as it must be.
    pub(crate) const SECRET_MISSING: &str = "SecretMissing";
    /// An object of a name that the operator needs is somebody else's.
    pub(crate) const NAME_TAKEN: &str = "NameTaken";
    /// An object of a former cluster of the name is still there.
    pub(crate) const FORMER_OBJECTS: &str = "WaitingForDeletion";
    /// The API server doesn't let pods be made.
    pub(crate) const PODS_REFUSED: &str = "PodsRefused";
    /// An image can't be had.
    pub(crate) const IMAGE: &str = "ImageNotPulled";
    /// A container ends again and again.
    pub(crate) const CRASH: &str = "CrashLoop";
    /// A container can't be made.
    pub(crate) const CONTAINER: &str = "ContainerNotCreated";
    /// Somebody has paused a rollout.
    pub(crate) const PAUSED_ROLLOUT: &str = "RolloutPaused";
    /// A rollout doesn't get on.
    pub(crate) const DEADLINE: &str = "ProgressDeadlineExceeded";
    /// No node takes a pod.
    pub(crate) const UNSCHEDULABLE: &str = "Unschedulable";
    /// Something is being made.
    pub(crate) const CREATING: &str = "Creating";
    /// Pods are being brought to what is wanted.
    pub(crate) const UPDATING: &str = "Updating";
    /// Containers are being replaced in their pods.
    pub(crate) const UPGRADING: &str = "UpgradingInPlace";
    /// An image can't be used, which was found before anything was touched.
    pub(crate) const PREFLIGHT: &str = "PreflightFailed";
    /// An upgrade in place has failed at a pod.
    pub(crate) const UPGRADE_STOPPED: &str = "UpgradeStopped";
    /// An address isn't known yet.
    pub(crate) const ADDRESS: &str = "WaitingForAddress";
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// What only somebody can mend, most important first.
    pub(crate) stalled: Vec<Problem>,
    /// What takes its time.
    pub(crate) progressing: Vec<Problem>,
}

/// Looks at the Deployments and their pods; `changing` are parts whose Deployment isn't as it should be yet.
pub(crate) fn look(cluster: &Cluster<'_>, changing: &[Part], without_address: bool) -> Health {
    let mut health = Health::default();
    for part in Part::ALL {
        let pods: Vec<&Pod> = cluster
            .pods(part)
            .into_iter()
            .filter(|pod| !is_terminating(pod))
            .collect();
        let deployment = cluster.deployment(part);
        health.stalled.extend(refused(cluster, part, deployment.as_ref()));
        health
            .stalled
            .extend(working(&pods).find_map(|pod| broken(cluster, part, pod)));
        let unschedulable = pods.iter().find_map(|pod| unschedulable(part, pod));
        health
            .stalled
            .extend(late(cluster, part, deployment.as_ref(), unschedulable.as_ref()));
        let unfinished = unfinished(cluster, part, deployment.as_ref(), changing);
        if unfinished.is_some() {
            health.stalled.extend(paused(cluster, part, deployment.as_ref()));
        }
        health.progressing.extend(unschedulable);
        health.progressing.extend(unfinished);
    }
    if without_address {
        health.progressing.push(address(cluster));
    }
    health
}

/// Without those of which a container is being replaced: how that goes is the upgrade's to say.
fn working<'p>(pods: &'p [&Pod]) -> impl Iterator<Item = &'p Pod> {
    let is_in_hand = |pod: &&Pod| annotation(pod, REPLACING_ANNOTATION).is_some();
    pods.iter().copied().filter(move |pod| !is_in_hand(pod))
}

/// The API server refuses pods: quota, Pod Security, a missing service account.
fn refused(cluster: &Cluster<'_>, part: Part, deployment: Option<&Deployment>) -> Option<Problem> {
    let message = condition(deployment?, "ReplicaFailure", "True")?;
    let hint = if part == Part::Gateway && cluster.spec.gateway.exposure.kind == ExposureType::HostPort {
        "; with exposure HostPort the namespace must not enforce the restricted or baseline Pod Security"
    } else {
        ""
    };
    Some(Problem::new(
        reason::PODS_REFUSED,
        format!(
            "The API server refuses {} pods, so allow them (quota, Pod Security, admission){hint}: {}.",
            part.as_str(),
            message.trim_end_matches('.'),
        ),
    ))
}

/// The rollout has taken longer than its deadline.
fn late(
    cluster: &Cluster<'_>,
    part: Part,
    deployment: Option<&Deployment>,
    why: Option<&Problem>,
) -> Option<Problem> {
    condition(deployment?, "Progressing", "False")?;
    let name = cluster.names.part(part);
    let message = match why {
        Some(problem) => problem.message.clone(),
        None => format!(
            "The rollout of {name} doesn't get on: see why its pods aren't ready with kubectl describe pods -n {} -l {}.",
            cluster.names.namespace,
            cluster.names.selector_text(part),
        ),
    };
    Some(Problem::new(reason::DEADLINE, message))
}

/// Somebody has stopped the rollout by hand.
fn paused(cluster: &Cluster<'_>, part: Part, deployment: Option<&Deployment>) -> Option<Problem> {
    let deployment = deployment?;
    let annotations = deployment.metadata.annotations.as_ref();
    let settling = annotations.is_some_and(|annotations| annotations.contains_key(SETTLING_ANNOTATION));
    let paused = deployment.spec.as_ref()?.paused? && !settling;
    paused.then(|| {
        let (name, namespace) = (cluster.names.part(part), &cluster.names.namespace);
        let message = format!(
            "The rollout of {name} was paused by hand: go on with kubectl rollout resume -n {namespace} deployment/{name}."
        );
        Problem::new(reason::PAUSED_ROLLOUT, message)
    })
}

/// A Deployment that isn't there, isn't as it should be, or whose pods aren't yet.
fn unfinished(
    cluster: &Cluster<'_>,
    part: Part,
    deployment: Option<&Deployment>,
    changing: &[Part],
) -> Option<Problem> {
    let name = cluster.names.part(part);
    let Some(deployment) = deployment else {
        return Some(Problem::new(
            reason::CREATING,
            format!("The Deployment {name} is being made."),
        ));
    };
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = cluster.replicas(part);
    let observed = status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0);
    let counts = [
        status.replicas,
        status.updated_replicas,
        status.available_replicas,
    ];
    let finished = counts.iter().all(|count| count.unwrap_or(0) == wanted);
    if observed && finished && !changing.contains(&part) {
        return None;
    }
    Some(Problem::new(
        reason::UPDATING,
        format!("The pods of {name} are being brought to what the specification asks for."),
    ))
}

fn address(cluster: &Cluster<'_>) -> Problem {
    let message = match cluster.spec.gateway.exposure.kind {
        ExposureType::LoadBalancer => {
            "Gateways wait for the addresses of their LoadBalancer Services: something in the cluster must give them out, such as a \
             cloud's controller or MetalLB."
        }
        _ => "Gateways wait for the addresses under which clients reach them.",
    };
    Problem::new(reason::ADDRESS, message.to_owned())
}

/// A pod with a container that won't come up by itself.
pub(crate) fn broken(cluster: &Cluster<'_>, part: Part, pod: &Pod) -> Option<Problem> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let mut all = init.chain(status.container_statuses.iter().flatten());
    all.find_map(|container| broken_container(cluster, part, container))
}

fn broken_container(cluster: &Cluster<'_>, part: Part, container: &ContainerStatus) -> Option<Problem> {
    let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
    let why = waiting
        .and_then(|waiting| waiting.reason.as_deref())
        .unwrap_or_default();
    let (name, image) = (&container.name, &container.image);
    match why {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
            let remedy = match why {
                "InvalidImageName" => "correct the name",
                "ErrImageNeverPull" => "load it onto the nodes, or change spec.imagePullPolicy",
                _ => "check its name, that the registry has it, and spec.imagePullSecrets",
            };
            let message = format!("The image {image} of the container {name} can't be pulled: {remedy}.",);
            return Some(Problem::new(reason::IMAGE, message));
        }
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            let detail = waiting
                .and_then(|waiting| waiting.message.as_deref())
                .unwrap_or(why);
            let message = format!(
                "The container {name} can't be started: {}.",
                detail.trim_end_matches('.')
            );
            return Some(Problem::new(reason::CONTAINER, message));
        }
        _ => {}
    }
    let ended = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let crashes = why == "CrashLoopBackOff"
        // One that was replaced in place has ended in order.
        || (container.restart_count >= CRASHES
            && !container.ready
            && ended.is_some_and(|ended| ended.exit_code != 0));
    crashes.then(|| {
        let message = format!(
            "The container {name} of {} ends again and again: see why with kubectl logs -n {} -l {} -c {name} --previous.",
            cluster.names.part(part),
            cluster.names.namespace,
            cluster.names.selector_text(part),
        );
        Problem::new(reason::CRASH, message)
    })
}

fn unschedulable(part: Part, pod: &Pod) -> Option<Problem> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled")?;
    let refused = scheduled.status == "False" && scheduled.reason.as_deref() == Some("Unschedulable");
    refused.then(|| {
        let part = part.as_str();
        let message = format!(
            "No node takes a {part} pod: add nodes, or ask for less in spec.{part}.resources and spec.{part}.scheduling (spread \
             Required needs zones, HostPort a node for each gateway)."
        );
        Problem::new(reason::UNSCHEDULABLE, message)
    })
}

/// The message of a Deployment's condition, if it has the status.
fn condition(deployment: &Deployment, kind: &str, status: &str) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    (found.status == status).then(|| found.message.clone().unwrap_or_default())
}
