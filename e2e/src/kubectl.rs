//! A Kubernetes cluster under test, by `kubectl`: the one that `cargo xtask e2e` prepared, or that `KUBECONFIG` names.

use std::env;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::wait::{Seen, wait_until};

/// No call of `kubectl` takes longer, but for those that wait for something, which say how long.
const CALL: Duration = Duration::from_secs(60);

/// The image of the binary under test, as pods name it.
///
/// # Errors
/// When `IMACCESS_IMAGE` isn't set: the test was not started by `cargo xtask e2e`.
pub fn image() -> Result<String> {
    env::var("IMACCESS_IMAGE").context("IMACCESS_IMAGE isn't set: run these tests by `cargo xtask e2e`")
}

/// Image with a shell, `nslookup`, `wget`, `httpd` and `nc`; there on the local cluster and on kind. (Its `wget -T` crashes:
/// `timeout 5 wget` instead.)
pub const TOOLBOX: &str = "imaccess.io/toolbox:1";

/// What the Pod Security level `restricted` asks of a container.
#[must_use]
pub fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "runAsNonRoot": true,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// Runs `kubectl` to its end and returns what it printed.
///
/// # Errors
/// When it can't be started, doesn't end within a minute, or fails; with what it complained of.
pub async fn kubectl(arguments: &[&str]) -> Result<String> {
    kubectl_with(arguments, "", CALL).await
}

/// As [`kubectl`], with text on standard input and another deadline.
///
/// # Errors
/// As there.
pub async fn kubectl_with(arguments: &[&str], input: &str, deadline: Duration) -> Result<String> {
    let mut child = Command::new("kubectl")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start kubectl")?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    let shown = || format!("`kubectl {}`", arguments.join(" "));
    let run = async {
        // A command that reads nothing may have closed it.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = timeout(deadline, run)
        .await
        .with_context(|| format!("{} didn't end within {deadline:?}", shown()))?
        .with_context(shown)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} ({}): {}", shown(), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `kubectl … --output=json` printed.
///
/// # Errors
/// As [`kubectl`].
pub async fn json(arguments: &[&str]) -> Result<Value> {
    let mut all = arguments.to_vec();
    all.push("--output=json");
    serde_json::from_str(&kubectl(&all).await?).context("kubectl printed no JSON")
}

/// Names of the nodes that pods run on: all without a taint that keeps them off.
///
/// # Errors
/// As [`kubectl`].
pub async fn workers() -> Result<Vec<String>> {
    let list = json(&["get", "nodes"]).await?;
    let nodes = list["items"].as_array().into_iter().flatten();
    Ok(nodes
        .filter(|node| {
            node["spec"]["taints"].as_array().is_none_or(|taints| {
                taints
                    .iter()
                    .all(|taint| taint["key"] != "node-role.kubernetes.io/control-plane")
            })
        })
        .filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned))
        .collect())
}

/// Whether the node's condition `Ready` is `True`, as the API server knows it.
///
/// # Errors
/// As [`kubectl`], and when there is no such node.
pub async fn is_ready(node: &str) -> Result<bool> {
    let node = json(&["get", "node", node]).await?;
    let conditions = node["status"]["conditions"].as_array();
    Ok(conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
}

/// A namespace of one test: the level `restricted` is enforced in it. Deleted when dropped.
#[derive(Debug)]
pub struct Namespace {
    /// Its name, which no other test has.
    pub name: String,
}

impl Namespace {
    /// Creates one whose name starts with this.
    ///
    /// # Errors
    /// As [`kubectl`].
    pub async fn create(prefix: &str) -> Result<Self> {
        let name = format!("{prefix}-{:08x}", fastrand::u32(..));
        let manifest = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
        });
        kubectl_with(&["create", "--filename=-"], &manifest.to_string(), CALL).await?;
        Ok(Self { name })
    }

    /// Runs `kubectl` in the namespace.
    ///
    /// # Errors
    /// As [`kubectl`].
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", &self.name];
        all.extend(arguments);
        kubectl(&all).await
    }

    /// What `kubectl … --output=json` printed in the namespace.
    ///
    /// # Errors
    /// As [`kubectl`].
    pub async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = vec!["--namespace", &self.name];
        all.extend(arguments);
        json(&all).await
    }

    /// Applies objects in the namespace.
    ///
    /// # Errors
    /// As [`kubectl`]; the API server's refusal is in the message.
    pub async fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        let arguments = ["--namespace", &self.name, "apply", "--filename=-"];
        kubectl_with(&arguments, &list.to_string(), CALL).await.map(drop)
    }

    /// Waits until all replicas of a Deployment are available, and none of an older revision is left.
    ///
    /// # Errors
    /// When they aren't in time, with the state of its pods.
    pub async fn available(&self, deployment: &str, deadline: Duration) -> Result<()> {
        wait_until(
            &format!("Deployment {deployment} is available"),
            deadline,
            async || {
                let seen = self.json(&["get", "deployment", deployment]).await?;
                let (spec, status) = (&seen["spec"], &seen["status"]);
                let wanted = spec["replicas"].as_i64();
                let done = status["availableReplicas"].as_i64() == wanted
                    && status["updatedReplicas"].as_i64() == wanted
                    && status["replicas"].as_i64() == wanted
                    && status["observedGeneration"] == seen["metadata"]["generation"];
                if done {
                    return Ok(Seen::Yes(()));
                }
                Ok(Seen::NotYet(
                    self.kubectl(&["get", "pods", "--output=wide"]).await?,
                ))
            },
        )
        .await
    }

    /// The running pods with this label that are not being deleted.
    ///
    /// # Errors
    /// As [`kubectl`].
    pub async fn pods(&self, selector: &str) -> Result<Vec<Pod>> {
        let list = self.json(&["get", "pods", "--selector", selector]).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| {
                pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
            })
            .map(|pod| Pod {
                name: text(&pod["metadata"]["name"]),
                uid: text(&pod["metadata"]["uid"]),
                node: text(&pod["spec"]["nodeName"]),
                address: text(&pod["status"]["podIP"]),
            })
            .collect())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not waited for: nobody uses the name again.
        let _ = std::process::Command::new("kubectl")
            .args(["delete", "namespace", &self.name, "--wait=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status();
    }
}

/// A running pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The node that it runs on.
    pub node: String,
    /// Its address.
    pub address: String,
}

/// Prints how long each step of a test took.
#[derive(Debug)]
pub struct Clock {
    last: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { last: Instant::now() }
    }
}

impl Clock {
    /// Says that this was done since the last step.
    pub fn step(&mut self, what: &str) {
        println!("  {:>6.1} s  {what}", self.last.elapsed().as_secs_f64());
        self.last = Instant::now();
    }
}
