//! `ipconfig.yaml`. All of it is read at the start only; businesses are a file of their own, which a running replica reads again.

use imaccess_operator_api::names::{Names, Part, key, port};
use serde_json::{Value, json};

use super::{file, listen, path, seconds};
use crate::canonical::without_nulls;
use crate::pods::ipconfig::Inputs;

/// Seconds for which a gateway may be missing from the figures before it leaves the list: until it was scraped again, and that was
/// seen, with room for a slow answer.
fn absence(scrape_interval: i32) -> i32 {
    if scrape_interval <= 1 {
        3
    } else {
        scrape_interval + 5
    }
}

/// What is read at the start only.
pub(crate) fn start(inputs: &Inputs<'_>) -> Value {
    let names = Names::new(inputs.cluster, inputs.namespace);
    let listeners: Vec<Value> = inputs
        .listeners
        .iter()
        .map(|listener| json!({"protocol": listener.protocol.as_str(), "port": listener.port}))
        .collect();
    let prometheus = inputs.prometheus.map(|prometheus| {
        json!({
            "url": prometheus.url,
            "scrape_interval": seconds(prometheus.scrape_interval_seconds),
            // Which pods of the namespace are this cluster's, ipconfig knows by itself.
            "matchers": {"namespace": names.namespace},
        })
    });
    let absence = inputs
        .prometheus
        .map(|prometheus| seconds(absence(prometheus.scrape_interval_seconds)));
    let signing = inputs
        .development_key
        .as_ref()
        .map(|_| format!("{}/{}", path::TOKENS, key::SIGNING));
    without_nulls(json!({
        "cluster": names.id(),
        "listen": listen(port::IPCONFIG),
        "admin": listen(port::IPCONFIG_PAGES),
        "window": seconds(inputs.window_seconds),
        "pods": {
            "namespace": names.namespace,
            "selector": names.selector_text(Part::Gateway),
            "metrics_port": port::GATEWAY_PAGES,
            "listeners": listeners,
            "annotated_only": inputs.annotated_only,
        },
        "absence": absence,
        "prometheus": prometheus,
        "businesses_file": format!("{}/{}", path::CONFIGURATION, file::BUSINESSES),
        "development_signing_key": signing,
        "development_key_id": inputs.development_key,
    }))
}
