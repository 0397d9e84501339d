//! A business that writes down what it is told of devices: the image's echo server, which prints events to its log.
//!
//! A pod rather than a process of the test: pods reach it in every kind of cluster, and its log outlives the connections. It is
//! tied to a node, so that a node that is drained or lost doesn't take it along.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, LogParams, PostParams};
use serde_json::json;

use super::echo::PORT;
use super::installation::is_serving;
use super::{Kubernetes, Namespace};
use crate::events::{self, Event};
use crate::wait::Seen;

/// An image that is on the node, and one pod.
const SERVING: std::time::Duration = std::time::Duration::from_secs(60);

/// The pod that records.
#[derive(Clone)]
pub struct Recorder {
    pods: Api<Pod>,
    name: String,
}

impl Namespace {
    /// Makes the Service of a business, before anybody serves it; returns the endpoint for `spec.businesses`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn business_service(&self, name: &str) -> Result<String> {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "selector": {"app.kubernetes.io/name": name},
                "ports": [{"name": "grpc", "port": PORT}],
            },
        }))?;
        let api: Api<Service> = self.api();
        api.create(&PostParams::default(), &service)
            .await
            .with_context(|| format!("cannot create the Service {name}"))?;
        Ok(format!("http://{name}.{}.svc:{PORT}", self.name))
    }

    /// Serves the business of that name by a pod on this node, which echoes and records.
    ///
    /// # Errors
    /// When the API server refuses it, or it doesn't serve in time.
    pub async fn recorder(&self, kubernetes: &Kubernetes, name: &str, node: &str) -> Result<Recorder> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": name}},
            "spec": {
                "nodeName": node,
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                // A node that is being drained keeps it: it isn't what is tried here.
                "tolerations": [{"operator": "Exists"}],
                "securityContext": {
                    "runAsNonRoot": true,
                    "runAsUser": 65_532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [{
                    "name": "echo",
                    "image": kubernetes.environment.image()?,
                    "args": ["echo", "--listen", format!("0.0.0.0:{PORT}"), "--record", "/dev/stdout"],
                    "ports": [{"name": "grpc", "containerPort": PORT}],
                    "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        }))?;
        let pods: Api<Pod> = self.api();
        pods.create(&PostParams::default(), &pod)
            .await
            .with_context(|| format!("cannot create the pod {name}"))?;
        kubernetes
            .until(&format!("{name} serves"), SERVING, async || {
                let pod = pods.get(name).await?;
                Ok(if is_serving(&pod) {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(pod.status)
                })
            })
            .await?;
        Ok(Recorder {
            pods,
            name: name.to_owned(),
        })
    }
}

impl Recorder {
    /// All events so far.
    ///
    /// # Errors
    /// When the log can't be read, or its beginning is lost, or a line that looks like an event isn't one.
    pub async fn events(&self) -> Result<Vec<Event>> {
        let pod = self.pods.get(&self.name).await.context("the recorder is gone")?;
        let restarts = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten());
        if restarts.map(|container| container.restart_count).sum::<i32>() > 0 {
            bail!("the recorder was restarted: what it had written is lost");
        }
        let log = self.pods.logs(&self.name, &LogParams::default()).await;
        let log = log.context("the recorder's log can't be read")?;
        // It logs as well; events are the lines that are objects with a kind.
        let lines = log.lines().filter(|line| line.starts_with("{\"kind\":"));
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        events::parse(&text)
    }
}
