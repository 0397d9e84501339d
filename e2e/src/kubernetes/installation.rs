//! One `ImAccessCluster`, and what the operator made of it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use imaccess_operator_api::names::{FIELD_MANAGER, Names, Part, port};
use imaccess_operator_api::{ImAccessCluster, ImAccessClusterSpec, condition};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::Value;

use super::objects::{self, CHILDREN, GRANDCHILDREN, Object};
use super::{Kubernetes, MANAGER, Namespace};
use crate::wait::Seen;

/// As the issue promises it for `kubectl wait`.
pub const READY: Duration = Duration::from_secs(120);

/// One custom resource.
#[derive(Clone)]
pub struct Installation {
    /// Its name and those that follow from it.
    pub names: Names,
    /// Its namespace.
    pub namespace: Namespace,
}

/// A specification for a small machine: two gateways, one of each other part, and a drain of seconds.
#[must_use]
pub fn small_spec(image: &str) -> ImAccessClusterSpec {
    let mut spec = ImAccessClusterSpec::new(image);
    spec.gateway.replicas = 2;
    spec.state.replicas = 1;
    spec.ipconfig.replicas = 1;
    spec.gateway.drain.propagation_seconds = 1;
    spec.gateway.drain.deadline_seconds = 10;
    spec.gateway.drain.rate_per_second = 1_000;
    spec.state.sidecar.resume_window_seconds = 5;
    spec
}

impl Namespace {
    /// Creates an `ImAccessCluster`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn cluster(&self, name: &str, spec: ImAccessClusterSpec) -> Result<Installation> {
        let api: Api<ImAccessCluster> = self.api();
        api.create(&PostParams::default(), &ImAccessCluster::new(name, spec))
            .await
            .with_context(|| format!("the API server refuses the cluster {name}"))?;
        Ok(self.existing_cluster(name))
    }

    /// One that somebody else created, such as `kubectl apply`.
    #[must_use]
    pub fn existing_cluster(&self, name: &str) -> Installation {
        Installation {
            names: Names::new(name, &self.name),
            namespace: self.clone(),
        }
    }
}

impl Installation {
    /// Custom resources of its namespace.
    #[must_use]
    pub fn api(&self) -> Api<ImAccessCluster> {
        self.namespace.api()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.names.cluster
    }

    fn api_client(&self) -> &Client {
        self.namespace.client()
    }

    /// The custom resource at present.
    ///
    /// # Errors
    /// When it isn't there.
    pub async fn get(&self) -> Result<ImAccessCluster> {
        self.api()
            .get(self.name())
            .await
            .with_context(|| format!("no cluster {}", self.name()))
    }

    /// Changes it by a merge patch.
    ///
    /// # Errors
    /// When the API server refuses the change.
    pub async fn patch(&self, change: &Value) -> Result<ImAccessCluster> {
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.api()
            .patch(self.name(), &parameters, &Patch::Merge(change))
            .await
            .with_context(|| format!("the API server refuses {change}"))
    }

    /// Deletes it. Garbage collection then removes the rest.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self) -> Result<()> {
        self.api()
            .delete(self.name(), &DeleteParams::background())
            .await
            .context("cannot delete the cluster")?;
        Ok(())
    }

    /// Waits until the condition `Ready` is true for the present specification.
    ///
    /// # Errors
    /// When it isn't in time; with its conditions.
    pub async fn ready(&self, kubernetes: &Kubernetes) -> Result<ImAccessCluster> {
        self.ready_within(kubernetes, READY).await
    }

    /// As [`Installation::ready`], with another deadline.
    ///
    /// # Errors
    /// When it isn't in time; with its conditions.
    pub async fn ready_within(&self, kubernetes: &Kubernetes, deadline: Duration) -> Result<ImAccessCluster> {
        kubernetes
            .until(&format!("{} is ready", self.name()), deadline, async || {
                let cluster = self.get().await?;
                Ok(if is_ready(&cluster) {
                    Seen::Yes(cluster)
                } else {
                    Seen::NotYet(conditions(&cluster))
                })
            })
            .await
    }

    /// Waits until a condition has this status and, if one is given, this reason; returns its message.
    ///
    /// # Errors
    /// When it hasn't in time.
    pub async fn condition(
        &self,
        kubernetes: &Kubernetes,
        kind: &str,
        status: &str,
        deadline: Duration,
    ) -> Result<String> {
        kubernetes
            .until(&format!("{kind} is {status}"), deadline, async || {
                let cluster = self.get().await?;
                let found = cluster.status.iter().flat_map(|status| &status.conditions);
                let mut found = found.filter(|found| found.type_ == kind && found.status == status);
                Ok(found.next().map_or_else(
                    || Seen::NotYet(conditions(&cluster)),
                    |found| Seen::Yes(found.message.clone()),
                ))
            })
            .await
    }

    /// Everything that the operator made for it.
    ///
    /// # Errors
    /// When the API server doesn't list it.
    pub async fn children(&self) -> Result<Vec<Object>> {
        objects::list(
            self.api_client(),
            &self.namespace.name,
            CHILDREN,
            &self.names.everything(),
        )
        .await
    }

    /// What is left of it: children, and what follows from them, by `Kind/name`.
    ///
    /// # Errors
    /// When the API server doesn't list it.
    pub async fn left(&self) -> Result<Vec<String>> {
        let selector = format!(
            "app.kubernetes.io/name=imaccess,app.kubernetes.io/instance={}",
            self.name()
        );
        let kinds: Vec<_> = CHILDREN.iter().chain(GRANDCHILDREN).copied().collect();
        let found = objects::list(self.api_client(), &self.namespace.name, &kinds, &selector).await?;
        Ok(found.iter().map(Object::id).collect())
    }

    /// The pods of a part, in every phase.
    ///
    /// # Errors
    /// When the API server doesn't list them.
    pub async fn pods(&self, part: Part) -> Result<Vec<Pod>> {
        let api: Api<Pod> = self.namespace.api();
        let parameters = ListParams::default().labels(&self.names.selector_text(part));
        Ok(api.list(&parameters).await.context("cannot list pods")?.items)
    }

    /// The Deployment of a part.
    ///
    /// # Errors
    /// When it isn't there.
    pub async fn deployment(&self, part: Part) -> Result<Deployment> {
        let api: Api<Deployment> = self.namespace.api();
        let name = self.names.part(part);
        api.get(&name)
            .await
            .with_context(|| format!("no Deployment {name}"))
    }

    /// The UIDs of all its pods that aren't going away, sorted.
    ///
    /// # Errors
    /// When the API server doesn't list them.
    pub async fn pod_uids(&self) -> Result<Vec<String>> {
        let mut uids = Vec::new();
        for part in Part::ALL {
            let pods = self.pods(part).await?;
            let living = pods
                .into_iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_none());
            uids.extend(living.filter_map(|pod| pod.metadata.uid));
        }
        uids.sort();
        Ok(uids)
    }

    /// `http://ADDRESS:PORT` of ipconfig's Service, by its cluster IP.
    ///
    /// # Errors
    /// When it has no Service, or that no address.
    pub async fn ipconfig_url(&self) -> Result<String> {
        let address = self.service_address(&self.names.part(Part::Ipconfig)).await?;
        Ok(format!("http://{address}:{}", port::IPCONFIG))
    }

    /// `https://ADDRESS:PORT` of the push API, by its Service's cluster IP.
    ///
    /// # Errors
    /// When it has no Service, or that no address.
    pub async fn push_url(&self) -> Result<String> {
        let address = self.service_address(&self.names.part(Part::State)).await?;
        Ok(format!("https://{address}:{}", port::PUSH))
    }

    /// The cluster IP of one of the namespace's Services.
    ///
    /// # Errors
    /// When there is none.
    pub async fn service_address(&self, name: &str) -> Result<String> {
        let api: Api<Service> = self.namespace.api();
        let service = api
            .get(name)
            .await
            .with_context(|| format!("no Service {name}"))?;
        let address = service.spec.and_then(|spec| spec.cluster_ip);
        match address {
            Some(address) if address != "None" && !address.is_empty() => Ok(address),
            other => bail!("the Service {name} has the address {other:?}"),
        }
    }

    /// A key of one of the namespace's Secrets, such as `tls.crt` of `NAME-push-tls`.
    ///
    /// # Errors
    /// When there is no such Secret or key.
    pub async fn secret(&self, name: &str, key: &str) -> Result<Vec<u8>> {
        let api: Api<Secret> = self.namespace.api();
        let secret = api.get(name).await.with_context(|| format!("no Secret {name}"))?;
        let mut data = secret.data.unwrap_or_default();
        let value = data
            .remove(key)
            .with_context(|| format!("the Secret {name} has no key {key}"))?;
        Ok(value.0)
    }

    /// Waits until nothing of it is left, for the time that garbage collection and the pods' grace take.
    ///
    /// # Errors
    /// When something is left; what.
    pub async fn gone(&self, kubernetes: &Kubernetes, deadline: Duration) -> Result<()> {
        kubernetes
            .until("nothing of the cluster is left", deadline, async || {
                let left = self.left().await?;
                Ok(if left.is_empty() {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(left)
                })
            })
            .await
    }
}

/// Whether `Ready` is true for the present specification, and nothing is under way.
#[must_use]
pub fn is_ready(cluster: &ImAccessCluster) -> bool {
    let Some(status) = &cluster.status else {
        return false;
    };
    let is_true = |kind: &str| {
        let mut conditions = status.conditions.iter();
        conditions.any(|condition| condition.type_ == kind && condition.status == "True")
    };
    status.observed_generation == cluster.metadata.generation
        && is_true(condition::READY)
        && !is_true(condition::RECONCILING)
        && !is_true(condition::STALLED)
}

/// Its conditions as lines, for failures' messages.
#[must_use]
pub fn conditions(cluster: &ImAccessCluster) -> Vec<String> {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    conditions
        .map(|one| format!("{}={} {}: {}", one.type_, one.status, one.reason, one.message))
        .collect()
}

/// Whether a pod is ready and not going away.
#[must_use]
pub fn is_serving(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the operator has applied something of an object.
#[must_use]
pub fn is_operators(object: &Object) -> bool {
    object.is_applied_by(FIELD_MANAGER)
}
