//! A real Prometheus server that finds the gateways' pods by itself and scrapes them every second.
//!
//! A process of the test, not a pod: no registry is needed for an image of it. It listens on the address that this machine has
//! towards the nodes, so pods reach it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_operator_api::names::{Names, Part, port};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::Kubernetes;
use crate::logs::Logs;
use crate::wait::{Seen, wait_until};

/// It opens an empty database.
const READY: Duration = Duration::from_secs(60);

/// A running server. It ends when this is dropped.
pub struct Prometheus {
    /// Its address, for `spec.ipconfig.metrics.prometheus.url`.
    pub url: String,
    /// What it says.
    pub logs: Logs,
    _child: Child,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts it for the gateways of a cluster, which need not be there yet.
    ///
    /// # Errors
    /// When there is no Prometheus on this machine, no kubeconfig, or the server isn't ready in time.
    pub async fn start(kubernetes: &Kubernetes, names: &Names) -> Result<Self> {
        let address = SocketAddr::new(towards_nodes(kubernetes).await?, free_port()?);
        let directory = tempfile::tempdir().context("a directory for Prometheus")?;
        let file = directory.path().join("prometheus.yaml");
        let configuration = configuration(names, &kubeconfig()?);
        // JSON is YAML, so that no text needs quoting by hand.
        std::fs::write(&file, serde_json::to_vec(&configuration)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
        let program = program();
        let mut command = Command::new(&program);
        command
            .arg("--config.file")
            .arg(&file)
            .arg("--storage.tsdb.path")
            .arg(directory.path().join("data"))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| {
            format!(
                "cannot start {}: install the Debian package prometheus, or name the program by PROMETHEUS",
                program.display()
            )
        })?;
        let logs = Logs::default();
        logs.follow(child.stderr.take().context("standard error is piped")?);
        let server = Self {
            url: format!("http://{address}"),
            logs,
            _child: child,
            _directory: directory,
        };
        server.answers("/-/ready", |_| true).await?;
        Ok(server)
    }

    /// Waits until so many gateways are scraped well.
    ///
    /// # Errors
    /// When they aren't in time.
    pub async fn scrapes(&self, gateways: usize) -> Result<()> {
        let path =
            "/api/v1/query?query=count(imaccess_gateway_connections%20and%20on(pod)%20up%20%3D%3D%201)";
        self.answers(path, |body| {
            let answer: Value = serde_json::from_str(body).unwrap_or_default();
            answer["data"]["result"][0]["value"][1] == json!(gateways.to_string())
        })
        .await
    }

    async fn answers(&self, path: &str, good: impl Fn(&str) -> bool) -> Result<()> {
        let url = format!("{}{path}", self.url);
        let http = reqwest::Client::builder().no_proxy().timeout(READY).build()?;
        let waited = wait_until(&format!("{url} answers well"), READY, async || {
            let answer = match http.get(&url).send().await {
                Ok(answer) => answer,
                Err(error) => return Ok(Seen::NotYet(error.to_string())),
            };
            let (status, body) = (answer.status(), answer.text().await?);
            Ok(if status.is_success() && good(&body) {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("{status}: {body}"))
            })
        })
        .await;
        waited.with_context(|| format!("Prometheus' log ends with:\n{}", self.logs.tail(20)))
    }
}

/// As `examples/prometheus.yaml` tells people to scrape: the pods by their labels, each with its namespace and name.
fn configuration(names: &Names, kubeconfig: &str) -> Value {
    let labels = names.selector(Part::Gateway);
    let keep = |(label, value): (&String, &String)| {
        let meta: String = label
            .chars()
            .map(|character| {
                if character.is_ascii_alphanumeric() {
                    character
                } else {
                    '_'
                }
            })
            .collect();
        json!({
            "source_labels": [format!("__meta_kubernetes_pod_label_{meta}")],
            "regex": value,
            "action": "keep",
        })
    };
    let mut relabel: Vec<_> = labels.iter().map(keep).collect();
    relabel.extend([
        // One target a pod, whatever ports it declares.
        json!({"source_labels": ["__meta_kubernetes_pod_container_name"], "regex": "gateway", "action": "keep"}),
        json!({
            "source_labels": ["__meta_kubernetes_pod_ip"],
            "replacement": format!("$1:{}", port::GATEWAY_PAGES),
            "target_label": "__address__",
        }),
        json!({"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"}),
        json!({"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"}),
    ]);
    json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "800ms"},
        "scrape_configs": [{
            "job_name": "imaccess-gateways",
            "kubernetes_sd_configs": [{
                "role": "pod",
                "kubeconfig_file": kubeconfig,
                "namespaces": {"names": [names.namespace]},
            }],
            "relabel_configs": relabel,
        }],
    })
}

/// The program: `PROMETHEUS`, else beside `PROMTOOL`, which comes from the same package, else by `PATH`.
fn program() -> PathBuf {
    let named = std::env::var_os("PROMETHEUS").map(PathBuf::from);
    let beside = || {
        let promtool = PathBuf::from(std::env::var_os("PROMTOOL")?);
        Some(promtool.with_file_name("prometheus")).filter(|path| path.is_file())
    };
    named.or_else(beside).unwrap_or_else(|| "prometheus".into())
}

fn kubeconfig() -> Result<String> {
    let path = std::env::var("KUBECONFIG").context("KUBECONFIG names no file")?;
    let path = std::path::absolute(&path).with_context(|| format!("no path: {path}"))?;
    Ok(path.to_string_lossy().into_owned())
}

/// This machine's address on its way to the nodes. Nothing is sent to find it.
pub(crate) async fn towards_nodes(kubernetes: &Kubernetes) -> Result<IpAddr> {
    let api: Api<Node> = Api::all(kubernetes.client.clone());
    let nodes = api
        .list(&ListParams::default())
        .await
        .context("cannot list nodes")?;
    let addresses = nodes.items.iter().flat_map(|node| {
        let status = node.status.iter();
        status.flat_map(|status| status.addresses.iter().flatten())
    });
    let internal = addresses
        .filter(|address| address.type_ == "InternalIP")
        .find_map(|address| address.address.parse::<IpAddr>().ok())
        .context("no node has an internal address")?;
    let any: IpAddr = if internal.is_ipv4() {
        [0_u8; 4].into()
    } else {
        [0_u16; 8].into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket
        .connect((internal, 9))
        .with_context(|| format!("no route to the node at {internal}"))?;
    Ok(socket.local_addr()?.ip())
}

/// A port that nobody had a moment ago: Prometheus doesn't say which one it was given.
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("0.0.0.0", 0)).context("a free port")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_kept_by_the_cluster_s_labels_and_named() {
        let written = configuration(&Names::new("demo", "shop"), "/k").to_string();
        for part in [
            "__meta_kubernetes_pod_label_app_kubernetes_io_instance",
            "\"demo\"",
            "$1:9300",
            "\"namespaces\":{\"names\":[\"shop\"]}",
            "\"target_label\":\"pod\"",
        ] {
            assert!(written.contains(part), "{part} in {written}");
        }
    }
}
