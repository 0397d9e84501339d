//! Every example is what the types say: no field that nobody obeys, no value that means something else.

use imaccess_e2e::kubernetes::objects::documents_of;
use imaccess_operator_api::ImAccessCluster;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

#[test]
fn every_example_reads_strictly_as_its_types() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");
    let mut clusters = 0;
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    names.sort();
    for path in names {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for document in documents_of(&path).unwrap() {
            let kind = document["kind"].as_str().unwrap().to_owned();
            let at = format!("{name}: {kind}");
            match kind.as_str() {
                "ImAccessCluster" => {
                    assert_eq!(document["apiVersion"], "imaccess.io/v1alpha1", "{at}");
                    clusters += 1;
                    strictly::<ImAccessCluster>(&document, &at);
                }
                "Deployment" => strictly::<Deployment>(&document, &at),
                "Service" => strictly::<Service>(&document, &at),
                other => panic!("{name}: teach this test the kind {other}"),
            }
        }
    }
    assert!(clusters >= 3, "{clusters} clusters in {directory}");
}

#[test]
fn a_field_that_is_no_field_is_found() {
    let document = serde_json::json!({
        "apiVersion": "imaccess.io/v1alpha1",
        "kind": "ImAccessCluster",
        "metadata": {"name": "demo"},
        "spec": {"image": "i", "gateway": {"replicas": 2, "replica": 3}},
    });
    let read: ImAccessCluster = serde_json::from_value(document.clone()).unwrap();
    let lost = lost(&document, &serde_json::to_value(read).unwrap(), "");
    assert_eq!(lost, [".spec.gateway.replica"]);
}

/// Reads a document and writes it again: a field that isn't one is lost on the way.
fn strictly<T: DeserializeOwned + Serialize>(document: &Value, at: &str) {
    let read: T = serde_json::from_value(document.clone()).unwrap_or_else(|fault| panic!("{at}: {fault}"));
    let written = serde_json::to_value(read).expect("what was read from JSON is JSON");
    assert_eq!(
        lost(document, &written, ""),
        [""; 0],
        "{at} has what its type hasn't"
    );
}

/// Paths of what stands in a document and not, or otherwise, in what was written of it.
fn lost(document: &Value, written: &Value, path: &str) -> Vec<String> {
    match (document, written) {
        (Value::Object(document), Value::Object(written)) => document
            .iter()
            .flat_map(|(key, value)| {
                let path = format!("{path}.{key}");
                match written.get(key) {
                    Some(other) => lost(value, other, &path),
                    // What is empty needn't be written.
                    None if value.as_object().is_some_and(serde_json::Map::is_empty) => Vec::new(),
                    None => vec![path],
                }
            })
            .collect(),
        (Value::Array(document), Value::Array(written)) if document.len() == written.len() => document
            .iter()
            .zip(written)
            .enumerate()
            .flat_map(|(index, (value, other))| lost(value, other, &format!("{path}[{index}]")))
            .collect(),
        _ if document == written => Vec::new(),
        _ => vec![path.to_owned()],
    }
}
