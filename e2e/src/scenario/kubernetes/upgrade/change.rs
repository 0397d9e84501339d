//! One change of the specification that reaches the gateways in their pods, from the edit until all is done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use imaccess_operator_api::names::REPLACING_ANNOTATION;
use imaccess_operator_api::status::Method;
use imaccess_operator_api::{ImAccessCluster, condition};
use serde_json::Value;

use super::live::{Live, replaced, whole};
use crate::kubernetes::containers::{GatewayPod, Which};
use crate::kubernetes::installation::{conditions, is_ready};
use crate::kubernetes::{Installation, Kubernetes};
use crate::report::Report;
use crate::scenario::verdict::{self, count};
use crate::wait::Seen;
use crate::witness::Testimony;
use crate::witness::tally::Window;

/// Two pods with ten thousand connections, one container after the other, and then the rollout of the other parts.
pub(super) const DONE: Duration = Duration::from_secs(300);

/// A planned replacement in a pod may delay requests at its gateway by so much: two processes change places, started by a kubelet.
const STALL_MS: f64 = 500.0;

/// What a change did.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// When containers were being replaced, as the operator marks it on their pods.
    pub(super) windows: Vec<Window>,
    /// From the edit until all was done.
    pub(super) whole: Vec<Window>,
    /// The longest of these.
    pub(super) took: Duration,
    /// Phases that the status named.
    phases: BTreeSet<String>,
    /// Gateway pods that weren't there any more, or had another address.
    pub(super) replaced: u64,
    /// Containers that weren't restarted exactly as often as they should.
    pub(super) wrong_restarts: u64,
    /// Containers with another image than they should have.
    pub(super) wrong_images: u64,
}

/// The windows that are open, and those that were.
struct Watched<'a> {
    live: &'a Live,
    open: BTreeMap<(String, Which), Duration>,
    closed: Vec<Window>,
    /// The last look.
    looked: Duration,
}

/// Edits the specification, and waits until every gateway pod has these images in its containers, replaced where they stand.
pub(super) async fn in_place(kubernetes: &Kubernetes, live: &Live, edit: &Value) -> Result<Changed> {
    let cluster = live.cluster();
    let before = whole(kubernetes, cluster).await?;
    let mut watched = Watched {
        live,
        open: BTreeMap::new(),
        closed: Vec::new(),
        looked: live.witness.now(),
    };
    let (begun, mut phases) = (live.witness.now(), BTreeSet::new());
    cluster.patch(edit).await?;
    let done = kubernetes
        .until("the change is done", DONE, async || {
            watched.look(&cluster.gateway_pods().await?);
            let now = cluster.get().await?;
            phases.extend(upgrade(&now).map(|upgrade| format!("{:?}", upgrade.phase)));
            if let Some(why) = stalled(&now) {
                bail!("the change has stopped: {why}");
            }
            Ok(if is_ready(&now) {
                Seen::Yes(now)
            } else {
                Seen::NotYet(format!("{:?}, {:?}", conditions(&now), upgrade(&now)))
            })
        })
        .await
        .with_context(|| format!("after {edit}"))?;
    let ended = live.witness.now();
    let method = done.status.as_ref().and_then(|status| status.change.as_ref());
    let method = method.context("the status doesn't say how the change reached the pods")?;
    ensure!(
        method.method == Method::InPlace,
        "the change wasn't made in place: {method:?}"
    );
    let after = whole(kubernetes, cluster).await?;
    watched.look(&after);
    let (wrong_restarts, wrong_images) = compare(&done, &before, &after);
    Ok(Changed {
        windows: watched.closed,
        whole: vec![Window::from((begun, ended))],
        took: ended - begun,
        phases,
        replaced: replaced(&before, &after),
        wrong_restarts,
        wrong_images,
    })
}

/// What has been stopped, if something has.
pub(super) fn stalled(cluster: &ImAccessCluster) -> Option<String> {
    let status = cluster.status.as_ref()?;
    if status.observed_generation != cluster.metadata.generation {
        return None;
    }
    let mut found = status.conditions.iter();
    let found = found.find(|one| one.type_ == condition::STALLED && one.status == "True")?;
    Some(format!("{}: {}", found.reason, found.message))
}

fn upgrade(cluster: &ImAccessCluster) -> Option<&imaccess_operator_api::status::Upgrade> {
    cluster.status.as_ref()?.upgrade.as_ref()
}

/// The images that a specification asks for.
pub(super) fn wanted(cluster: &ImAccessCluster, which: Which) -> &str {
    let spec = &cluster.spec;
    let own = match which {
        Which::Gateway => &spec.gateway.image,
        Which::State => &spec.state.image,
    };
    own.as_deref().unwrap_or(&spec.image)
}

/// Containers whose restarts and whose images aren't as they should be: who got another image was restarted once, nobody else at all.
fn compare(cluster: &ImAccessCluster, before: &[GatewayPod], after: &[GatewayPod]) -> (u64, u64) {
    let (mut restarts, mut images) = (0, 0);
    for now in after {
        let was = before.iter().find(|pod| pod.uid == now.uid);
        for which in Which::ALL {
            let container = now.container(which);
            images += u64::from(container.image != wanted(cluster, which));
            if let Some(was) = was.map(|was| was.container(which)) {
                let once = i32::from(was.image != container.image);
                restarts += u64::from(container.restarts - was.restarts != once);
            }
        }
    }
    (restarts, images)
}

impl Watched<'_> {
    fn look(&mut self, pods: &[GatewayPod]) {
        let now = self.live.witness.now();
        let mut open = BTreeMap::new();
        for pod in pods {
            for which in replacing(pod) {
                let key = (pod.uid.clone(), which);
                // It may have begun just after the look before this one.
                let since = self.open.remove(&key).unwrap_or(self.looked);
                open.insert(key, since);
            }
        }
        let over = std::mem::replace(&mut self.open, open);
        for ((uid, _), from) in over {
            let gateway = self.live.gateways.iter().position(|gateway| gateway.uid == uid);
            self.closed.push(Window {
                from,
                to: now,
                gateway,
            });
        }
        self.looked = now;
    }
}

/// The containers that the operator says it is replacing in a pod: those that the annotation's fields name.
fn replacing(pod: &GatewayPod) -> Vec<Which> {
    let text = pod.annotations.get(REPLACING_ANNOTATION);
    text.map_or_else(Vec::new, |text| named_in(text))
}

fn named_in(annotation: &str) -> Vec<Which> {
    let said: Value = serde_json::from_str(annotation).unwrap_or_default();
    let mut names = said.as_object().into_iter().flat_map(|fields| fields.values());
    let named: Vec<&str> = names.by_ref().filter_map(Value::as_str).collect();
    let all = Which::ALL.into_iter();
    all.filter(|which| named.contains(&which.as_str())).collect()
}

impl Changed {
    /// Counts another one in.
    pub(super) fn add(&mut self, other: Self) {
        self.windows.extend(other.windows);
        self.whole.extend(other.whole);
        self.took = self.took.max(other.took);
        self.phases.extend(other.phases);
        self.replaced += other.replaced;
        self.wrong_restarts += other.wrong_restarts;
        self.wrong_images += other.wrong_images;
    }
}

/// What must hold of every change in place, and of the requests that were under way while containers changed places.
pub(super) fn judge(name: &str, changed: &Changed, testimony: &Testimony, report: &mut Report) {
    verdict::stall_within(testimony, name, &changed.windows, STALL_MS, report);
    verdict::stall(testimony, &format!("{name}_whole"), &changed.whole, report);
    report.figure(&format!("{name}_seconds"), changed.took.as_secs_f64());
    let phases: Vec<_> = changed.phases.iter().cloned().collect();
    report.figure(&format!("{name}_phases"), phases);
    let mut none = |what: &str, number: u64| {
        report.exactly(&format!("{name}_{what}"), count(number), 0.0);
    };
    none("pods_replaced", changed.replaced);
    none("containers_restarted_wrongly", changed.wrong_restarts);
    none("containers_of_wrong_images", changed.wrong_images);
}

/// Checks that the binaries that run are those with these stamps, by their own pages.
pub(super) async fn stamps(cluster: &Installation, gateway: &str, state: &str) -> Result<()> {
    for pod in cluster.gateway_pods().await? {
        for (which, wanted) in [(Which::Gateway, gateway), (Which::State, state)] {
            let stamp = pod.stamp(which).await?;
            ensure!(
                stamp == wanted,
                "{}/{} runs the binary with the stamp {stamp:?}, not {wanted:?}",
                pod.name,
                which.as_str()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_being_replaced_if_a_field_names_it() {
        let table = [
            (
                r#"{"container":"state","from":"a:1","since":"2026-01-01T00:00:00Z"}"#,
                vec![Which::State],
            ),
            (
                r#"{"container":"gateway","from":"imaccess.io/state:1"}"#,
                vec![Which::Gateway],
            ),
            ("{}", vec![]),
            ("state", vec![]),
        ];
        for (annotation, which) in table {
            assert_eq!(named_in(annotation), which, "{annotation}");
        }
    }
}
