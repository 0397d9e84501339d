//! What a cluster should look like: a pure function from what is [observed](observed::Observed) to a [plan](plan::Plan).
//!
//! Nothing here does I/O, reads a clock or makes random bytes; the controller gathers, calls [`plan()`], and carries out.
//!
//! Each kind of child has a module: `configuration` and `pods` with one file per part, `deployment`, `service`, `access`,
//! `disruption`, `autoscaler`, `network`, `monitor`. `children` puts them together and compares them with what there is
//! (`differs`); `rendered` keeps pod templates as they are when the operator is replaced. `secrets` and `authority` say which
//! keys and certificates are due, `slots`, `endpoints` and `running` what running pods are told. `health`, `conditions` and
//! `status` say how it goes.

mod access;
mod authority;
mod autoscaler;
mod canonical;
mod children;
mod cluster;
mod conditions;
mod configuration;
mod deployment;
mod differs;
mod disruption;
mod endpoints;
mod health;
mod monitor;
mod network;
mod notices;
pub mod observed;
mod orphans;
pub mod plan;
mod pods;
mod quantity;
mod rendered;
mod running;
mod secrets;
mod service;
mod slots;
mod status;
mod upgrade;
mod validity;

#[cfg(test)]
mod tests;

use std::time::Duration;

use imaccess_operator_api::names::Part;
use imaccess_operator_api::status::{Change, Method};
use jiff::Timestamp;

use children::{Changes, Children};
use cluster::Cluster;
use plan::Kind;
use running::Gateways;
use secrets::Secrets;

pub use observed::Observed;
pub use plan::Plan;
pub use upgrade::{Ask, gateways_to_ask};

/// A step that follows as soon as another is done: soon, but not in a loop that nothing slows down.
const SOON: Duration = Duration::from_secs(1);
/// What is due at a time is looked at this often at least: clocks are set, and machines sleep.
const SELDOM: Duration = Duration::from_secs(6 * 3_600);

/// What is to be done about a cluster.
///
/// Without a change of what is observed, and once the plan is carried out, the next plan is empty but for the status there is. A
/// custom resource that is being deleted gets no plan at all: its children go with it. One that is paused gets its status only.
#[must_use]
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let before = observed.cluster.status.as_ref();
    let mut plan = Plan {
        secrets: Vec::new(),
        apply: Vec::new(),
        pods: Vec::new(),
        steps: Vec::new(),
        leases: Vec::new(),
        delete: Vec::new(),
        status: before.cloned().unwrap_or_default(),
        notices: Vec::new(),
        look_again: None,
    };
    if observed.cluster.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let cluster = Cluster::of(observed);
    let secrets = secrets::due(&cluster, now);
    let gateways = Gateways::of(&cluster);
    let children = Children::of(&cluster, &secrets, &gateways, now);
    let changes = children.changes(&cluster);

    let changing: Vec<Part> = Part::ALL
        .into_iter()
        .filter(|part| is_changing(&cluster, *part, &children, &changes))
        .collect();
    let mut health = health::look(&cluster, &changing, gateways.without_address(&cluster));
    health.stalled.splice(0..0, secrets.problems.iter().cloned());
    health.stalled.splice(0..0, changes.stalled.iter().cloned());
    health.progressing.splice(0..0, changes.waiting.iter().cloned());
    if let Some(upgrade) = &children.upgrade {
        health.stalled.splice(0..0, upgrade.stalled());
        health.progressing.splice(0..0, upgrade.progressing());
    }
    plan.status = status::of(&cluster, &health, now);
    plan.status.change = change(&cluster, &children, &changes);

    if !cluster.spec.paused {
        plan.look_again = look_again(&secrets, &changes, now);
        // While it isn't known what parts mount, neither is what their pods read.
        if secrets.tokens.is_some() {
            plan.pods = running::patches(&cluster, &gateways, &children.desired, &secrets);
        }
        plan.delete = orphans::deletions(&cluster, &children.wanted());
        plan.secrets = secrets.steps;
        plan.apply = changes.apply;
        if let Some(upgrade) = children.upgrade {
            plan.steps = upgrade.steps;
            plan.leases = upgrade.leases;
            plan.status.upgrade = upgrade.status;
            plan.notices = upgrade.notices;
            plan.look_again = sooner(plan.look_again, upgrade.look_again);
        } else {
            // Not known now: what was remembered isn't forgotten for that.
            plan.status.upgrade = before.and_then(|before| before.upgrade.clone());
        }
    } else {
        plan.status.upgrade = before.and_then(|before| before.upgrade.clone());
    }
    let notices = notices::of(&plan, before);
    plan.notices.extend(notices);
    plan
}

fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

/// How the last change of the gateways reaches their pods: the one that is seen now, or the one before.
fn change(cluster: &Cluster<'_>, children: &Children, changes: &Changes) -> Option<Change> {
    let upgrade = children.upgrade.as_ref();
    if let Some(change) = upgrade.and_then(|upgrade| upgrade.change.clone()) {
        return Some(change);
    }
    let names = [cluster.names.part(Part::Gateway), cluster.names.sidecar()];
    let reloads = changes.apply.iter().any(|child| {
        let is_read = child.id.kind == Kind::ConfigMap && names.contains(&child.id.name);
        is_read && child.resource_version.is_some()
    });
    let before = cluster.observed.cluster.status.as_ref();
    let is_asked_for = before
        .is_some_and(|before| before.observed_generation != cluster.observed.cluster.metadata.generation);
    let is_same = upgrade.is_some_and(|upgrade| upgrade.status.is_none());
    if reloads && is_asked_for && is_same {
        return Some(Change {
            method: Method::Reload,
            why:
                "Running gateways and sidecars read what has changed: businesses, bandwidth, limits or drain."
                    .to_owned(),
        });
    }
    before.and_then(|before| before.change.clone())
}

/// Whether a part's Deployment isn't as it should be.
fn is_changing(cluster: &Cluster<'_>, part: Part, children: &Children, changes: &Changes) -> bool {
    let is_it = |id: &observed::ChildId| id.kind == Kind::Deployment && id.name == cluster.names.part(part);
    children.held.iter().any(is_it) || changes.apply.iter().any(|child| is_it(&child.id))
}

fn look_again(secrets: &Secrets, changes: &Changes, now: Timestamp) -> Option<Duration> {
    if secrets.goes_on || !changes.waiting.is_empty() {
        return Some(SOON);
    }
    let wait = secrets.next?.duration_since(now);
    let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO);
    Some(wait.clamp(SOON, SELDOM))
}
