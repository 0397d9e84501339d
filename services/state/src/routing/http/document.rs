//! The OpenAPI document: written as YAML, served as JSON.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// The document. It is a part of the program: a test reads it whole.
pub(super) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_yaml::from_str(include_str!("openapi.yaml")).expect("the document is YAML, as a test holds")
});

static AS_JSON: LazyLock<String> = LazyLock::new(|| DOCUMENT.to_string());

pub(super) fn response() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], AS_JSON.as_str()).into_response()
}

/// What `value` is, or what its `$ref` points to.
pub(super) fn resolved(value: &'static Value) -> &'static Value {
    let pointer = value["$ref"].as_str().and_then(|path| path.strip_prefix('#'));
    match pointer {
        Some(pointer) => DOCUMENT.pointer(pointer).unwrap_or(value),
        None => value,
    }
}
