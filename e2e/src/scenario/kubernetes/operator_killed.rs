//! The operator is killed in the middle of an install and of a rollout: what comes after it finishes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::names::Part;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::Instant;

use super::stage::{ECHO, Stage};
use crate::kubernetes::installation::is_ready;
use crate::kubernetes::operator::remove_now;
use crate::kubernetes::process::Signal;
use crate::kubernetes::{Installation, Kubernetes, with_kubernetes};
use crate::report::{Report, Size};
use crate::wait::{Seen, wait_until};

/// The operator's first steps.
const BEGINS: Duration = Duration::from_secs(30);
/// Kubelets restart what is killed often only after a while: 10 s, 20 s, 40 s.
const FINISHED: Duration = Duration::from_secs(240);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-operator-killed", async |kubernetes| {
        let mut report = Report::new("k8s-operator-killed", size, seed);
        // What is left of it when it is killed early, half-way and late in an install.
        let moments: &[usize] = size.pick(&[5], &[1, 5, 12]);
        let stage = Stage::set(kubernetes).await?;
        report.figure("children_of_a_cluster", stage.cluster.children().await?.len());
        let mut kills = 0;
        for children in moments {
            let mut spec = stage.cluster.get().await?.spec;
            spec.gateway.replicas = 1;
            let name = format!("killed-{children}");
            let victims = stage.operator.running(kubernetes, 1).await?;
            let begun = Instant::now();
            let cluster = stage.namespace.cluster(&name, spec).await?;
            let had = has_children(kubernetes, &cluster, *children).await?;
            ensure!(
                !is_ready(&cluster.get().await?),
                "{name} was finished before the kill"
            );
            kill(kubernetes, &victims).await?;
            kills += 1;
            cluster
                .ready_within(kubernetes, FINISHED)
                .await
                .with_context(|| format!("killed when {had} children were there"))?;
            report.figure(&format!("children_at_kill_{children}"), had);
            report.figure(
                &format!("seconds_of_install_killed_at_{children}"),
                begun.elapsed().as_secs_f64(),
            );
            let client = cluster.client("after-install").await?;
            cluster.call(&client, ECHO).await?;
            client.close().await;
            cluster.delete().await?;
        }

        let client = stage.client("through-the-rollout").await?;
        let before = stage.cluster.pod_uids().await?;
        let victims = stage.operator.running(kubernetes, 1).await?;
        let begun = Instant::now();
        // Read at the start only: every gateway pod is replaced.
        stage
            .cluster
            .patch(&json!({"spec": {"state": {"sidecar": {"pingIntervalSeconds": 45}}}}))
            .await?;
        in_the_middle_of_a_rollout(kubernetes, &stage).await?;
        kill(kubernetes, &victims).await?;
        restarted(kubernetes, &stage, &victims).await?;
        kills += 1;
        stage.cluster.ready_within(kubernetes, FINISHED).await?;
        report.figure("seconds_of_rollout", begun.elapsed().as_secs_f64());
        let after = gateways(&stage).await?;
        ensure!(
            !after.is_empty() && after.iter().all(|uid| !before.contains(uid)),
            "after the rollout there are gateways from before it"
        );
        stage.cluster.call(&client, ECHO).await?;
        client.close().await;
        report.figure("kills", kills);
        Ok(report)
    })
    .await
}

/// Waits until so many children are there; how many there are.
async fn has_children(kubernetes: &Kubernetes, cluster: &Installation, count: usize) -> Result<usize> {
    let deadline = kubernetes.environment.patience(BEGINS);
    // Without the harness's pause between looks: the moment is what matters.
    wait_until(&format!("{count} children are there"), deadline, async || {
        let now = cluster.children().await?.len();
        Ok(if now >= count {
            Seen::Yes(now)
        } else {
            Seen::NotYet(now)
        })
    })
    .await
}

/// Waits until the Deployment has the new template and a gateway of the old one is left.
async fn in_the_middle_of_a_rollout(kubernetes: &Kubernetes, stage: &Stage) -> Result<()> {
    kubernetes
        .until("the gateways' rollout has begun", BEGINS, async || {
            let deployment = stage.cluster.deployment(Part::Gateway).await?;
            let status = deployment.status.unwrap_or_default();
            let replicas = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(0);
            let updated = status.updated_replicas.unwrap_or(0);
            let seen = format!(
                "{updated} of {replicas} updated, {:?} observed",
                status.observed_generation
            );
            // Before the change all are updated.
            Ok(if updated < replicas {
                Seen::Yes(())
            } else {
                Seen::NotYet(seen)
            })
        })
        .await
}

async fn gateways(stage: &Stage) -> Result<Vec<String>> {
    let pods = stage.cluster.pods(Part::Gateway).await?;
    let living = pods
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(living.filter_map(|pod| pod.metadata.uid).collect())
}

/// `kill -9` of the process where it can be reached, else the pod is removed without a goodbye.
async fn kill(kubernetes: &Kubernetes, victims: &[Pod]) -> Result<()> {
    for victim in victims {
        if kubernetes.reaches_processes() {
            kubernetes.signal(victim, Signal::Kill).await?;
        } else {
            remove_now(kubernetes, victim).await?;
        }
    }
    Ok(())
}

/// Waits until other processes have begun in the victims' place.
async fn restarted(kubernetes: &Kubernetes, stage: &Stage, victims: &[Pod]) -> Result<()> {
    let lives = |pod: &Pod| (pod.metadata.uid.clone(), restarts(pod));
    let before: Vec<_> = victims.iter().map(lives).collect();
    kubernetes
        .until("another operator has begun", FINISHED, async || {
            let now: Vec<_> = stage.operator.pods().await?.iter().map(lives).collect();
            let others = !now.is_empty() && now.iter().all(|life| !before.contains(life));
            Ok(if others { Seen::Yes(()) } else { Seen::NotYet(now) })
        })
        .await
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    statuses.into_iter().map(|status| status.restart_count).sum()
}
