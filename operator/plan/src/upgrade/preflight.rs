//! Before anything is touched, each node with gateways runs the new images: they are there, they start, and they speak what the
//! running ones speak. The kubelet ends a container before it pulls the next one's image, and so would leave a pod with nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use imaccess_common::compat::{Compat, compatible};
use imaccess_operator_api::names::{PREFLIGHT_COMPONENT, Part};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::{Value, json};

use super::images::Images;
use super::pod::{is_stuck, why_stuck};
use super::step::{PodRef, Step};
use crate::canonical::{hash, unless_empty, without_nulls};
use crate::cluster::{Cluster, is_terminating};
use crate::pods::security;

/// It prints and ends: longer means that it hangs.
const ENDS: Duration = Duration::from_secs(60);

/// A kubelet has put a pod away so long after its last container's end: its sandbox, network and groups go 1.3 to 1.8 s after it (measured
/// on Kubernetes 1.34 with containerd), and times of ends are in whole seconds. Nothing that it does meanwhile is to delay the first
/// container that is replaced.
const PUT_AWAY: Duration = Duration::from_secs(3);

/// How the trial goes.
#[derive(Debug, PartialEq)]
pub(crate) enum Preflight {
    /// Every node can run the images, and they can work with what runs.
    Passed,
    /// The same, and kubelets are still putting away the pods that said so.
    Ending {
        /// For how long.
        left: Duration,
    },
    /// Not all nodes have said.
    Running {
        /// Pods to make.
        steps: Vec<Step>,
        /// What is waited for.
        why: String,
    },
    /// It can't be done with these images.
    Failed {
        /// Pods that were refused and are made again.
        steps: Vec<Step>,
        /// Why.
        why: String,
    },
}

/// What is tried: the wanted images beside those of the rendered template.
pub(crate) struct Trial<'a> {
    cluster: &'a Cluster<'a>,
    wanted: &'a Images,
    running: &'a Images,
    /// Changes when the user asks to try again.
    attempt: &'a str,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(
        cluster: &'a Cluster<'a>,
        wanted: &'a Images,
        running: &'a Images,
        attempt: &'a str,
    ) -> Self {
        Self {
            cluster,
            wanted,
            running,
            attempt,
        }
    }

    /// On these nodes.
    pub(crate) fn look(&self, nodes: &BTreeSet<&str>, now: Timestamp) -> Preflight {
        let pods = pods(self.cluster);
        let (mut steps, mut waiting, mut left) = (Vec::new(), Vec::new(), Duration::ZERO);
        for node in nodes {
            let name = self.name(node);
            let pod = pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(&name));
            let Some(pod) = pod else {
                steps.push(Step::Preflight {
                    pod: self.pod(node, &name),
                });
                waiting.push(*node);
                continue;
            };
            match self.judge(node, pod, now) {
                Ok(true) => left = left.max(PUT_AWAY.saturating_sub(ended(pod, now))),
                Ok(false) => waiting.push(node),
                Err(why) => {
                    let steps = if is_refused(pod) && age(pod, now) > ENDS {
                        vec![removal(pod)]
                    } else {
                        Vec::new()
                    };
                    return Preflight::Failed { steps, why };
                }
            }
        }
        match waiting.first() {
            None if left > Duration::ZERO => Preflight::Ending { left },
            None => Preflight::Passed,
            Some(first) => Preflight::Running {
                steps,
                why: format!("the images are tried on {first}{}", others(waiting.len() - 1)),
            },
        }
    }

    /// Whether a node has said that it can be done.
    fn judge(&self, node: &str, pod: &Pod, now: Timestamp) -> Result<bool, String> {
        let status = pod.status.clone().unwrap_or_default();
        let statuses = status.container_statuses.unwrap_or_default();
        if is_refused(pod) {
            let reason = status.reason.or(status.message).unwrap_or_default();
            return Err(format!(
                "The node {node} doesn't take the pod that tries the images: {reason}."
            ));
        }
        let mut said: BTreeMap<&str, Compat> = BTreeMap::new();
        let mut all = true;
        for (container, image) in self.containers() {
            let is_new = image == self.wanted.gateway || image == self.wanted.state;
            let status = statuses.iter().find(|status| status.name == container);
            match status.map_or(Ok(None), |status| answer(status, now)) {
                Ok(Some(compat)) => {
                    said.insert(image, compat);
                }
                Ok(None) => all = false,
                Err(why) if is_new => {
                    return Err(format!("The image {image} can't be used on {node}: {why}."));
                }
                // What runs may be broken, or gone from its registry: then there is nothing to compare with.
                Err(_) => {}
            }
        }
        if !all {
            return Ok(false);
        }
        for (new, old, beside) in [
            (&self.wanted.state, &self.running.state, &self.running.gateway),
            (&self.wanted.gateway, &self.running.gateway, &self.wanted.state),
        ] {
            let of = |image: &String| said.get(image.as_str());
            if let (Some(new), Some(old)) = (of(new), of(old)) {
                compatible(new, old, of(beside)).map_err(|why| {
                    format!(
                        "{why}, or set spec.gateway.handover to Disabled, so that pods are replaced instead."
                    )
                })?;
            }
        }
        Ok(true)
    }

    /// Containers by name, one for each image.
    fn containers(&self) -> Vec<(String, &'a str)> {
        let all = [self.wanted, self.running];
        let images: BTreeSet<&str> = all
            .into_iter()
            .flat_map(|images| [images.gateway.as_str(), images.state.as_str()])
            .filter(|image| !image.is_empty())
            .collect();
        let name = |(number, image)| (format!("image-{number}"), image);
        images.into_iter().enumerate().map(name).collect()
    }

    fn name(&self, node: &str) -> String {
        let of = json!([
            node,
            self.wanted.gateway,
            self.wanted.state,
            self.running.gateway,
            self.running.state,
            self.attempt
        ]);
        let hash: String = hash(&of).chars().take(10).collect();
        format!("{}-{PREFLIGHT_COMPONENT}-{hash}", self.cluster.names.cluster)
    }

    /// Little, and no processors or memory where the gateways' pods ask for none: whoever asks for some comes before all who don't, and
    /// would hold up the very connections that the upgrade is to keep. (Measured, on a node without a free processor: for 0.9 s.)
    fn resources(&self) -> Value {
        let spec = &self.cluster.spec;
        let given = [&spec.gateway.resources, &spec.state.sidecar.resources];
        let asked = given
            .iter()
            .flat_map(|one| one.requests.keys().chain(one.limits.keys()));
        if asked.clone().next().is_none() {
            return Value::Null;
        }
        let cpu = |quantity: &str| {
            asked
                .clone()
                .any(|name| name == "cpu")
                .then(|| quantity.to_owned())
        };
        json!({
            "requests": {"cpu": cpu("10m"), "memory": "16Mi"},
            "limits": {"cpu": cpu("500m"), "memory": "128Mi"},
        })
    }

    fn pod(&self, node: &str, name: &str) -> Value {
        let (cluster, names) = (self.cluster, &self.cluster.names);
        let mut labels = names.labels();
        labels.insert(
            "app.kubernetes.io/component".to_owned(),
            PREFLIGHT_COMPONENT.to_owned(),
        );
        let policy = cluster.spec.image_pull_policy.as_str();
        let resources = self.resources();
        let containers: Vec<Value> = self
            .containers()
            .into_iter()
            .map(|(name, image)| {
                let is_new = image == self.wanted.gateway || image == self.wanted.state;
                json!({
                    "name": name,
                    "image": image,
                    // What runs is on the node, and need not be in a registry any more.
                    "imagePullPolicy": if is_new { policy } else { "IfNotPresent" },
                    "args": ["compat", "--output", "/dev/termination-log"],
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "securityContext": security::container(),
                    "resources": resources,
                })
            })
            .collect();
        without_nulls(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": names.namespace,
                "labels": labels,
                "ownerReferences": [cluster.owner()],
            },
            "spec": {
                // By name, past the scheduler: it is about this node.
                "nodeName": node,
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "serviceAccountName": names.part(Part::Gateway),
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "securityContext": security::pod(false),
                "imagePullSecrets": unless_empty(json!(cluster.spec.image_pull_secrets)),
                "tolerations": [{"operator": "Exists"}],
                "containers": containers,
            },
        }))
    }
}

/// What a container has said; nothing yet; or why it won't.
fn answer(status: &ContainerStatus, now: Timestamp) -> Result<Option<Compat>, String> {
    let state = status.state.clone().unwrap_or_default();
    if let Some(waiting) = state.waiting {
        let reason = waiting.reason.unwrap_or_default();
        return if is_stuck(&reason) {
            Err(why_stuck(&reason, &waiting.message.unwrap_or_default()))
        } else {
            Ok(None)
        };
    }
    if let Some(running) = state.running {
        let since = running.started_at.map_or(now, |at| at.0);
        let time = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
        return if time > ENDS {
            Err(format!("`imaccess compat` hasn't ended for {} s", ENDS.as_secs()))
        } else {
            Ok(None)
        };
    }
    let Some(ended) = state.terminated else {
        return Ok(None);
    };
    let message = ended.message.unwrap_or_default();
    if ended.exit_code != 0 {
        let last_line = message.trim().lines().last().unwrap_or_default();
        let text = format!(
            "`imaccess compat` ended with exit status {}, {last_line}",
            ended.exit_code
        );
        return Err(text.trim_end_matches([',', ' ', '.']).to_owned());
    }
    match serde_json::from_str(message.trim()) {
        Ok(compat) => Ok(Some(compat)),
        Err(_) => Err("it doesn't say what it speaks: is it imaccess?".to_owned()),
    }
}

/// Pods that try images, whatever for.
fn pods<'a>(cluster: &Cluster<'a>) -> Vec<&'a Pod> {
    let component = |pod: &&Pod| {
        let labels = pod.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get("app.kubernetes.io/component"))
            .map(String::as_str)
            == Some(PREFLIGHT_COMPONENT)
    };
    let owned = |pod: &&Pod| {
        let mut owners = pod.metadata.owner_references.iter().flatten();
        owners.any(|owner| owner.uid == cluster.uid)
    };
    let all = cluster.observed.pods.iter();
    all.filter(component)
        .filter(owned)
        .filter(|pod| !is_terminating(pod))
        .collect()
}

/// Removes those that aren't of this trial on these nodes; all of them, when there is none.
pub(crate) fn clear(cluster: &Cluster<'_>, trial: Option<(&Trial<'_>, &BTreeSet<&str>)>) -> Vec<Step> {
    let names: BTreeSet<String> = trial
        .into_iter()
        .flat_map(|(trial, nodes)| nodes.iter().map(|node| trial.name(node)))
        .collect();
    pods(cluster)
        .into_iter()
        .filter(|pod| !names.contains(pod.metadata.name.as_deref().unwrap_or_default()))
        .map(removal)
        .collect()
}

fn removal(pod: &Pod) -> Step {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Step::Clear {
        pod: PodRef {
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            resource_version: text(&pod.metadata.resource_version),
        },
    }
}

/// Whether the kubelet didn't take it, or threw it out: a full node, which may have room later.
fn is_refused(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let has_run = status
        .container_statuses
        .as_ref()
        .is_some_and(|statuses| !statuses.is_empty());
    status.phase.as_deref() == Some("Failed") && !has_run
}

fn age(pod: &Pod, now: Timestamp) -> Duration {
    let since = pod.metadata.creation_timestamp.as_ref().map_or(now, |at| at.0);
    Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO)
}

/// How long ago its last container ended; very long, if that isn't said, or by a clock that is ahead of ours.
fn ended(pod: &Pod, now: Timestamp) -> Duration {
    let statuses = pod.status.iter().flat_map(|status| &status.container_statuses);
    let ends = statuses.flatten().filter_map(|status| {
        let ended = status.state.as_ref()?.terminated.as_ref()?;
        Some(ended.finished_at.as_ref()?.0)
    });
    ends.max().map_or(Duration::MAX, |at| {
        Duration::try_from(now.duration_since(at)).unwrap_or(Duration::MAX)
    })
}

fn others(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => " and another node".to_owned(),
        more => format!(" and {more} other nodes"),
    }
}
