//! `businesses.yaml`: the business services, as the sidecars, the routing layer and ipconfig read them again while they run.

use imaccess_operator_api::business::BusinessSpec;
use serde_json::{Value, json};

use super::{byte_size, bytes, seconds};

/// The list, in the order of the specification.
pub(super) fn list(businesses: &[BusinessSpec]) -> Value {
    Value::Array(businesses.iter().map(one).collect())
}

fn one(business: &BusinessSpec) -> Value {
    let pushers: Vec<Value> = business
        .pushers
        .iter()
        .map(|pusher| json!({"namespace": pusher.namespace, "service_account": pusher.service_account}))
        .collect();
    json!({
        "id": business.id,
        "name": business.name,
        "endpoint": business.endpoint,
        "timeout": seconds(business.timeout_seconds),
        "concurrency": business.concurrency,
        "connections": business.connections,
        "events": business.events,
        "client_groups": business.client_groups,
        // A bound of nothing would be refused, and all businesses with it.
        "queue_bytes": byte_size(bytes(&business.queue_bytes).max(1)),
        "slow_consumer": business.slow_consumer.as_configuration(),
        "pushers": pushers,
    })
}
