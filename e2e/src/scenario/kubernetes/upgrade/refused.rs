//! Images that go wrong: an upgrade to one is stopped before anything is touched, or at the first pod, which is put back. The
//! conditions and an event say why, all connections are there, and a corrected image goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::ImAccessCluster;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, ListParams};

use super::change::{self, stalled};
use super::judge;
use super::live::{Live, Scene, images, needs_images, replaced, whole};
use crate::kubernetes::containers::{GatewayPod, Which};
use crate::kubernetes::images::Fault;
use crate::kubernetes::installation::conditions;
use crate::kubernetes::{Installation, Kubernetes, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;
use crate::wait::Seen;
use crate::witness::Load;

/// A preflight that waits for an image in vain, or a pod that is given time to get ready and is then put back.
pub(super) const STOPPED: Duration = Duration::from_secs(300);
/// Requests that must be answered after each: from all over the load.
const ANSWERED: u64 = 200;
/// Stopped before anything was touched.
const PREFLIGHT_FAILED: &str = "PreflightFailed";
/// Stopped at a pod.
pub(super) const UPGRADE_STOPPED: &str = "UpgradeStopped";

/// An image that goes wrong, in the container that it is for, and where the upgrade to it stops.
struct Bad {
    name: &'static str,
    fault: Fault,
    part: Which,
    reason: &'static str,
}

const ALL: [Bad; 6] = [
    Bad {
        name: "missing",
        fault: Fault::Missing,
        part: Which::Gateway,
        reason: PREFLIGHT_FAILED,
    },
    Bad {
        name: "never_ready",
        fault: Fault::NeverReady,
        part: Which::Gateway,
        reason: UPGRADE_STOPPED,
    },
    Bad {
        name: "exits",
        fault: Fault::Exits,
        part: Which::Gateway,
        reason: PREFLIGHT_FAILED,
    },
    Bad {
        name: "strange",
        fault: Fault::Strange,
        part: Which::State,
        reason: PREFLIGHT_FAILED,
    },
    Bad {
        name: "exits_as_gateway",
        fault: Fault::ExitsAs(Which::Gateway),
        part: Which::Gateway,
        reason: UPGRADE_STOPPED,
    },
    Bad {
        name: "exits_as_state",
        fault: Fault::ExitsAs(Which::State),
        part: Which::State,
        reason: UPGRADE_STOPPED,
    },
];

pub(in crate::scenario) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-upgrade-refused", async |kubernetes| {
        needs_images(kubernetes)?;
        let mut report = Report::new("k8s-upgrade-refused", size, seed);
        let good = kubernetes.stamped_image(401).await?;
        let scene = Scene::set(kubernetes, |_| {}).await?;
        let mut live = scene.under(kubernetes, load(size, seed)).await?;
        let old = kubernetes.environment.image()?;
        for bad in &ALL[..size.pick(2, ALL.len())] {
            let image = kubernetes.faulty_image(bad.fault).await?;
            let refused = refuse(kubernetes, &mut live, bad, &image, &mut report).await;
            refused.with_context(|| bad.name.to_owned())?;
            // The next is another change from the same images.
            let part = bad.part;
            live.cluster()
                .patch(&edit(part, old))
                .await
                .with_context(|| format!("back from {}", bad.name))?;
            live.cluster()
                .ready_within(kubernetes, STOPPED)
                .await
                .with_context(|| format!("after {} was taken back", bad.name))?;
        }
        let corrected = change::in_place(kubernetes, &live, &images(Some(&good), Some(&good))).await;
        let corrected = corrected.context("a corrected image")?;
        change::stamps(live.cluster(), "401", "401").await?;
        live.answers(kubernetes, ANSWERED).await?;
        let ended = live.end(kubernetes).await?;
        change::judge("corrected", &corrected, &ended.testimony, &mut report);
        judge::unnoticed(&ended, &mut report);
        Ok(report)
    })
    .await
}

/// Clients of the SDK leave a gateway that is silent for long, as they should: here who stays is looked at.
pub(super) fn load(size: Size, seed: u64) -> Load {
    Load {
        sdk: 0,
        sdk_share: 0.0,
        ..Load::new(seed, size.pick(200, 1_000), size.pick(100.0, 200.0))
    }
}

fn edit(part: Which, image: &str) -> serde_json::Value {
    match part {
        Which::Gateway => images(Some(image), None),
        Which::State => images(None, Some(image)),
    }
}

/// Asks for a bad image, and looks at what comes of it.
async fn refuse(
    kubernetes: &Kubernetes,
    live: &mut Live,
    bad: &Bad,
    image: &str,
    report: &mut Report,
) -> Result<()> {
    let name = bad.name;
    let before = whole(kubernetes, live.cluster()).await?;
    let events_before = events(live.cluster(), bad.reason).await?;
    live.leave(1);
    if bad.reason == UPGRADE_STOPPED {
        // A gateway that is given time to get ready answers nobody meanwhile: connections must outlive that, and what is asked after it
        // must be answered.
        live.witness.quiet().await?;
    }
    let from = live.witness.now();
    live.cluster().patch(&edit(bad.part, image)).await?;
    let why = stopped(kubernetes, live.cluster()).await?;
    report.figure(
        &format!("{name}_seconds_until_stopped"),
        (live.witness.now() - from).as_secs_f64(),
    );
    report.figure(&format!("{name}_said"), why.clone());
    ensure!(
        why.starts_with(&format!("{}: ", bad.reason)),
        "stopped for another reason than {}: {why}",
        bad.reason
    );
    said_by_an_event(kubernetes, live.cluster(), bad.reason, &events_before).await?;
    let has_former = |pod: &GatewayPod| {
        let was = before.iter().find(|was| was.uid == pod.uid);
        was.is_some_and(|was| same_images(was, pod))
    };
    put_back(kubernetes, live.cluster(), has_former).await?;

    let after = whole(kubernetes, live.cluster()).await?;
    let mut none = |what: &str, number: u64| {
        report.exactly(&format!("{name}_{what}"), count(number), 0.0);
    };
    none("pods_replaced", replaced(&before, &after));
    let (images, touched) = compare(&before, &after);
    none("containers_with_another_image", images);
    let allowed = u64::from(bad.reason == UPGRADE_STOPPED);
    none("pods_touched_too_many", touched.saturating_sub(allowed));
    // Stopped at a pod means that one was tried.
    none("pods_not_tried", allowed.saturating_sub(touched));
    let gone = live.witness.count_present() - live.witness.count_online();
    none("clients_gone", gone as u64);
    live.witness.go_on();
    live.answers(kubernetes, ANSWERED).await
}

/// Waits until the upgrade has stopped, and returns reason and message of the condition; the status says it too.
pub(super) async fn stopped(kubernetes: &Kubernetes, cluster: &Installation) -> Result<String> {
    // The reason of an upgrade that has stopped; pods that don't come up make a cluster stalled as well.
    let is_stopped = |cluster: &ImAccessCluster| {
        let upgrade = cluster.status.as_ref().and_then(|status| status.upgrade.as_ref());
        upgrade.is_some_and(|upgrade| upgrade.reason.is_some())
    };
    kubernetes
        .until("the upgrade has stopped", STOPPED, async || {
            let now = cluster.get().await?;
            Ok(match stalled(&now).filter(|_| is_stopped(&now)) {
                Some(why) => Seen::Yes(why),
                None => Seen::NotYet(conditions(&now)),
            })
        })
        .await
}

/// Waits until every pod has its former images: that it has stopped is written down before a pod is touched again.
pub(super) async fn put_back(
    kubernetes: &Kubernetes,
    cluster: &Installation,
    has_former: impl Fn(&GatewayPod) -> bool,
) -> Result<()> {
    kubernetes
        .until("every pod has its former images", STOPPED, async || {
            let pods = cluster.gateway_pods().await?;
            Ok(if pods.iter().all(&has_former) {
                Seen::Yes(())
            } else {
                Seen::NotYet(pods)
            })
        })
        .await
}

fn same_images(one: &GatewayPod, other: &GatewayPod) -> bool {
    let mut both = Which::ALL.into_iter();
    both.all(|which| one.container(which).image == other.container(which).image)
}

/// Containers with another image than before, and pods in which one was restarted.
fn compare(before: &[GatewayPod], after: &[GatewayPod]) -> (u64, u64) {
    let (mut images, mut touched) = (0, 0);
    for now in after {
        let Some(was) = before.iter().find(|pod| pod.uid == now.uid) else {
            continue;
        };
        let restarted = Which::ALL
            .into_iter()
            .any(|which| now.container(which).restarts != was.container(which).restarts);
        touched += u64::from(restarted);
        for which in Which::ALL {
            images += u64::from(now.container(which).image != was.container(which).image);
        }
    }
    (images, touched)
}

/// Events of this reason about the custom resource: by name, how often and with what message.
async fn events(cluster: &Installation, reason: &str) -> Result<BTreeMap<String, (i32, String)>> {
    let api: Api<Event> = cluster.namespace.api();
    let all = api
        .list(&ListParams::default())
        .await
        .context("cannot list events")?;
    let about = all.items.into_iter().filter(|event| {
        event.reason.as_deref() == Some(reason)
            && event.involved_object.kind.as_deref() == Some("ImAccessCluster")
            && event.involved_object.name.as_deref() == Some(cluster.name())
    });
    let told = about.filter_map(|event| {
        let series = event.series.and_then(|series| series.count);
        let times = series.or(event.count).unwrap_or(1);
        Some((event.metadata.name?, (times, event.message.unwrap_or_default())))
    });
    Ok(told.collect())
}

/// Waits until an event of this reason has come since, or one that was there has come again.
async fn said_by_an_event(
    kubernetes: &Kubernetes,
    cluster: &Installation,
    reason: &str,
    before: &BTreeMap<String, (i32, String)>,
) -> Result<()> {
    kubernetes
        .until(&format!("an event says {reason}"), STOPPED, async || {
            let now = events(cluster, reason).await?;
            let is_new = now.iter().any(|(name, told)| before.get(name) != Some(told));
            Ok(if is_new { Seen::Yes(()) } else { Seen::NotYet(now) })
        })
        .await
}
