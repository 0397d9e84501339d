//! How many pods voluntary disruptions, such as node drains, may take at a time.

use imaccess_operator_api::names::Part;
use serde_json::json;

use crate::cluster::{Cluster, Desired};
use crate::plan::Kind;

/// A budget for each part that has more than one pod: with one, a budget would only keep nodes from being drained.
pub(crate) fn desired(cluster: &Cluster<'_>) -> Vec<Desired> {
    Part::ALL
        .into_iter()
        .filter(|part| cluster.replicas(*part) > 1)
        .map(|part| {
            let most = match part {
                Part::Gateway => cluster.spec.gateway.disruption.max_unavailable,
                Part::State | Part::Ipconfig => 1,
            };
            let fields = json!({"spec": {
                "maxUnavailable": most,
                "selector": {"matchLabels": cluster.names.selector(part)},
                // A pod that doesn't serve must not keep a node from being drained.
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            }});
            cluster.part_object(Kind::PodDisruptionBudget, cluster.names.part(part), part, fields)
        })
        .collect()
}
