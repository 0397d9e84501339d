//! Gathers what a plan is made from. Reads only.
//!
//! Everything is read from the API server when a pass begins: a pass happens only when something has changed, or every few
//! minutes, so this costs a dozen list requests then, and spares both the memory of a copy of every object and the second looks
//! at a copy that lags behind one's own writes.

use std::collections::BTreeMap;

use futures_util::future::{try_join_all, try_join4};
use imaccess_operator_api::ImAccessCluster;
use imaccess_operator_api::names::{self, Names, Part, key};
use imaccess_operator_plan::gateways_to_ask;
use imaccess_operator_plan::observed::{Capabilities, ChildId, Observed, SecretFacts};
use imaccess_operator_plan::plan::Kind;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{DynamicObject, ListParams, TypeMeta};
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use crate::contents;
use crate::error::Error;
use crate::gateways::Gateways;
use crate::kinds::{self, Key};

/// What was gathered: for the plan, and for the controller alone.
#[derive(Debug)]
pub struct Gathered {
    /// For the plan.
    pub observed: Observed,
    /// The authority's certificates as they are, and where they were brought.
    pub trust: Trust,
    /// By which gateways are asked; only when there is something to ask.
    pub gateways: Option<Gateways>,
}

/// The authority's public side.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// The certificates that parts trust, in PEM; none while there is no authority.
    pub bundle: Option<String>,
    /// Secrets of ours with a certificate and another bundle, by name, with their resource version.
    pub outdated: BTreeMap<String, String>,
}

/// The custom resource as it is now.
///
/// # Errors
/// [`Error::Undecodable`] if it can't be read; `None` if it is gone.
pub async fn cluster(client: &Client, key: &Key) -> Result<Option<ImAccessCluster>, Error> {
    let clusters: Api<DeserializeGuard<ImAccessCluster>> = Api::namespaced(client.clone(), &key.namespace);
    match clusters
        .get_opt(&key.name)
        .await
        .map_err(Error::reading(key.to_string()))?
    {
        None => Ok(None),
        Some(DeserializeGuard(Ok(cluster))) => Ok(Some(cluster)),
        Some(DeserializeGuard(Err(fault))) => Err(Error::Undecodable(fault.error)),
    }
}

/// All that belongs to `cluster`.
///
/// # Errors
/// If anything can't be read: a plan from half of it would make what is there already.
pub async fn gather(
    client: &Client,
    cluster: ImAccessCluster,
    capabilities: Capabilities,
    operator_version: &str,
) -> Result<Gathered, Error> {
    let namespace = cluster.metadata.namespace.clone().unwrap_or_default();
    let names = Names::new(cluster.metadata.name.as_deref().unwrap_or_default(), &namespace);
    let ours = ListParams::default().labels(&names.everything());
    let kinds = kinds::ALL.into_iter().filter(|kind| match kind {
        Kind::Secret => false,
        Kind::PodMonitor => capabilities.pod_monitors,
        _ => true,
    });
    let children = try_join_all(kinds.map(|kind| children(client, &namespace, kind, &ours)));
    let (children, pods, replica_sets, secrets) = try_join4(
        children,
        pods(client, &names),
        replica_sets(client, &names),
        secrets(client, &cluster, &names, &ours),
    )
    .await?;
    let own = names.certificate(names::Identity::Operator);
    let own = secrets
        .iter()
        .find(|(secret, made)| *made && secret.metadata.name.as_ref() == Some(&own))
        .map(|(secret, _)| secret.clone());
    let mut children: BTreeMap<ChildId, Value> = children.into_iter().flatten().collect();
    let trust = trust(&names, &secrets);
    let mut facts = BTreeMap::new();
    for (secret, made) in secrets {
        let name = secret.metadata.name.clone().unwrap_or_default();
        facts.insert(name.clone(), facts_of(&secret, &cluster));
        if made {
            let id = ChildId {
                kind: Kind::Secret,
                name,
            };
            children.insert(id, without_values(secret));
        }
    }
    let mut observed = Observed {
        cluster,
        children,
        pods,
        replica_sets,
        gateways: BTreeMap::new(),
        secrets: facts,
        capabilities,
        operator_version: operator_version.to_owned(),
    };
    let gateways = ask(&mut observed, &names, own.as_ref()).await;
    Ok(Gathered {
        observed,
        trust,
        gateways,
    })
}

async fn children(
    client: &Client,
    namespace: &str,
    kind: Kind,
    ours: &ListParams,
) -> Result<Vec<(ChildId, Value)>, Error> {
    let resource = kinds::resource(kind);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let list = api
        .list(ours)
        .await
        .map_err(Error::reading(format!("the {} of {namespace}", resource.plural)))?;
    list.items
        .into_iter()
        .map(|mut object| {
            let name = object.metadata.name.clone().unwrap_or_default();
            object.metadata.managed_fields = None;
            // A list's items come without them.
            object.types = Some(TypeMeta {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
            });
            let value = serde_json::to_value(object)
                .map_err(|fault| Error::Unexpected(format!("{} {name}: {fault}", resource.kind)))?;
            Ok((ChildId { kind, name }, value))
        })
        .collect()
}

/// Asks the gateways that the plan wants to know of.
async fn ask(observed: &mut Observed, names: &Names, own: Option<&Secret>) -> Option<Gateways> {
    let asks = gateways_to_ask(observed);
    if asks.is_empty() {
        return None;
    }
    let gateways = Gateways::of(names, own?)?;
    observed.gateways = gateways.ask(&asks).await;
    Some(gateways)
}

/// Those of the gateways' Deployment.
async fn replica_sets(client: &Client, names: &Names) -> Result<Vec<Value>, Error> {
    let api: Api<ReplicaSet> = Api::namespaced(client.clone(), &names.namespace);
    let list = api
        .list(&ListParams::default().labels(&names.selector_text(Part::Gateway)))
        .await
        .map_err(Error::reading(format!("the replicasets of {}", names.namespace)))?;
    let value = |mut one: ReplicaSet| {
        one.metadata.managed_fields = None;
        serde_json::to_value(one).map_err(|fault| Error::Unexpected(format!("a ReplicaSet: {fault}")))
    };
    list.items.into_iter().map(value).collect()
}

async fn pods(client: &Client, names: &Names) -> Result<Vec<Pod>, Error> {
    let selector = format!(
        "app.kubernetes.io/name=imaccess,app.kubernetes.io/instance={}",
        names.cluster
    );
    let api: Api<Pod> = Api::namespaced(client.clone(), &names.namespace);
    let list = api
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(Error::reading(format!("the pods of {}", names.namespace)))?;
    Ok(list.items)
}

/// The Secrets that carry our labels, and those that the user names; whether each is of the former.
async fn secrets(
    client: &Client,
    cluster: &ImAccessCluster,
    names: &Names,
    ours: &ListParams,
) -> Result<Vec<(Secret, bool)>, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
    let list = api
        .list(ours)
        .await
        .map_err(Error::reading(format!("the secrets of {}", names.namespace)))?;
    let mut found: Vec<(Secret, bool)> = list.items.into_iter().map(|secret| (secret, true)).collect();
    let is_there = |name: &str, found: &[(Secret, bool)]| {
        found
            .iter()
            .any(|(secret, _)| secret.metadata.name.as_deref() == Some(name))
    };
    for name in named(cluster) {
        if is_there(&name, &found) {
            continue;
        }
        let secret = api
            .get_opt(&name)
            .await
            .map_err(Error::reading(format!("Secret {name}")))?;
        found.extend(secret.map(|secret| (secret, false)));
    }
    Ok(found)
}

/// Secrets that the specification names and whose content matters to the parts.
#[must_use]
pub fn named(cluster: &ImAccessCluster) -> Vec<String> {
    let auth = &cluster.spec.auth;
    [&auth.token_keys_secret, &auth.ticket_keys_secret]
        .into_iter()
        .flatten()
        .map(|secret| secret.name.clone())
        .collect()
}

fn facts_of(secret: &Secret, cluster: &ImAccessCluster) -> SecretFacts {
    let none = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&none);
    let owner = cluster.object_ref(&());
    SecretFacts {
        keys: data.keys().cloned().collect(),
        annotations: secret.metadata.annotations.clone().unwrap_or_default(),
        hash: contents::hash(data),
        as_made: contents::is_as_made(secret),
        ours: secret
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|reference| kinds::is_owner(reference, &owner)),
    }
}

fn trust(names: &Names, secrets: &[(Secret, bool)]) -> Trust {
    let value = |secret: &Secret, key: &str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    let bundle = secrets
        .iter()
        .find(|(secret, made)| *made && secret.metadata.name.as_deref() == Some(&names.authority()))
        .and_then(|(secret, _)| value(secret, key::AUTHORITY));
    let Some(bundle) = bundle else {
        return Trust::default();
    };
    let is_certificate = |name: &str| {
        names::Identity::ALL
            .iter()
            .any(|identity| names.certificate(*identity) == name)
    };
    let outdated = secrets
        .iter()
        .filter(|(secret, made)| *made && value(secret, key::AUTHORITY).as_ref() != Some(&bundle))
        .filter_map(|(secret, _)| {
            let name = secret.metadata.name.clone().filter(|name| is_certificate(name))?;
            Some((name, secret.metadata.resource_version.clone()?))
        })
        .collect();
    Trust {
        bundle: Some(bundle),
        outdated,
    }
}

/// The Secret as the plan sees it: with its keys, and nothing in them.
fn without_values(secret: Secret) -> Value {
    let keys: BTreeMap<String, Value> = secret
        .data
        .into_iter()
        .flatten()
        .map(|(key, _)| (key, json!("")))
        .collect();
    let mut metadata = secret.metadata;
    metadata.managed_fields = None;
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": secret.type_,
        "data": keys,
    })
}
