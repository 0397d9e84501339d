//! Of two operators one leads. Killed, the other takes over; stopped beyond its lease and continued, it writes nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::names::Part;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::json;
use tokio::time::Instant;

use super::stage::{ECHO, Stage};
use crate::kubernetes::audit::Entry;
use crate::kubernetes::operator::remove_now;
use crate::kubernetes::process::Signal;
use crate::kubernetes::{Kubernetes, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;
use crate::wait::Seen;

/// As promised.
const TAKEOVER_SECONDS: f64 = 20.0;
/// On any machine.
const TAKEN_OVER: Duration = Duration::from_secs(60);
/// The pages of a continued process.
const AWAKE: Duration = Duration::from_secs(60);
/// The operator's pages.
const PAGES: u16 = 8_080;

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-two-operators", async |kubernetes| {
        let mut report = Report::new("k8s-two-operators", size, seed);
        let stage = Stage::set_with(kubernetes, 2, |spec| spec.gateway.replicas = 1).await?;
        let mut audit = kubernetes.audit()?;
        let client = stage.client("two-operators").await?;

        let first = stage.operator.leader(kubernetes, TAKEN_OVER).await?;
        let begun = Instant::now();
        // By its pod's removal alone it would be told, and give the lease back.
        if kubernetes.reaches_processes() {
            kubernetes.signal(&first, Signal::Kill).await?;
        }
        remove_now(kubernetes, &first).await?;
        // What counts is that somebody acts.
        stage
            .cluster
            .patch(&json!({"spec": {"gateway": {"replicas": 2}}}))
            .await?;
        acted(kubernetes, &stage, 2).await?;
        report.at_most(
            "seconds_of_takeover",
            begun.elapsed().as_secs_f64(),
            TAKEOVER_SECONDS,
        );
        stage.operator.running(kubernetes, 2).await?;
        stage.cluster.ready(kubernetes).await?;
        // A pod that leads may not have been seen to run yet: then its address isn't known.
        let second = stage.operator.leader(kubernetes, TAKEN_OVER).await?;
        ensure!(
            second.metadata.uid != first.metadata.uid,
            "the killed pod still leads"
        );
        if let Some(audit) = &mut audit {
            let entries = audit.take(kubernetes, &stage.namespace).await?;
            one_leads(
                &entries,
                &stage.operator.user().await?,
                [name(&first)?, name(&second)?],
            )?;
        }

        let stopped = kubernetes.reaches_processes();
        report.figure("stopped_leader", stopped);
        report.figure("audit_log", audit.is_some());
        if stopped {
            let begun = Instant::now();
            kubernetes.signal(&second, Signal::Stop).await?;
            // It must go on whatever happens: a stopped process is no use to whoever looks into a failure.
            let third = deposed(kubernetes, &stage, &second).await;
            let entries_before = match &mut audit {
                Some(audit) => Some(audit.take(kubernetes, &stage.namespace).await?),
                None => None,
            };
            let third = match third {
                Ok(third) => {
                    // Work is waiting for the stopped one, in its watches and its queue.
                    let changed = work(&stage).await;
                    kubernetes.signal(&second, Signal::Continue).await?;
                    changed?;
                    third
                }
                Err(error) => {
                    kubernetes.signal(&second, Signal::Continue).await?;
                    return Err(error);
                }
            };
            drop(entries_before);
            report.figure("seconds_stopped", begun.elapsed().as_secs_f64());
            awake(kubernetes, &stage, &second).await?;
            // More work, with both awake.
            stage
                .cluster
                .patch(&json!({"spec": {"gateway": {"replicas": 2}}}))
                .await?;
            acted(kubernetes, &stage, 2).await?;
            stage.cluster.ready(kubernetes).await?;
            let leads = stage.operator.leader(kubernetes, TAKEN_OVER).await?;
            ensure!(
                leads.metadata.uid == third.metadata.uid,
                "the one that had been stopped leads again, although another did"
            );
            if let Some(audit) = &mut audit {
                let entries = audit.take(kubernetes, &stage.namespace).await?;
                judge(&mut report, &entries, name(&second)?, name(&third)?)?;
            }
        }
        stage.cluster.call(&client, ECHO).await?;
        client.close().await;
        Ok(report)
    })
    .await
}

fn name(pod: &Pod) -> Result<&str> {
    pod.metadata.name.as_deref().context("a pod has a name")
}

/// Waits until the gateways' Deployment has this number.
async fn acted(kubernetes: &Kubernetes, stage: &Stage, replicas: i32) -> Result<()> {
    kubernetes
        .until(
            &format!("an operator sets {replicas} replicas"),
            TAKEN_OVER,
            async || {
                let deployment = stage.cluster.deployment(Part::Gateway).await?;
                let now = deployment.spec.and_then(|spec| spec.replicas);
                Ok(if now == Some(replicas) {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(now)
                })
            },
        )
        .await
}

/// Waits until another than the stopped one leads and acts.
async fn deposed(kubernetes: &Kubernetes, stage: &Stage, stopped: &Pod) -> Result<Pod> {
    let third = kubernetes
        .until("another leads", TAKEN_OVER, async || {
            let leader = stage.operator.leader(kubernetes, TAKEN_OVER).await?;
            Ok(if leader.metadata.uid == stopped.metadata.uid {
                Seen::NotYet(leader.metadata.name)
            } else {
                Seen::Yes(leader)
            })
        })
        .await?;
    stage
        .cluster
        .patch(&json!({"spec": {"gateway": {"replicas": 1}}}))
        .await?;
    acted(kubernetes, stage, 1).await?;
    Ok(third)
}

/// Changes that every operator which believes to lead would answer with writes.
async fn work(stage: &Stage) -> Result<()> {
    for child in stage.cluster.children().await? {
        if matches!(
            child.kind.kind,
            "ConfigMap" | "PodDisruptionBudget" | "Service" | "Role"
        ) {
            let api = child.kind.api(stage.namespace.client(), &stage.namespace.name);
            api.delete(child.name(), &DeleteParams::background()).await?;
        }
    }
    stage
        .cluster
        .patch(&json!({"spec": {"gateway": {"drain": {"ratePerSecond": 999}}}}))
        .await?;
    Ok(())
}

/// The continued process answers, or its container was started anew because it gave up.
async fn awake(kubernetes: &Kubernetes, stage: &Stage, pod: &Pod) -> Result<()> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    let url = format!(
        "http://{}:{PAGES}/healthz",
        address.context("the pod has no address")?
    );
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(2))
        .build()?;
    kubernetes
        .until("the continued operator is awake", AWAKE, async || {
            let answer = http.get(&url).send().await;
            Ok(match answer {
                Ok(answer) if answer.status().is_success() => Seen::Yes(()),
                other => Seen::NotYet(format!("{other:?}")),
            })
        })
        .await?;
    stage.operator.running(kubernetes, 2).await?;
    Ok(())
}

/// While nobody was stopped, everything was written by those who led.
fn one_leads(entries: &[Entry], user: &str, leaders: [&str; 2]) -> Result<()> {
    let own = entries
        .iter()
        .filter(|entry| entry.user.username == user && is_work(entry));
    let mut seen = 0;
    for entry in own {
        let pod = entry.pod().unwrap_or_default();
        ensure!(
            leaders.contains(&pod),
            "{pod} doesn't lead and wrote: {}",
            entry.line()
        );
        seen += 1;
    }
    ensure!(seen > 0, "the audit log has no write of {user}");
    Ok(())
}

/// The entries are those since the other one led.
fn judge(report: &mut Report, entries: &[Entry], stopped: &str, leader: &str) -> Result<()> {
    let of = |pod: &str| -> Vec<&Entry> {
        let own = entries.iter().filter(|entry| entry.pod() == Some(pod));
        own.filter(|entry| entry.is_write() && entry.landed()).collect()
    };
    // Without the new leader's writes, this would be the log of something else.
    ensure!(
        of(leader).iter().any(|entry| is_work(entry)),
        "the audit log has no write of {leader}, which leads"
    );
    let tried = entries
        .iter()
        .filter(|entry| entry.pod() == Some(stopped) && entry.is_write());
    report.figure("writes_tried_by_the_stopped_leader", tried.count());
    report.figure("writes_of_the_new_leader", of(leader).len());
    let landed = of(stopped);
    if let Some(first) = landed.first() {
        report.figure("first_write_of_the_stopped_leader", first.line());
    }
    report.exactly(
        "writes_landed_by_the_stopped_leader",
        count(landed.len() as u64),
        0.0,
    );
    Ok(())
}

/// A write that isn't of a lease, and was done.
fn is_work(entry: &Entry) -> bool {
    entry.is_write() && entry.landed() && entry.object_ref.resource != "leases"
}
