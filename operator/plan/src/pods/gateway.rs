//! The gateways' pods: the gateway and, as native sidecar, the state of its connections. The sidecar starts first and ends last, so
//! that the gateway is never without it, also while it drains.

use imaccess_operator_api::gateway::{ExposureType, Listener};
use imaccess_operator_api::in_place::Side;
use imaccess_operator_api::names::{Identity, Names, Part, port};
use imaccess_operator_api::options::{Resources, Scheduling};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Images, PAGES_PORT, SIDECAR_PAGES_PORT, TokenKeys, container, container_port, probe, pull_secrets,
    scheduling, security, volume,
};
use crate::cluster::Cluster;
use crate::configuration::gateway::connection_limit;
use crate::configuration::{self, file, files, path};

/// For clients that are left at the drain's deadline to be told, flushed, and to read why they were closed: the gateway's
/// `deadlines.drain`.
const FLUSH_S: i64 = 10;
/// What the sidecar has beyond the resume window to tell of sessions that ended: its `end_grace`.
const TELLING_S: i64 = 5;
/// For the kubelet between the two containers, and for flushing at both ends.
const MARGIN_S: i64 = 5;

/// Bytes of one connection's cursor, and cells that a shard's file has beyond twice the connections, as gateway and net have it.
const CURSOR_BYTES: i64 = 32;
const SPARE_CURSORS: i64 = 8_192;
/// Sockets, and the partial frames and unsent bytes that a planned replacement writes down.
const HANDOVER_MIB: i64 = 64;
/// What may stand in the sidecar's journal.
const JOURNAL_SIZE: &str = "256Mi";

/// All that the template and the start configurations depend on.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inputs<'a> {
    /// The cluster's name.
    pub(crate) cluster: &'a str,
    /// The cluster's namespace.
    pub(crate) namespace: &'a str,
    images: Images<'a>,
    state_image: &'a str,
    /// Where clients connect.
    pub(crate) listeners: &'a [Listener],
    host_port: bool,
    resources: &'a Resources,
    state_resources: &'a Resources,
    scheduling: &'a Scheduling,
    sockets_mib: i64,
    drain_deadline_seconds: i32,
    /// Seconds between a client's pings.
    pub(crate) ping_interval_seconds: i32,
    /// For how long a session may be resumed.
    pub(crate) resume_window_seconds: i32,
    tickets: &'a str,
    tokens: &'a TokenKeys,
}

impl<'a> Inputs<'a> {
    pub(super) fn of(cluster: &'a Cluster<'_>, tickets: &'a str, tokens: &'a TokenKeys) -> Self {
        let gateway = &cluster.spec.gateway;
        let sidecar = &cluster.spec.state.sidecar;
        Self {
            cluster: &cluster.names.cluster,
            namespace: &cluster.names.namespace,
            images: Images::of(cluster, Part::Gateway),
            state_image: cluster.image(Part::State),
            listeners: &gateway.listeners,
            host_port: gateway.exposure.kind == ExposureType::HostPort,
            resources: &gateway.resources,
            state_resources: &sidecar.resources,
            scheduling: &gateway.scheduling,
            sockets_mib: sockets_mib(connection_limit(gateway)),
            drain_deadline_seconds: gateway.drain.deadline_seconds,
            ping_interval_seconds: sidecar.ping_interval_seconds,
            resume_window_seconds: sidecar.resume_window_seconds,
            tickets,
            tokens,
        }
    }

    /// Threads: as many as the CPU limit has room for; 0, which is one per core, when there is none.
    pub(crate) fn shards(&self) -> u64 {
        let limit = self.resources.limits.get("cpu");
        limit.and_then(|limit| limit.value()).unwrap_or(0)
    }

    pub(super) fn configuration(&self) -> Value {
        files([
            (file::GATEWAY, configuration::gateway::start(self)),
            (file::SIDECAR, configuration::sidecar::start(self)),
        ])
    }

    pub(super) fn pod(&self) -> Value {
        let names = Names::new(self.cluster, self.namespace);
        let tokens = match &self.tokens.development_key {
            // Not the private key beside it.
            Some(key) => volume::secret_key("tokens", &self.tokens.secret, &format!("{key}.pem")),
            None => volume::secret("tokens", &self.tokens.secret),
        };
        let mut pod = json!({
            "terminationGracePeriodSeconds": self.grace_seconds(),
            "securityContext": security::pod(self.listeners.iter().any(|listener| listener.port < 1_024)),
            "imagePullSecrets": pull_secrets(&self.images),
            "initContainers": [self.sidecar()],
            "containers": [self.gateway()],
            "volumes": [
                volume::config_map("gateway-configuration", &names.part(Part::Gateway)),
                volume::config_map("state-configuration", &names.sidecar()),
                volume::secret("gateway-tls", &names.certificate(Identity::Gateway)),
                volume::secret("state-tls", &names.certificate(Identity::Sidecar)),
                volume::secret("tickets", self.tickets),
                tokens,
                volume::memory("sockets", &format!("{}Mi", self.sockets_mib)),
                volume::disk("journal", JOURNAL_SIZE),
            ],
        });
        scheduling::put(&mut pod, self.scheduling, &names.selector(Part::Gateway));
        pod
    }

    /// The gateway's drain and flush, then the sidecar's wait for its sessions to resume elsewhere.
    fn grace_seconds(&self) -> i64 {
        let gateway = i64::from(self.drain_deadline_seconds) + FLUSH_S;
        let sidecar = i64::from(self.resume_window_seconds) + TELLING_S;
        gateway + sidecar + MARGIN_S
    }

    fn gateway(&self) -> Value {
        let mut ports: Vec<Value> = self
            .listeners
            .iter()
            .map(|listener| {
                // Their names are the user's, and might be ours.
                let mut port = container_port(&format!("client-{}", listener.port), listener.port);
                if self.host_port {
                    port["hostPort"] = listener.port.into();
                }
                port
            })
            .collect();
        ports.push(container_port(PAGES_PORT, port::GATEWAY_PAGES));
        ports.push(container_port("control", port::GATEWAY_CONTROL));
        let configuration = format!("{}/{}", path::CONFIGURATION, file::GATEWAY);
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
        container(
            Side::Gateway.container(),
            &self.images,
            &["gateway", "--config", &configuration, "--log-json"],
            self.resources,
            json!({
                "env": [
                    field("IMACCESS_GATEWAY__NAME", "metadata.name"),
                    field("IMACCESS_GATEWAY__INSTANCE", "metadata.uid"),
                ],
                "ports": ports,
                "readinessProbe": probe::readiness(PAGES_PORT),
                "livenessProbe": probe::liveness(PAGES_PORT),
                "volumeMounts": [
                    volume::read("gateway-configuration", path::CONFIGURATION),
                    volume::read("gateway-tls", path::TLS),
                    volume::write("sockets", path::SOCKETS),
                ],
            }),
        )
    }

    fn sidecar(&self) -> Value {
        let images = Images {
            image: self.state_image,
            ..self.images
        };
        let configuration = format!("{}/{}", path::CONFIGURATION, file::SIDECAR);
        container(
            Side::State.container(),
            &images,
            &[
                "state",
                "--role",
                "session",
                "--config",
                &configuration,
                "--log-json",
            ],
            self.state_resources,
            json!({
                // A native sidecar: it is there before the gateway, and after it.
                "restartPolicy": "Always",
                "ports": [
                    container_port(SIDECAR_PAGES_PORT, port::SIDECAR_PAGES),
                    container_port("routes", port::ROUTES),
                ],
                "startupProbe": probe::startup(SIDECAR_PAGES_PORT),
                "livenessProbe": probe::liveness(SIDECAR_PAGES_PORT),
                "volumeMounts": [
                    volume::read("state-configuration", path::CONFIGURATION),
                    volume::read("state-tls", path::TLS),
                    volume::read("tickets", path::TICKETS),
                    volume::read("tokens", path::TOKENS),
                    volume::write("sockets", path::SOCKETS),
                    volume::write("journal", path::JOURNAL),
                ],
            }),
        )
    }
}

/// Room of the sockets' volume: the cursors of two incarnations, while one takes over from the other, and what a handover writes. In
/// steps of powers of two, so that a changed connection limit, which gateways take while they run, seldom replaces pods. It is a
/// bound: what isn't written costs nothing.
fn sockets_mib(connections: i64) -> i64 {
    let cursors = 2 * CURSOR_BYTES * (2 * connections + SPARE_CURSORS);
    let mib = HANDOVER_MIB + cursors.div_euclid(1 << 20) + 1;
    let mib = u64::try_from(mib).unwrap_or(0).next_power_of_two();
    i64::try_from(mib).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::sockets_mib;

    #[test]
    fn the_sockets_volume_holds_the_cursors_of_two_incarnations() {
        for (connections, mib) in [
            (1, 128),
            (1_000, 128),
            (200_000, 128),
            (1_000_000, 256),
            (2_000_000, 512),
        ] {
            assert_eq!(sockets_mib(connections), mib, "{connections}");
        }
    }
}
