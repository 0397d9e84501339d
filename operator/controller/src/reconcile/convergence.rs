//! The real plan, carried out against an API server that keeps what it is given: it comes to rest, stays at rest, and repairs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http::Method;
use serde_json::{Value, json};

use super::Passes;
use super::tests::{pass, passes};
use crate::testing::{Answer, Asked, Server, cluster, failure, list};

/// Objects by their path.
#[derive(Clone, Default)]
struct Objects {
    shared: Arc<Mutex<(u64, BTreeMap<String, Value>)>>,
}

impl Objects {
    fn answer(&self, asked: &Asked) -> Option<Answer> {
        let mut shared = self.shared.lock().unwrap();
        let (version, objects) = &mut *shared;
        let (path, of_status) = match asked.path.strip_suffix("/status") {
            Some(path) => (path.to_owned(), true),
            None => (asked.path.clone(), false),
        };
        let is_list = path.rsplit('/').nth(1) == Some("default");
        let conflict = || Some(failure(409, "Conflict", "the object has been modified"));
        let planned = asked.body["metadata"]["resourceVersion"].clone();
        match asked.method {
            Method::GET if is_list => {
                let prefix = format!("{path}/");
                let items: Vec<Value> = objects
                    .iter()
                    .filter(|(path, _)| path.starts_with(&prefix))
                    .map(|(_, object)| object.clone())
                    .collect();
                return Some(list(&items));
            }
            Method::GET => return objects.get(&path).map(|object| (200, object.clone())),
            _ => {}
        }
        let path = match asked.method {
            Method::POST => format!("{path}/{}", asked.body["metadata"]["name"].as_str()?),
            _ => path,
        };
        let before = objects.get(&path).cloned();
        let known = before
            .as_ref()
            .map(|object| object["metadata"]["resourceVersion"].clone());
        if asked.path.contains("/events") {
            return None;
        }
        if !planned.is_null() && known.as_ref() != Some(&planned) {
            return conflict();
        }
        let mut after = match (asked.method.clone(), before.clone()) {
            (Method::POST, Some(_)) => return conflict(),
            (Method::DELETE, Some(object)) => {
                objects.remove(&path);
                return Some((200, object));
            }
            (Method::PATCH, Some(mut object)) if of_status => {
                object["status"] = asked.body["status"].clone();
                object
            }
            (Method::PATCH, Some(mut object)) if !asked.query.contains("force=true") => {
                merge(&mut object, &asked.body);
                object
            }
            _ => asked.body.clone(),
        };
        after["metadata"]["resourceVersion"] = known.unwrap_or(Value::Null);
        after["metadata"]["uid"] = before.as_ref().map_or_else(
            || json!(format!("uid-{path}")),
            |object| object["metadata"]["uid"].clone(),
        );
        if Some(&after) != before.as_ref() {
            *version += 1;
            after["metadata"]["resourceVersion"] = json!(version.to_string());
            objects.insert(path, after.clone());
        }
        Some((200, after))
    }

    fn put(&self, path: &str, object: Value) {
        self.shared.lock().unwrap().1.insert(path.to_owned(), object);
    }

    fn change(&self, end_of_path: &str, change: impl FnOnce(&mut Value)) {
        let mut shared = self.shared.lock().unwrap();
        shared.0 += 1;
        let version = shared.0.to_string();
        let (_, object) = shared
            .1
            .iter_mut()
            .find(|(path, _)| path.ends_with(end_of_path))
            .expect("it is there");
        change(object);
        object["metadata"]["resourceVersion"] = json!(version);
    }

    fn remove(&self, end_of_path: &str) {
        self.shared
            .lock()
            .unwrap()
            .1
            .retain(|path, _| !path.ends_with(end_of_path));
    }

    fn versions(&self) -> BTreeMap<String, Value> {
        let shared = self.shared.lock().unwrap();
        shared
            .1
            .iter()
            .map(|(path, object)| (path.clone(), object["metadata"]["resourceVersion"].clone()))
            .collect()
    }
}

fn merge(object: &mut Value, patch: &Value) {
    match patch {
        Value::Object(fields) => {
            if !object.is_object() {
                *object = json!({});
            }
            for (name, value) in fields {
                if value.is_null() {
                    object.as_object_mut().map(|object| object.remove(name));
                } else {
                    merge(&mut object[name], value);
                }
            }
        }
        other => *object = other.clone(),
    }
}

#[tokio::test]
async fn it_comes_to_rest_and_repairs() {
    let objects = Objects::default();
    objects.put(
        "/apis/imaccess.io/v1alpha1/namespaces/default/imaccessclusters/demo",
        serde_json::to_value(cluster("demo")).unwrap(),
    );
    let answered = objects.clone();
    let server = Server::new(move |asked| answered.answer(asked));
    let passes = passes(&server, imaccess_operator_plan::plan);
    rest(&passes, &server).await;
    let versions = objects.versions();
    for name in [
        "/secrets/demo-ca",
        "/secrets/demo-gateway-tls",
        "/secrets/demo-tickets",
        "/secrets/demo-development-tokens",
        "/configmaps/demo-ca",
        "/configmaps/demo-rendered",
        "/deployments/demo-state",
        "/deployments/demo-ipconfig",
        "/deployments/demo-gateway",
    ] {
        assert!(
            versions.keys().any(|path| path.ends_with(name)),
            "{name}: {versions:?}"
        );
    }
    let quiet = server.writes().len();
    for _ in 0..3 {
        pass(&passes).await.unwrap();
    }
    assert_eq!(server.writes().len(), quiet);
    assert_eq!(objects.versions(), versions);

    objects.remove("/services/demo-state");
    pass(&passes).await.unwrap();
    assert_eq!(server.written()[quiet..], ["PATCH services/demo-state"]);
    objects.change("/configmaps/demo-gateway", |object| {
        object["data"]["gateway.yaml"] = json!("mine");
    });
    pass(&passes).await.unwrap();
    assert_eq!(server.written()[quiet + 1..], ["PATCH configmaps/demo-gateway"]);
    objects.change("/deployments/demo-gateway", |object| {
        object["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] =
            json!("2026-01-01T00:00:00Z");
    });
    pass(&passes).await.unwrap();
    assert_eq!(
        server.writes().len(),
        quiet + 2,
        "a restart by hand is left alone"
    );
    objects.change("/secrets/demo-sidecar-tls", |object| {
        object["data"]["ca.crt"] = json!("bWluZQ==");
    });
    pass(&passes).await.unwrap();
    assert_eq!(server.written()[quiet + 2..], ["PATCH secrets/demo-sidecar-tls"]);

    // Keys that somebody wrote to are made anew, and what depends on them with them. It comes to rest again.
    for (secret, key) in [
        ("demo-push-tls", "tls.key"),
        ("demo-tickets", "tickets"),
        ("demo-development-tokens", "more.pem"),
        ("demo-ca", "ca.crt"),
        ("demo-ca", "ca.key"),
    ] {
        let edited = json!("AP+A"); // no text, either
        objects.change(&format!("/secrets/{secret}"), |object| {
            object["data"][key] = edited.clone();
        });
        rest(&passes, &server).await;
        objects.change(&format!("/secrets/{secret}"), |object| {
            assert_ne!(object["data"][key], edited, "{key} of {secret}");
        });
        rest(&passes, &server).await;
    }
}

/// Passes until one writes nothing.
async fn rest(passes: &Arc<Passes>, server: &Server) {
    for _ in 0..8 {
        let before = server.writes().len();
        pass(passes).await.unwrap();
        if server.writes().len() == before {
            return;
        }
    }
    panic!("it doesn't come to rest: {:?}", server.written());
}
