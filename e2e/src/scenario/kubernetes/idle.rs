//! Nothing changes, so nothing is written, but for the lease.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::sleep;

use super::stage::Stage;
use crate::kubernetes::{Kubernetes, objects, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;
use crate::wait::Seen;

/// A settled cluster's objects stand still for this long before the minute begins.
const SETTLED: Duration = Duration::from_secs(5);
/// Until they do: status and annotations follow the pods' last changes.
const SETTLES: Duration = Duration::from_secs(90);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-idle", async |kubernetes| {
        let mut report = Report::new("k8s-idle", size, seed);
        let stage = Stage::set(kubernetes).await?;
        // Clients that are there and quiet are part of an idle cluster.
        let client = stage.client("idle-device").await?;
        settle(kubernetes, &stage).await?;

        let length = size.pick(Duration::from_secs(15), Duration::from_secs(60));
        let user = stage.operator.user().await?;
        let mut audit = kubernetes.audit()?;
        let before = versions(&stage).await?;
        // Not a wait for a state: the promise is about a time in which nothing happens.
        sleep(length).await;
        let after = versions(&stage).await?;

        let changed: Vec<_> = before
            .iter()
            .filter(|(id, version)| after.get(*id) != Some(version))
            .map(|(id, _)| id.clone())
            .chain(after.keys().filter(|id| !before.contains_key(*id)).cloned())
            .collect();
        report.figure("seconds", length.as_secs());
        report.figure("objects", before.len());
        if !changed.is_empty() {
            report.figure("changed", changed.join(" "));
        }
        report.exactly("objects_that_changed", count(changed.len() as u64), 0.0);
        report.figure("audit_log", audit.is_some());
        if let Some(audit) = &mut audit {
            let entries = audit.take(kubernetes, &stage.namespace).await?;
            let own: Vec<_> = entries
                .iter()
                .filter(|entry| entry.is_write() && entry.user.username == user)
                .collect();
            let (leases, others): (Vec<_>, Vec<_>) = own
                .into_iter()
                .partition(|entry| entry.object_ref.resource == "leases");
            // Without renewals in it, this would be the log of something else.
            ensure!(
                !leases.is_empty(),
                "the audit log has no renewal of the lease by {user}"
            );
            report.figure("lease_writes", leases.len());
            if let Some(first) = others.first() {
                report.figure("first_write", first.line());
            }
            report.exactly("writes_of_the_operator", count(others.len() as u64), 0.0);
        }
        stage.cluster.call(&client, super::stage::ECHO).await?;
        client.close().await;
        Ok(report)
    })
    .await
}

/// Waits until nothing has changed for a while.
async fn settle(kubernetes: &Kubernetes, stage: &Stage) -> Result<()> {
    let mut last = versions(stage).await?;
    let mut since = tokio::time::Instant::now();
    kubernetes
        .until("objects stand still", SETTLES, async || {
            let now = versions(stage).await?;
            let changed: Vec<_> = now
                .iter()
                .filter(|(id, version)| last.get(*id) != Some(version))
                .collect();
            if !changed.is_empty() || now.len() != last.len() {
                let seen = format!("{changed:?}");
                since = tokio::time::Instant::now();
                last = now;
                return Ok(Seen::NotYet(seen));
            }
            Ok(if since.elapsed() >= SETTLED {
                Seen::Yes(())
            } else {
                Seen::NotYet("still for less than the time asked for".to_owned())
            })
        })
        .await
}

/// Of the children and the custom resource.
async fn versions(stage: &Stage) -> Result<BTreeMap<String, String>> {
    let mut versions = objects::versions(&stage.cluster.children().await?);
    ensure!(!versions.is_empty(), "the cluster has no children");
    let own = stage.cluster.get().await?.metadata.resource_version;
    versions.insert("ImAccessCluster".to_owned(), own.unwrap_or_default());
    Ok(versions)
}
