//! Objects of any kind: those that the operator makes, and those of files.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use serde_json::Value;

/// A kind that the operator makes: group, version, kind and its plural.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    group: &'static str,
    version: &'static str,
    /// Such as `Deployment`.
    pub kind: &'static str,
    plural: &'static str,
}

const fn kind(group: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    versioned(group, "v1", kind, plural)
}

const fn versioned(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
) -> Kind {
    Kind {
        group,
        version,
        kind,
        plural,
    }
}

/// Every kind that the operator makes, but for those of others' definitions.
pub const CHILDREN: &[Kind] = &[
    kind("", "ServiceAccount", "serviceaccounts"),
    kind("", "Secret", "secrets"),
    kind("", "ConfigMap", "configmaps"),
    kind("rbac.authorization.k8s.io", "Role", "roles"),
    kind("rbac.authorization.k8s.io", "RoleBinding", "rolebindings"),
    kind("", "Service", "services"),
    kind("networking.k8s.io", "NetworkPolicy", "networkpolicies"),
    kind("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
    kind("apps", "Deployment", "deployments"),
    versioned(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
    ),
];

/// What follows from children, and must go with them.
pub const GRANDCHILDREN: &[Kind] = &[kind("apps", "ReplicaSet", "replicasets"), kind("", "Pod", "pods")];

impl Kind {
    /// Objects of this kind in a namespace.
    #[must_use]
    pub fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.resource())
    }

    /// As kube names kinds that are known at run time only.
    #[must_use]
    pub fn resource(&self) -> ApiResource {
        let api_version = if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        };
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version,
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }
}

/// An object and its kind.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// The whole of it.
    pub object: DynamicObject,
}

impl Object {
    /// `Kind/name`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.kind.kind, self.name())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    /// Its UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.object.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Its resource version.
    #[must_use]
    pub fn resource_version(&self) -> &str {
        self.object
            .metadata
            .resource_version
            .as_deref()
            .unwrap_or_default()
    }

    /// Whether the operator's field manager has applied something of it.
    #[must_use]
    pub fn is_applied_by(&self, manager: &str) -> bool {
        let managers = self.object.metadata.managed_fields.iter().flatten();
        managers
            .into_iter()
            .any(|entry| entry.manager.as_deref() == Some(manager))
    }
}

/// Objects of these kinds with these labels, in the order of the kinds.
///
/// # Errors
/// When the API server doesn't list them.
pub async fn list(client: &Client, namespace: &str, kinds: &[Kind], selector: &str) -> Result<Vec<Object>> {
    let mut all = Vec::new();
    for kind in kinds {
        let parameters = ListParams::default().labels(selector);
        let found = kind
            .api(client, namespace)
            .list(&parameters)
            .await
            .with_context(|| format!("cannot list {}", kind.plural))?;
        all.extend(
            found
                .items
                .into_iter()
                .map(|object| Object { kind: *kind, object }),
        );
    }
    Ok(all)
}

/// By `Kind/name`, the resource versions.
#[must_use]
pub fn versions(objects: &[Object]) -> BTreeMap<String, String> {
    let pair = |object: &Object| (object.id(), object.resource_version().to_owned());
    objects.iter().map(pair).collect()
}

/// Whether the API server said that there is no such object.
#[must_use]
pub fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server said that the object has changed meanwhile, or is there already.
#[must_use]
pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// The documents of YAML text; empty ones are left out.
///
/// # Errors
/// When it isn't YAML.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    use serde::Deserialize;
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document).context("not YAML")?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

/// The documents of a file.
///
/// # Errors
/// When it can't be read, or isn't YAML.
pub fn documents_of(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    documents(&text).with_context(|| path.display().to_string())
}
