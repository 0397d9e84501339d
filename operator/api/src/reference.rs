//! The page for people, made from the definition by `cargo xtask gen`.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::crd;

/// `docs/reference.md`: every field, its type, default and bounds, and what it does.
#[must_use]
pub fn page() -> String {
    let definition = serde_json::to_value(crd::definition()).unwrap_or_default();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut page = String::from(
        "# ImAccessCluster\n\n<!-- Made by `cargo xtask gen` from operator/api. Don't edit. -->\n\n\
         `imaccess.io/v1alpha1`, namespaced, short name `imac`. The parts that the operator makes of it are described in \
         [kubernetes.md](kubernetes.md).\n\nA field without a default and not marked *required* may be left out: then it is as its description says, and an object has the \
         defaults of its fields.\n",
    );
    for section in ["spec", "status"] {
        let _ = write!(page, "\n## {section}\n");
        table(&mut page, section, &schema["properties"][section]);
    }
    let rules = rules_of(schema);
    if !rules.is_empty() {
        let _ = write!(page, "\n## Rules\n\n");
        for rule in rules {
            let _ = writeln!(page, "- {rule}");
        }
    }
    page
}

/// One table per object, its nested objects after it.
fn table(page: &mut String, path: &str, schema: &Value) {
    let object = match schema.get("items") {
        Some(items) => items,
        None => schema,
    };
    let Some(fields) = object.get("properties").and_then(Value::as_object) else {
        return;
    };
    if let Some(text) = schema.get("description").and_then(Value::as_str) {
        let _ = write!(page, "\n{}\n", one_line(text));
    }
    let required = required(object);
    page.push_str("\n| field | type | default | what |\n|---|---|---|---|\n");
    for (name, field) in fields {
        let default = match field.get("default") {
            Some(value) if !value.is_object() => format!("`{value}`"),
            _ if required.contains(&name.as_str()) => "*required*".to_owned(),
            _ => String::new(),
        };
        let _ = writeln!(
            page,
            "| `{name}` | {} | {} | {} |",
            type_of(field),
            default.replace('|', "\\|"),
            describe(field)
        );
    }
    for (name, field) in fields {
        let nested = match field.get("items") {
            Some(items) => items,
            None => field,
        };
        if nested.get("properties").is_some() {
            let suffix = if field.get("items").is_some() { "[]" } else { "" };
            let path = format!("{path}.{name}{suffix}");
            let _ = write!(page, "\n### {path}\n");
            table(page, &path, field);
        }
    }
}

fn required(object: &Value) -> Vec<&str> {
    object
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

fn type_of(field: &Value) -> String {
    if field.get("x-kubernetes-int-or-string").is_some() {
        return "quantity".to_owned();
    }
    if let Some(values) = field.get("enum").and_then(Value::as_array) {
        let values: Vec<String> = values
            .iter()
            .filter(|value| !value.is_null())
            .map(|value| format!("`{}`", value.as_str().unwrap_or_default()))
            .collect();
        return values.join(", ");
    }
    let name = field.get("type").and_then(Value::as_str).unwrap_or("any");
    let bound = |key: &str| field.get(key).and_then(Value::as_f64);
    match (name, bound("minimum"), bound("maximum")) {
        ("integer", Some(least), Some(most)) => format!("integer, {least} to {most}"),
        ("integer", Some(least), None) => format!("integer, at least {least}"),
        ("array", ..) => {
            let of = field.get("items").map_or_else(|| "any".to_owned(), type_of);
            format!("list of {of}")
        }
        ("object", ..) if field.get("additionalProperties").is_some() => "map".to_owned(),
        (name, ..) => name.to_owned(),
    }
}

fn describe(field: &Value) -> String {
    let mut text = field
        .get("description")
        .and_then(Value::as_str)
        .map(one_line)
        .unwrap_or_default();
    for rule in rules_of(field) {
        let _ = write!(text, " *{rule}.*");
    }
    text.replace('|', "\\|")
}

fn rules_of(field: &Value) -> Vec<String> {
    let rules = field.get("x-kubernetes-validations").and_then(Value::as_array);
    let message = |rule: &Value| {
        rule.as_object()
            .map(|rule: &Map<String, Value>| rule["message"].clone())
    };
    rules
        .into_iter()
        .flatten()
        .filter_map(message)
        .filter_map(|text| text.as_str().map(str::to_owned))
        .collect()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
