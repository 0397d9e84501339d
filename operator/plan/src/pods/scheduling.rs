//! Where pods run.

use std::collections::BTreeMap;

use imaccess_operator_api::options::{Scheduling, Spread};
use serde_json::{Value, json};

use crate::canonical::unless_empty;

/// Spread over nodes first, then over zones.
const TOPOLOGIES: [&str; 2] = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"];

/// Puts the fields into a pod.
pub(super) fn put(pod: &mut Value, scheduling: &Scheduling, selector: &BTreeMap<String, String>) {
    let unsatisfiable = match scheduling.spread {
        Spread::Preferred => Some("ScheduleAnyway"),
        Spread::Required => Some("DoNotSchedule"),
        Spread::None => None,
    };
    let constraints: Vec<Value> = unsatisfiable
        .iter()
        .flat_map(|when| {
            TOPOLOGIES.map(|topology| {
                json!({
                    "maxSkew": 1,
                    "topologyKey": topology,
                    "whenUnsatisfiable": when,
                    "labelSelector": {"matchLabels": selector},
                    // Pods of the former template, which are about to go, don't count.
                    "matchLabelKeys": ["pod-template-hash"],
                })
            })
        })
        .collect();
    pod["nodeSelector"] = unless_empty(json!(scheduling.node_selector));
    pod["tolerations"] = unless_empty(json!(scheduling.tolerations));
    pod["priorityClassName"] = json!(scheduling.priority_class_name);
    pod["topologySpreadConstraints"] = unless_empty(json!(constraints));
}
