//! The chart: helm's own checks, the API server's, with nothing unknown let through, and its test.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, TypeMeta};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use serde_json::{Value, json};

use crate::kubernetes::release::{helm, merge};
use crate::kubernetes::{Kubernetes, MANAGER, Namespace, objects, with_kubernetes};
use crate::report::{Report, Size};
use crate::scenario::verdict::count;

/// Definitions of others' kinds, with the fields that the chart and the operator set.
const STUBS: &str = "e2e/kubernetes";
/// Ready to be applied by users.
const EXAMPLES: &str = "examples";

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-chart", async |kubernetes| {
        let stubs = apply_stubs(kubernetes).await?;
        let outcome = check(kubernetes, Report::new("k8s-chart", size, seed)).await;
        remove_stubs(kubernetes, &stubs).await?;
        outcome
    })
    .await
}

async fn check(kubernetes: &Kubernetes, mut report: Report) -> Result<Report> {
    let namespace = kubernetes.namespace("").await?;
    let watched = kubernetes.namespace("watched").await?;
    let chart = kubernetes.chart().to_string_lossy().into_owned();
    let linted = helm(&kubernetes.environment, &["lint", "--strict", &chart]).await?;
    ensure!(linted.contains("0 chart(s) failed"), "helm lint says: {linted}");

    let mut wrong = Vec::new();
    let mut documents = 0;
    for (name, values) in sets(kubernetes, &watched)? {
        let rendered = render(kubernetes, &namespace, &values).await.context(name)?;
        ensure!(!rendered.is_empty(), "with {name} nothing is rendered");
        documents += rendered.len();
        for document in rendered {
            let id = format!("{} {}", document["kind"], document["metadata"]["name"]);
            if let Err(error) = dry_run(kubernetes, &namespace, document, false).await {
                wrong.push(format!("{name}: {id}: {error:#}"));
            }
        }
    }
    report.figure("documents", documents);
    let examples = examples(kubernetes)?;
    report.figure("examples", examples.len());
    for path in examples {
        for document in objects::documents_of(&path)? {
            if let Err(error) = dry_run(kubernetes, &namespace, document, true).await {
                wrong.push(format!("{}: {error:#}", path.display()));
            }
        }
    }
    for (number, text) in wrong.iter().enumerate() {
        // What fails later would take the report with it.
        println!("{text}");
        report.figure(&format!("wrong_{number:02}"), text.as_str());
    }
    report.exactly("documents_refused", count(wrong.len() as u64), 0.0);

    // A mistyped value is said so, not silently ignored.
    let mistyped = json!({"replica": 2});
    let refused = render(kubernetes, &namespace, &mistyped).await.err();
    let refused = refused.context("the chart takes a value that it doesn't know")?;
    ensure!(
        format!("{refused:#}").contains("replica"),
        "refused for another reason: {refused:#}"
    );

    let release = kubernetes.operator(&namespace).await?;
    let said = release.test(kubernetes).await?;
    ensure!(said.contains("Succeeded"), "helm test says: {said}");
    report.figure("helm_test", "succeeded");
    // A second upgrade to the same changes nothing, and none of it fails.
    let mut release = release;
    let values = kubernetes.values(&[&namespace])?;
    release.upgrade(kubernetes, &kubernetes.chart(), &values).await?;
    release.uninstall(kubernetes).await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(kubernetes.client.clone());
    ensure!(
        definitions
            .get_opt(crate::kubernetes::DEFINITION)
            .await?
            .is_some(),
        "the definition went with the release, and every cluster with it"
    );
    Ok(report)
}

/// Values that between them render everything.
fn sets(kubernetes: &Kubernetes, watched: &Namespace) -> Result<Vec<(&'static str, Value)>> {
    let namespaced = kubernetes.values(&[watched])?;
    let mut everything = json!({
        "crds": {"enabled": true},
        "replicas": 2,
        "podMonitor": {"enabled": true, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": true, "labels": {"release": "prometheus"}},
        "podAnnotations": {"a": "b"},
        "podLabels": {"c": "d"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "imagePullSecrets": [{"name": "registry"}],
        "extraArgs": [],
    });
    merge(&mut everything, &json!({"image": namespaced["image"]}));
    Ok(vec![
        ("the defaults", json!({})),
        ("one namespace", namespaced),
        ("everything", everything),
    ])
}

async fn render(kubernetes: &Kubernetes, namespace: &Namespace, values: &Value) -> Result<Vec<Value>> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("values.yaml");
    std::fs::write(&file, serde_json::to_vec(values)?)?;
    let chart = kubernetes.chart().to_string_lossy().into_owned();
    let file = file.to_string_lossy().into_owned();
    // helm doesn't ask the server: one built from its module believes in Kubernetes 1.20.
    let version = kubernetes.client.apiserver_version().await?.git_version;
    let arguments = [
        "template",
        &namespace.name,
        &chart,
        "--namespace",
        &namespace.name,
        "--values",
        &file,
        "--api-versions",
        "monitoring.coreos.com/v1",
        "--kube-version",
        &version,
    ];
    let text = helm(&kubernetes.environment, &arguments).await?;
    objects::documents(&text)
}

/// A server-side dry run of an apply; whatever the API server doesn't know fails it. `moved` puts an object that names another
/// namespace, which isn't there, into this one.
async fn dry_run(
    kubernetes: &Kubernetes,
    namespace: &Namespace,
    mut document: Value,
    moved: bool,
) -> Result<()> {
    let types: TypeMeta = serde_json::from_value(document.clone()).context("neither kind nor apiVersion")?;
    let kind = GroupVersionKind::try_from(&types).context("an apiVersion that is none")?;
    let (resource, capabilities) = pinned_kind(&kubernetes.client, &kind).await.with_context(|| {
        format!(
            "the API server doesn't serve {} {}",
            types.api_version, types.kind
        )
    })?;
    let name = document["metadata"]["name"]
        .as_str()
        .context("no name")?
        .to_owned();
    let api: Api<DynamicObject> = if capabilities.scope == Scope::Namespaced {
        if moved || document["metadata"]["namespace"].is_null() {
            document["metadata"]["namespace"] = json!(namespace.name);
        }
        let own = document["metadata"]["namespace"]
            .as_str()
            .context("a namespace is text")?;
        Api::namespaced_with(kubernetes.client.clone(), own, &resource)
    } else {
        Api::all_with(kubernetes.client.clone(), &resource)
    };
    let parameters = PatchParams::apply(MANAGER).force().dry_run().validation_strict();
    api.patch(&name, &parameters, &Patch::Apply(&document)).await?;
    Ok(())
}

fn examples(kubernetes: &Kubernetes) -> Result<Vec<PathBuf>> {
    let directory = kubernetes.environment.file(EXAMPLES);
    let files = yaml_files(&directory)?;
    ensure!(!files.is_empty(), "{} has no example", directory.display());
    Ok(files)
}

fn yaml_files(directory: &std::path::Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    Ok(files)
}

/// Applies those that aren't there; returns their names.
async fn apply_stubs(kubernetes: &Kubernetes) -> Result<Vec<String>> {
    let api: Api<CustomResourceDefinition> = Api::all(kubernetes.client.clone());
    let mut applied = Vec::new();
    for path in yaml_files(&kubernetes.environment.file(STUBS))? {
        for document in objects::documents_of(&path)? {
            let definition: CustomResourceDefinition = serde_json::from_value(document)?;
            let name = definition
                .metadata
                .name
                .clone()
                .context("a definition has a name")?;
            if api.get_opt(&name).await?.is_none() {
                kubernetes.apply_definition_of(&definition).await?;
                applied.push(name);
            }
        }
    }
    Ok(applied)
}

async fn remove_stubs(kubernetes: &Kubernetes, names: &[String]) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(kubernetes.client.clone());
    for name in names {
        api.delete(name, &DeleteParams::default()).await?;
    }
    Ok(())
}
