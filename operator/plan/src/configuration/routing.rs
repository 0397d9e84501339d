//! `routing.yaml`. All of it is read at the start only; businesses and certificates are files of their own, which a running replica
//! reads again.

use imaccess_operator_api::names::{Identity, Names, Part, port};
use serde_json::{Value, json};

use super::{file, listen, path, seconds, tls};
use crate::pods::state::Inputs;

/// Where Kubernetes puts a pod's own token, and the certificate of its API server's authority.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Where every API server publishes the keys of service-account tokens.
const TOKEN_KEYS: &str = "https://kubernetes.default.svc/openid/v1/jwks";

/// What is read at the start only.
pub(crate) fn start(inputs: &Inputs<'_>) -> Value {
    let names = Names::new(inputs.cluster, inputs.namespace);
    json!({
        "cluster": names.id(),
        "push_listen": listen(port::PUSH),
        "admin_listen": listen(port::ROUTING_PAGES),
        "tls": tls(),
        "sidecar_name": Identity::Sidecar.dns_name(inputs.cluster, inputs.namespace),
        "push_clients": [Identity::Push.dns_name(inputs.cluster, inputs.namespace)],
        "push_tokens": {
            "jwks": TOKEN_KEYS,
            "audience": inputs.audience,
            "ca": format!("{SERVICE_ACCOUNT}/ca.crt"),
            "token": format!("{SERVICE_ACCOUNT}/token"),
        },
        "businesses_file": format!("{}/{}", path::CONFIGURATION, file::BUSINESSES),
        "members": {"pods": {
            "namespace": inputs.namespace,
            "selector": names.selector_text(Part::Gateway),
            "routes_port": port::ROUTES,
        }},
        "resume_window": seconds(inputs.resume_window_seconds),
    })
}
