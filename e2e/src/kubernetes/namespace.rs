//! A namespace of a scenario's own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_operator_api::ImAccessCluster;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1 as core;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Client, Resource};

use super::{Kubernetes, objects};
use crate::wait::Seen;

/// Namespaces of scenarios, with the scenario's name as value.
pub const LABEL: &str = "imaccess.io/e2e-scenario";
/// Pods end within their grace; garbage collection and the namespace controller take seconds more.
const GONE: Duration = Duration::from_secs(180);

/// One namespace. It is removed when the scenario ends.
#[derive(Clone)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    client: Client,
}

impl Kubernetes {
    /// Makes a namespace; `word` tells several of one scenario apart and may be empty.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn namespace(&self, word: &str) -> Result<Namespace> {
        self.namespace_with(word, &[]).await
    }

    /// Makes a namespace where `restricted` Pod Security is enforced.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn restricted_namespace(&self, word: &str) -> Result<Namespace> {
        let labels = [
            ("pod-security.kubernetes.io/enforce", "restricted"),
            ("pod-security.kubernetes.io/enforce-version", "latest"),
        ];
        self.namespace_with(word, &labels).await
    }

    async fn namespace_with(&self, word: &str, labels: &[(&str, &str)]) -> Result<Namespace> {
        let name = self.unique(word);
        let own = [(LABEL, self.scenario.as_str())];
        let labels: BTreeMap<_, _> = own
            .iter()
            .chain(labels)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let namespace = core::Namespace {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            ..core::Namespace::default()
        };
        // Entered first: a namespace whose creation was answered with a time-out is there all the same.
        self.made().namespaces.push(name.clone());
        let api: Api<core::Namespace> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &namespace)
            .await
            .with_context(|| format!("cannot make the namespace {name}"))?;
        Ok(Namespace {
            name,
            client: self.client.clone(),
        })
    }
}

impl Namespace {
    /// Objects of a kind in it.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// The client that made it.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// What a namespace's pods are made by, and the pods without their grace: Kubernetes looks at a namespace again only after half
/// the grace of the pods that it found there, which are minutes for gateways.
async fn empty(client: &Client, name: &str) -> kube::Result<()> {
    let (all, gone) = (ListParams::default(), DeleteParams::background());
    let clusters: Api<ImAccessCluster> = Api::namespaced(client.clone(), name);
    clusters.delete_collection(&gone, &all).await?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), name);
    deployments.delete_collection(&gone, &all).await?;
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), name);
    sets.delete_collection(&gone, &all).await?;
    let pods: Api<core::Pod> = Api::namespaced(client.clone(), name);
    pods.delete_collection(&gone.grace_period(0), &all).await?;
    Ok(())
}

pub(super) async fn begin_delete(client: &Client, name: &str) -> Result<()> {
    empty(client, name)
        .await
        .with_context(|| format!("cannot empty the namespace {name}"))?;
    let api: Api<core::Namespace> = Api::all(client.clone());
    match api.delete(name, &DeleteParams::background()).await {
        Ok(_) => Ok(()),
        Err(error) if objects::is_missing(&error) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot delete the namespace {name}")),
    }
}

pub(super) async fn wait_gone(kubernetes: &Kubernetes, name: &str) -> Result<()> {
    let api: Api<core::Namespace> = Api::all(kubernetes.client.clone());
    kubernetes
        .until(&format!("the namespace {name} is gone"), GONE, async || {
            let found = api.get_opt(name).await?;
            Ok(found.map_or(Seen::Yes(()), |found| {
                let status = found.status.and_then(|status| status.conditions);
                let said: Vec<_> = status
                    .into_iter()
                    .flatten()
                    .filter_map(|condition| condition.message)
                    .collect();
                Seen::NotYet(said)
            }))
        })
        .await
}
