//! The witness load with nothing replaced: what it finds then is a fault of its own, or of every day.

use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_common::process::cpu_of;
use tokio::time::sleep;

use super::verdict;
use crate::report::{Report, Size};
use crate::witness::{Load, Witness};
use crate::{Cluster, Options};

/// Of one core, in percent: the load shares the machine with what it witnesses.
const CPU_PERCENT: f64 = 60.0;

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let cluster = Cluster::start(Options {
        gateways: 1,
        processes: true,
        arguments: vec!["--shards".into(), "2".into()],
        ..Options::default()
    })
    .await?;
    let load = Load::new(seed, size.pick(200, 15_000), size.pick(100.0, 1_000.0));
    let witness = Witness::start(&cluster, load).await?;
    let own = std::process::id();
    let (before, from) = (cpu_of(own)?, witness.now());
    // The load's length is its nature: nothing is waited for.
    sleep(size.pick(Duration::from_secs(3), Duration::from_secs(60))).await;
    let window = (from, witness.now());
    let cpu = (cpu_of(own)? - before).as_secs_f64() / (window.1 - window.0).as_secs_f64();
    let testimony = witness.stop().await.context("the end of the load")?;

    let mut report = Report::new("witness", size, seed);
    report.at_most("load_cpu_percent", cpu * 100.0, CPU_PERCENT);
    verdict::note(&testimony, &mut report);
    verdict::stall(&testimony, "calm", &[window], &mut report);
    verdict::nothing_lost(&testimony, &mut report);
    cluster.stop(&[]).await?;
    Ok(report)
}
