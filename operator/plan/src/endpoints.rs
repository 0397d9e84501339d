//! Where clients reach a gateway pod from outside: what ipconfig tells them.

use imaccess_operator_api::gateway::{ExposureType, Listener};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::canonical::sorted;
use crate::cluster::Cluster;
use crate::plan::Kind;

/// The pod's endpoints, as JSON; none while its address isn't known, and none with PodIP, where its own address is the one.
pub(crate) fn of(cluster: &Cluster<'_>, pod: &Pod, slot: u32) -> Option<String> {
    let gateway = &cluster.spec.gateway;
    let service = || cluster.live(Kind::Service, &cluster.names.slot(slot));
    let said = gateway
        .exposure
        .host
        .as_ref()
        .map(|host| host.replace("{slot}", &slot.to_string()));
    let (host, service) = match gateway.exposure.kind {
        ExposureType::PodIP => return None,
        ExposureType::HostPort => (said.or_else(|| node_address(pod))?, None),
        ExposureType::NodePort => (said.or_else(|| node_address(pod))?, Some(service()?)),
        ExposureType::LoadBalancer => (said.or_else(|| balancer_address(service()?))?, None),
    };
    let port = |listener: &Listener| match service {
        Some(service) => node_port(service, &listener.name),
        None => Some(listener.port),
    };
    let endpoints: Option<Vec<Value>> = gateway
        .listeners
        .iter()
        .map(|listener| {
            let port = port(listener)?;
            Some(json!({"protocol": listener.protocol.as_str(), "host": host, "port": port}))
        })
        .collect();
    Some(sorted(&Value::Array(endpoints?)).to_string())
}

/// Whether pods have an annotation with their endpoints.
pub(crate) fn are_said(kind: ExposureType) -> bool {
    kind != ExposureType::PodIP
}

fn node_address(pod: &Pod) -> Option<String> {
    let address = pod.status.as_ref()?.host_ip.clone()?;
    (!address.is_empty()).then_some(address)
}

fn balancer_address(service: &Value) -> Option<String> {
    let ingress = &service["status"]["loadBalancer"]["ingress"][0];
    let address = ingress["ip"].as_str().or_else(|| ingress["hostname"].as_str())?;
    (!address.is_empty()).then(|| address.to_owned())
}

fn node_port(service: &Value, name: &str) -> Option<i32> {
    let ports = service["spec"]["ports"].as_array()?;
    let port = ports.iter().find(|port| port["name"] == json!(name))?;
    let number = port["nodePort"].as_i64().filter(|number| *number > 0)?;
    i32::try_from(number).ok()
}
