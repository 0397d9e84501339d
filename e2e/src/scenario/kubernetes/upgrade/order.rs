//! Replacement, change in place and undo in turn: whatever came before, an upgrade in place replaces no pod, and pods that come
//! later have the images that the others have.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::names::Part;
use imaccess_operator_api::status::Method;
use serde_json::json;

use super::super::drain::LISTED;
use super::change::{self, DONE, stamps, wanted};
use super::judge;
use super::live::{Live, Scene, images, needs_images, replaced, whole};
use crate::kubernetes::containers::{GatewayPod, Which};
use crate::kubernetes::release::kubectl;
use crate::kubernetes::{Kubernetes, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;
use crate::wait::Seen;
use crate::witness::Load;

/// Clients that leave before each change.
const LEAVERS: u32 = 3;
/// A Deployment's controller and the operator act within seconds.
const REPAIRED: Duration = Duration::from_secs(120);

pub(in crate::scenario) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-upgrade-order", async |kubernetes| {
        needs_images(kubernetes)?;
        let mut report = Report::new("k8s-upgrade-order", size, seed);
        let (b, c) = (
            kubernetes.stamped_image(301).await?,
            kubernetes.stamped_image(302).await?,
        );
        let a = kubernetes.environment.image()?.to_owned();
        let scene = Scene::set(kubernetes, |_| {}).await?;
        let old = whole(kubernetes, &scene.cluster).await?;

        // What is read at the start only changes too: pods are replaced, and this leaves a ReplicaSet to go back to.
        let mut edit = images(Some(&b), Some(&b));
        edit["spec"]["state"]["sidecar"] = json!({"pingIntervalSeconds": 45});
        scene.cluster.patch(&edit).await?;
        let now = scene.cluster.ready_within(kubernetes, DONE).await?;
        let method = now.status.and_then(|status| status.change);
        let method = method.context("the status doesn't say how the change reached the pods")?;
        ensure!(
            method.method == Method::Replacement,
            "not by replacement: {method:?}"
        );
        let new = whole(kubernetes, &scene.cluster).await?;
        ensure!(
            replaced(&old, &new) == old.len() as u64,
            "a change of what is read at the start left pods as they are"
        );
        stamps(&scene.cluster, "301", "301").await?;

        // Who came to a pod that ends is no witness: the load begins here.
        let load = Load::new(seed, size.pick(200, 2_000), size.pick(100.0, 300.0));
        let mut live = scene.under(kubernetes, load).await?;
        live.leave(LEAVERS);
        let back = change::in_place(kubernetes, &live, &images(Some(&a), Some(&a))).await;
        let back = back.context("back to the first image")?;
        stamps(live.cluster(), "", "").await?;
        live.leave(LEAVERS);
        let on = change::in_place(kubernetes, &live, &images(Some(&c), Some(&c))).await;
        let on = on.context("on to the third image")?;
        stamps(live.cluster(), "302", "302").await?;

        let before = whole(kubernetes, live.cluster()).await?;
        undo(kubernetes, &live).await?;
        let after = whole(kubernetes, live.cluster()).await?;
        report.exactly("undo_pods_replaced", count(replaced(&before, &after)), 0.0);
        report.exactly("undo_pods", count(after.len() as u64), count(before.len() as u64));
        let restarts = |pods: &[GatewayPod]| -> i32 {
            let all = pods
                .iter()
                .flat_map(|pod| Which::ALL.map(|which| pod.container(which).restarts));
            all.sum()
        };
        report.exactly(
            "undo_containers_restarted",
            f64::from(restarts(&after) - restarts(&before)),
            0.0,
        );

        scale(kubernetes, &live, 3).await?;
        live.cluster().gateways_listed(kubernetes, 3, LISTED).await?;
        live.cluster().ready_within(kubernetes, DONE).await?;
        // The one that has just come, too.
        stamps(live.cluster(), "302", "302").await?;
        let grown = whole(kubernetes, live.cluster()).await?;
        report.exactly("scale_pods_replaced", count(replaced(&before, &grown)), 0.0);
        report.exactly("scale_pods", count(grown.len() as u64), 3.0);
        let ended = live.end(kubernetes).await?;

        for (name, changed) in [("back", &back), ("on", &on)] {
            change::judge(name, changed, &ended.testimony, &mut report);
        }
        judge::unnoticed(&ended, &mut report);
        Ok(report)
    })
    .await
}

/// Undoes the gateways' last rollout as a user does, and waits until the operator has put the template back, and no other pods are there.
async fn undo(kubernetes: &Kubernetes, live: &Live) -> Result<()> {
    let cluster = live.cluster();
    let before = cluster.deployment(Part::Gateway).await?;
    let before = before.metadata.generation.unwrap_or_default();
    let deployment = format!("deployment/{}", cluster.names.part(Part::Gateway));
    let words = [
        "rollout",
        "undo",
        &deployment,
        "--namespace",
        &live.scene.namespace.name,
    ];
    let said = kubectl(&kubernetes.environment, &words).await?;
    ensure!(said.contains("rolled back"), "nothing was undone: {said}");
    kubernetes
        .until("the undo is undone", REPAIRED, async || {
            let (now, wish) = (cluster.deployment(Part::Gateway).await?, cluster.get().await?);
            let generation = now.metadata.generation.unwrap_or_default();
            let (spec, status) = (now.spec.unwrap_or_default(), now.status.unwrap_or_default());
            let pod = spec.template.spec.unwrap_or_default();
            let both = pod.containers.iter().chain(pod.init_containers.iter().flatten());
            let images = both.filter(|container| {
                let mut which = Which::ALL.into_iter();
                let which = which.find(|which| which.as_str() == container.name);
                which.is_some_and(|which| container.image.as_deref() == Some(wanted(&wish, which)))
            });
            let settled = status.observed_generation == Some(generation)
                && status.replicas == spec.replicas
                && status.updated_replicas == spec.replicas
                && status.available_replicas == spec.replicas;
            // The undo is one generation, what is put back another.
            Ok(
                if generation >= before + 2 && images.count() == 2 && settled && spec.paused != Some(true) {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(format!("generation {generation} after {before}, {status:?}"))
                },
            )
        })
        .await?;
    cluster.ready_within(kubernetes, REPAIRED).await?;
    Ok(())
}

async fn scale(kubernetes: &Kubernetes, live: &Live, replicas: u32) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let namespace = &live.scene.namespace.name;
    let words = ["scale", "imac/demo", &replicas, "--namespace", namespace];
    kubectl(&kubernetes.environment, &words).await.map(drop)
}
