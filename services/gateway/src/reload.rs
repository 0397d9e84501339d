//! What of a gateway's configuration may change while it runs. The rest needs a restart, and a warning says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use imaccess_common::config::Layers;
use imaccess_common::config::watched::{Follow, Loaded, Reloads, fingerprint, read};
use serde_json::Value;
use tokio::sync::watch;

use crate::config::GatewayConfig;

/// Keys, and beginnings of keys, that take effect at once.
const AT_ONCE: [&str; 3] = ["bandwidth", "limits.connections", "drain."];

/// Follows the configuration's file.
///
/// # Errors
/// When it can't be used now.
pub(crate) fn follow(
    layers: Layers,
    reloads: &Reloads,
) -> Result<(Follow<GatewayConfig>, watch::Receiver<Arc<GatewayConfig>>), String> {
    let paths = layers.file.iter().cloned().collect();
    let load = move || {
        // The bytes first: if they change in between, the next look finds out.
        let generation = match &layers.file {
            Some(file) => fingerprint(read(file)?.as_bytes()),
            None => 0,
        };
        let value: GatewayConfig = layers.load().map_err(|fault| fault.to_string())?;
        value.validate()?;
        Ok(Loaded { value, generation })
    };
    Follow::begin("gateway", paths, reloads, load)
}

/// The keys in which two configurations differ and that need a restart.
pub(crate) fn needs_restart(one: &GatewayConfig, other: &GatewayConfig) -> Vec<String> {
    let (one, other) = (keys(one), keys(other));
    let differs = |key: &&String| one.get(*key) != other.get(*key);
    let at_once = |key: &str| {
        AT_ONCE
            .iter()
            .any(|it| key == *it || it.ends_with('.') && key.starts_with(it))
    };
    let mut found: Vec<String> = one.keys().chain(other.keys()).filter(differs).cloned().collect();
    found.retain(|key| !at_once(key));
    found.sort();
    found.dedup();
    found
}

/// All values by their keys' paths; a list is one value.
fn keys(config: &GatewayConfig) -> BTreeMap<String, Value> {
    fn walk(path: &str, value: Value, into: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let path = if path.is_empty() {
                        key
                    } else {
                        format!("{path}.{key}")
                    };
                    walk(&path, value, into);
                }
            }
            value => drop(into.insert(path.to_owned(), value)),
        }
    }
    let mut into = BTreeMap::new();
    // It was read from such a form, so it can be written as one.
    walk("", serde_json::to_value(config).unwrap_or_default(), &mut into);
    into
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use imaccess_common::config::ByteSize;

    use super::*;

    #[test]
    fn what_takes_effect_at_once_needs_no_restart() {
        let one = GatewayConfig::default();
        let mut other = one.clone();
        other.bandwidth = ByteSize(1);
        other.limits.connections = 5;
        other.drain.deadline = Duration::from_secs(9);
        assert!(needs_restart(&one, &other).is_empty());
        other.limits.connections_per_address = 7;
        other.tcp.push("127.0.0.1:1".parse().unwrap());
        other.deadlines.linger = Duration::from_secs(9);
        let expected = ["deadlines.linger", "limits.connections_per_address", "tcp"];
        assert_eq!(needs_restart(&one, &other), expected);
    }
}
