//! Who the parts are to Kubernetes, and what they may: ipconfig and routing look at the pods of their namespace; gateways, which
//! the whole world talks to, have no token at all.

use imaccess_operator_api::names::Part;
use serde_json::json;

use crate::cluster::{Cluster, Desired};
use crate::plan::Kind;

/// Parts that look at pods.
const LOOK_AT_PODS: [Part; 2] = [Part::State, Part::Ipconfig];

/// ServiceAccounts, the Role and its binding.
pub(crate) fn desired(cluster: &Cluster<'_>) -> Vec<Desired> {
    let names = &cluster.names;
    let mut all: Vec<Desired> = Part::ALL
        .into_iter()
        .map(|part| {
            let fields = json!({"automountServiceAccountToken": has_token(part)});
            cluster.part_object(Kind::ServiceAccount, names.part(part), part, fields)
        })
        .collect();
    let (labels, none) = (names.labels(), Default::default());
    let rules =
        json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]});
    all.push(cluster.object(Kind::Role, names.pods_role(), &labels, &none, rules));
    let subjects: Vec<_> = LOOK_AT_PODS
        .into_iter()
        .map(|part| json!({"kind": "ServiceAccount", "name": names.part(part), "namespace": names.namespace}))
        .collect();
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": names.pods_role()},
        "subjects": subjects,
    });
    all.push(cluster.object(Kind::RoleBinding, names.pods_role(), &labels, &none, binding));
    all
}

/// Whether a part's pods get a token of their ServiceAccount.
pub(crate) fn has_token(part: Part) -> bool {
    LOOK_AT_PODS.contains(&part)
}
