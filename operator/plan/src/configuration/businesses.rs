//! `businesses.yaml`: the business services, as the sidecars, the routing layer and ipconfig read them again while they run.

use imaccess_operator_api::business::{BusinessSpec, Protocol};
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
    let mut value = json!({
        "id": business.id,
        "name": business.name,
        "timeout": seconds(business.timeout_seconds),
        "concurrency": business.concurrency,
        "connections": business.connections,
        "events": business.events,
        "client_groups": business.client_groups,
        // A bound of nothing would be refused, and all businesses with it.
        "queue_bytes": byte_size(bytes(&business.queue_bytes).max(1)),
        "slow_consumer": business.slow_consumer.as_configuration(),
        "pushers": pushers,
    });
    // Where they are as they were before there were such fields they are left out: a part refuses a file with a key that it doesn't
    // know, and the image may be older than the operator.
    if business.endpoints.is_empty() {
        value["endpoint"] = json!(business.endpoint);
    } else {
        value["endpoints"] = json!(business.endpoints);
    }
    if business.protocol != Protocol::Grpc {
        value["protocol"] = json!(business.protocol.as_configuration());
    }
    for (name, rate) in [
        ("request_rate", business.request_rate),
        ("push_rate", business.push_rate),
    ] {
        if rate > 0 {
            value[name] = json!(rate);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use imaccess_common::business::{BusinessConfig, Protocol as Read, validate_all};

    use super::*;

    fn rendered(spec: Value) -> Value {
        list(&[serde_json::from_value(spec).unwrap()])
    }

    #[test]
    fn parts_read_what_is_rendered() {
        let file = rendered(json!({
            "id": 1, "name": "web", "endpoints": ["http://a:1", "http://b:1"], "protocol": "GrpcUnary",
            "requestRate": 100, "pushRate": 5_000,
        }));
        let read: Vec<BusinessConfig> = serde_json::from_value(file).unwrap();
        assert_eq!(validate_all(&read), Ok(()));
        assert_eq!(read[0].protocol, Read::GrpcUnary);
        assert_eq!(read[0].all_endpoints(), ["http://a:1", "http://b:1"]);
        assert_eq!((read[0].request_rate, read[0].push_rate), (100, 5_000));
        for (protocol, expected) in [("Grpc", Read::Grpc), ("Http", Read::Http)] {
            let file =
                rendered(json!({"id": 1, "name": "b", "endpoint": "http://a:1", "protocol": protocol}));
            let read: Vec<BusinessConfig> = serde_json::from_value(file).unwrap();
            assert_eq!(read[0].protocol, expected);
        }
    }

    #[test]
    fn an_older_part_reads_what_uses_nothing_new() {
        let file = rendered(json!({"id": 1, "name": "echo", "endpoint": "http://a:1"}));
        for field in ["protocol", "endpoints", "request_rate", "push_rate"] {
            assert!(file[0].get(field).is_none(), "{file}");
        }
        assert_eq!(file[0]["endpoint"], "http://a:1");
    }
}
