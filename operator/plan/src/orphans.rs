//! What the operator made once and nothing needs any more.

use std::collections::BTreeSet;

use imaccess_operator_api::names::Part;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::observed::ChildId;
use crate::plan::{Deletion, Kind};
use crate::secrets;

/// Children that aren't wanted. Only those with our owner reference: what merely has the cluster's labels is somebody else's.
pub(crate) fn deletions(cluster: &Cluster<'_>, wanted: &BTreeSet<ChildId>) -> Vec<Deletion> {
    let made = secrets::made(cluster);
    let is_wanted = |id: &ChildId| match id.kind {
        Kind::Secret => made.contains(&id.name) || is_mounted(cluster, &id.name),
        _ => wanted.contains(id),
    };
    cluster
        .observed
        .children
        .iter()
        .filter(|(id, live)| !is_wanted(id) && is_owned(cluster, live) && !is_going(live))
        .filter_map(|(id, live)| {
            let text = |key: &str| live["metadata"][key].as_str().map(str::to_owned);
            Some(Deletion {
                id: id.clone(),
                uid: text("uid")?,
                resource_version: text("resourceVersion")?,
            })
        })
        .collect()
}

/// A Secret that was replaced by one of the user's is kept for the pods that still have it: one of them may be started again.
fn is_mounted(cluster: &Cluster<'_>, secret: &str) -> bool {
    let mut pods = Part::ALL.into_iter().flat_map(|part| cluster.pods(part));
    pods.any(|pod| {
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
        let mut secrets = volumes
            .into_iter()
            .flatten()
            .filter_map(|volume| volume.secret.as_ref());
        secrets.any(|source| source.secret_name.as_deref() == Some(secret))
    })
}

fn is_owned(cluster: &Cluster<'_>, live: &Value) -> bool {
    let owners = live["metadata"]["ownerReferences"].as_array();
    owners
        .into_iter()
        .flatten()
        .any(|owner| owner["uid"] == json!(cluster.uid))
}

fn is_going(live: &Value) -> bool {
    live["metadata"]["deletionTimestamp"].is_string()
}
