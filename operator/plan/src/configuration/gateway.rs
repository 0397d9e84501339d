//! `gateway.yaml`.

use imaccess_operator_api::cluster::ImAccessClusterSpec;
use imaccess_operator_api::gateway::GatewaySpec;
use imaccess_operator_api::names::{Identity, port};
use serde_json::{Value, json};

use super::{byte_size, bytes, listen, path, seconds, tls};
use crate::pods::gateway::Inputs;

/// Connections of a gateway whose memory isn't limited.
const UNLIMITED_CONNECTIONS: i64 = 200_000;
/// Memory that isn't the connections': the process, its shards' buffers and link queues.
const BASE_MEMORY: u64 = 64 << 20;
/// Memory of one connection, user's and kernel's: 302 B of the gateway's own and about 4.9 kB of the kernel's for an idle socket
/// (measured: ARCHITECTURE.md, memory), and as much again as a share of what waits in queues.
const MEMORY_PER_CONNECTION: u64 = 8 << 10;
/// A gateway that takes fewer isn't worth its pod: a limit of the memory so small is a mistake that shows elsewhere.
const LEAST_CONNECTIONS: i64 = 1_000;
/// What the schema lets a user ask for.
const MOST_CONNECTIONS: i64 = 2_000_000;

/// What is read at the start only.
pub(crate) fn start(inputs: &Inputs<'_>) -> Value {
    let operator = Identity::Operator.dns_name(inputs.cluster, inputs.namespace);
    let tcp: Vec<String> = inputs
        .listeners
        .iter()
        .map(|listener| listen(listener.port))
        .collect();
    json!({
        "cluster": format!("{}.{}", inputs.cluster, inputs.namespace),
        "tcp": tcp,
        "socket_dir": path::SOCKETS,
        "shards": inputs.shards(),
        "custody": true,
        "admin_listen": listen(port::GATEWAY_PAGES),
        "control_listen": listen(port::GATEWAY_CONTROL),
        "control_clients": [operator],
        "tls": tls(),
    })
}

/// What a running gateway reads again.
pub(crate) fn reloadable(spec: &ImAccessClusterSpec) -> Value {
    let gateway = &spec.gateway;
    json!({
        "bandwidth": byte_size(bytes(&gateway.bandwidth)),
        "limits": {"connections": connection_limit(gateway)},
        "drain": {
            "rate": gateway.drain.rate_per_second,
            "propagation": seconds(gateway.drain.propagation_seconds),
            "deadline": seconds(gateway.drain.deadline_seconds),
        },
    })
}

/// Connections that a gateway takes: as asked for, or as many as its memory holds.
pub(crate) fn connection_limit(gateway: &GatewaySpec) -> i64 {
    if let Some(asked) = gateway.connection_limit {
        return asked;
    }
    let memory = gateway
        .resources
        .limits
        .get("memory")
        .and_then(|limit| limit.value());
    memory.map_or(UNLIMITED_CONNECTIONS, |memory| {
        let connections = memory.saturating_sub(BASE_MEMORY) / MEMORY_PER_CONNECTION;
        i64::try_from(connections)
            .unwrap_or(MOST_CONNECTIONS)
            .clamp(LEAST_CONNECTIONS, MOST_CONNECTIONS)
    })
}

#[cfg(test)]
mod tests {
    use imaccess_operator_api::quantity::Quantity;

    use super::*;

    #[test]
    fn the_connection_limit_follows_from_the_memory_unless_it_is_said() {
        let with = |memory: Option<&str>, asked: Option<i64>| {
            let mut gateway = GatewaySpec {
                connection_limit: asked,
                ..GatewaySpec::default()
            };
            if let Some(memory) = memory {
                let limits = &mut gateway.resources.limits;
                limits.insert("memory".to_owned(), Quantity(memory.to_owned()));
            }
            connection_limit(&gateway)
        };
        assert_eq!(with(None, None), 200_000);
        assert_eq!(with(Some("1088Mi"), None), 131_072);
        assert_eq!(with(Some("32Mi"), None), 1_000);
        assert_eq!(with(Some("1Ti"), None), 2_000_000);
        assert_eq!(with(Some("1088Mi"), Some(7)), 7);
    }
}
