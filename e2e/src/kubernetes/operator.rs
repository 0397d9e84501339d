//! The operator's pods, and the lease by which one of them leads.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use super::installation::is_serving;
use super::{Kubernetes, MANAGER, Release};
use crate::wait::Seen;

/// One pod, whose image is on the node.
const RUNNING: Duration = Duration::from_secs(60);

/// A release's operator.
#[derive(Clone)]
pub struct Operator {
    client: Client,
    namespace: String,
    /// Of its Deployment, lease and service account.
    pub name: String,
}

impl Release {
    /// Its operator.
    #[must_use]
    pub fn operator(&self, kubernetes: &Kubernetes) -> Operator {
        Operator {
            client: kubernetes.client.clone(),
            namespace: self.namespace.clone(),
            name: format!("{}-operator", self.name),
        }
    }
}

impl Operator {
    fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Its Deployment.
    ///
    /// # Errors
    /// When it isn't there.
    pub async fn deployment(&self) -> Result<Deployment> {
        let name = &self.name;
        let found = self.deployments().get(name).await;
        found.with_context(|| format!("the chart made no Deployment {name}"))
    }

    /// Who it is to the API server, as the audit log has it: `system:serviceaccount:NAMESPACE:NAME`.
    ///
    /// # Errors
    /// When its Deployment isn't there.
    pub async fn user(&self) -> Result<String> {
        let spec = self.deployment().await?.spec.and_then(|spec| spec.template.spec);
        let account = spec
            .and_then(|spec| spec.service_account_name)
            .context("the operator has the default service account")?;
        Ok(format!("system:serviceaccount:{}:{account}", self.namespace))
    }

    /// Its pods, in every phase.
    ///
    /// # Errors
    /// When the API server doesn't list them.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let selector = self.deployment().await?.spec.unwrap_or_default().selector;
        let labels: Vec<_> = selector
            .match_labels
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let parameters = ListParams::default().labels(&labels.join(","));
        Ok(self
            .pods_api()
            .list(&parameters)
            .await
            .context("cannot list pods")?
            .items)
    }

    /// Waits until this many of its pods serve, and there are no others; returns them.
    ///
    /// # Errors
    /// When they don't in time.
    pub async fn running(&self, kubernetes: &Kubernetes, count: usize) -> Result<Vec<Pod>> {
        kubernetes
            .until(&format!("{count} operator pod(s) run"), RUNNING, async || {
                let pods = self.pods().await?;
                let serving = pods.iter().filter(|pod| is_serving(pod)).count();
                Ok(if serving == count && pods.len() == count {
                    Seen::Yes(pods)
                } else {
                    Seen::NotYet(format!("{serving} of {} serve", pods.len()))
                })
            })
            .await
    }

    /// Sets how many pods it has, and waits until they run, or are gone.
    ///
    /// # Errors
    /// When they don't in time.
    pub async fn scale(&self, kubernetes: &Kubernetes, replicas: i32) -> Result<Vec<Pod>> {
        let change = json!({"spec": {"replicas": replicas}});
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.deployments()
            .patch(&self.name, &parameters, &Patch::Merge(&change))
            .await
            .context("cannot scale the operator")?;
        self.running(kubernetes, usize::try_from(replicas)?).await
    }

    /// The lease.
    ///
    /// # Errors
    /// When it isn't there.
    pub async fn lease(&self) -> Result<Lease> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = &self.name;
        api.get(name)
            .await
            .with_context(|| format!("there is no lease {name}"))
    }

    /// The pod that holds the lease: its name begins the holder's identity, or is it.
    ///
    /// # Errors
    /// When the lease isn't there, or none of its pods holds it in time.
    pub async fn leader(&self, kubernetes: &Kubernetes, deadline: Duration) -> Result<Pod> {
        kubernetes
            .until("a running pod leads", deadline, async || {
                let lease = match self.lease().await {
                    Ok(lease) => lease,
                    Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
                };
                let holder = lease
                    .spec
                    .and_then(|spec| spec.holder_identity)
                    .unwrap_or_default();
                let pods = self.pods().await?;
                let leader = pods.into_iter().find(|pod| {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    pod.metadata.deletion_timestamp.is_none() && holder.starts_with(name)
                });
                Ok(leader.map_or_else(|| Seen::NotYet(format!("the lease is {holder:?}'s")), Seen::Yes))
            })
            .await
    }
}

/// Removes a pod without a goodbye: the kubelet kills its processes, the API server forgets it at once.
///
/// # Errors
/// When the API server refuses.
pub async fn remove_now(kubernetes: &Kubernetes, pod: &Pod) -> Result<()> {
    let name = pod.metadata.name.as_deref().context("a pod has a name")?;
    let namespace = pod
        .metadata
        .namespace
        .as_deref()
        .context("a pod has a namespace")?;
    let api: Api<Pod> = Api::namespaced(kubernetes.client.clone(), namespace);
    api.delete(name, &DeleteParams::default().grace_period(0))
        .await
        .with_context(|| format!("cannot remove {name}"))?;
    Ok(())
}
