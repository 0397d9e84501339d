//! The witness's load on Kubernetes with nothing changed: what it finds then is a fault of its own, or of every day.

use std::time::Duration;

use anyhow::Result;
use imaccess_common::process::cpu_of;
use tokio::time::sleep;

use super::judge;
use super::live::{Scene, replaced, whole};
use crate::kubernetes::with_kubernetes;
use crate::report::{Report, Size};
use crate::scenario::verdict::{self, count};
use crate::witness::Load;

/// Clients that leave meanwhile.
const LEAVERS: u32 = 5;

pub(in crate::scenario) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-witness", async |kubernetes| {
        let load = Load::new(seed, size.pick(200, 10_000), size.pick(100.0, 500.0));
        let scene = Scene::set(kubernetes, |_| {}).await?;
        let mut live = scene.under(kubernetes, load).await?;
        let before = whole(kubernetes, live.cluster()).await?;
        let own = std::process::id();
        let (cpu_before, from) = (cpu_of(own)?, live.witness.now());
        live.leave(LEAVERS);
        // The load's length is its nature: nothing is waited for.
        sleep(size.pick(Duration::from_secs(3), Duration::from_secs(60))).await;
        let window = (from, live.witness.now());
        let cpu = (cpu_of(own)? - cpu_before).as_secs_f64() / (window.1 - window.0).as_secs_f64();
        let after = whole(kubernetes, live.cluster()).await?;
        let ended = live.end(kubernetes).await?;

        let mut report = Report::new("k8s-witness", size, seed);
        report.figure("load_cpu_percent", cpu * 100.0);
        judge::unnoticed(&ended, &mut report);
        verdict::stall(&ended.testimony, "calm", &[window], &mut report);
        report.exactly("pods_replaced", count(replaced(&before, &after)), 0.0);
        Ok(report)
    })
    .await
}
