//! Gateways and sidecars upgraded under load, again and again: no client may notice more than a short stall.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use tokio::time::sleep;

use super::verdict;
use crate::replace::{self, upgrade, whole};
use crate::report::{Report, Size};
use crate::witness::{Load, Witness};
use crate::{Cluster, Options};

/// Until links and custody are together.
const WHOLE: Duration = Duration::from_secs(60);
/// Between two upgrades, at random: they begin at any moment of the load.
const PAUSE_MS: std::ops::Range<u64> = 300..1_500;

pub(super) async fn upgrade_gateway_and_state(size: Size, seed: u64) -> Result<Report> {
    let cluster = Cluster::start(with_shards(2)).await?;
    whole(&cluster, 0, WHOLE).await?;
    let load = Load::new(seed, size.pick(200, 15_000), size.pick(100.0, 1_000.0));
    let witness = Witness::start(&cluster, load).await?;
    let mut report = Report::new("upgrade-gateway-and-state", size, seed);
    let mut random = Rng::with_seed(seed);
    let mut changes = [("gateway", Changes::default()), ("state", Changes::default())];
    for _ in 0..size.pick(2, 10) {
        for (part, changes) in &mut changes {
            sleep(Duration::from_millis(random.u64(PAUSE_MS))).await;
            let upgraded = changes.upgrade(&cluster, part, &witness).await;
            upgraded.with_context(|| format!("upgrade of {part}"))?;
        }
    }
    let online = witness.count_online();
    let testimony = witness.stop().await?;
    report.exactly(
        "online_in_the_end",
        verdict::count(online as u64),
        f64::from(load.plain + load.sdk),
    );
    verdict::note(&testimony, &mut report);
    for (part, changes) in &changes {
        changes.note(part, &mut report);
        verdict::short_stall(&testimony, part, &changes.windows, &mut report);
    }
    verdict::nothing_lost(&testimony, &mut report);
    cluster.stop(&[]).await?;
    Ok(report)
}

pub(super) async fn shards_change(size: Size, seed: u64) -> Result<Report> {
    let cluster = Cluster::start(with_shards(2)).await?;
    whole(&cluster, 0, WHOLE).await?;
    let load = Load::new(seed, size.pick(200, 2_000), size.pick(100.0, 300.0));
    let witness = Witness::start(&cluster, load).await?;
    let mut report = Report::new("shards-change", size, seed);
    let mut changes = Changes::default();
    let file = cluster.view.directory.join("gateway-0.yaml");
    for shards in [1, 3] {
        set_shards(&file, shards)?;
        let upgraded = changes.upgrade(&cluster, "gateway", &witness).await;
        upgraded.with_context(|| format!("to {shards} shards"))?;
        let now = whole(&cluster, 0, WHOLE).await?;
        if now.shards != shards {
            bail!("the gateway has {} shards instead of {shards}", now.shards);
        }
        let pushed = witness.so_far().pushed.last_in_group;
        // One that was pushed after the change must reach everybody.
        witness.group_push_reached_all(pushed + 1, WHOLE).await?;
    }
    let testimony = witness.stop().await?;
    verdict::note(&testimony, &mut report);
    changes.note("gateway", &mut report);
    verdict::short_stall(&testimony, "gateway", &changes.windows, &mut report);
    verdict::nothing_lost(&testimony, &mut report);
    cluster.stop(&[]).await?;
    Ok(report)
}

pub(super) async fn hundred_upgrades(size: Size, seed: u64) -> Result<Report> {
    let mut cluster = Cluster::start(with_shards(2)).await?;
    whole(&cluster, 0, WHOLE).await?;
    let load = Load {
        visits: 5.0,
        group_push: Some(Duration::from_secs(1)),
        ..Load::new(seed, size.pick(100, 1_000), size.pick(20.0, 50.0))
    };
    let witness = Witness::start(&cluster, load).await?;
    let mut report = Report::new("hundred-upgrades", size, seed);
    let mut changes = Changes::default();
    let (mut early, mut late) = (Vec::new(), Vec::new());
    let cycles = size.pick(5, 100);
    let looks = size.pick(1, 5);
    for cycle in 1..=cycles {
        for part in ["gateway", "state"] {
            let upgraded = changes.upgrade(&cluster, part, &witness).await;
            upgraded.with_context(|| format!("cycle {cycle}: upgrade of {part}"))?;
        }
        // From the second on, for the first has nothing to take over; a few, for no two young processes are alike.
        if (2..2 + looks).contains(&cycle) {
            early.push(Footprint::of(&mut cluster, &witness).await?);
        } else if cycle > cycles - looks {
            late.push(Footprint::of(&mut cluster, &witness).await?);
        }
    }
    let (early, late) = (Footprint::median(&early)?, Footprint::median(&late)?);
    // In the cycles every process is young. What one keeps of each other process shows only in one that stays, and while nothing is
    // asked, for kept replies take memory too.
    witness.quiet().await?;
    for (part, other) in [("gateway", "state"), ("state", "gateway")] {
        let mut before = 0;
        let warm = size.pick(1, 10);
        for number in 0..size.pick(3, 40) {
            if number == warm {
                before = settled(&mut cluster, other).await?.0;
            }
            let upgraded = changes.upgrade(&cluster, part, &witness).await;
            upgraded.with_context(|| format!("upgrade of {part} with {other} kept"))?;
        }
        let (after, _) = settled(&mut cluster, other).await?;
        report.at_most(
            &format!("{other}_memory_ratio_over_upgrades_of_{part}"),
            verdict::count(after) / verdict::count(before),
            1.02,
        );
    }
    witness.go_on();
    let testimony = witness.stop().await?;
    verdict::note(&testimony, &mut report);
    changes.note("both", &mut report);
    early.compare(&late, &mut report);
    verdict::nothing_lost(&testimony, &mut report);
    cluster.stop(&[]).await?;
    Ok(report)
}

/// One gateway, each part a process.
fn with_shards(shards: u32) -> Options {
    Options {
        gateways: 1,
        processes: true,
        arguments: vec!["--shards".into(), shards.to_string().into()],
        ..Options::default()
    }
}

/// The part's own configuration: the next process reads it.
fn set_shards(file: &std::path::Path, shards: u32) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut found = false;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for line in lines.iter_mut().filter(|line| line.starts_with("shards:")) {
        found = true;
        *line = format!("shards: {shards}");
    }
    if !found {
        bail!("{} has no line `shards:`", file.display());
    }
    std::fs::write(file, lines.join("\n") + "\n").context("cannot write it")
}

/// Upgrades and when they were.
#[derive(Default)]
struct Changes {
    windows: Vec<(Duration, Duration)>,
    stopped_ms: Vec<u64>,
    ready_ms: Vec<u64>,
}

impl Changes {
    /// One that must go well.
    async fn upgrade(&mut self, cluster: &Cluster, part: &str, witness: &Witness) -> Result<()> {
        let begun = witness.now();
        let upgraded = upgrade(cluster, part, None).await?;
        let end = witness.now();
        if upgraded.status != 0 {
            bail!("exit status {}: {}", upgraded.status, upgraded.text);
        }
        // Before the old process was told to end, nothing had changed.
        let from = upgraded
            .ready()
            .map_or(begun, |ready| begun.max(end.saturating_sub(ready)));
        self.windows.push((from, end));
        self.stopped_ms.extend(upgraded.stopped_ms());
        let ready = upgraded.ready().unwrap_or(end - begun).as_millis();
        self.ready_ms.push(u64::try_from(ready).unwrap_or(u64::MAX));
        Ok(())
    }

    fn note(&self, part: &str, report: &mut Report) {
        report.figure(&format!("upgrades_of_{part}"), self.windows.len());
        let longest = |all: &[u64]| all.iter().copied().max();
        report.figure(
            &format!("upgrades_of_{part}_stopped_ms_longest"),
            longest(&self.stopped_ms),
        );
        report.figure(
            &format!("upgrades_of_{part}_ready_ms_longest"),
            longest(&self.ready_ms),
        );
    }
}

/// What parts use, once nothing is under way.
#[derive(Debug, Default)]
struct Footprint {
    /// Per part: memory in bytes, descriptors.
    parts: Vec<(&'static str, u64, u64)>,
    held: u64,
    connections: u64,
}

impl Footprint {
    async fn of(cluster: &mut Cluster, witness: &Witness) -> Result<Self> {
        witness.quiet().await?;
        let mut footprint = Self::default();
        for part in ["gateway", "state"] {
            let (memory, descriptors) = settled(cluster, part).await?;
            footprint.parts.push((part, memory, descriptors));
        }
        let handover = whole(cluster, 0, WHOLE).await?;
        (footprint.held, footprint.connections) = (handover.held, handover.connections);
        witness.go_on();
        Ok(footprint)
    }

    /// The median of each figure.
    fn median(all: &[Self]) -> Result<Self> {
        let middle = |of: &dyn Fn(&Self) -> u64| {
            let mut values: Vec<u64> = all.iter().map(of).collect();
            values.sort_unstable();
            values
                .get(values.len() / 2)
                .copied()
                .context("no footprint was taken")
        };
        let mut parts = Vec::new();
        for index in 0..all.first().map_or(0, |one| one.parts.len()) {
            let memory = middle(&|one| one.parts[index].1)?;
            let descriptors = middle(&|one| one.parts[index].2)?;
            parts.push((all[0].parts[index].0, memory, descriptors));
        }
        Ok(Self {
            parts,
            held: middle(&|one| one.held)?,
            connections: middle(&|one| one.connections)?,
        })
    }

    fn compare(&self, late: &Self, report: &mut Report) {
        let ratio = |late: u64, early: u64| verdict::count(late) / verdict::count(early);
        for ((part, memory, descriptors), (_, late_memory, late_descriptors)) in
            self.parts.iter().zip(&late.parts)
        {
            report.figure(&format!("{part}_memory_early"), *memory);
            report.figure(&format!("{part}_memory_late"), *late_memory);
            report.at_most(
                &format!("{part}_memory_ratio"),
                ratio(*late_memory, *memory),
                1.02,
            );
            report.figure(&format!("{part}_descriptors_early"), *descriptors);
            report.figure(&format!("{part}_descriptors_late"), *late_descriptors);
            let grown = ratio(*late_descriptors, *descriptors);
            report.always_at_most(&format!("{part}_descriptors_ratio"), grown, 1.02);
        }
        report.figure("held_early", self.held);
        report.always_at_most("held_ratio", ratio(late.held, self.held), 1.02);
        report.exactly(
            "connections_gone",
            verdict::count(self.connections.saturating_sub(late.connections)),
            0.0,
        );
    }
}

/// Memory and descriptors of a part, once they stay as they are.
async fn settled(cluster: &mut Cluster, part: &str) -> Result<(u64, u64)> {
    /// So many looks in a row must see the same.
    const LOOKS: u32 = 50;
    let (mut last, mut same) = ((0, 0), 0);
    crate::wait::wait_until("memory and descriptors stay as they are", WHOLE, async || {
        let memory = replace::memory(cluster, part)?;
        let now = (memory, replace::descriptors(cluster, part)?);
        let stays = now.0.abs_diff(last.0) <= last.0 / 1_000 && now.1 == last.1;
        same = if stays { same + 1 } else { 0 };
        last = now;
        Ok(if same >= LOOKS {
            crate::wait::Seen::Yes(now)
        } else {
            crate::wait::Seen::NotYet(now)
        })
    })
    .await
}
