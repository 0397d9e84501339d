//! What pods have got in place is told to ReplicaSet and Deployment without a rollout: pause, ReplicaSet, template, resume.
//!
//! Without the pause the Deployment controller would find no ReplicaSet of the template for a moment, and replace all pods. It
//! takes the oldest ReplicaSet whose template equals the Deployment's, so that every change has a number of its own, in both
//! templates: no retired ReplicaSet ever equals a later one. (Both seen on Kubernetes 1.34.)

use imaccess_operator_api::names::{IN_PLACE_ANNOTATION, SETTLING_ANNOTATION};
use serde_json::{Value, json};

use super::images::Images;
use super::rollout::{Rollout, in_place, in_place_of_template, reference};
use super::step::Step;
use crate::canonical::hash;

/// How far Deployment and ReplicaSet are.
#[derive(Debug, PartialEq)]
pub(crate) enum Settled {
    /// As the rendered template says, or to be applied as any other change.
    Yes,
    /// This is next, and the Deployment isn't applied meanwhile.
    Next(Step),
    /// The Deployment's template is next.
    Template,
}

/// The number of a change: no two have the same, for a ReplicaSet's UID is its own, and so is the change before it.
pub(crate) fn number(replica_set: &Value, images: &Images) -> String {
    let of = json!([
        replica_set["metadata"]["uid"],
        in_place(replica_set),
        images.gateway,
        images.state
    ]);
    hash(&of)
}

/// Compares with the rendered template.
pub(crate) fn look(rollout: &Rollout<'_>, template: &Value) -> Settled {
    let (deployment, settling) = (rollout.deployment, rollout.settling());
    let Some(wanted) = in_place_of_template(template) else {
        // Another change has come meanwhile: it is applied as such, but not while the Deployment is paused.
        return settling.map_or(Settled::Yes, |_| Settled::Next(resume(deployment)));
    };
    let told = rollout
        .replica_sets
        .iter()
        .any(|one| in_place(one) == Some(wanted));
    if !told {
        let images = Images::of_template(template);
        let mut sets = rollout.replica_sets.iter();
        let Some(replica_set) = sets.find(|one| number(one, &images) == wanted) else {
            // It has been deleted: with its pods there is nothing left to keep.
            return settling.map_or(Settled::Yes, |_| Settled::Next(resume(deployment)));
        };
        return Settled::Next(match settling {
            None => Step::Pause {
                deployment: reference(deployment),
                patch: json!({
                    "metadata": {"annotations": {SETTLING_ANNOTATION: wanted}},
                    "spec": {"paused": true},
                }),
            },
            Some(_) => Step::ReplicaSet {
                replica_set: reference(replica_set),
                patch: json!({"spec": {"template": {
                    "metadata": {"annotations": {IN_PLACE_ANNOTATION: wanted}},
                    "spec": images.patch(),
                }}}),
            },
        });
    }
    let same = in_place(deployment) == Some(wanted);
    match settling {
        Some(_) if same => Settled::Next(resume(deployment)),
        Some(_) => Settled::Template,
        None => Settled::Yes,
    }
}

fn resume(deployment: &Value) -> Step {
    Step::Resume {
        deployment: reference(deployment),
        patch: json!({
            "metadata": {"annotations": {SETTLING_ANNOTATION: null}},
            "spec": {"paused": null},
        }),
    }
}
