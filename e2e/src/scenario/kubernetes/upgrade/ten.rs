//! Ten upgrades in a row, each to another binary: what the parts use and hold stays the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::change::{self, Changed};
use super::judge;
use super::live::{Live, Scene, images, needs_images};
use crate::kubernetes::containers::{GatewayPod, Which};
use crate::kubernetes::{Kubernetes, with_kubernetes};
use crate::report::{Report, Size};
use crate::wait::Seen;
use crate::witness::Load;

/// Clients that leave in each cycle.
const LEAVERS: u32 = 1;
/// Pages look at their process's memory this often at most: figures that stay for longer than that are new ones each time.
const PAGES_LOOK: Duration = Duration::from_secs(10);
/// For memory to stay as it is: well before gateways close clients of which they hear nothing, as these send nothing meanwhile.
const SETTLED: Duration = Duration::from_secs(60);
/// Descriptors that come and go: whoever reads the pages has a connection.
const READERS: f64 = 8.0;
/// The same within this share.
const SAME: f64 = 1.02;

pub(in crate::scenario) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-ten-upgrades", async |kubernetes| {
        needs_images(kubernetes)?;
        let load = Load {
            visits: 5.0,
            group_push: Some(Duration::from_secs(1)),
            // While all is quiet no client pings: who did so shortly before isn't taken for gone.
            ping: Duration::from_secs(10),
            ..Load::new(seed, size.pick(100, 2_000), size.pick(20.0, 100.0))
        };
        let scene = Scene::set(kubernetes, |_| {}).await?;
        let mut live = scene.under(kubernetes, load).await?;
        let (mut early, mut late) = (Vec::new(), Vec::new());
        let mut all = Changed::default();
        let (cycles, looks) = (size.pick(3, 10), size.pick(1, 4));
        for cycle in 1..=cycles {
            let stamp = 200 + cycle;
            let image = kubernetes.stamped_image(stamp).await?;
            live.leave(LEAVERS);
            let changed = change::in_place(kubernetes, &live, &images(Some(&image), Some(&image))).await;
            all.add(changed.with_context(|| format!("upgrade {cycle}"))?);
            change::stamps(live.cluster(), &stamp.to_string(), &stamp.to_string()).await?;
            // From the second on, for the first has nothing to take over; a few, for no two young processes are alike.
            if (2..2 + looks).contains(&cycle) {
                early.push(Footprint::of(kubernetes, &live).await?);
            } else if cycle > cycles - looks {
                late.push(Footprint::of(kubernetes, &live).await?);
            }
        }
        let restarts = restarts(&live).await?;
        let ended = live.end(kubernetes).await?;

        let mut report = Report::new("k8s-ten-upgrades", size, seed);
        for (name, times) in restarts {
            report.exactly(&format!("restarts_{name}"), f64::from(times), f64::from(cycles));
        }
        change::judge("upgrades", &all, &ended.testimony, &mut report);
        compare(&early, &late, &mut report)?;
        judge::unnoticed(&ended, &mut report);
        Ok(report)
    })
    .await
}

/// By pod and container, how often it was started again.
async fn restarts(live: &Live) -> Result<Vec<(String, i32)>> {
    let mut all = Vec::new();
    for (number, pod) in live.cluster().gateway_pods().await?.iter().enumerate() {
        for which in Which::ALL {
            all.push((
                format!("{}_{number}", which.as_str()),
                pod.container(which).restarts,
            ));
        }
    }
    Ok(all)
}

/// What the parts of one kind use together, once nothing is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Uses {
    memory: f64,
    descriptors: f64,
    held: f64,
}

/// Of gateways and of sidecars, in the order of [`Which::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Footprint([Uses; 2]);

impl Footprint {
    async fn of(kubernetes: &Kubernetes, live: &Live) -> Result<Self> {
        live.witness.quiet().await?;
        let (mut last, mut since) = (Self::default(), live.witness.now());
        let settled = kubernetes
            .until("memory and descriptors stay as they are", SETTLED, async || {
                let now = Self::now(live).await?;
                let at = live.witness.now();
                if !now.is_about(&last) {
                    (last, since) = (now, at);
                }
                Ok(if at - since > PAGES_LOOK {
                    Seen::Yes(now)
                } else {
                    Seen::NotYet(format!("{now:?} after {last:?}"))
                })
            })
            .await?;
        live.witness.go_on();
        Ok(settled)
    }

    async fn now(live: &Live) -> Result<Self> {
        let mut footprint = Self::default();
        for pod in all_pods(live).await? {
            for (which, uses) in Which::ALL.into_iter().zip(&mut footprint.0) {
                let page = pod.page(which).await?;
                uses.memory += page.sum("imaccess_process_anonymous_memory_bytes", &[]);
                uses.descriptors += page.sum("imaccess_process_open_fds", &[]);
                uses.held += match which {
                    Which::Gateway => page.sum("imaccess_gateway_custody_held", &[]),
                    Which::State => page.sum("imaccess_state_custody_held", &[]),
                };
            }
        }
        Ok(footprint)
    }

    fn is_about(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| {
            (one.memory - other.memory).abs() <= other.memory / 200.0
                && (one.descriptors - other.descriptors).abs() <= READERS
                && (one.held - other.held).abs() < 1.0
        })
    }
}

async fn all_pods(live: &Live) -> Result<Vec<GatewayPod>> {
    let pods = live.cluster().gateway_pods().await?;
    ensure!(
        pods.len() == live.gateways.len(),
        "of {} gateway pods {} are left",
        live.gateways.len(),
        pods.len()
    );
    Ok(pods)
}

/// The least of early and of late looks, against each other: what a young process has beyond it are buffers that a burst has made
/// grow, which is chance (2 % of the 5 MB of a sidecar are a hundred kilobytes); what is left behind by upgrades is in all of them.
fn compare(early: &[Footprint], late: &[Footprint], report: &mut Report) -> Result<()> {
    let least = |all: &[Footprint], of: &dyn Fn(&Footprint) -> f64| {
        let least = all.iter().map(of).min_by(f64::total_cmp);
        least.context("no footprint was taken")
    };
    for (index, which) in Which::ALL.into_iter().enumerate() {
        let name = which.as_str();
        type Of = fn(&Uses) -> f64;
        let figures: [(&str, Of); 3] = [
            ("memory", |uses| uses.memory),
            ("descriptors", |uses| uses.descriptors),
            ("held", |uses| uses.held),
        ];
        for (figure, of) in figures {
            let (before, after) = (
                least(early, &|one| of(&one.0[index]))?,
                least(late, &|one| of(&one.0[index]))?,
            );
            report.figure(&format!("{name}_{figure}_early"), before);
            report.figure(&format!("{name}_{figure}_late"), after);
            let ratio = format!("{name}_{figure}_ratio");
            // Nothing held would be as much before as after.
            ensure!(before > 0.0, "{name} had no {figure} in the beginning");
            if figure == "memory" {
                report.at_most(&ratio, after / before, SAME);
            } else {
                report.always_at_most(&ratio, after / before, SAME);
            }
        }
    }
    Ok(())
}
