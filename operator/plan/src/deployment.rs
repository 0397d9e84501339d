//! The Deployments: how many pods, of which template, replaced in which way.

use imaccess_operator_api::gateway::ExposureType;
use imaccess_operator_api::names::Part;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Desired};
use crate::plan::Kind;
use crate::rendered::Renderings;

/// A rollout that doesn't get on for this long is stuck.
const PROGRESS_DEADLINE_S: i32 = 600;
/// Retired ReplicaSets that `kubectl rollout undo` can go back to.
const REVISIONS: i32 = 5;

/// A part's Deployment with so many replicas.
pub(crate) fn desired(cluster: &Cluster<'_>, part: Part, renderings: &Renderings, replicas: i32) -> Desired {
    let fields = json!({"spec": {
        "replicas": replicas,
        "selector": {"matchLabels": cluster.names.selector(part)},
        "template": renderings.of(part).template,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling_update(cluster, part)},
        "progressDeadlineSeconds": PROGRESS_DEADLINE_S,
        "revisionHistoryLimit": REVISIONS,
    }});
    cluster.part_object(Kind::Deployment, cluster.names.part(part), part, fields)
}

/// New pods first, so that clients have where to go; but a port of a node is free only when its pod has gone.
fn rolling_update(cluster: &Cluster<'_>, part: Part) -> Value {
    match (part, cluster.spec.gateway.exposure.kind) {
        (Part::Gateway, ExposureType::HostPort) => json!({"maxSurge": 0, "maxUnavailable": 1}),
        (Part::Gateway, _) => json!({"maxSurge": "25%", "maxUnavailable": 0}),
        (Part::State | Part::Ipconfig, _) => json!({"maxSurge": 1, "maxUnavailable": 0}),
    }
}
