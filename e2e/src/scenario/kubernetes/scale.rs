//! Who sets the number of gateways: `kubectl scale` and autoscalers the custom resource's, the operator alone the
//! Deployment's. And a restart that somebody asked for stays.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::names::{FIELD_MANAGER, Part};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::api::{Api, ListParams};
use serde_json::json;
use tokio::time::Instant;

use super::stage::{DEMO, ECHO, Stage};
use crate::kubernetes::installation::is_serving;
use crate::kubernetes::release::kubectl;
use crate::kubernetes::{Kubernetes, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;
use crate::wait::Seen;

/// The autoscaler looks every 15 s.
const AUTOSCALED: Duration = Duration::from_secs(90);
const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-scale", async |kubernetes| {
        let mut report = Report::new("k8s-scale", size, seed);
        let stage = Stage::set(kubernetes).await?;
        let client = stage.client("scale-device").await?;
        let mut audit = kubernetes.audit()?;

        let begun = Instant::now();
        scale(kubernetes, &stage, 3).await?;
        serves(kubernetes, &stage, 3).await?;
        report.figure("seconds_from_2_to_3", begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        scale(kubernetes, &stage, 2).await?;
        serves(kubernetes, &stage, 2).await?;
        report.figure("seconds_from_3_to_2", begun.elapsed().as_secs_f64());

        // Below its minimum, Kubernetes' own autoscaler acts without any metrics.
        let begun = Instant::now();
        let autoscaling = json!({"minReplicas": 3, "maxReplicas": 4, "cpuPercent": 50});
        stage
            .cluster
            .patch(&json!({"spec": {"gateway": {"autoscaling": autoscaling}}}))
            .await?;
        targets_the_custom_resource(kubernetes, &stage).await?;
        serves(kubernetes, &stage, 3).await?;
        report.figure("seconds_until_autoscaled", begun.elapsed().as_secs_f64());
        never_writes_replicas(&stage).await?;
        if let Some(audit) = &mut audit {
            let user = stage.operator.user().await?;
            let entries = audit.take(kubernetes, &stage.namespace).await?;
            let on_clusters = |entry: &&crate::kubernetes::audit::Entry| {
                entry.is_write() && entry.object_ref.resource == "imaccessclusters"
            };
            // `kubectl scale` wrote it twice and the autoscaler once: without those, the log is that of something else.
            let scales = entries
                .iter()
                .filter(on_clusters)
                .filter(|entry| entry.object_ref.subresource == "scale" && entry.landed());
            ensure!(
                scales.count() >= 3,
                "the audit log misses writes of the scale subresource"
            );
            let own = entries
                .iter()
                .filter(on_clusters)
                .filter(|entry| entry.user.username == user && entry.object_ref.subresource != "status");
            let own: Vec<_> = own.map(crate::kubernetes::audit::Entry::line).collect();
            if let Some(first) = own.first() {
                report.figure("first_write", first.as_str());
            }
            report.exactly(
                "writes_of_the_specification_by_the_operator",
                count(own.len() as u64),
                0.0,
            );
        }
        report.figure("audit_log", audit.is_some());

        let begun = Instant::now();
        restart(kubernetes, &stage).await?;
        report.figure("seconds_of_a_restart", begun.elapsed().as_secs_f64());
        stage
            .cluster
            .call(&client, ECHO)
            .await
            .context("after all of it")?;
        client.close().await;
        Ok(report)
    })
    .await
}

async fn scale(kubernetes: &Kubernetes, stage: &Stage, replicas: i32) -> Result<()> {
    let arguments = [
        "scale",
        &format!("imac/{DEMO}"),
        &format!("--replicas={replicas}"),
        "--namespace",
        &stage.namespace.name,
    ];
    kubectl(&kubernetes.environment, &arguments).await?;
    Ok(())
}

/// Waits until the specification, the Deployment, the scale subresource and the pods all have this number.
async fn serves(kubernetes: &Kubernetes, stage: &Stage, replicas: i32) -> Result<()> {
    let wanted = usize::try_from(replicas)?;
    kubernetes
        .until(&format!("{replicas} gateways are wanted and serve"), AUTOSCALED, async || {
            let specified = stage.cluster.get().await?.spec.gateway.replicas;
            let deployed = stage.cluster.deployment(Part::Gateway).await?.spec.and_then(|spec| spec.replicas);
            let counted = stage.cluster.api().get_scale(DEMO).await?.status.unwrap_or_default();
            let pods = stage.cluster.pods(Part::Gateway).await?;
            let serving = pods.iter().filter(|pod| is_serving(pod)).count();
            let reached = specified == replicas
                && deployed == Some(replicas)
                && counted.replicas == replicas
                && serving == wanted
                && pods.len() == wanted;
            Ok(if reached {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!(
                    "specification {specified}, Deployment {deployed:?}, scale {}, {serving} of {} pods serve",
                    counted.replicas,
                    pods.len()
                ))
            })
        })
        .await?;
    stage.cluster.ready(kubernetes).await?;
    Ok(())
}

async fn targets_the_custom_resource(kubernetes: &Kubernetes, stage: &Stage) -> Result<()> {
    let api: Api<HorizontalPodAutoscaler> = stage.namespace.api();
    kubernetes
        .until("there is an autoscaler", AUTOSCALED, async || {
            let found = api
                .list(&ListParams::default().labels(&stage.cluster.names.everything()))
                .await?;
            let Some(one) = found.items.first() else {
                return Ok(Seen::NotYet("none"));
            };
            let target = one.spec.as_ref().map(|spec| &spec.scale_target_ref);
            let target = target.context("an autoscaler without a target")?;
            ensure!(
                target.kind == "ImAccessCluster" && target.name == DEMO,
                "the autoscaler targets {target:?}, not the custom resource"
            );
            Ok(Seen::Yes(()))
        })
        .await
}

/// By the API server's own record: the operator's field manager owns nothing but the status.
async fn never_writes_replicas(stage: &Stage) -> Result<()> {
    let cluster = stage.cluster.get().await?;
    let entries = cluster.metadata.managed_fields.unwrap_or_default();
    ensure!(
        entries
            .iter()
            .any(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER)),
        "the custom resource isn't known to have a field of the operator: {entries:?}"
    );
    for entry in entries {
        let owned = serde_json::to_value(&entry.fields_v1)?;
        ensure!(
            entry.manager.as_deref() != Some(FIELD_MANAGER) || owned.get("f:spec").is_none(),
            "the operator owns fields of the specification: {owned}"
        );
    }
    Ok(())
}

/// `kubectl rollout restart`, then a change that the operator must act on: the restart stays what it is.
async fn restart(kubernetes: &Kubernetes, stage: &Stage) -> Result<()> {
    let before: BTreeSet<_> = uids(stage).await?;
    let name = stage.cluster.names.part(Part::Gateway);
    let arguments = [
        "rollout",
        "restart",
        &format!("deployment/{name}"),
        "--namespace",
        &stage.namespace.name,
    ];
    kubectl(&kubernetes.environment, &arguments).await?;
    let asked =
        restarted_at(&stage.cluster.deployment(Part::Gateway).await?).context("kubectl wrote no restart")?;
    stage
        .cluster
        .patch(&json!({"spec": {"gateway": {"disruption": {"maxUnavailable": 2}}}}))
        .await?;
    kubernetes
        .until("all gateways are others", AUTOSCALED, async || {
            let now = uids(stage).await?;
            Ok(if now.len() == before.len() && now.is_disjoint(&before) {
                Seen::Yes(())
            } else {
                Seen::NotYet(now)
            })
        })
        .await?;
    stage.cluster.ready(kubernetes).await?;
    let now = restarted_at(&stage.cluster.deployment(Part::Gateway).await?);
    ensure!(
        now.as_ref() == Some(&asked),
        "the restart of {asked} was reverted to {now:?}"
    );
    Ok(())
}

async fn uids(stage: &Stage) -> Result<BTreeSet<String>> {
    let pods = stage.cluster.pods(Part::Gateway).await?;
    Ok(pods.into_iter().filter_map(|pod| pod.metadata.uid).collect())
}

fn restarted_at(deployment: &Deployment) -> Option<String> {
    let metadata = deployment.spec.as_ref()?.template.metadata.as_ref()?;
    metadata.annotations.as_ref()?.get(RESTARTED_AT).cloned()
}
