//! What steps write, and what people are told of them.

use imaccess_operator_api::in_place::{Replaced, Replacing, Side};
use imaccess_operator_api::names::{REPLACED_ANNOTATION, REPLACING_ANNOTATION};
use serde_json::json;

use super::pod::GatewayPod;
use super::step::{Lease, Step, StepName};
use crate::plan::Notice;

pub(super) fn replace(
    pod: &GatewayPod<'_>,
    replacing: &Replacing,
    name: StepName,
    lease: Option<Lease>,
) -> Step {
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

pub(super) fn release(pod: &GatewayPod<'_>, replaced: &Replaced) -> Step {
    Step::Release {
        pod: pod.reference(),
        patch: json!({"metadata": {"annotations": {
            REPLACING_ANNOTATION: null,
            REPLACED_ANNOTATION: json!(replaced).to_string(),
        }}}),
    }
}

/// What was being replaced isn't followed any more: something else is wanted.
pub(super) fn let_go(pod: &GatewayPod<'_>) -> Step {
    Step::Release {
        pod: pod.reference(),
        patch: json!({"metadata": {"annotations": {REPLACING_ANNOTATION: null}}}),
    }
}

pub(super) fn begun(pod: &GatewayPod<'_>, replacing: &Replacing) -> Notice {
    let (name, container) = (pod.name(), replacing.container.container());
    let (from, image) = (&replacing.from, &replacing.image);
    Notice {
        warning: false,
        reason: "Replacing".to_owned(),
        note: format!("Replacing the container {container} of {name} in place: {from} → {image}."),
        container: Some((name.to_owned(), container)),
    }
}

pub(super) fn told(pod: &GatewayPod<'_>, replacing: &Replacing, replaced: &Replaced) -> Notice {
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
