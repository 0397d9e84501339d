//! How pods end that are asked through a Service.

use serde_json::{Value, json};

/// For every node's proxy to learn that the pod ends: mostly far less than a second, more on a busy cluster.
const PROPAGATION_S: i64 = 5;

/// A `lifecycle`: the pod serves on while it is still asked; it would refuse connections otherwise. (Gateways do the same themselves, since
/// they have more to do then.)
pub(super) fn after_propagation() -> Value {
    json!({"preStop": {"sleep": {"seconds": PROPAGATION_S}}})
}
