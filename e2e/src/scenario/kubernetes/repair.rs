//! Every child is deleted, then edited, by hand: the operator repairs it. Then the custom resource is deleted while no
//! operator is there: nothing is left.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use imaccess_operator_api::ImAccessClusterSpec;
use imaccess_operator_api::gateway::{Autoscaling, ExposureType};
use imaccess_operator_api::names::{Part, SLOT_LABEL};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::stage::{ECHO, Stage};
use crate::kubernetes::installation::is_serving;
use crate::kubernetes::objects::{Kind, Object};
use crate::kubernetes::{Kubernetes, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;
use crate::wait::Seen;

/// As promised.
const PROMISE_SECONDS: f64 = 5.0;
/// On any machine.
const REPAIRED: Duration = Duration::from_secs(60);
/// A few pods start, and as many drain.
const ROLLED_OUT: Duration = Duration::from_secs(180);
/// Garbage collection, and the pods' grace.
const GONE: Duration = Duration::from_secs(120);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-repair", async |kubernetes| {
        let mut report = Report::new("k8s-repair", size, seed);
        let stage = Stage::set_with(kubernetes, 1, everything).await?;
        let children = stage.cluster.children().await?;
        let kinds: std::collections::BTreeSet<_> = children.iter().map(|child| child.kind.kind).collect();
        ensure!(
            kinds.len() == crate::kubernetes::objects::CHILDREN.len(),
            "a specification that asks for everything has only {kinds:?}"
        );
        report.figure("children", children.len());
        for (verb, repair) in [("edit", Verb::Edit), ("delete", Verb::Delete)] {
            let mut slowest = (0.0, String::new());
            let mut children = stage.cluster.children().await?;
            // Another token key is a change of the pods: what comes after it would be repaired in the middle of a rollout.
            children.sort_by_key(|child| child.name() == "demo-development-tokens");
            for child in children {
                let what = format!("{verb} {}", child.id());
                let seconds = match repair {
                    Verb::Edit => edited(kubernetes, &stage, &child).await,
                    Verb::Delete => deleted(kubernetes, &stage, &child).await,
                };
                let seconds = seconds.with_context(|| what.clone())?;
                if seconds > slowest.0 {
                    slowest = (seconds, child.id());
                }
            }
            report.figure(&format!("slowest_{verb}"), slowest.1);
            report.at_most(&format!("seconds_of_slowest_{verb}"), slowest.0, PROMISE_SECONDS);
            // What was repaired works.
            rolled_out(kubernetes, &stage)
                .await
                .with_context(|| format!("after each {verb}"))?;
            let client = stage.client(&format!("after-{verb}")).await?;
            stage.cluster.call(&client, ECHO).await?;
            client.close().await;
        }
        let seconds = slot_label(kubernetes, &stage).await?;
        report.at_most("seconds_of_a_slot_label", seconds, PROMISE_SECONDS);

        // With the operator gone only Kubernetes' own garbage collection is left to do it.
        stage.operator.scale(kubernetes, 0).await?;
        ensure!(
            !stage.cluster.left().await?.is_empty(),
            "nothing is there to be removed"
        );
        let begun = Instant::now();
        stage.cluster.delete().await?;
        stage.cluster.gone(kubernetes, GONE).await?;
        report.figure("seconds_until_all_is_gone", begun.elapsed().as_secs_f64());
        report.exactly(
            "objects_left",
            count(stage.cluster.left().await?.len() as u64),
            0.0,
        );
        Ok(report)
    })
    .await
}

/// Waits until the gateways are those of the present template, none of an earlier one ends any more, and all is ready.
async fn rolled_out(kubernetes: &Kubernetes, stage: &Stage) -> Result<()> {
    kubernetes
        .until("the gateways are rolled out", ROLLED_OUT, async || {
            let deployment = stage.cluster.deployment(Part::Gateway).await?;
            let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or_default();
            let status = deployment.status.unwrap_or_default();
            let observed = status.observed_generation == deployment.metadata.generation;
            let pods = stage.cluster.pods(Part::Gateway).await?.len();
            let seen = (observed, status.updated_replicas, status.available_replicas, pods);
            let all = Some(wanted);
            Ok(if seen == (true, all, all, usize::try_from(wanted)?) {
                Seen::Yes(())
            } else {
                Seen::NotYet(seen)
            })
        })
        .await?;
    stage.cluster.ready(kubernetes).await.map(drop)
}

#[derive(Clone, Copy)]
enum Verb {
    Edit,
    Delete,
}

/// Asks for a child of every kind.
fn everything(spec: &mut ImAccessClusterSpec) {
    spec.gateway.exposure.kind = ExposureType::NodePort;
    spec.gateway.autoscaling = Some(Autoscaling {
        min_replicas: 2,
        max_replicas: 3,
        connections_per_pod: None,
        bandwidth_per_pod: None,
        cpu_percent: Some(80),
    });
    spec.network_policy.enabled = true;
}

/// Deletes the child; seconds until one of its name with another UID is there.
async fn deleted(kubernetes: &Kubernetes, stage: &Stage, child: &Object) -> Result<f64> {
    let api = child.kind.api(&kubernetes.client, &stage.namespace.name);
    let uid = api.get(child.name()).await?.metadata.uid;
    api.delete(child.name(), &DeleteParams::background()).await?;
    let begun = Instant::now();
    kubernetes
        .until("it is there again", REPAIRED, async || {
            let found = api.get_opt(child.name()).await?;
            let now = found.and_then(|found| found.metadata.uid);
            Ok(if now.is_some() && now != uid {
                Seen::Yes(())
            } else {
                Seen::NotYet(now)
            })
        })
        .await?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Edits what the operator has set; seconds until it is as before.
async fn edited(kubernetes: &Kubernetes, stage: &Stage, child: &Object) -> Result<f64> {
    let api = child.kind.api(&kubernetes.client, &stage.namespace.name);
    // As it is now: another repair may have changed it since the children were listed.
    let now = api.get(child.name()).await?;
    let (path, value) = edit(child.kind, &now)?;
    let whole = serde_json::to_value(&now)?;
    let wanted = at(&whole, &path).cloned().unwrap_or(Value::Null);
    ensure!(
        !wanted.is_null() && wanted != value,
        "{path:?} is {wanted} already"
    );
    let patch = path
        .iter()
        .rev()
        .fold(value.clone(), |inner, key| json!({ key: inner }));
    let answer = api
        .patch(child.name(), &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    let begun = Instant::now();
    let answer = serde_json::to_value(&answer)?;
    ensure!(
        at(&answer, &path) != Some(&wanted),
        "the edit of {path:?} has no effect"
    );
    kubernetes
        .until("it is as before", REPAIRED, async || {
            let found = api.get_opt(child.name()).await?;
            let found = serde_json::to_value(&found)?;
            let seen = at(&found, &path).cloned();
            let repaired = match child.kind.kind {
                "Secret" => has_new_keys(&found, &value),
                _ => seen.as_ref() == Some(&wanted),
            };
            Ok(if repaired {
                Seen::Yes(())
            } else {
                Seen::NotYet(seen)
            })
        })
        .await?;
    Ok(begun.elapsed().as_secs_f64())
}

/// A Secret isn't as before: its values are random, and one of its keys is named after a value. What was put there is gone.
fn has_new_keys(secret: &Value, edited: &Value) -> bool {
    let data = secret["data"].as_object();
    data.is_some_and(|data| {
        !data.is_empty()
            && data
                .values()
                .all(|value| value != edited && value.as_str() != Some(""))
    })
}

/// A field that the operator has set, and another value for it.
fn edit(kind: Kind, object: &DynamicObject) -> Result<(Vec<String>, Value)> {
    let instance = "app.kubernetes.io/instance";
    let path = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let first_of = |field: &str| -> Result<String> {
        let map = object.data[field].as_object();
        let mut keys = map.with_context(|| format!("no {field}"))?.keys();
        Ok(keys.next().with_context(|| format!("{field} is empty"))?.clone())
    };
    let number = |field: &str| -> Result<i64> {
        let found = object.data["spec"][field].as_i64();
        found.with_context(|| format!("no number spec.{field}"))
    };
    Ok(match kind.kind {
        "ServiceAccount" => (path(&["metadata", "labels", instance]), json!("nobody")),
        "Secret" => (path(&["data", &first_of("data")?]), json!("ZWRpdGVk")),
        "ConfigMap" => (path(&["data", &first_of("data")?]), json!("edited")),
        "Role" => (path(&["rules"]), json!([])),
        "RoleBinding" => (path(&["subjects"]), json!([])),
        "Service" => (path(&["spec", "selector", instance]), json!("nobody")),
        "NetworkPolicy" => (
            path(&["spec", "podSelector", "matchLabels", instance]),
            json!("nobody"),
        ),
        "PodDisruptionBudget" => {
            let value = number("maxUnavailable")? + 1;
            (path(&["spec", "maxUnavailable"]), json!(value))
        }
        "Deployment" => (path(&["spec", "replicas"]), json!(number("replicas")? + 1)),
        "HorizontalPodAutoscaler" => (path(&["spec", "maxReplicas"]), json!(number("maxReplicas")? + 1)),
        other => bail!("no edit is known for {other}"),
    })
}

fn at<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, key| value.get(key))
}

/// Takes the slot's label off a gateway pod, as a `kubectl label` by mistake would; seconds until it has a slot that no other has (the
/// lowest that is free, which nobody is connected by).
async fn slot_label(kubernetes: &Kubernetes, stage: &Stage) -> Result<f64> {
    let pods: Api<Pod> = stage.namespace.api();
    let gateways = stage.cluster.pods(Part::Gateway).await?;
    let gateway = gateways
        .into_iter()
        .find(is_serving)
        .context("no gateway serves")?;
    let name = gateway.metadata.name.context("a pod has a name")?;
    let slot = |pod: &Pod| {
        pod.metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(SLOT_LABEL).cloned())
    };
    slot(&pods.get(&name).await?).context("a serving gateway has no slot")?;
    let patch = json!({"metadata": {"labels": {SLOT_LABEL: null}}});
    pods.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    let begun = Instant::now();
    kubernetes
        .until("the pod has a slot of its own", REPAIRED, async || {
            let gateways = stage.cluster.pods(Part::Gateway).await?;
            let of = |pod: &Pod| pod.metadata.name.as_ref() == Some(&name);
            let seen = gateways.iter().find(|pod| of(pod)).and_then(&slot);
            let taken = gateways.iter().any(|pod| !of(pod) && slot(pod) == seen);
            Ok(if seen.is_some() && !taken {
                Seen::Yes(())
            } else {
                Seen::NotYet(seen)
            })
        })
        .await?;
    Ok(begun.elapsed().as_secs_f64())
}
