//! What a pod may: nothing. As the Pod Security Standard `restricted` has it, and no writing outside of volumes.

use serde_json::{Value, json};

/// The user that the image runs as; volumes are its group's.
const USER: i64 = 65_532;

/// Of a pod; with ports below 1,024 it may listen there without any capability.
pub(crate) fn pod(low_ports: bool) -> Value {
    let sysctls = low_ports.then(|| json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]));
    json!({
        "runAsNonRoot": true,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
        "sysctls": sysctls,
    })
}

/// Of a container.
pub(crate) fn container() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
    })
}
