//! The chart, installed by helm.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Environment, Kubernetes, Namespace};

/// Until the chart's own objects are ready: an image that is on the node, and one pod.
const INSTALLED: Duration = Duration::from_secs(120);
/// A command that takes longer than this hangs.
const COMMAND: Duration = Duration::from_secs(240);

/// One installed release.
#[derive(Clone, Debug)]
pub struct Release {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    chart: PathBuf,
}

impl Kubernetes {
    /// The chart of this checkout.
    #[must_use]
    pub fn chart(&self) -> PathBuf {
        self.environment.file("charts/imaccess")
    }

    /// Values for an operator that works in these namespaces and its own, with the image that is on the nodes, and without the
    /// definition, which the harness applies. Without namespaces it works in all of them.
    ///
    /// # Errors
    /// When no image is named.
    pub fn values(&self, watched: &[&Namespace]) -> Result<Value> {
        let names: Vec<_> = watched.iter().map(|namespace| namespace.name.as_str()).collect();
        let mut values = json!({"watchNamespaces": names, "crds": {"enabled": false}});
        let image = image_values(self.environment.image()?);
        merge(&mut values, &json!({"image": image}));
        Ok(values)
    }

    /// Installs the operator into a namespace, which it works in, and waits until its Deployment is ready.
    ///
    /// # Errors
    /// When helm fails.
    pub async fn operator(&self, namespace: &Namespace) -> Result<Release> {
        let values = self.values(&[namespace])?;
        self.install(&self.chart(), namespace, &values).await
    }

    /// Installs a chart under the namespace's name, and waits until what it has is ready.
    ///
    /// # Errors
    /// When helm fails.
    pub async fn install(&self, chart: &Path, namespace: &Namespace, values: &Value) -> Result<Release> {
        let release = Release {
            name: namespace.name.clone(),
            namespace: namespace.name.clone(),
            chart: chart.to_owned(),
        };
        self.made()
            .releases
            .push((release.name.clone(), release.namespace.clone()));
        release.apply(self, "install", values, &["--wait"]).await?;
        Ok(release)
    }
}

impl Release {
    /// Upgrades it, to another chart or other values, and waits until what it has is ready.
    ///
    /// # Errors
    /// When helm fails.
    pub async fn upgrade(&mut self, kubernetes: &Kubernetes, chart: &Path, values: &Value) -> Result<()> {
        chart.clone_into(&mut self.chart);
        self.apply(kubernetes, "upgrade", values, &["--wait"]).await
    }

    /// Uninstalls it before the scenario's end.
    ///
    /// # Errors
    /// When helm fails.
    pub async fn uninstall(&self, kubernetes: &Kubernetes) -> Result<()> {
        uninstall(&kubernetes.environment, &self.name, &self.namespace).await
    }

    /// Runs the chart's tests, and returns what helm says.
    ///
    /// # Errors
    /// When one fails.
    pub async fn test(&self, kubernetes: &Kubernetes) -> Result<String> {
        let deadline = seconds(kubernetes, INSTALLED);
        let arguments = [
            "test",
            &self.name,
            "--namespace",
            &self.namespace,
            "--timeout",
            &deadline,
        ];
        helm(&kubernetes.environment, &arguments).await
    }

    async fn apply(&self, kubernetes: &Kubernetes, verb: &str, values: &Value, more: &[&str]) -> Result<()> {
        let directory = tempfile::tempdir()?;
        let file = write_values(directory.path(), values)?;
        let chart = self.chart.to_string_lossy().into_owned();
        let file = file.to_string_lossy().into_owned();
        let deadline = seconds(kubernetes, INSTALLED);
        let mut arguments = vec![
            verb,
            &self.name,
            &chart,
            "--namespace",
            &self.namespace,
            "--values",
            &file,
            "--timeout",
            &deadline,
        ];
        arguments.extend(more);
        if values["crds"]["enabled"] == json!(true) {
            // The harness's own apply made the definition; helm takes nothing over unless it is told to.
            arguments.push("--take-ownership");
        }
        helm(&kubernetes.environment, &arguments).await?;
        Ok(())
    }
}

/// Runs helm to its end and returns what it printed.
///
/// # Errors
/// When it can't be started, hangs or fails; with what it said.
pub async fn helm(environment: &Environment, arguments: &[&str]) -> Result<String> {
    run(&environment.helm, arguments, None).await
}

/// Runs kubectl to its end and returns what it printed.
///
/// # Errors
/// When it can't be started, hangs or fails; with what it said.
pub async fn kubectl(environment: &Environment, arguments: &[&str]) -> Result<String> {
    run(&environment.kubectl, arguments, None).await
}

/// As [`kubectl`], with text on its standard input.
///
/// # Errors
/// When it can't be started, hangs or fails; with what it said.
pub async fn kubectl_with(environment: &Environment, arguments: &[&str], input: &str) -> Result<String> {
    run(&environment.kubectl, arguments, Some(input)).await
}

async fn run(program: &Path, arguments: &[&str], input: Option<&str>) -> Result<String> {
    use tokio::io::AsyncWriteExt;
    let shown = format!("{} {}", program.display(), arguments.join(" "));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
    if let Some(input) = input {
        let mut pipe = child.stdin.take().context("standard input is piped")?;
        pipe.write_all(input.as_bytes()).await?;
    }
    let output = timeout(COMMAND, child.wait_with_output())
        .await
        .map_err(|_| anyhow!("{shown} didn't end within {COMMAND:?}"))??;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} ended with {}: {printed}{said}", output.status);
    }
    Ok(printed)
}

pub(super) async fn uninstall(environment: &Environment, name: &str, namespace: &str) -> Result<()> {
    let arguments = [
        "uninstall",
        name,
        "--namespace",
        namespace,
        "--ignore-not-found",
        "--wait",
    ];
    helm(environment, &arguments).await?;
    Ok(())
}

/// `repository` and `tag` of a reference.
#[must_use]
pub fn image_values(reference: &str) -> Value {
    // A colon before the last slash belongs to the registry's port.
    let name_at = reference.rfind('/').map_or(0, |at| at + 1);
    match reference[name_at..].rfind(':') {
        Some(at) => json!({
            "repository": reference[..name_at + at],
            "tag": reference[name_at + at + 1..],
        }),
        None => json!({"repository": reference, "tag": "latest"}),
    }
}

/// Puts `over` over `under`: maps field by field, everything else whole.
pub fn merge(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key.as_str()).or_insert(Value::Null), value);
            }
        }
        (under, over) => under.clone_from(over),
    }
}

/// JSON is YAML, so that no text needs quoting by hand.
fn write_values(directory: &Path, values: &Value) -> Result<PathBuf> {
    let path = directory.join("values.yaml");
    std::fs::write(&path, serde_json::to_vec(values)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn seconds(kubernetes: &Kubernetes, deadline: Duration) -> String {
    format!("{}s", kubernetes.environment.patience(deadline).as_secs().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_split_at_its_tag() {
        let table = [
            ("imaccess.io/imaccess:dev", "imaccess.io/imaccess", "dev"),
            ("localhost:5000/imaccess", "localhost:5000/imaccess", "latest"),
            ("localhost:5000/imaccess:1", "localhost:5000/imaccess", "1"),
        ];
        for (reference, repository, tag) in table {
            let values = image_values(reference);
            assert_eq!(
                values,
                json!({"repository": repository, "tag": tag}),
                "{reference}"
            );
        }
    }

    #[test]
    fn values_are_merged_field_by_field() {
        let mut values = json!({"image": {"tag": "a", "repository": "r"}, "list": [1, 2]});
        merge(&mut values, &json!({"image": {"tag": "b"}, "list": [3]}));
        assert_eq!(
            values,
            json!({"image": {"tag": "b", "repository": "r"}, "list": [3]})
        );
    }
}
