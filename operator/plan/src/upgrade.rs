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

mod course;
mod images;
mod pod;
mod preflight;
mod rollout;
mod settle;
pub(crate) mod step;
mod writes;

use std::time::Duration;

use imaccess_operator_api::gateway::Handover;
use imaccess_operator_api::names::{IN_PLACE_ANNOTATION, Part};
use imaccess_operator_api::status::{self, Change, Method};
use jiff::Timestamp;
use serde_json::Value;

use crate::canonical::hash;
use crate::cluster::{Cluster, is_terminating};
use crate::differs;
use crate::health::{Problem, reason};
use crate::observed::Observed;
use crate::plan::Notice;
use crate::rendered::Rendering;
use course::Course;
use images::Images;
use pod::GatewayPod;
use rollout::Rollout;
use settle::Settled;
use step::{Lease, Step};

/// Between looks while a container is being replaced: pages change without an event.
const QUICK: Duration = Duration::from_millis(500);
/// Between looks while something is waited for that others do.
const PATIENT: Duration = Duration::from_secs(3);
/// What takes longer than this doesn't come to an end by looking.
const LONG: Duration = Duration::from_secs(180);
/// Between looks at it then.
const SELDOM: Duration = Duration::from_secs(30);
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
    let pods = cluster.pods(Part::Gateway).into_iter();
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
        let Some(rollout) = Rollout::of(cluster) else {
            return Upgrade::with(
                kept.filter(|kept| kept.inputs == hash(inputs))
                    .unwrap_or_else(render),
            );
        };
        let Some(kept) = kept else {
            // What was kept is lost. The number of the last change in place stays, or pods would be replaced for want of it.
            let mut rendering = render();
            let live = &rollout.deployment["spec"]["template"];
            if Images::of_template(live) == Images::of_template(&rendering.template)
                && let Some(number) = rollout::in_place_of_template(live)
            {
                rendering.template["metadata"]["annotations"][IN_PLACE_ANNOTATION] = number.into();
            }
            return Upgrade::with(rendering);
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
        let is_mixed = || course.pods().iter().any(|pod| pod.images != wanted);
        if is_in_place && (enabled || is_same && is_mixed()) {
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
