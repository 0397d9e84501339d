//! How a pod ends, from its deletion until it is gone.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use tokio::time::{Instant, timeout};

use super::Namespace;

/// What was seen of a pod's end.
#[derive(Clone, Debug)]
pub struct Ending {
    /// When its deletion was seen.
    pub begun: Instant,
    /// From then until it was gone.
    pub took: Duration,
    /// The time that it had.
    pub grace: Duration,
    /// By container, with which status it ended; one that was still running when it was seen last isn't here.
    pub exits: BTreeMap<String, i32>,
    /// Containers that it had.
    pub containers: usize,
}

impl Namespace {
    /// Watches a pod until it is gone. The watch begins at once, so that nothing of the end is missed.
    ///
    /// # Errors
    /// When it isn't gone within the deadline, or the watch breaks.
    pub async fn ending(&self, pod: &str, deadline: Duration) -> Result<Ending> {
        timeout(deadline, watch(self.api(), pod))
            .await
            .with_context(|| format!("the pod {pod} isn't gone within {deadline:?}"))?
    }
}

async fn watch(api: Api<Pod>, name: &str) -> Result<Ending> {
    // The server ends a watch by itself after this time; it is the longest that clients may ask for.
    let selector = format!("metadata.name={name}");
    let parameters = WatchParams::default().fields(&selector).timeout(290);
    // From a version that was seen: from "any", a server on an etcd without progress reports (3.4) refuses to watch.
    let list = ListParams::default().fields(&selector);
    let list = api.list(&list).await.context("a list of the pod")?;
    let mut seen = list.metadata.resource_version.unwrap_or_default();
    let mut last = list.items.into_iter().next();
    let is_ending = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let mut begun = last.as_ref().is_some_and(is_ending).then(Instant::now);
    loop {
        let watch = api.watch(&parameters, &seen).await;
        let mut events = pin!(watch.context("a watch of the pod")?);
        // It breaks when nothing happens for as long as the client waits for an answer: a drain is longer. It goes on where it was.
        while let Ok(Some(event)) = events.try_next().await {
            match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    if is_ending(&pod) {
                        begun.get_or_insert_with(Instant::now);
                    }
                    seen = pod.metadata.resource_version.clone().unwrap_or(seen);
                    last = Some(pod);
                }
                WatchEvent::Deleted(pod) => {
                    let begun = begun.unwrap_or_else(Instant::now);
                    return Ok(ending(&pod, last.as_ref(), begun));
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => bail!("the watch of {name} ended: {status:?}"),
            }
        }
    }
}

fn ending(pod: &Pod, before: Option<&Pod>, begun: Instant) -> Ending {
    let mut exits = BTreeMap::new();
    for pod in before.into_iter().chain([pod]) {
        let status = pod.status.iter();
        let containers = status.flat_map(|status| {
            let (first, then) = (&status.init_container_statuses, &status.container_statuses);
            first.iter().chain(then).flatten()
        });
        for container in containers {
            let ended = container
                .state
                .as_ref()
                .and_then(|state| state.terminated.as_ref());
            if let Some(ended) = ended {
                exits.insert(container.name.clone(), ended.exit_code);
            }
        }
    }
    let spec = pod.spec.as_ref();
    let grace = pod
        .metadata
        .deletion_grace_period_seconds
        .filter(|seconds| *seconds > 0)
        .or_else(|| spec.and_then(|spec| spec.termination_grace_period_seconds))
        .unwrap_or_default();
    let containers = spec.map_or(0, |spec| {
        spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len)
    });
    Ending {
        begun,
        took: begun.elapsed(),
        grace: Duration::from_secs(u64::try_from(grace).unwrap_or_default()),
        exits,
        containers,
    }
}
