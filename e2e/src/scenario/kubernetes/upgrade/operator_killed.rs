//! An operator that is killed after each step of an upgrade in place, one after the other: the next one finishes, and no client
//! notices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::change::{self, DONE, wanted};
use super::judge;
use super::live::{Live, Scene, images, needs_images, replaced, whole};
use super::refused::{UPGRADE_STOPPED, load, put_back, stopped};
use crate::kubernetes::containers::Which;
use crate::kubernetes::images::Fault;
use crate::kubernetes::local_operator::upgrade_steps;
use crate::kubernetes::{Kubernetes, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;

/// Steps of the way back have names that begin so.
const WAY_BACK: &str = "restore";
/// Requests that must be answered after each step.
const ANSWERED: u64 = 50;
/// Until an operator has come as far as it is to come.
const KILLED: Duration = Duration::from_secs(300);

pub(in crate::scenario) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-upgrade-operator-killed", async |kubernetes| {
        needs_images(kubernetes)?;
        let mut report = Report::new("k8s-upgrade-operator-killed", size, seed);
        let steps = upgrade_steps().await?;
        report.figure("steps", steps.clone());
        let bad = [
            kubernetes.faulty_image(Fault::NeverReady).await?,
            kubernetes.faulty_image(Fault::ExitsAs(Which::State)).await?,
        ];
        let scene = Scene::set(kubernetes, |_| {}).await?;
        scene.operator.scale(kubernetes, 0).await?;
        let mut live = scene.under(kubernetes, load(size, seed)).await?;
        let before = whole(kubernetes, live.cluster()).await?;
        // A small run tries every fourth: a run of each takes half a minute.
        let tried: Vec<_> = steps.iter().step_by(size.pick(4, 1)).collect();
        let mut turn = 0;
        for step in &tried {
            live.leave(1);
            let killed = if step.starts_with(WAY_BACK) {
                // Each part is put back by a step of its own, when its own image is the bad one.
                let bad = if step.ends_with(Which::State.as_str()) {
                    images(None, Some(&bad[1]))
                } else {
                    images(Some(&bad[0]), None)
                };
                on_the_way_back(kubernetes, &live, step, &bad).await
            } else {
                turn += 1;
                // Another one each time: the kubelet waits longer and longer before it starts again what it has started in a pod before.
                let good = kubernetes.stamped_image(500 + turn).await?;
                on_the_way(kubernetes, &live, step, &good).await
            };
            killed.with_context(|| format!("killed after {step}"))?;
            live.answers(kubernetes, ANSWERED).await?;
        }
        let after = whole(kubernetes, live.cluster()).await?;
        let ended = live.end(kubernetes).await?;
        // Each of them had a run, or there is no report.
        report.figure("killed_after", tried.into_iter().cloned().collect::<Vec<_>>());
        report.exactly("pods_replaced", count(replaced(&before, &after)), 0.0);
        judge::unnoticed(&ended, &mut report);
        Ok(report)
    })
    .await
}

/// Killed after a step of an upgrade that goes well: the next operator finishes it.
async fn on_the_way(kubernetes: &Kubernetes, live: &Live, step: &str, image: &str) -> Result<()> {
    let edit = images(Some(image), Some(image));
    killed_after(kubernetes, live, step, &edit).await?;
    let operator = kubernetes.local_operator(&live.scene.namespace, None)?;
    let done = live.cluster().ready_within(kubernetes, DONE).await;
    let done = done.with_context(|| format!("the next operator's log ends with:\n{}", operator.tail()))?;
    let pods = whole(kubernetes, live.cluster()).await?;
    for which in Which::ALL {
        for pod in &pods {
            ensure!(
                pod.container(which).image == wanted(&done, which),
                "{}/{} has the image {}",
                pod.name,
                which.as_str(),
                pod.container(which).image
            );
        }
    }
    let stamp = image.rsplit('-').next().unwrap_or_default();
    change::stamps(live.cluster(), stamp, stamp).await?;
    operator.stop().await
}

/// Killed after a step of the way back from an image that doesn't do: the next operator puts the pod back and says why.
async fn on_the_way_back(kubernetes: &Kubernetes, live: &Live, step: &str, bad: &Value) -> Result<()> {
    let former = live.cluster().get().await?;
    let former = Which::ALL.map(|which| wanted(&former, which).to_owned());
    // Meanwhile a gateway or a sidecar is away: who is connected must outlive that, and what is asked after it must be answered.
    live.witness.quiet().await?;
    killed_after(kubernetes, live, step, bad).await?;
    let operator = kubernetes.local_operator(&live.scene.namespace, None)?;
    let why = stopped(kubernetes, live.cluster()).await;
    let why = why.with_context(|| format!("the next operator's log ends with:\n{}", operator.tail()))?;
    ensure!(
        why.starts_with(UPGRADE_STOPPED),
        "stopped for another reason: {why}"
    );
    put_back(kubernetes, live.cluster(), |pod| {
        let mut both = Which::ALL.into_iter().zip(&former);
        both.all(|(which, image)| pod.container(which).image == *image)
    })
    .await?;
    live.cluster()
        .patch(&images(Some(&former[0]), Some(&former[1])))
        .await?;
    live.cluster().ready_within(kubernetes, DONE).await?;
    whole(kubernetes, live.cluster()).await?;
    live.witness.go_on();
    operator.stop().await
}

/// Starts an operator, begins an upgrade, and waits until the operator has killed itself after this step.
async fn killed_after(kubernetes: &Kubernetes, live: &Live, step: &str, edit: &Value) -> Result<()> {
    let operator = kubernetes.local_operator(&live.scene.namespace, Some(step))?;
    live.cluster().patch(edit).await?;
    let deadline = kubernetes.environment.patience(KILLED);
    let ended = operator.killed_itself(deadline).await;
    ended.with_context(|| format!("the step {step} had no run"))
}
