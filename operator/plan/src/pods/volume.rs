//! Volumes and where they are mounted. Whole directories, never single files: a file mounted by itself never changes.

use serde_json::{Value, json};

/// Secrets are for the pod's group to read.
const SECRET_MODE: i32 = 0o440;

/// A ConfigMap's files.
pub(super) fn config_map(volume: &str, name: &str) -> Value {
    json!({"name": volume, "configMap": {"name": name}})
}

/// A Secret's files.
pub(super) fn secret(volume: &str, name: &str) -> Value {
    json!({"name": volume, "secret": {"secretName": name, "defaultMode": SECRET_MODE}})
}

/// One of a Secret's files, so that the others aren't there.
pub(super) fn secret_key(volume: &str, name: &str, key: &str) -> Value {
    json!({"name": volume, "secret": {
        "secretName": name,
        "defaultMode": SECRET_MODE,
        "items": [{"key": key, "path": key}],
    }})
}

/// An empty directory in memory.
pub(super) fn memory(volume: &str, size: &str) -> Value {
    json!({"name": volume, "emptyDir": {"medium": "Memory", "sizeLimit": size}})
}

/// An empty directory on the node's disk.
pub(super) fn disk(volume: &str, size: &str) -> Value {
    json!({"name": volume, "emptyDir": {"sizeLimit": size}})
}

/// A volume to read.
pub(super) fn read(volume: &str, path: &str) -> Value {
    json!({"name": volume, "mountPath": path, "readOnly": true})
}

/// A volume to write.
pub(super) fn write(volume: &str, path: &str) -> Value {
    json!({"name": volume, "mountPath": path})
}
