//! Upgrades in place: when nothing but the images of gateway and state has changed, containers are replaced in their pods, and no
//! connection is closed.
//!
//! ```text
//!   change ──▶ preflight, a pod per node ──▶ pod after pod: state, then gateway ──▶ record ──▶ pause, ReplicaSet, template, resume
//!                    │ can't be done                 │ fails: its former image again, and stop
//!                    ▼                               ▼
//!              nothing was touched             the others weren't touched, or are verified
//! ```
//!
//! Every step is one write ([`step`]), and what comes next follows from what is seen, so that any operator can go on at any
//! point. What must hold: never is anything patched in a pod while its other container isn't running and verified; the first pod
//! goes alone; nothing begins while the Deployment has pods of two templates; what has begun is brought to an end before a change
//! of another kind begins.

mod images;
mod pod;
mod preflight;
mod rollout;
mod settle;
pub(crate) mod step;

use std::collections::BTreeSet;
use std::time::Duration;

use imaccess_operator_api::gateway::Handover;
use imaccess_operator_api::in_place::{Replaced, Replacing, Side};
use imaccess_operator_api::names::{
    IN_PLACE_ANNOTATION, REPLACED_ANNOTATION, REPLACING_ANNOTATION, TRY_AGAIN_ANNOTATION,
};
use imaccess_operator_api::status::{self, Change, Method, UpgradePhase};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::canonical::hash;
use crate::cluster::{Cluster, is_terminating};
use crate::differs;
use crate::health::{Problem, reason};
use crate::observed::Observed;
use crate::plan::Notice;
use crate::rendered::Rendering;
use images::Images;
use pod::{GatewayPod, Look};
use preflight::{Preflight, Trial};
use rollout::Rollout;
use settle::Settled;
use step::{Lease, Step, StepName};

/// Between looks while a container is being replaced: pages change without an event.
const QUICK: Duration = Duration::from_millis(500);
/// Between looks while something is waited for that others do.
const PATIENT: Duration = Duration::from_secs(3);
/// What a replacement waits for is told when it takes longer than one usually does.
const WORTH_TELLING: Duration = Duration::from_secs(5);

/// What is decided about the gateways' template, and what is to be done.
#[derive(Debug)]
pub(crate) struct Upgrade {
    /// The gateways' rendering: as it was kept, or another.
    pub(crate) rendering: Rendering,
    /// Whether keeping it is a step of the upgrade.
    pub(crate) records: bool,
    /// Whether the Deployment must not be applied now.
    pub(crate) holds_deployment: bool,
    /// Whether applying the Deployment is a step of the upgrade.
    pub(crate) tells_template: bool,
    /// Whether other parts keep their images until it is done.
    pub(crate) holds_images: bool,
    /// What is to be done, in this order.
    pub(crate) steps: Vec<Step>,
    /// Leases that must not run out.
    pub(crate) leases: Vec<Lease>,
    /// How the change reaches pods, when there is one.
    pub(crate) change: Option<Change>,
    /// For the status.
    pub(crate) status: Option<status::Upgrade>,
    /// When to look again.
    pub(crate) look_again: Option<Duration>,
    /// What people are told.
    pub(crate) notices: Vec<Notice>,
}

/// A gateway to ask before planning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The pod's UID: the answer goes to [`Observed::gateways`] under it.
    pub uid: String,
    /// Its control, `address:port`.
    pub address: String,
}

/// Gateways whose `/handover` page the plan needs: those of pods in hand, or with other images than are wanted.
#[must_use]
pub fn gateways_to_ask(observed: &Observed) -> Vec<Ask> {
    let cluster = Cluster::of(observed);
    let wanted = Images::wanted(&cluster);
    let pods = cluster
        .pods(imaccess_operator_api::names::Part::Gateway)
        .into_iter();
    pods.filter(|pod| !is_terminating(pod))
        .map(|pod| GatewayPod::of(&cluster, pod))
        .filter(|pod| pod.replacing.is_some() || pod.images != wanted)
        .filter_map(|pod| {
            Some(Ask {
                uid: pod.pod.metadata.uid.clone()?,
                address: pod.control()?,
            })
        })
        .collect()
}

impl Upgrade {
    /// Decides from what was `kept`; `inputs` are those of a rendering as the specification is now, which `render` makes.
    pub(crate) fn decide(
        cluster: &Cluster<'_>,
        now: Timestamp,
        kept: Option<Rendering>,
        inputs: &Value,
        render: impl FnOnce() -> Rendering,
    ) -> Upgrade {
        let (Some(kept), Some(rollout)) = (kept, Rollout::of(cluster)) else {
            return Upgrade::with(render());
        };
        let running = Images::of_template(&kept.template);
        let wanted = Images::wanted(cluster);
        let is_same = kept.inputs == hash(inputs);
        let is_in_place = is_same || is_of_images(&kept, &running, inputs);
        let enabled = cluster.spec.gateway.handover == Handover::Enabled;
        let course = Course {
            cluster,
            now,
            rollout,
            running,
            // Of another kind of change no pod gets anything in place.
            target: wanted.clone(),
            is_same,
        };
        match settle::look(&course.rollout, &kept.template) {
            Settled::Next(step) => return course.settling(kept, Some(step)),
            Settled::Template => return course.settling(kept, None),
            Settled::Yes => {}
        }
        if is_in_place && enabled {
            return course.in_place(kept, inputs, render);
        }
        // A pod in hand is brought to an end first; a rollout would take it away in the middle.
        let pods = course.pods();
        if pods.iter().any(|pod| pod.replacing.is_some()) {
            return course.finish(kept, &pods);
        }
        let mut upgrade = Upgrade::with(if is_same { kept.clone() } else { render() });
        upgrade.steps = preflight::clear(cluster, None);
        if !is_same {
            upgrade.change = Some(replacement(&kept, &course.running, inputs, is_in_place));
        }
        upgrade
    }

    fn with(rendering: Rendering) -> Upgrade {
        Upgrade {
            rendering,
            records: false,
            holds_deployment: false,
            tells_template: false,
            holds_images: false,
            steps: Vec::new(),
            leases: Vec::new(),
            change: None,
            status: None,
            look_again: None,
            notices: Vec::new(),
        }
    }

    /// Why it can't go on without somebody, for the conditions.
    pub(crate) fn stalled(&self) -> Option<Problem> {
        let status = self.status.as_ref()?;
        let why = match status.reason.as_deref()? {
            reason::PREFLIGHT => reason::PREFLIGHT,
            _ => reason::UPGRADE_STOPPED,
        };
        Some(Problem::new(why, status.message.clone().unwrap_or_default()))
    }

    /// What it does, for the conditions.
    pub(crate) fn progressing(&self) -> Option<Problem> {
        let status = self.status.as_ref()?;
        if status.reason.is_some() {
            return None;
        }
        let waits = status
            .message
            .as_ref()
            .map_or(String::new(), |message| format!("; {message}"));
        let (upgraded, pods) = (status.upgraded, status.pods);
        let message = format!("{upgraded} of {pods} gateway pods are upgraded in place{waits}.");
        Some(Problem::new(reason::UPGRADING, message))
    }
}

/// Whether nothing but the images differs from what was kept.
fn is_of_images(kept: &Rendering, running: &Images, inputs: &Value) -> bool {
    let mut before = inputs.clone();
    running.put_into_inputs(&mut before);
    hash(&before) == kept.inputs
}

/// Why pods are replaced.
fn replacement(kept: &Rendering, running: &Images, inputs: &Value, is_in_place: bool) -> Change {
    let mut beside_images = inputs.clone();
    running.put_into_inputs(&mut beside_images);
    let field = kept
        .fields
        .as_ref()
        .and_then(|fields| differs::either(&beside_images, fields));
    let why = match field {
        _ if is_in_place => {
            "spec.gateway.handover is Disabled, so that changed images replace pods, too.".to_owned()
        }
        Some(path) => format!("More than images has changed, and is read only when a pod begins: {path}."),
        None => "More than images has changed, and is read only when a pod begins.".to_owned(),
    };
    Change {
        method: Method::Replacement,
        why,
    }
}

/// What is known while it is decided.
struct Course<'a> {
    cluster: &'a Cluster<'a>,
    now: Timestamp,
    rollout: Rollout<'a>,
    /// Images of the rendered template.
    running: Images,
    /// Images that pods should have.
    target: Images,
    is_same: bool,
}

impl<'a> Course<'a> {
    fn pods(&self) -> Vec<GatewayPod<'a>> {
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
    fn settling(&self, kept: Rendering, step: Option<Step>) -> Upgrade {
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
    fn finish(&self, kept: Rendering, pods: &[GatewayPod<'_>]) -> Upgrade {
        let mut upgrade = Upgrade::with(kept);
        upgrade.holds_images = true;
        let mut status = self.status(UpgradePhase::Pods, pods);
        self.remember(&mut status);
        status
            .message
            .get_or_insert("another change waits for the pod in hand".to_owned());
        self.in_hand(pods, &mut upgrade, &mut status);
        upgrade.status = Some(status);
        upgrade.look_again = Some(QUICK);
        upgrade
    }

    fn in_place(self, kept: Rendering, inputs: &Value, render: impl FnOnce() -> Rendering) -> Upgrade {
        let pods = self.pods();
        let due: Vec<&GatewayPod<'_>> = pods
            .iter()
            .filter(|pod| pod.replacing.is_some() || pod.images != self.target)
            .collect();
        let in_hand = pods.iter().any(|pod| pod.replacing.is_some());
        if !in_hand && self.is_drifted(&kept) {
            return Upgrade::with(kept);
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
            upgrade.look_again = Some(QUICK);
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
                        status.message.get_or_insert(format!("{}: {why}", pod.name()));
                    }
                }
                Look::Bad(why) => {
                    goes_on = false;
                    self.failed(pod, replacing, &why, upgrade, status);
                }
                // These are of pods that aren't in hand.
                Look::Done | Look::Due(_) | Look::Blocked(_) => {}
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
        if replacing.back {
            status.message = Some(format!(
                "the former image of the container {container} doesn't come up in {name} either: {why}. See kubectl logs {name} \
                 -c {container}"
            ));
            return;
        }
        let key = self.key();
        // An image that isn't wanted any more says nothing about the one that is.
        let outdated = replacing.image != self.target.of(replacing.container);
        let known = status.stopped_at.as_ref() == Some(&key);
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
        self.put_back(pod, replacing, upgrade);
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
        let nodes: BTreeSet<&str> = due
            .iter()
            .filter_map(|pod| pod.pod.spec.as_ref()?.node_name.as_deref())
            .collect();
        let trial = Trial::new(self.cluster, &self.target, &self.running, self.attempt());
        upgrade
            .steps
            .extend(preflight::clear(self.cluster, Some((&trial, &nodes))));
        match trial.look(&nodes, self.now) {
            Preflight::Passed => {}
            Preflight::Running { steps, why } => {
                status.phase = UpgradePhase::Preflight;
                status.message.get_or_insert(why);
                upgrade.steps.extend(steps);
                return;
            }
            Preflight::Failed(why) => {
                status.phase = UpgradePhase::Preflight;
                status.reason = Some(reason::PREFLIGHT.to_owned());
                status.message = Some(format!("{why} Nothing was touched."));
                return;
            }
        }
        if self.rollout.is_paused_by_hand() {
            let name = self
                .cluster
                .names
                .part(imaccess_operator_api::names::Part::Gateway);
            status.message = Some(format!(
                "the Deployment {name} was paused by hand: go on with kubectl rollout resume deployment/{name}"
            ));
            return;
        }
        let verified = pods
            .iter()
            .any(|pod| pod.replacing.is_none() && pod.images == self.target);
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
                Look::Blocked(why) => {
                    status
                        .message
                        .get_or_insert(format!("{} can't be begun with: {why}", pod.name()));
                    // The others wait for it: more than one pod that isn't whole would be too many.
                    room = room.saturating_sub(1);
                }
                _ => {}
            }
        }
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
        status.message = Some("a rollout is under way, and comes to its end first".to_owned());
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

fn replace(pod: &GatewayPod<'_>, replacing: &Replacing, name: StepName, lease: Option<Lease>) -> Step {
    let list = match replacing.container {
        Side::Gateway => "containers",
        Side::State => "initContainers",
    };
    let container = json!({"name": replacing.container.container(), "image": replacing.image});
    Step::Replace {
        pod: pod.reference(),
        name,
        patch: json!({
            "metadata": {"annotations": {REPLACING_ANNOTATION: json!(replacing).to_string()}},
            "spec": {list: [container]},
        }),
        lease,
    }
}

fn release(pod: &GatewayPod<'_>, replaced: &Replaced) -> Step {
    Step::Release {
        pod: pod.reference(),
        patch: json!({"metadata": {"annotations": {
            REPLACING_ANNOTATION: null,
            REPLACED_ANNOTATION: json!(replaced).to_string(),
        }}}),
    }
}

fn begun(pod: &GatewayPod<'_>, replacing: &Replacing) -> Notice {
    let (name, container) = (pod.name(), replacing.container.container());
    let (from, image) = (&replacing.from, &replacing.image);
    Notice {
        warning: false,
        reason: "Replacing".to_owned(),
        note: format!("Replacing the container {container} of {name} in place: {from} → {image}."),
        container: Some((name.to_owned(), container)),
    }
}

fn told(pod: &GatewayPod<'_>, replacing: &Replacing, replaced: &Replaced) -> Notice {
    let (name, container) = (pod.name(), replaced.container.container());
    let stall = match (replacing.container, replaced.stall_milliseconds) {
        (Side::Gateway, stall) if stall > 0 => format!(", which waited for {stall} ms"),
        _ => String::new(),
    };
    let what = if replaced.back { "Put back" } else { "Replaced" };
    Notice {
        warning: false,
        reason: if replaced.back { "PutBack" } else { "Replaced" }.to_owned(),
        note: format!(
            "{what} the container {container} of {name} in place with {} connections{stall}; {} of them were closed.",
            replaced.connections, replaced.closed
        ),
        container: Some((name.to_owned(), container)),
    }
}
