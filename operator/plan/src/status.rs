//! The status: what was observed, without clocks and without numbers that change all the time.

use imaccess_operator_api::ImAccessClusterStatus;
use imaccess_operator_api::names::{Part, port};
use imaccess_operator_api::status::{Addresses, PartStatus};
use jiff::Timestamp;

use crate::cluster::{Cluster, is_terminating};
use crate::conditions;
use crate::health::Health;

/// The whole of it.
pub(crate) fn of(cluster: &Cluster<'_>, health: &Health, now: Timestamp) -> ImAccessClusterStatus {
    let names = &cluster.names;
    let gateway = part(cluster, Part::Gateway);
    let address = |scheme: &str, part: Part, port: i32| {
        let (service, namespace) = (names.part(part), &names.namespace);
        Some(format!("{scheme}://{service}.{namespace}.svc:{port}"))
    };
    ImAccessClusterStatus {
        observed_generation: cluster.observed.cluster.metadata.generation,
        conditions: conditions::all(cluster, health, now),
        replicas: gateway.replicas,
        selector: Some(names.selector_text(Part::Gateway)),
        gateway,
        state: part(cluster, Part::State),
        ipconfig: part(cluster, Part::Ipconfig),
        change: None,
        upgrade: None,
        addresses: Addresses {
            ipconfig: address("http", Part::Ipconfig, port::IPCONFIG),
            push: address("https", Part::State, port::PUSH),
        },
        operator_version: Some(cluster.observed.operator_version.clone()),
    }
}

fn part(cluster: &Cluster<'_>, part: Part) -> PartStatus {
    let status = cluster.deployment(part).and_then(|deployment| deployment.status);
    let status = status.unwrap_or_default();
    let terminating = cluster
        .pods(part)
        .into_iter()
        .filter(|pod| is_terminating(pod))
        .count();
    PartStatus {
        replicas: status.replicas.unwrap_or(0),
        ready: status.ready_replicas.unwrap_or(0),
        updated: status.updated_replicas.unwrap_or(0),
        terminating: i32::try_from(terminating).unwrap_or(i32::MAX),
        image: Some(cluster.image(part).to_owned()),
    }
}
