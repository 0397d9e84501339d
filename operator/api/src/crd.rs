//! The CustomResourceDefinition, as files have it: made from the types by `cargo xtask gen`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::ImAccessCluster;
use crate::condition;

/// Bytes that the definition may have: kubectl's client-side apply stores it once more in an annotation, of 256 KiB at most.
pub const MAX_BYTES: usize = 200_000;

/// What stands above the generated file.
const HEAD: &str = "# Made by `cargo xtask gen` from operator/api. Don't edit.\n";

/// The definition.
///
/// # Panics
/// If the types' schema isn't structural; a test of this crate sees it first.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    serde_json::from_value(value()).expect("what was a definition still is one")
}

/// As YAML with its head line.
#[must_use]
pub fn yaml() -> String {
    let text = serde_yaml::to_string(&value()).expect("a definition can be written as YAML");
    format!("{HEAD}{text}")
}

/// As a template of the chart: kept when the chart is uninstalled, so that no cluster is deleted with it, and upgraded with
/// the chart.
#[must_use]
pub fn chart_template() -> String {
    let mut value = value();
    value["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
    // Braces of a description would be taken for the template's own.
    let text = serde_yaml::to_string(&value)
        .expect("a definition can be written as YAML")
        .replace("{{", "{{ \"{{\" }}");
    format!("{{{{- if .Values.crds.enabled }}}}\n{HEAD}{text}{{{{- end }}}}\n")
}

fn value() -> Value {
    let mut value = serde_json::to_value(ImAccessCluster::crd()).expect("a definition is JSON");
    let schema = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    tidy(schema);
    // Before the operator's first look there must be a Ready that isn't true: tools take an object without one for ready.
    schema["properties"]["status"]["default"] = json!({
        "conditions": [{
            "type": condition::READY,
            "status": "Unknown",
            "reason": "Pending",
            "message": "Waiting for the operator.",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }],
    });
    value
}

/// Takes out what API servers warn about or refuse: number formats are Rust's way to say a range, and 1.34 doesn't know them;
/// of a quantity, what has become of its two types. Whole bounds are written as such.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let number = matches!(
                fields.get("type").and_then(Value::as_str),
                Some("integer" | "number")
            );
            if number && fields.get("format").is_some_and(Value::is_string) {
                fields.remove("format");
            }
            if fields.contains_key("x-kubernetes-int-or-string") {
                fields.remove("anyOf");
                fields.remove("nullable");
            }
            for bound in ["minimum", "maximum"] {
                if let Some(value) = fields.get_mut(bound)
                    && let Some(number) = value.as_f64().filter(|number| number.fract() == 0.0)
                {
                    *value = json!(number as i64);
                }
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        _ => {}
    }
}
