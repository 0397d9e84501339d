//! Services: one for ipconfig, one for the push API, and one for each gateway slot where an address of its own takes one.

use std::collections::BTreeMap;

use imaccess_operator_api::gateway::ExposureType;
use imaccess_operator_api::names::{Part, SLOT_LABEL, port};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Desired};
use crate::plan::Kind;

/// All of them; `slots` is how many slots have a Service.
pub(crate) fn desired(cluster: &Cluster<'_>, slots: u32) -> Vec<Desired> {
    let mut all = vec![push(cluster), ipconfig(cluster)];
    all.extend((0..slots).map(|number| slot(cluster, number)));
    all
}

/// Whether gateways are reached through a Service for each slot.
pub(crate) fn has_slots(kind: ExposureType) -> bool {
    match kind {
        ExposureType::NodePort | ExposureType::LoadBalancer => true,
        ExposureType::PodIP | ExposureType::HostPort => false,
    }
}

fn push(cluster: &Cluster<'_>) -> Desired {
    let fields = json!({"spec": {
        "type": "ClusterIP",
        "selector": cluster.names.selector(Part::State),
        "ports": [{"name": "push", "port": port::PUSH, "targetPort": port::PUSH, "protocol": "TCP"}],
    }});
    cluster.part_object(
        Kind::Service,
        cluster.names.part(Part::State),
        Part::State,
        fields,
    )
}

fn ipconfig(cluster: &Cluster<'_>) -> Desired {
    let service = &cluster.spec.ipconfig.service;
    let fields = json!({"spec": {
        "type": service.kind.as_str(),
        "selector": cluster.names.selector(Part::Ipconfig),
        "ports": [{
            "name": "http",
            "port": port::IPCONFIG,
            "targetPort": port::IPCONFIG,
            "protocol": "TCP",
            "nodePort": service.node_port,
        }],
    }});
    let name = cluster.names.part(Part::Ipconfig);
    let labels = cluster.names.part_labels(Part::Ipconfig);
    cluster.object(Kind::Service, name, &labels, &service.annotations, fields)
}

fn slot(cluster: &Cluster<'_>, slot: u32) -> Desired {
    let gateway = &cluster.spec.gateway;
    let mut selector = cluster.names.selector(Part::Gateway);
    selector.insert(SLOT_LABEL.to_owned(), slot.to_string());
    let ports: Vec<Value> = gateway
        .listeners
        .iter()
        .map(|listener| {
            json!({
                "name": listener.name,
                "port": listener.port,
                "targetPort": listener.port,
                "protocol": "TCP",
            })
        })
        .collect();
    let kind = match gateway.exposure.kind {
        ExposureType::LoadBalancer => "LoadBalancer",
        ExposureType::NodePort | ExposureType::PodIP | ExposureType::HostPort => "NodePort",
    };
    let fields = json!({"spec": {
        "type": kind,
        "selector": selector,
        "ports": ports,
        // Clients that are connected stay reachable while the pod isn't ready for new ones; ipconfig decides about those.
        "publishNotReadyAddresses": true,
        // The traffic of a slot goes to the node of its pod, whose address clients were given, and nowhere else.
        "externalTrafficPolicy": "Local",
    }});
    let labels: BTreeMap<String, String> = cluster
        .names
        .part_labels(Part::Gateway)
        .into_iter()
        .chain([(SLOT_LABEL.to_owned(), slot.to_string())])
        .collect();
    let name = cluster.names.slot(slot);
    cluster.object(
        Kind::Service,
        name,
        &labels,
        &gateway.exposure.annotations,
        fields,
    )
}
