//! A business behind the cluster: the image's own echo server.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_operator_api::business::BusinessSpec;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, PostParams};
use serde_json::json;

use super::{Installation, Kubernetes, Namespace};
use crate::raw_client::APP;
use crate::tokens::Tokens;
use crate::wait::Seen;

/// The port that it listens on.
pub const PORT: i32 = 9_000;
/// An image that is on the node, and one pod.
const AVAILABLE: Duration = Duration::from_secs(60);

impl Namespace {
    /// Runs an echo business, waits until it serves, and returns its endpoint for `spec.businesses`.
    ///
    /// # Errors
    /// When the API server refuses it, or it doesn't serve in time.
    pub async fn echo(&self, kubernetes: &Kubernetes, name: &str) -> Result<String> {
        let labels = json!({"app.kubernetes.io/name": name});
        let container = json!({
            "name": "echo",
            "image": kubernetes.environment.image()?,
            "args": ["echo", "--listen", format!("0.0.0.0:{PORT}")],
            "ports": [{"name": "grpc", "containerPort": PORT}],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
            },
        });
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "automountServiceAccountToken": false,
                        "terminationGracePeriodSeconds": 1,
                        "securityContext": {
                            "runAsNonRoot": true,
                            "runAsUser": 65_532,
                            "seccompProfile": {"type": "RuntimeDefault"},
                        },
                        "containers": [container],
                    },
                },
            },
        }))?;
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"selector": labels, "ports": [{"name": "grpc", "port": PORT}]},
        }))?;
        let deployments: Api<Deployment> = self.api();
        deployments
            .create(&PostParams::default(), &deployment)
            .await
            .with_context(|| format!("cannot create the Deployment {name}"))?;
        let services: Api<Service> = self.api();
        services
            .create(&PostParams::default(), &service)
            .await
            .with_context(|| format!("cannot create the Service {name}"))?;
        kubernetes
            .until(&format!("{name} serves"), AVAILABLE, async || {
                let status = deployments.get(name).await?.status.unwrap_or_default();
                Ok(if status.ready_replicas == Some(1) {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(status.conditions)
                })
            })
            .await?;
        Ok(format!("http://{name}.{}.svc:{PORT}", self.name))
    }
}

/// A business with every default.
#[must_use]
pub fn business(id: i32, name: &str, endpoint: &str) -> BusinessSpec {
    let value = json!({"id": id, "name": name, "endpoint": endpoint});
    serde_json::from_value(value).expect("all other fields have defaults")
}

impl Installation {
    /// Connects a client of the SDK through ipconfig, as a device does.
    ///
    /// # Errors
    /// When it gets no token or no connection.
    pub async fn client(&self, device: &str) -> Result<imaccess_sdk::Client> {
        let url = self.ipconfig_url().await?;
        let token = Tokens::new(&url)?.get(device).await?;
        imaccess_sdk::Client::builder(&url, APP, device)
            .token(token)
            .connect()
            .await
            .with_context(|| format!("{device} gets no connection by {url}"))
    }

    /// One request that must come back as it is.
    ///
    /// # Errors
    /// When it doesn't.
    pub async fn call(&self, client: &imaccess_sdk::Client, business: u32) -> Result<()> {
        let payload = fastrand::u64(..).to_be_bytes().to_vec();
        let reply = client
            .request(business, payload.clone())
            .await
            .context("the echo gets no answer")?;
        ensure!(
            reply.payload[..] == payload[..],
            "the echo is {:?}",
            reply.payload
        );
        Ok(())
    }
}
