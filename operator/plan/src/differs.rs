//! Whether an object that the API server has is as it is desired: all that is desired is in it. What others added (defaults,
//! allotted ports, the annotation of `kubectl rollout restart`) is theirs.

use std::fmt::Write as _;

use serde_json::Value;

use crate::quantity::nanos;

/// The path of the first field that isn't as desired, such as `spec.template.spec.containers[0].image`.
pub(crate) fn first(desired: &Value, live: &Value) -> Option<String> {
    let mut path = Vec::new();
    if same(desired, live, &mut path) {
        None
    } else {
        Some(written(&path))
    }
}

/// The path of the first field that differs between two objects, in either direction.
pub(crate) fn either(one: &Value, other: &Value) -> Option<String> {
    first(one, other).or_else(|| first(other, one))
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Leaves the path at the first difference.
fn same<'a>(desired: &'a Value, live: &Value, path: &mut Vec<Step<'a>>) -> bool {
    match (desired, live) {
        (Value::Object(desired), Value::Object(live)) => {
            let mut keys: Vec<&String> = desired.keys().collect();
            keys.sort();
            keys.into_iter().all(|key| {
                path.push(Step::Key(key));
                let equal = live.get(key).is_some_and(|live| same(&desired[key], live, path));
                if equal {
                    path.pop();
                }
                equal
            })
        }
        (Value::Array(desired), Value::Array(live)) => {
            desired.len() == live.len()
                && desired
                    .iter()
                    .zip(live)
                    .enumerate()
                    .all(|(index, (desired, live))| {
                        path.push(Step::Index(index));
                        let equal = same(desired, live, path);
                        if equal {
                            path.pop();
                        }
                        equal
                    })
        }
        (desired, live) if desired == live => true,
        (Value::Number(desired), Value::Number(live)) => desired.as_f64() == live.as_f64(),
        (desired, live) => {
            is_quantity(path) && quantity(desired).is_some() && quantity(desired) == quantity(live)
        }
    }
}

/// Only where Kubernetes has quantities: elsewhere `1000` and `1k` are two things.
fn is_quantity(path: &[Step<'_>]) -> bool {
    let key = |back: usize| match path.len().checked_sub(back).map(|at| &path[at]) {
        Some(Step::Key(key)) => *key,
        _ => "",
    };
    matches!(key(1), "sizeLimit" | "averageValue") || matches!(key(2), "requests" | "limits")
}

fn quantity(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => nanos(text),
        Value::Number(number) => nanos(&number.to_string()),
        _ => None,
    }
}

fn written(path: &[Step<'_>]) -> String {
    let mut text = String::new();
    for step in path {
        // Writing to a String can't fail.
        let _ = match step {
            Step::Index(index) => write!(text, "[{index}]"),
            Step::Key(key) if key.contains(['.', '/']) => write!(text, "[{key}]"),
            Step::Key(key) if text.is_empty() => write!(text, "{key}"),
            Step::Key(key) => write!(text, ".{key}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_added_is_theirs() {
        let desired = json!({"spec": {"ports": [{"port": 80}], "type": "NodePort"}});
        let live = json!({
            "spec": {"ports": [{"port": 80, "nodePort": 30001, "protocol": "TCP"}], "type": "NodePort", "clusterIP": "10.0.0.1"},
            "status": {},
        });
        assert_eq!(first(&desired, &live), None);
    }

    #[test]
    fn the_first_difference_is_named() {
        let table = [
            (json!({"a": {"b": 1}}), json!({"a": {"b": 2}}), "a.b"),
            (json!({"a": {"b": 1}}), json!({"a": {}}), "a.b"),
            (json!({"a": [1, 2]}), json!({"a": [1]}), "a"),
            (json!({"a": [1]}), json!({"a": [1, 2]}), "a"),
            (json!({"a": [{"b": 1}]}), json!({"a": [{"b": 3}]}), "a[0].b"),
            (
                json!({"a": {"x.io/y": "1"}}),
                json!({"a": {"x.io/y": "2"}}),
                "a[x.io/y]",
            ),
            (json!({"a": "1000"}), json!({"a": "1k"}), "a"),
            (json!({"a": 1}), json!({"a": "1"}), "a"),
            (json!({"a": true}), json!({"a": false}), "a"),
        ];
        for (desired, live, path) in table {
            assert_eq!(first(&desired, &live).as_deref(), Some(path), "{desired} {live}");
        }
    }

    #[test]
    fn quantities_are_compared_by_value() {
        let equal = [
            (
                json!({"limits": {"cpu": "0.5"}}),
                json!({"limits": {"cpu": "500m"}}),
            ),
            (
                json!({"requests": {"memory": "1024Mi"}}),
                json!({"requests": {"memory": "1Gi"}}),
            ),
            (json!({"limits": {"cpu": "2"}}), json!({"limits": {"cpu": 2}})),
            (json!({"sizeLimit": "1024Mi"}), json!({"sizeLimit": "1Gi"})),
            (json!({"averageValue": "10000"}), json!({"averageValue": "10k"})),
        ];
        for (desired, live) in equal {
            assert_eq!(first(&desired, &live), None, "{desired} {live}");
        }
        let desired = json!({"limits": {"cpu": "1"}});
        assert_eq!(
            first(&desired, &json!({"limits": {"cpu": "999m"}})).as_deref(),
            Some("limits.cpu")
        );
        assert_eq!(
            first(&desired, &json!({"limits": {"cpu": "one"}})).as_deref(),
            Some("limits.cpu")
        );
    }
}
