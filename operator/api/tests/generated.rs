//! What is made from the types is what stands in the tree.

use std::path::Path;

use imaccess_operator_api::{crd, reference};

#[test]
fn generated_files_are_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (path, text) in [
        ("crds/imaccess.io_imaccessclusters.yaml", crd::yaml()),
        ("charts/imaccess/templates/crd.yaml", crd::chart_template()),
        ("docs/reference.md", reference::page()),
    ] {
        let there = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(
            there == text,
            "{path} is stale: run `cargo xtask gen` and commit what it writes"
        );
    }
}

#[test]
fn the_definition_is_small_enough_for_kubectl_apply() {
    let bytes = crd::yaml().len();
    assert!(
        bytes < crd::MAX_BYTES,
        "{bytes} bytes; at most {} are allowed",
        crd::MAX_BYTES
    );
}

#[test]
fn every_field_has_a_description() {
    fn look(path: &str, schema: &serde_json::Value, without: &mut Vec<String>) {
        let Some(fields) = schema.get("properties").and_then(|fields| fields.as_object()) else {
            return;
        };
        for (name, field) in fields {
            let path = format!("{path}.{name}");
            if field.get("description").is_none() {
                without.push(path.clone());
            }
            look(&path, field, without);
            if let Some(items) = field.get("items") {
                look(&path, items, without);
            }
        }
    }
    let definition = serde_json::to_value(crd::definition()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut without = Vec::new();
    for section in ["spec", "status"] {
        look(section, &schema["properties"][section], &mut without);
    }
    assert!(without.is_empty(), "fields without a description: {without:?}");
}
