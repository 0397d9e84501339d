//! The routing layer's pods.

use imaccess_operator_api::names::{Identity, Names, Part, port};
use imaccess_operator_api::options::{Resources, Scheduling};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Images, PAGES_PORT, container, container_port, ending, probe, pull_secrets, scheduling, security, volume,
};
use crate::cluster::Cluster;
use crate::configuration::{self, file, files, path};

/// Requests in flight are answered within 5 s.
const GRACE_S: i32 = 30;

/// All that the template and the start configuration depend on.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inputs<'a> {
    /// The cluster's name.
    pub(crate) cluster: &'a str,
    /// The cluster's namespace.
    pub(crate) namespace: &'a str,
    images: Images<'a>,
    resources: &'a Resources,
    scheduling: &'a Scheduling,
    /// The audience of tokens that may push.
    pub(crate) audience: &'a str,
    /// For how long a session may be resumed.
    pub(crate) resume_window_seconds: i32,
}

impl<'a> Inputs<'a> {
    pub(super) fn of(cluster: &'a Cluster<'_>) -> Self {
        let state = &cluster.spec.state;
        Self {
            cluster: &cluster.names.cluster,
            namespace: &cluster.names.namespace,
            images: Images::of(cluster, Part::State),
            resources: &state.resources,
            scheduling: &state.scheduling,
            audience: &state.push.audience,
            resume_window_seconds: state.sidecar.resume_window_seconds,
        }
    }

    pub(super) fn configuration(&self) -> Value {
        files([(file::ROUTING, configuration::routing::start(self))])
    }

    pub(super) fn pod(&self) -> Value {
        let names = Names::new(self.cluster, self.namespace);
        let configuration = format!("{}/{}", path::CONFIGURATION, file::ROUTING);
        let routing = container(
            "state",
            &self.images,
            &[
                "state",
                "--role",
                "routing",
                "--config",
                &configuration,
                "--log-json",
            ],
            self.resources,
            json!({
                "ports": [
                    container_port("push", port::PUSH),
                    container_port(PAGES_PORT, port::ROUTING_PAGES),
                ],
                "readinessProbe": probe::readiness(PAGES_PORT),
                "livenessProbe": probe::liveness(PAGES_PORT),
                "lifecycle": ending::after_propagation(),
                "volumeMounts": [
                    volume::read("configuration", path::CONFIGURATION),
                    volume::read("tls", path::TLS),
                ],
            }),
        );
        let mut pod = json!({
            "terminationGracePeriodSeconds": GRACE_S,
            "securityContext": security::pod(false),
            "imagePullSecrets": pull_secrets(&self.images),
            "containers": [routing],
            "volumes": [
                volume::config_map("configuration", &names.part(Part::State)),
                volume::secret("tls", &names.certificate(Identity::State)),
            ],
        });
        scheduling::put(&mut pod, self.scheduling, &names.selector(Part::State));
        pod
    }
}
