//! `sidecar.yaml`. All of it is read at the start only; businesses, tickets, token keys and certificates are files of their own,
//! which a running sidecar reads again.

use imaccess_operator_api::names::{Identity, key, port};
use serde_json::{Value, json};

use super::{file, listen, path, seconds, tls};
use crate::pods::gateway::Inputs;

/// What is read at the start only.
pub(crate) fn start(inputs: &Inputs<'_>) -> Value {
    json!({
        "cluster": format!("{}.{}", inputs.cluster, inputs.namespace),
        "socket_dir": path::SOCKETS,
        "custody": true,
        "route_listen": listen(port::ROUTES),
        "route_clients": [Identity::State.dns_name(inputs.cluster, inputs.namespace)],
        "admin_listen": listen(port::SIDECAR_PAGES),
        "routing": "required",
        "tls": tls(),
        "ticket_keys_file": format!("{}/{}", path::TICKETS, key::TICKETS),
        "token_keys_dir": path::TOKENS,
        "businesses_file": format!("{}/{}", path::CONFIGURATION, file::BUSINESSES),
        "ping_interval": seconds(inputs.ping_interval_seconds),
        "resume_window": seconds(inputs.resume_window_seconds),
    })
}
