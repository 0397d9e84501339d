//! One way to write a value, so that equal values have equal texts and hashes in every process and version.

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};

/// Bytes of a hash that are kept: 80 bits, far from a chance collision of the few values that one object ever has.
const HASH_BYTES: usize = 10;

/// The value with the keys of its maps sorted, whatever order serde_json was built to keep.
pub(crate) fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            let sorted_fields = keys.into_iter().map(|key| (key.clone(), sorted(&fields[key])));
            Value::Object(sorted_fields.collect::<Map<_, _>>())
        }
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// A hash of a value, in hexadecimal.
pub(crate) fn hash(value: &Value) -> String {
    let text = sorted(value).to_string();
    hex::encode(&digest(&SHA256, text.as_bytes()).as_ref()[..HASH_BYTES])
}

/// The value as YAML, keys sorted.
pub(crate) fn yaml(value: &Value) -> String {
    serde_yaml::to_string(&sorted(value)).unwrap_or_default()
}

/// Takes out fields that are null, which stand for "not said": the API server doesn't keep them, so that they would differ for
/// ever.
pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, field)| !field.is_null())
                .map(|(key, field)| (key, without_nulls(field)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// The value, or null when there is nothing in it.
pub(crate) fn unless_empty(value: Value) -> Value {
    let empty = match &value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    if empty { Value::Null } else { value }
}

/// Puts the fields of `from` into `into`, map by map; what isn't a map is replaced.
pub(crate) fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_keys_does_not_matter_and_that_of_lists_does() {
        let one = serde_json::from_str(r#"{"b": [1, {"y": 1, "x": 2}], "a": "t"}"#).unwrap();
        let other = serde_json::from_str(r#"{"a": "t", "b": [1, {"x": 2, "y": 1}]}"#).unwrap();
        assert_eq!(hash(&one), hash(&other));
        assert_eq!(hash(&one).len(), 2 * HASH_BYTES);
        assert_eq!(sorted(&one).to_string(), r#"{"a":"t","b":[1,{"x":2,"y":1}]}"#);
        assert_ne!(hash(&json!([1, 2])), hash(&json!([2, 1])));
        // Changed hashes would restart every cluster when the operator is upgraded.
        assert_eq!(hash(&json!({"a": 1})), "015abd7f5cc57a2dd94b");
    }

    #[test]
    fn nulls_go_and_empty_things_stay() {
        let value = json!({"a": null, "b": {"c": null}, "d": [{"e": null}], "f": []});
        assert_eq!(without_nulls(value), json!({"b": {}, "d": [{}], "f": []}));
        assert_eq!(unless_empty(json!([])), Value::Null);
        assert_eq!(unless_empty(json!([0])), json!([0]));
    }

    #[test]
    fn maps_are_merged_and_the_rest_is_replaced() {
        let mut into = json!({"limits": {"connections": 1, "other": 2}, "list": [1]});
        merge(
            &mut into,
            &json!({"limits": {"connections": 9}, "list": [2], "new": true}),
        );
        assert_eq!(
            into,
            json!({"limits": {"connections": 9, "other": 2}, "list": [2], "new": true})
        );
    }
}
