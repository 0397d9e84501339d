//! NetworkPolicies: who may reach which port. Only what comes in is restricted; whom a part may call follows from its businesses,
//! which may be anywhere.

use std::collections::BTreeMap;

use imaccess_operator_api::names::{FIELD_MANAGER, Part, port};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Desired};
use crate::plan::Kind;

/// One for each part, when they are asked for.
pub(crate) fn desired(cluster: &Cluster<'_>) -> Vec<Desired> {
    if !cluster.spec.network_policy.enabled {
        return Vec::new();
    }
    Part::ALL
        .into_iter()
        .map(|part| {
            let fields = json!({"spec": {
                "podSelector": {"matchLabels": cluster.names.selector(part)},
                "policyTypes": ["Ingress"],
                "ingress": ingress(cluster, part),
            }});
            cluster.part_object(Kind::NetworkPolicy, cluster.names.part(part), part, fields)
        })
        .collect()
}

fn ingress(cluster: &Cluster<'_>, part: Part) -> Vec<Value> {
    let policy = &cluster.spec.network_policy;
    let scraped = |ports: &[i32]| rule(ports, &namespaces(&policy.metrics_namespace_labels));
    match part {
        Part::Gateway => {
            let clients: Vec<i32> = cluster
                .spec
                .gateway
                .listeners
                .iter()
                .map(|listener| listener.port)
                .collect();
            let routing = json!([{"podSelector": {"matchLabels": cluster.names.selector(Part::State)}}]);
            let operator = json!([{
                "namespaceSelector": {},
                "podSelector": {"matchLabels": {"app.kubernetes.io/name": FIELD_MANAGER}},
            }]);
            // ipconfig reads the gateways' pages, whatever namespaces scrape metrics.
            let pages = scraped(&[port::GATEWAY_PAGES, port::SIDECAR_PAGES]);
            vec![
                rule(&clients, &Value::Null),
                rule(&[port::ROUTES], &routing),
                rule(&[port::GATEWAY_CONTROL], &operator),
                pages,
            ]
        }
        Part::State => vec![
            rule(&[port::PUSH], &namespaces(&policy.push_namespace_labels)),
            scraped(&[port::ROUTING_PAGES]),
        ],
        Part::Ipconfig => vec![
            rule(&[port::IPCONFIG], &Value::Null),
            scraped(&[port::IPCONFIG_PAGES]),
        ],
    }
}

/// From everywhere when `from` is null.
fn rule(ports: &[i32], from: &Value) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"protocol": "TCP", "port": port}))
        .collect();
    json!({"ports": ports, "from": from})
}

/// Pods of the own namespace and of those with the labels; of every namespace, when there are no labels.
fn namespaces(labels: &BTreeMap<String, String>) -> Value {
    if labels.is_empty() {
        return json!([{"namespaceSelector": {}}]);
    }
    json!([{"podSelector": {}}, {"namespaceSelector": {"matchLabels": labels}}])
}
