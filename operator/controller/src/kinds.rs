//! The kinds of children as the API has them.

use imaccess_operator_plan::plan::Kind;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ApiResource;

/// All kinds, in the order in which they are listed and watched.
pub const ALL: [Kind; 11] = [
    Kind::ServiceAccount,
    Kind::Secret,
    Kind::ConfigMap,
    Kind::Role,
    Kind::RoleBinding,
    Kind::Service,
    Kind::NetworkPolicy,
    Kind::PodDisruptionBudget,
    Kind::Deployment,
    Kind::HorizontalPodAutoscaler,
    Kind::PodMonitor,
];

/// The kind's name.
#[must_use]
pub fn name(kind: Kind) -> &'static str {
    parts(kind).2
}

/// How the API addresses it.
#[must_use]
pub fn resource(kind: Kind) -> ApiResource {
    let (group, version, name, plural) = parts(kind);
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        },
        kind: name.to_owned(),
        plural: plural.to_owned(),
    }
}

/// Whether the cluster serves without it: its failure holds nothing else up.
#[must_use]
pub fn optional(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::PodMonitor | Kind::HorizontalPodAutoscaler | Kind::PodDisruptionBudget
    )
}

fn parts(kind: Kind) -> (&'static str, &'static str, &'static str, &'static str) {
    match kind {
        Kind::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
        Kind::Secret => ("", "v1", "Secret", "secrets"),
        Kind::ConfigMap => ("", "v1", "ConfigMap", "configmaps"),
        Kind::Role => ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
        Kind::RoleBinding => ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
        Kind::Service => ("", "v1", "Service", "services"),
        Kind::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
        Kind::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
        Kind::Deployment => ("apps", "v1", "Deployment", "deployments"),
        Kind::HorizontalPodAutoscaler => (
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
        ),
        Kind::PodMonitor => ("monitoring.coreos.com", "v1", "PodMonitor", "podmonitors"),
    }
}

/// Which cluster something is about, within this process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Key {
    /// Of a cluster.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Key {
        Key {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// The owner that the reference says.
pub(crate) fn is_owner(reference: &OwnerReference, owner: &ObjectReference) -> bool {
    reference.controller == Some(true) && Some(&reference.uid) == owner.uid.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_addressed_as_the_api_has_them() {
        assert_eq!(resource(Kind::ConfigMap).api_version, "v1");
        assert_eq!(resource(Kind::Deployment).api_version, "apps/v1");
        for kind in ALL {
            let resource = resource(kind);
            assert!(resource.plural.starts_with(&resource.kind.to_lowercase()[..4]));
        }
    }
}
