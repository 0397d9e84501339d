//! The course of an upgrade in place: which pods are in hand, which come next, and when all is done.

use std::collections::BTreeSet;

use imaccess_operator_api::in_place::{Replacing, Side};
use imaccess_operator_api::names::{IN_PLACE_ANNOTATION, Part, TRY_AGAIN_ANNOTATION};
use imaccess_operator_api::status::{self, Change, Method, UpgradePhase};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::images::Images;
use super::pod::{self, GatewayPod, Look};
use super::preflight::{self, Preflight, Trial};
use super::rollout::{self, Rollout};
use super::step::{Lease, Step, StepName};
use super::writes::{begun, let_go, release, replace, told};
use super::{LONG, PATIENT, QUICK, SELDOM, Upgrade, WORTH_TELLING, settle};
use crate::canonical::hash;
use crate::cluster::Cluster;
use crate::health::reason;
use crate::rendered::Rendering;

/// What is known while it is decided.
pub(super) struct Course<'a> {
    pub(super) cluster: &'a Cluster<'a>,
    pub(super) now: Timestamp,
    pub(super) rollout: Rollout<'a>,
    /// Images of the rendered template.
    pub(super) running: Images,
    /// Images that pods should have.
    pub(super) target: Images,
    pub(super) is_same: bool,
}

impl<'a> Course<'a> {
    pub(super) fn pods(&self) -> Vec<GatewayPod<'a>> {
        let pods = self.rollout.pods(self.cluster).into_iter();
        pods.map(|pod| GatewayPod::of(self.cluster, pod)).collect()
    }

    /// Changes when the user asks to try again.
    fn attempt(&self) -> &'a str {
        let annotations = self.cluster.observed.cluster.metadata.annotations.as_ref();
        let again = annotations.and_then(|annotations| annotations.get(TRY_AGAIN_ANNOTATION));
        again.map_or("", String::as_str)
    }

    /// What is tried, so that what has failed isn't tried again before it is another.
    fn key(&self) -> String {
        hash(&json!([self.target.gateway, self.target.state, self.attempt()]))
    }

    fn status(&self, phase: UpgradePhase, pods: &[GatewayPod<'_>]) -> status::Upgrade {
        let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let done = |pod: &&GatewayPod<'_>| pod.replacing.is_none() && pod.images == self.target;
        let in_hand = pods.iter().filter_map(|pod| {
            let replacing = pod.replacing.as_ref()?;
            Some(format!("{}/{}", pod.name(), replacing.container.container()))
        });
        status::Upgrade {
            phase,
            gateway_image: self.target.gateway.clone(),
            state_image: self.target.state.clone(),
            upgraded: count(pods.iter().filter(done).count()),
            pods: count(pods.len()),
            replacing: in_hand.collect(),
            message: None,
            reason: None,
            stopped_at: None,
        }
    }

    /// An upgrade to the same that has stopped before stays so.
    fn remember(&self, status: &mut status::Upgrade) {
        let before = self.cluster.observed.cluster.status.as_ref();
        let before = before.and_then(|before| before.upgrade.as_ref());
        let key = self.key();
        if let Some(stopped) = before.filter(|before| before.stopped_at.as_ref() == Some(&key)) {
            status.phase = UpgradePhase::Stopped;
            status.reason.clone_from(&stopped.reason);
            status.message.clone_from(&stopped.message);
            status.stopped_at = Some(key);
        }
    }

    /// Whether the Deployment's template isn't the rendered one: it is put back before anything else.
    fn is_drifted(&self, kept: &Rendering) -> bool {
        let template = &self.rollout.deployment["spec"]["template"];
        Images::of_template(template) != self.running
            || rollout::in_place_of_template(template) != rollout::in_place_of_template(&kept.template)
    }

    /// Deployment and ReplicaSet are being told.
    pub(super) fn settling(&self, kept: Rendering, step: Option<Step>) -> Upgrade {
        let mut upgrade = Upgrade::with(kept);
        upgrade.holds_deployment = step.is_some();
        upgrade.tells_template = step.is_none();
        upgrade.holds_images = true;
        let mut status = self.status(UpgradePhase::Settling, &self.pods());
        (status.gateway_image, status.state_image) =
            (self.running.gateway.clone(), self.running.state.clone());
        status.upgraded = status.pods;
        upgrade.status = Some(status);
        upgrade.steps.extend(step);
        upgrade.look_again = Some(QUICK);
        upgrade
    }

    /// Only what is in hand: another kind of change waits for it.
    pub(super) fn finish(&self, kept: Rendering, pods: &[GatewayPod<'_>]) -> Upgrade {
        let mut upgrade = Upgrade::with(kept);
        upgrade.holds_images = true;
        let mut status = self.status(UpgradePhase::Pods, pods);
        self.remember(&mut status);
        status
            .message
            .get_or_insert_with(|| "another change waits for the pod in hand".to_owned());
        self.in_hand(pods, &mut upgrade, &mut status);
        upgrade.status = Some(status);
        upgrade.look_again = Some(QUICK);
        upgrade
    }

    pub(super) fn in_place(
        self,
        kept: Rendering,
        inputs: &Value,
        render: impl FnOnce() -> Rendering,
    ) -> Upgrade {
        let pods = self.pods();
        let due: Vec<&GatewayPod<'_>> = pods
            .iter()
            .filter(|pod| pod.replacing.is_some() || pod.images != self.target)
            .collect();
        let in_hand = pods.iter().any(|pod| pod.replacing.is_some());
        if !in_hand && self.is_drifted(&kept) {
            return self.put_template_back(kept, &pods);
        }
        if !in_hand && !self.rollout.is_at_rest() {
            return self.beside_a_rollout(kept, render);
        }
        if due.is_empty() {
            return self.all_done(kept, inputs);
        }
        let mut upgrade = Upgrade::with(kept);
        // Whatever runs beside the gateways stays what it was until these are done.
        upgrade.holds_images = true;
        if !self.is_same {
            upgrade.change = Some(Change {
                method: Method::InPlace,
                why: "Nothing but images of gateway and state has changed.".to_owned(),
            });
        }
        let mut status = self.status(UpgradePhase::Pods, &pods);
        self.remember(&mut status);
        if self.in_hand(&pods, &mut upgrade, &mut status) && status.stopped_at.is_none() {
            self.begin(&pods, &due, &mut upgrade, &mut status);
        }
        if in_hand {
            let longest =
                |pod: &GatewayPod<'_>| pod.replacing.as_ref().map(|it| pod::elapsed(it.since, self.now));
            let is_long = pods.iter().filter_map(longest).all(|time| time > LONG);
            upgrade.look_again = Some(if is_long { SELDOM } else { QUICK });
        } else if status.reason.is_none() {
            upgrade.look_again.get_or_insert(PATIENT);
        }
        upgrade.status = Some(status);
        upgrade
    }

    /// Pods that are in hand: released, kept waiting, or put back. Answers whether another may be begun.
    fn in_hand(&self, pods: &[GatewayPod<'_>], upgrade: &mut Upgrade, status: &mut status::Upgrade) -> bool {
        let mut goes_on = true;
        for pod in pods {
            let Some(replacing) = &pod.replacing else { continue };
            match pod.look(&self.target, self.now) {
                Look::Good(replaced) => {
                    upgrade.notices.push(told(pod, replacing, &replaced));
                    upgrade.steps.push(release(pod, &replaced));
                }
                Look::InHand { why, is_new } => {
                    // The new process's own lease would only keep it from draining.
                    let lease = replacing.lease.as_ref().filter(|_| !is_new);
                    if let (Some(name), Some(address)) = (lease, pod.control()) {
                        upgrade.leases.push(Lease {
                            address,
                            name: name.clone(),
                            pod: pod.name().to_owned(),
                        });
                    }
                    if pod::elapsed(replacing.since, self.now) > WORTH_TELLING {
                        status
                            .message
                            .get_or_insert_with(|| format!("{}: {why}", pod.name()));
                    }
                }
                Look::Bad(why) => {
                    goes_on = false;
                    self.failed(pod, replacing, &why, upgrade, status);
                }
                // These are of pods that aren't in hand.
                Look::Done | Look::Due(_) | Look::Unplaced | Look::Blocked(_) => {}
            }
        }
        goes_on
    }

    /// First it is written down that the upgrade has stopped, then the pod gets its former image: whoever comes in between must
    /// not try it again.
    fn failed(
        &self,
        pod: &GatewayPod<'_>,
        replacing: &Replacing,
        why: &str,
        upgrade: &mut Upgrade,
        status: &mut status::Upgrade,
    ) {
        let (name, container) = (pod.name(), replacing.container.container());
        let key = self.key();
        let known = status.stopped_at.as_ref() == Some(&key);
        // An image that isn't wanted any more says nothing about the one that is.
        let outdated = replacing.image != self.target.of(replacing.container);
        if outdated && !known && (replacing.back || replacing.blind) {
            // Nothing to go back to: it gets what is wanted now.
            upgrade.steps.push(let_go(pod));
            return;
        }
        if replacing.back {
            // In words that stay the same, and behind what has stopped it.
            let stopped = status.message.take().unwrap_or_default();
            let more = format!(
                "The former image of the container {container} doesn't come up in {name} either: see kubectl logs {name} -c \
                 {container}."
            );
            status.message = Some(if stopped.contains(&more) {
                stopped
            } else {
                format!("{stopped} {more}").trim_start().to_owned()
            });
            return;
        }
        if outdated {
            self.put_back(pod, replacing, upgrade);
            return;
        }
        status.phase = UpgradePhase::Stopped;
        status.reason = Some(reason::UPGRADE_STOPPED.to_owned());
        status.stopped_at = Some(key);
        if !known {
            let end = if replacing.blind {
                "which had no connections to keep"
            } else {
                "which gets its former image again and keeps its connections"
            };
            let image = &replacing.image;
            status.message = Some(format!(
                "The upgrade has stopped at the container {container} of {name}, {end}: with the image {image} {why}. Set another \
                 image, or try again with kubectl annotate --overwrite imac/{} {TRY_AGAIN_ANNOTATION}=\"$(date)\".",
                self.cluster.names.cluster
            ));
            return;
        }
        if !replacing.blind {
            self.put_back(pod, replacing, upgrade);
        }
    }

    fn put_back(&self, pod: &GatewayPod<'_>, failed: &Replacing, upgrade: &mut Upgrade) {
        let back = pod.back(failed, self.now);
        let name = match back.container {
            Side::Gateway => StepName::RestoreGateway,
            Side::State => StepName::RestoreState,
        };
        // What runs there may not give a lease any more; its connections are held by the sidecar.
        upgrade.steps.push(replace(pod, &back, name, None));
    }

    /// Begins with pods that are due, as many at a time as may be away, the first one alone, after the preflight.
    fn begin(
        &self,
        pods: &[GatewayPod<'_>],
        due: &[&GatewayPod<'_>],
        upgrade: &mut Upgrade,
        status: &mut status::Upgrade,
    ) {
        if let Some(name) = self.ending() {
            status.message = Some(format!("{name} of a rollout before is ending, and does so first"));
            return;
        }
        let trial = Trial::new(self.cluster, &self.target, &self.running, self.attempt());
        // Of pods that are done too: to remove one while the next pod's container is replaced would delay it.
        let clear = preflight::clear(self.cluster, Some((&trial, &nodes(pods.iter()))));
        upgrade.steps.extend(clear);
        match trial.look(&nodes(due.iter().copied()), self.now) {
            Preflight::Passed => {}
            Preflight::Ending { left } => {
                status.phase = UpgradePhase::Preflight;
                let why = || "the pods that tried the images are being put away".to_owned();
                status.message.get_or_insert_with(why);
                upgrade.look_again = Some(left);
                return;
            }
            Preflight::Running { steps, why } => {
                status.phase = UpgradePhase::Preflight;
                status.message.get_or_insert(why);
                upgrade.steps.extend(steps);
                return;
            }
            Preflight::Failed { steps, why } => {
                status.phase = UpgradePhase::Preflight;
                status.reason = Some(reason::PREFLIGHT.to_owned());
                let touched = if status.upgraded == 0 {
                    " Nothing was touched."
                } else {
                    ""
                };
                status.message = Some(format!("{why}{touched}"));
                if !steps.is_empty() {
                    upgrade.steps.extend(steps);
                    upgrade.look_again = Some(PATIENT);
                }
                return;
            }
        }
        if self.rollout.is_paused_by_hand() {
            let name = self.cluster.names.part(Part::Gateway);
            status.message = Some(format!(
                "the Deployment {name} was paused by hand: go on with kubectl rollout resume deployment/{name}"
            ));
            return;
        }
        let verified = pods
            .iter()
            .any(|pod| pod.is_placed() && pod.replacing.is_none() && pod.images == self.target);
        let at_once = if verified {
            usize::try_from(self.cluster.spec.gateway.disruption.max_unavailable).unwrap_or(1)
        } else {
            1
        };
        let busy = pods.iter().filter(|pod| pod.replacing.is_some()).count();
        let mut room = at_once.saturating_sub(busy);
        // A pod that has one of its two images comes before one that has none.
        let mut due: Vec<&&GatewayPod<'_>> = due.iter().filter(|pod| pod.replacing.is_none()).collect();
        due.sort_by_key(|pod| {
            pod.images.state != self.target.state && pod.images.gateway != self.target.gateway
        });
        for pod in due {
            match pod.look(&self.target, self.now) {
                Look::Due(replacing) if room > 0 => {
                    room -= 1;
                    let (name, lease) = match replacing.container {
                        Side::State => (StepName::ReplaceState, None),
                        Side::Gateway => (StepName::ReplaceGateway, replacing.lease.clone()),
                    };
                    let lease = lease.and_then(|name| {
                        Some(Lease {
                            address: pod.control()?,
                            name,
                            pod: pod.name().to_owned(),
                        })
                    });
                    upgrade.notices.push(begun(pod, &replacing));
                    upgrade.steps.push(replace(pod, &replacing, name, lease));
                    upgrade.look_again = Some(QUICK);
                }
                Look::Unplaced => upgrade.steps.push(Step::Replace {
                    pod: pod.reference(),
                    name: StepName::ReplaceState,
                    patch: json!({"spec": self.target.patch()}),
                    lease: None,
                }),
                Look::Blocked(why) => {
                    status
                        .message
                        .get_or_insert_with(|| format!("{} can't be begun with: {why}", pod.name()));
                    // The others wait for it: more than one pod that isn't whole would be too many.
                    room = room.saturating_sub(1);
                }
                _ => {}
            }
        }
    }

    /// A pod of another part that has still to end, as it does within its time: its rollout isn't over before, and takes processors from
    /// the gateways just when theirs are replaced. A gateway's own may take hours, and isn't waited for.
    fn ending(&self) -> Option<&str> {
        let parts = [Part::State, Part::Ipconfig];
        let mut pods = parts.into_iter().flat_map(|part| self.cluster.pods(part));
        let pod = pods.find(|pod| {
            // By when it should be gone. One on a lost node never is.
            let until = pod.metadata.deletion_timestamp.as_ref();
            until.is_some_and(|until| until.0 >= self.now)
        })?;
        pod.metadata.name.as_deref()
    }

    /// The Deployment's template was changed by hand; it is applied, and what had stopped stays so.
    fn put_template_back(&self, kept: Rendering, pods: &[GatewayPod<'_>]) -> Upgrade {
        let mut upgrade = Upgrade::with(kept);
        upgrade.holds_images = !self.is_same;
        let mut status = self.status(UpgradePhase::Pods, pods);
        self.remember(&mut status);
        upgrade.status = status.stopped_at.is_some().then_some(status);
        upgrade
    }

    /// Pods of two templates are there: a change of images waits for the end, or joins in if that won't come by itself.
    fn beside_a_rollout(self, kept: Rendering, render: impl FnOnce() -> Rendering) -> Upgrade {
        if self.is_same {
            return Upgrade::with(kept);
        }
        if self.rollout.current().is_some() && self.rollout.is_stuck(self.cluster) {
            let mut upgrade = Upgrade::with(render());
            upgrade.change = Some(Change {
                method: Method::Replacement,
                why: "A rollout was under way whose pods don't come up.".to_owned(),
            });
            return upgrade;
        }
        let mut upgrade = Upgrade::with(kept);
        upgrade.holds_images = true;
        let mut status = self.status(UpgradePhase::Preflight, &self.pods());
        self.remember(&mut status);
        status
            .message
            .get_or_insert_with(|| "a rollout is under way, and comes to its end first".to_owned());
        upgrade.status = Some(status);
        upgrade.look_again = Some(PATIENT);
        upgrade
    }

    /// All pods have what they should: so should the template.
    fn all_done(self, kept: Rendering, inputs: &Value) -> Upgrade {
        if self.is_same {
            let mut upgrade = Upgrade::with(kept);
            upgrade.steps = preflight::clear(self.cluster, None);
            return upgrade;
        }
        // At rest there is one.
        let Some(replica_set) = self.rollout.current() else {
            return Upgrade::with(kept);
        };
        let mut rendering = kept;
        let number = settle::number(replica_set, &self.target);
        self.target.put_into_template(&mut rendering.template);
        rendering.template["metadata"]["annotations"][IN_PLACE_ANNOTATION] = json!(number);
        rendering.inputs = hash(inputs);
        rendering.fields = Some(inputs.clone());
        let mut upgrade = Upgrade::with(rendering);
        upgrade.records = true;
        upgrade.holds_deployment = true;
        upgrade.holds_images = true;
        let mut status = self.status(UpgradePhase::Settling, &self.pods());
        status.upgraded = status.pods;
        upgrade.status = Some(status);
        upgrade.look_again = Some(QUICK);
        upgrade
    }
}

/// The nodes that these pods are on.
fn nodes<'a>(pods: impl Iterator<Item = &'a GatewayPod<'a>>) -> BTreeSet<&'a str> {
    pods.filter_map(|pod| pod.pod.spec.as_ref()?.node_name.as_deref())
        .collect()
}
