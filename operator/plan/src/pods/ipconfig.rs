//! ipconfig's pods.

use imaccess_operator_api::gateway::Listener;
use imaccess_operator_api::ipconfig::Prometheus;
use imaccess_operator_api::names::{Names, Part, key, port};
use imaccess_operator_api::options::{Resources, Scheduling};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Images, PAGES_PORT, TokenKeys, container, container_port, ending, probe, pull_secrets, scheduling,
    security, volume,
};
use crate::cluster::Cluster;
use crate::configuration::{self, file, files, path};
use crate::endpoints;

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
    /// Where gateways listen.
    pub(crate) listeners: &'a [Listener],
    /// Whether clients can't use the pods' own addresses.
    pub(crate) annotated_only: bool,
    /// Seconds of the scores' window.
    pub(crate) window_seconds: i32,
    /// Where figures come from, unless from the gateways.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prometheus: Option<&'a Prometheus>,
    /// Id of the key that signs development tokens, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) development_key: Option<&'a str>,
}

impl<'a> Inputs<'a> {
    pub(super) fn of(cluster: &'a Cluster<'_>, tokens: &'a TokenKeys) -> Self {
        let ipconfig = &cluster.spec.ipconfig;
        Self {
            cluster: &cluster.names.cluster,
            namespace: &cluster.names.namespace,
            images: Images::of(cluster, Part::Ipconfig),
            resources: &ipconfig.resources,
            scheduling: &ipconfig.scheduling,
            listeners: &cluster.spec.gateway.listeners,
            annotated_only: endpoints::are_said(cluster.spec.gateway.exposure.kind),
            window_seconds: ipconfig.window_seconds,
            prometheus: ipconfig.metrics.prometheus.as_ref(),
            development_key: tokens.development_key.as_deref(),
        }
    }

    pub(super) fn configuration(&self) -> Value {
        files([(file::IPCONFIG, configuration::ipconfig::start(self))])
    }

    pub(super) fn pod(&self) -> Value {
        let names = Names::new(self.cluster, self.namespace);
        let configuration = format!("{}/{}", path::CONFIGURATION, file::IPCONFIG);
        let mut mounts = vec![volume::read("configuration", path::CONFIGURATION)];
        let mut volumes = vec![volume::config_map("configuration", &names.part(Part::Ipconfig))];
        if self.development_key.is_some() {
            mounts.push(volume::read("tokens", path::TOKENS));
            volumes.push(volume::secret_key(
                "tokens",
                &names.development_tokens(),
                key::SIGNING,
            ));
        }
        let ipconfig = container(
            "ipconfig",
            &self.images,
            &["ipconfig", "--config", &configuration, "--log-json"],
            self.resources,
            json!({
                "ports": [
                    container_port("http", port::IPCONFIG),
                    container_port(PAGES_PORT, port::IPCONFIG_PAGES),
                ],
                "readinessProbe": probe::readiness(PAGES_PORT),
                "livenessProbe": probe::liveness(PAGES_PORT),
                "lifecycle": ending::after_propagation(),
                "volumeMounts": mounts,
            }),
        );
        let mut pod = json!({
            "terminationGracePeriodSeconds": GRACE_S,
            "securityContext": security::pod(false),
            "imagePullSecrets": pull_secrets(&self.images),
            "containers": [ipconfig],
            "volumes": volumes,
        });
        scheduling::put(&mut pod, self.scheduling, &names.selector(Part::Ipconfig));
        pod
    }
}
