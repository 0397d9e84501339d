//! Probes: ready for new clients, alive at all, and, for a sidecar, started.

use serde_json::{Value, json};

fn get(path: &str, port: &str) -> Value {
    json!({"path": path, "port": port, "scheme": "HTTP"})
}

/// Quick: new clients are sent elsewhere within seconds.
pub(super) fn readiness(port: &str) -> Value {
    json!({"httpGet": get("/readyz", port), "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2})
}

/// Patient: a restart costs more than a minute of silence, and a loaded machine must not be given more load by restarts.
pub(super) fn liveness(port: &str) -> Value {
    json!({"httpGet": get("/healthz", port), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6})
}

/// What comes after a sidecar waits for it.
pub(super) fn startup(port: &str) -> Value {
    json!({"httpGet": get("/healthz", port), "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 60})
}
