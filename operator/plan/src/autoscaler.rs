//! The HorizontalPodAutoscaler. It sets the custom resource's replicas, and the operator the Deployment's from them, so that pods
//! are condemned before they go.

use imaccess_operator_api::names::Part;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Desired};
use crate::plan::Kind;

/// Seconds for which fewer pods must have been enough before one is taken: moving clients costs more than a pod.
const SCALE_DOWN_STABILIZATION_S: i32 = 300;
/// Seconds between two steps down: the clients of the last one have moved by then.
const SCALE_DOWN_PERIOD_S: i32 = 120;

/// One, when it is asked for.
pub(crate) fn desired(cluster: &Cluster<'_>) -> Option<Desired> {
    let asked = cluster.spec.gateway.autoscaling.as_ref()?;
    let pods_metric = |name: &str, average: String| {
        json!({"type": "Pods", "pods": {
            "metric": {"name": name},
            "target": {"type": "AverageValue", "averageValue": average},
        }})
    };
    let mut metrics: Vec<Value> = Vec::new();
    if let Some(connections) = asked.connections_per_pod {
        metrics.push(pods_metric(
            "imaccess_gateway_connections",
            connections.to_string(),
        ));
    }
    if let Some(bandwidth) = &asked.bandwidth_per_pod {
        metrics.push(pods_metric(
            "imaccess_gateway_sent_bytes_per_second",
            bandwidth.0.clone(),
        ));
    }
    if let Some(percent) = asked.cpu_percent {
        metrics.push(json!({"type": "Resource", "resource": {
            "name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent},
        }}));
    }
    let step =
        |kind: &str, value: i32| json!({"type": kind, "value": value, "periodSeconds": SCALE_DOWN_PERIOD_S});
    let fields = json!({"spec": {
        "scaleTargetRef": {
            "apiVersion": "imaccess.io/v1alpha1",
            "kind": "ImAccessCluster",
            "name": cluster.names.cluster,
        },
        "minReplicas": asked.min_replicas,
        "maxReplicas": asked.max_replicas,
        "metrics": metrics,
        "behavior": {"scaleDown": {
            "stabilizationWindowSeconds": SCALE_DOWN_STABILIZATION_S,
            "selectPolicy": "Max",
            "policies": [step("Pods", 1), step("Percent", 5)],
        }},
    }});
    let name = cluster.names.part(Part::Gateway);
    Some(cluster.part_object(Kind::HorizontalPodAutoscaler, name, Part::Gateway, fields))
}
