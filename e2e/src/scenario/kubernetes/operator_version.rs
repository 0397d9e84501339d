//! An operator of another version rolls no workload, and the chart that brings it brings the definition's new fields.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use imaccess_operator_api::ImAccessCluster;
use imaccess_operator_api::crd;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::stage::{self, DEMO, ECHO};
use crate::kubernetes::release::{image_values, merge};
use crate::kubernetes::{Installation, Kubernetes, MANAGER, Namespace, installation, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;
use crate::wait::Seen;

/// The field that the older definition hasn't.
const NEW_FIELD: &str = "networkPolicy";

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let outcome = with_kubernetes("k8s-operator-version", async |kubernetes| {
        let outcome = upgrade(kubernetes, Report::new("k8s-operator-version", size, seed)).await;
        // Other scenarios find the definition as it is, whatever happened.
        kubernetes.apply_definition().await?;
        outcome
    });
    outcome.await
}

async fn upgrade(kubernetes: &Kubernetes, mut report: Report) -> Result<Report> {
    let namespace = kubernetes.namespace("").await?;
    let directory = tempfile::tempdir()?;
    let older = older_chart(&kubernetes.chart(), directory.path())?;
    let mut values = kubernetes.values(&[&namespace])?;
    values["crds"]["enabled"] = json!(true);
    let mut release = kubernetes.install(&older, &namespace, &values).await?;
    let operator = release.operator(kubernetes);

    // As a user of that version writes it: without the new field.
    let spec = stage::spec(kubernetes, &namespace).await?;
    let mut object = serde_json::to_value(ImAccessCluster::new(DEMO, spec))?;
    if let Some(spec) = object["spec"].as_object_mut() {
        spec.remove(NEW_FIELD);
    }
    let cluster = create(&namespace, object).await?;
    cluster.ready(kubernetes).await?;
    let client = cluster.client("through-the-upgrade").await?;
    cluster.call(&client, ECHO).await?;
    let refused = set_new_field(&namespace, true).await;
    let refused = refused
        .err()
        .context("the older definition has the new field already")?;
    ensure!(
        format!("{refused:#}").contains(NEW_FIELD),
        "refused for another reason than the field: {refused:#}"
    );

    let pods = cluster.pod_uids().await?;
    let operator_before = operator.running(kubernetes, 1).await?;
    let image = kubernetes.other_image(2).await?;
    report.figure(
        "another_image",
        image.clone().unwrap_or_else(|| "none".to_owned()),
    );
    match &image {
        Some(reference) => merge(&mut values, &json!({"image": image_values(reference)})),
        // On a given cluster with one image only: another pod of the same.
        None => merge(&mut values, &json!({"podAnnotations": {"imaccess.io/e2e": "2"}})),
    }
    let begun = Instant::now();
    release.upgrade(kubernetes, &kubernetes.chart(), &values).await?;
    let operator_after = operator.running(kubernetes, 1).await?;
    ensure!(
        operator_before[0].metadata.uid != operator_after[0].metadata.uid,
        "the upgrade brought no other operator"
    );
    report.figure("seconds_of_upgrade", begun.elapsed().as_secs_f64());

    // A change shows that the new one has looked at everything and acts: it owns the new field's objects.
    set_new_field(&namespace, false)
        .await
        .context("the new definition lacks the new field")?;
    set_new_field(&namespace, true)
        .await
        .context("the new definition lacks the new field")?;
    kubernetes
        .until("the new field is obeyed", installation::READY, async || {
            let children = cluster.children().await?;
            let there = children.iter().any(|child| child.kind.kind == "NetworkPolicy");
            Ok(if there {
                Seen::Yes(())
            } else {
                Seen::NotYet(children.len())
            })
        })
        .await?;
    cluster.ready(kubernetes).await?;
    let now = cluster.pod_uids().await?;
    let replaced = pods.iter().filter(|uid| !now.contains(uid)).count();
    report.figure("pods", now.len());
    report.exactly("pods_replaced", count(replaced as u64), 0.0);
    report.exactly(
        "pods_added",
        count(now.len().saturating_sub(pods.len()) as u64),
        0.0,
    );
    cluster.call(&client, ECHO).await?;
    client.close().await;
    Ok(report)
}

async fn create(namespace: &Namespace, object: Value) -> Result<Installation> {
    let api: Api<DynamicObject> = dynamic(namespace);
    api.patch(DEMO, &PatchParams::apply(MANAGER), &Patch::Apply(&object))
        .await
        .context("the older definition refuses a cluster without the new field")?;
    Ok(namespace.existing_cluster(DEMO))
}

/// Sets the new field; nothing unknown is let through. A dry run changes nothing.
async fn set_new_field(namespace: &Namespace, for_real: bool) -> Result<()> {
    let object = json!({
        "apiVersion": "imaccess.io/v1alpha1",
        "kind": "ImAccessCluster",
        "metadata": {"name": DEMO},
        "spec": {NEW_FIELD: {"enabled": true}},
    });
    let mut parameters = PatchParams::apply("imaccess-e2e-new-field").validation_strict();
    parameters.dry_run = !for_real;
    let api = dynamic(namespace);
    api.patch(DEMO, &parameters, &Patch::Apply(&object)).await?;
    Ok(())
}

/// By its names only: typed objects would always have every field.
fn dynamic(namespace: &Namespace) -> Api<DynamicObject> {
    let resource = ApiResource {
        group: "imaccess.io".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "imaccess.io/v1alpha1".to_owned(),
        kind: "ImAccessCluster".to_owned(),
        plural: "imaccessclusters".to_owned(),
    };
    Api::namespaced_with(namespace.client().clone(), &namespace.name, &resource)
}

/// A copy of the chart whose definition lacks the new field.
fn older_chart(chart: &Path, directory: &Path) -> Result<PathBuf> {
    let copy = directory.join("imaccess");
    copy_tree(chart, &copy)?;
    let mut definition = serde_json::to_value(crd::definition())?;
    definition["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let fields = schema["properties"]["spec"]["properties"].as_object_mut();
    let removed = fields.and_then(|fields| fields.remove(NEW_FIELD));
    ensure!(removed.is_some(), "the definition has no field {NEW_FIELD}");
    let text = serde_yaml::to_string(&definition)?.replace("{{", "{{ \"{{\" }}");
    let file = copy.join("templates/crd.yaml");
    ensure!(file.is_file(), "the chart has no templates/crd.yaml");
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(copy)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
        } else {
            bail!("{} is neither file nor directory", entry.path().display());
        }
    }
    Ok(())
}
