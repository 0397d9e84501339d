//! The document and the router say the same.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Served;
use super::schema::conforms;
use crate::routing::http::document::{DOCUMENT, resolved};
use crate::routing::http::endpoint::Endpoint;
use crate::routing::http::testing::{Ask, over_http1};

const METHODS: [&str; 8] = [
    "GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY",
];

/// What any call of the API may be answered.
const ANY: [&str; 11] = [
    "200", "400", "401", "403", "404", "409", "429", "500", "501", "503", "504",
];
/// What one with a body may be answered as well.
const WITH_A_BODY: [&str; 3] = ["408", "413", "415"];

/// Path, method and operation of each that is documented.
fn operations() -> Vec<(&'static str, String, &'static Value)> {
    let mut operations = Vec::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if method != "parameters" {
                operations.push((path.as_str(), method.to_uppercase(), operation));
            }
        }
    }
    operations
}

#[tokio::test]
async fn every_route_is_documented_and_every_documented_route_is_served() {
    let served = Served::start().await;
    let documented: BTreeSet<(&str, String)> = operations()
        .into_iter()
        .map(|(path, method, _)| (path, method))
        .collect();
    let paths: BTreeSet<&str> = documented.iter().map(|&(path, _)| path).collect();
    let mut routed = BTreeSet::new();
    for path in paths {
        let concrete = path.replace("{business}", "7").replace("{group}", "room");
        for method in METHODS {
            let answer = over_http1(
                served.address,
                &Ask::new(method, &concrete).json(r#"{"app": "a", "devices": ["done"]}"#),
            )
            .await;
            if answer.status == 405 {
                let allowed = answer.header("allow").unwrap();
                assert!(
                    !allowed.split(',').any(|other| other == method),
                    "{method} {path}"
                );
            } else {
                assert_ne!(answer.status, 404, "{method} {path}");
                routed.insert((path, method.to_owned()));
            }
        }
    }
    assert_eq!(routed, documented);
    // What the router is made of has no path beside these.
    let endpoints: BTreeSet<&str> = Endpoint::ALL.iter().map(|endpoint| endpoint.path()).collect();
    let paths: BTreeSet<&str> = documented.iter().map(|&(path, _)| path).collect();
    assert_eq!((endpoints, Endpoint::ALL.len()), (paths, documented.len()));
    served.stop().await;
}

#[test]
fn operations_have_the_names_of_their_metrics() {
    let named: BTreeSet<String> = operations()
        .iter()
        .map(|(path, _, operation)| format!("{path} {}", operation["operationId"].as_str().unwrap()))
        .collect();
    let camel = |label: &str| {
        let mut words = label.split('_');
        let first = words.next().unwrap_or_default().to_owned();
        words.fold(first, |name, word| {
            format!("{name}{}{}", word[..1].to_uppercase(), &word[1..])
        })
    };
    let expected: BTreeSet<String> = Endpoint::ALL
        .iter()
        .map(|endpoint| format!("{} {}", endpoint.path(), camel(endpoint.label())))
        .collect();
    assert_eq!(named, expected);
}

#[test]
fn every_status_is_documented_and_no_other() {
    for (path, method, operation) in operations() {
        let given: BTreeSet<&str> = operation["responses"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let mut expected = BTreeSet::from(["200"]);
        if path.starts_with("/v1/") {
            expected.extend(ANY);
        }
        if operation["requestBody"].is_object() {
            expected.extend(WITH_A_BODY);
        }
        assert_eq!(given, expected, "{method} {path}");
        for (status, answer) in operation["responses"].as_object().unwrap() {
            assert!(
                resolved(answer)["description"].is_string(),
                "{method} {path} {status}"
            );
        }
    }
}

/// An example that isn't one would be copied all the same.
#[tokio::test]
async fn examples_follow_their_schemas_and_are_accepted() {
    let served = Served::start().await;
    for (path, method, operation) in operations() {
        let of_answer = &operation["responses"]["200"]["content"]["application/json"];
        if of_answer["example"].is_object() {
            conforms(&of_answer["example"], &of_answer["schema"]).unwrap();
        }
        let of_body = &operation["requestBody"]["content"]["application/json"];
        if of_body.is_object() {
            conforms(&of_body["example"], &of_body["schema"]).unwrap();
            let path = path.replace("{business}", "7").replace("{group}", "room");
            let ask = Ask::new(&method, &path).json(&of_body["example"].to_string());
            assert_eq!(served.ask(ask).await.status, 200, "{method} {path}");
        }
    }
    let problem = &DOCUMENT["components"]["schemas"]["Problem"];
    let (example, schema) = (&problem["example"], problem);
    conforms(example, schema).unwrap();
    served.stop().await;
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let served = Served::start().await;
    let document = served.ask(Ask::new("GET", "/openapi.json")).await;
    assert_eq!(document.header("content-type"), Some("application/json"));
    assert_eq!(document.json(), *DOCUMENT);
    assert_eq!(document.json()["openapi"], "3.1.0");
    let page = served.ask(Ask::new("GET", "/docs")).await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .starts_with("default-src 'none'")
    );
    assert!(
        String::from_utf8(page.body)
            .unwrap()
            .starts_with("<!doctype html>")
    );
    served.stop().await;
}

/// Every reference leads somewhere.
#[test]
fn references_lead_somewhere() {
    fn walk(value: &'static Value, count: &mut usize) {
        if value["$ref"].is_string() {
            *count += 1;
            assert!(!std::ptr::eq(resolved(value), value), "{value}");
        }
        let members = value.as_object().into_iter().flat_map(|object| object.values());
        members
            .chain(value.as_array().into_iter().flatten())
            .for_each(|inner| walk(inner, count));
    }
    let mut count = 0;
    walk(&DOCUMENT, &mut count);
    assert!(count > 100, "{count}");
}
