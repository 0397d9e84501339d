//! PodMonitors, where the Prometheus operator is.

use imaccess_operator_api::names::Part;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Desired};
use crate::plan::Kind;
use crate::pods::{PAGES_PORT, SIDECAR_PAGES_PORT};

/// One for each part, when they are asked for and their kind exists.
pub(crate) fn desired(cluster: &Cluster<'_>) -> Vec<Desired> {
    let Some(asked) = &cluster.spec.monitoring.pod_monitor else {
        return Vec::new();
    };
    if !cluster.observed.capabilities.pod_monitors {
        return Vec::new();
    }
    let interval = format!("{}s", asked.interval_seconds);
    Part::ALL
        .into_iter()
        .map(|part| {
            let ports: &[&str] = match part {
                Part::Gateway => &[PAGES_PORT, SIDECAR_PAGES_PORT],
                Part::State | Part::Ipconfig => &[PAGES_PORT],
            };
            let endpoints: Vec<Value> = ports
                .iter()
                .map(|port| json!({"port": port, "path": "/metrics", "interval": interval}))
                .collect();
            let mut labels = asked.labels.clone();
            // Ours win: the operator finds its objects by them.
            labels.extend(cluster.names.part_labels(part));
            let fields = json!({"spec": {
                "selector": {"matchLabels": cluster.names.selector(part)},
                "podMetricsEndpoints": endpoints,
            }});
            let name = cluster.names.part(part);
            cluster.object(Kind::PodMonitor, name, &labels, &Default::default(), fields)
        })
        .collect()
}

/// Whether they are asked for in vain.
pub(crate) fn is_missing(cluster: &Cluster<'_>) -> bool {
    cluster.spec.monitoring.pod_monitor.is_some() && !cluster.observed.capabilities.pod_monitors
}
