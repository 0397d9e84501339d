//! What a namespace's pods and events say, for whoever reads a failure.

use std::fmt::Write;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, LogParams};

use imaccess_operator_api::ImAccessCluster;

use super::installation::conditions;
use super::objects::CHILDREN;
use crate::logs::is_error;

/// Lines of each container's log.
const LINES: i64 = 40;
/// Events, newest last.
const EVENTS: usize = 60;

/// Conditions, events, pods and the ends of their logs. What can't be had is said in its place: a diagnosis never fails.
pub async fn of(client: &Client, namespace: &str) -> String {
    let mut text = format!("---- namespace {namespace} ----\n");
    let clusters: Api<ImAccessCluster> = Api::namespaced(client.clone(), namespace);
    for cluster in clusters
        .list(&ListParams::default())
        .await
        .into_iter()
        .flat_map(|list| list.items)
    {
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        let _ = writeln!(text, "imac/{name}:");
        for line in conditions(&cluster) {
            let _ = writeln!(text, "  {line}");
        }
    }
    for kind in CHILDREN.iter().filter(|kind| kind.kind == "Deployment") {
        let api: Api<DynamicObject> = kind.api(client, namespace);
        for object in api
            .list(&ListParams::default())
            .await
            .into_iter()
            .flat_map(|list| list.items)
        {
            let name = object.metadata.name.unwrap_or_default();
            let _ = writeln!(text, "{}/{name}: {}", kind.kind, object.data["status"]);
        }
    }
    events(client, namespace, &mut text).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in pods
        .list(&ListParams::default())
        .await
        .into_iter()
        .flat_map(|list| list.items)
    {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let _ = writeln!(text, "pod/{name}: {}", state(&pod));
        for container in containers(&pod) {
            for previous in [true, false] {
                let Ok(log) = log(&pods, &name, &container, Some(LINES), previous).await else {
                    continue;
                };
                if log.is_empty() {
                    continue;
                }
                let which = if previous { ", the one before" } else { "" };
                let _ = writeln!(text, "  {container}{which}:");
                for line in log.lines() {
                    let _ = writeln!(text, "    {line}");
                }
            }
        }
    }
    text
}

/// Lines with the level ERROR in the logs of a namespace's pods, those of restarted containers included, that contain none
/// of `expected`.
///
/// # Errors
/// When the pods can't be listed.
pub async fn errors(client: &Client, namespace: &str, expected: &[String]) -> Result<Vec<String>> {
    let mut errors = Vec::new();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in pods.list(&ListParams::default()).await? {
        let name = pod.metadata.name.clone().unwrap_or_default();
        for container in containers(&pod) {
            for previous in [true, false] {
                // No log yet, or none of a container before this one.
                let text = log(&pods, &name, &container, None, previous)
                    .await
                    .unwrap_or_default();
                let bad = text
                    .lines()
                    .filter(|line| is_error(line) && !expected.iter().any(|part| line.contains(part)));
                errors.extend(bad.map(|line| format!("{name}/{container}: {line}")));
            }
        }
    }
    Ok(errors)
}

async fn events(client: &Client, namespace: &str, text: &mut String) {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let mut events = match api.list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) => {
            let _ = writeln!(text, "no events: {error}");
            return;
        }
    };
    events.sort_by(|a, b| {
        let when = |event: &Event| {
            event
                .last_timestamp
                .as_ref()
                .map(|time| time.0)
                .or_else(|| event.event_time.as_ref().map(|time| time.0))
        };
        when(a).cmp(&when(b))
    });
    for event in events.iter().rev().take(EVENTS).rev() {
        let object = &event.involved_object;
        let _ = writeln!(
            text,
            "event {}/{} {}: {} (x{})",
            object.kind.as_deref().unwrap_or_default(),
            object.name.as_deref().unwrap_or_default(),
            event.reason.as_deref().unwrap_or_default(),
            event.message.as_deref().unwrap_or_default(),
            event.count.unwrap_or(1),
        );
    }
}

async fn log(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    lines: Option<i64>,
    previous: bool,
) -> kube::Result<String> {
    let parameters = LogParams {
        container: Some(container.to_owned()),
        tail_lines: lines,
        previous,
        ..LogParams::default()
    };
    pods.logs(pod, &parameters).await
}

/// Native sidecars stand among the init containers.
fn containers(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
        .map(|container| container.name.clone())
        .collect()
}

fn state(pod: &Pod) -> String {
    let Some(status) = &pod.status else {
        return "no status".to_owned();
    };
    let waiting: Vec<_> = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
        .map(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            let why = waiting
                .and_then(|waiting| waiting.reason.clone())
                .unwrap_or_default();
            format!(
                "{} ready={} restarts={} {why}",
                container.name, container.ready, container.restart_count
            )
        })
        .collect();
    format!(
        "{} on {}{}, {}",
        status.phase.as_deref().unwrap_or_default(),
        pod.spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .unwrap_or("no node"),
        if pod.metadata.deletion_timestamp.is_some() {
            ", terminating"
        } else {
            ""
        },
        waiting.join("; "),
    )
}
