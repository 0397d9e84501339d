//! All children of a cluster as they should be, and which of them aren't.

use std::collections::BTreeSet;

use imaccess_operator_api::names::{APPLIED_ANNOTATION, Part};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Desired, Holder};
use crate::health::{Problem, reason};
use crate::observed::ChildId;
use crate::plan::{Child, Kind};
use crate::rendered::Renderings;
use crate::running::Gateways;
use crate::secrets::Secrets;
use crate::upgrade::Upgrade;
use crate::upgrade::step::StepName;
use crate::{
    access, autoscaler, configuration, deployment, differs, disruption, monitor, network, pods, service,
};

/// What should be, and what may be applied of it now.
#[derive(Debug, Default)]
pub(crate) struct Children {
    /// Everything that is wanted, in the order in which it is applied.
    pub(crate) desired: Vec<Desired>,
    /// What is wanted, but can't be made yet.
    pub(crate) held: BTreeSet<ChildId>,
    /// What is done about the gateways' images; nothing while it isn't known what parts mount.
    pub(crate) upgrade: Option<Upgrade>,
}

/// What is to be applied, and what is in the way.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// What isn't as it should be.
    pub(crate) apply: Vec<Child>,
    /// Somebody else's objects.
    pub(crate) stalled: Vec<Problem>,
    /// A former cluster's objects.
    pub(crate) waiting: Vec<Problem>,
}

impl Children {
    /// From what is specified and what Secrets there will be.
    pub(crate) fn of(
        cluster: &Cluster<'_>,
        secrets: &Secrets,
        gateways: &Gateways<'_>,
        now: Timestamp,
    ) -> Children {
        let mut children = Children::default();
        children.desired.extend(access::desired(cluster));
        match &secrets.tokens {
            Some(tokens) => {
                let (renderings, upgrade) = pods::renderings(cluster, &secrets.tickets, tokens, now);
                children.upgrade = Some(upgrade);
                children.of_parts(cluster, secrets, gateways, &renderings);
            }
            // What parts mount isn't known yet.
            None => children.hold_parts(cluster),
        }
        let slots = gateways.services(cluster);
        children.desired.extend(service::desired(cluster, slots));
        children.desired.extend(network::desired(cluster));
        children.desired.extend(disruption::desired(cluster));
        children.desired.extend(monitor::desired(cluster));
        children.desired.extend(autoscaler::desired(cluster));
        let order = |kind: Kind| Kind::ALL.iter().position(|other| *other == kind);
        // Stable: parts stay in their order.
        children.desired.sort_by_key(|desired| order(desired.id.kind));
        children
    }

    /// The ids of everything that is wanted, now or later.
    pub(crate) fn wanted(&self) -> BTreeSet<ChildId> {
        let desired = self.desired.iter().map(|desired| desired.id.clone());
        desired.chain(self.held.iter().cloned()).collect()
    }

    fn of_parts(
        &mut self,
        cluster: &Cluster<'_>,
        secrets: &Secrets,
        gateways: &Gateways<'_>,
        renderings: &Renderings,
    ) {
        self.desired.push(renderings.desired(cluster));
        self.desired.extend(configuration::desired(cluster, renderings));
        for part in Part::ALL {
            let replicas = match part {
                Part::Gateway => gateways.replicas(cluster),
                Part::State | Part::Ipconfig => cluster.replicas(part),
            };
            let deployment = deployment::desired(cluster, part, renderings, replicas);
            let upgrade = self.upgrade.as_ref().filter(|_| part == Part::Gateway);
            let held = upgrade.is_some_and(|upgrade| upgrade.holds_deployment);
            if held || mounts_any(&deployment.object, &secrets.absent) {
                self.held.insert(deployment.id);
            } else {
                self.desired.push(deployment);
            }
        }
        self.hold_authority(cluster);
    }

    fn hold_parts(&mut self, cluster: &Cluster<'_>) {
        let id = |kind: Kind, name: String| ChildId { kind, name };
        let names = &cluster.names;
        for part in Part::ALL {
            self.held.insert(id(Kind::Deployment, names.part(part)));
            self.held.insert(id(Kind::ConfigMap, names.part(part)));
        }
        self.held.insert(id(Kind::ConfigMap, names.sidecar()));
        self.held.insert(id(Kind::ConfigMap, names.rendered()));
        self.hold_authority(cluster);
    }

    /// The authority's certificate stays where it is while nobody knows it.
    fn hold_authority(&mut self, cluster: &Cluster<'_>) {
        let (kind, name) = (Kind::ConfigMap, cluster.names.authority());
        self.held.insert(ChildId { kind, name });
    }

    /// Which step of an upgrade applying an object is.
    fn step(&self, cluster: &Cluster<'_>, id: &ChildId) -> Option<StepName> {
        let upgrade = self.upgrade.as_ref()?;
        match id.kind {
            Kind::ConfigMap if upgrade.records && id.name == cluster.names.rendered() => {
                Some(StepName::Record)
            }
            Kind::Deployment if upgrade.tells_template && id.name == cluster.names.part(Part::Gateway) => {
                Some(StepName::Template)
            }
            _ => None,
        }
    }

    /// What of it isn't as it should be.
    pub(crate) fn changes(&self, cluster: &Cluster<'_>) -> Changes {
        let mut changes = Changes::default();
        for desired in &self.desired {
            let live = cluster.observed.children.get(&desired.id);
            let holder = live.map_or(Holder::Ours, |live| cluster.holder(live));
            let (kind, name) = (desired.id.kind.as_str(), &desired.id.name);
            match holder {
                Holder::Ours => changes.apply.extend(change(desired, live).map(|child| Child {
                    step: self.step(cluster, &child.id),
                    ..child
                })),
                Holder::Former => changes.waiting.push(Problem::new(
                    reason::FORMER_OBJECTS,
                    format!("The {kind} {name} of a former cluster of this name is being deleted."),
                )),
                Holder::Foreign => changes.stalled.push(Problem::new(
                    reason::NAME_TAKEN,
                    format!(
                        "The {kind} {name} belongs to something else, and the operator needs the name: delete or rename it, or give \
                         the cluster another name."
                    ),
                )),
            }
        }
        changes
    }
}

/// Whether, and why, an object is to be applied: what is desired has changed since it was applied, or what was applied has been
/// changed by somebody.
fn change(desired: &Desired, live: Option<&Value>) -> Option<Child> {
    let why = match live {
        None => "missing".to_owned(),
        Some(live) => {
            // Last, so that the field that differs is named and not the hash of all.
            let differs = differs::first(&without_applied(&desired.object), live);
            match differs {
                Some(path) => format!("changed: {path}"),
                None if applied(&desired.object) != applied(live) => "changed: what is desired".to_owned(),
                None => return None,
            }
        }
    };
    let version = live.and_then(|live| live["metadata"]["resourceVersion"].as_str());
    Some(Child {
        id: desired.id.clone(),
        object: desired.object.clone(),
        resource_version: version.map(str::to_owned),
        why,
        step: None,
    })
}

fn applied(object: &Value) -> &Value {
    &object["metadata"]["annotations"][APPLIED_ANNOTATION]
}

fn without_applied(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.remove(APPLIED_ANNOTATION);
        // A map without anything in it isn't kept by the API server.
        if annotations.is_empty() {
            object["metadata"]["annotations"] = Value::Null;
        }
    }
    crate::canonical::without_nulls(object)
}

fn mounts_any(deployment: &Value, secrets: &BTreeSet<String>) -> bool {
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array();
    let mut names = volumes
        .into_iter()
        .flatten()
        .map(|volume| &volume["secret"]["secretName"]);
    names.any(|name| secrets.iter().any(|secret| *name == json!(secret)))
}
