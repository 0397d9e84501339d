//! A real Prometheus server that scrapes the gateways' pods every second.
//!
//! A process of the test, not a pod: no registry is needed for an image of it. It listens on the address that this machine has
//! towards the nodes, so pods reach it. Debian builds it without discovery in Kubernetes, so the test writes the pods into a
//! file that the server follows, with the labels that discovery would give them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_operator_api::names::{Part, port};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::gateways::number;
use super::{Installation, Kubernetes};
use crate::logs::Logs;
use crate::wait::{Seen, wait_until};

/// Between two looks at the pods.
const DISCOVERY: Duration = Duration::from_millis(500);
/// It opens an empty database.
const READY: Duration = Duration::from_secs(60);

/// A running server. It ends when this is dropped.
pub struct Prometheus {
    /// Its address, for `spec.ipconfig.metrics.prometheus.url`.
    pub url: String,
    /// What it says.
    pub logs: Logs,
    _child: Child,
    /// Ends with it.
    _discovery: JoinSet<()>,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts it for the gateways of a cluster, which need not be there yet.
    ///
    /// # Errors
    /// When there is no Prometheus on this machine, or the server isn't ready in time.
    pub async fn start(kubernetes: &Kubernetes, cluster: &Installation) -> Result<Self> {
        let address = SocketAddr::new(towards_nodes(kubernetes).await?, free_port()?);
        let directory = tempfile::tempdir().context("a directory for Prometheus")?;
        let file = directory.path().join("prometheus.yaml");
        let pods = directory.path().join("pods.json");
        write(&pods, &json!([]))?;
        // JSON is YAML, so that no text needs quoting by hand.
        write(&file, &configuration(&pods))?;
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
        let mut discovery = JoinSet::new();
        discovery.spawn(discover(cluster.clone(), pods));
        let server = Self {
            url: format!("http://{address}"),
            logs,
            _child: child,
            _discovery: discovery,
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

/// Scrapes what the file names.
fn configuration(targets: &Path) -> Value {
    json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "800ms"},
        "scrape_configs": [{
            "job_name": "imaccess-gateways",
            "file_sd_configs": [{"files": [targets], "refresh_interval": "1s"}],
        }],
    })
}

/// The pods as targets, each with its namespace and name, as `examples/prometheus.yaml` has it.
fn targets(pods: &[Pod]) -> Value {
    let target = |pod: &Pod| {
        let ip: IpAddr = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
        let (namespace, name) = (pod.metadata.namespace.as_ref()?, pod.metadata.name.as_ref()?);
        Some(json!({
            "targets": [SocketAddr::new(ip, number(port::GATEWAY_PAGES)).to_string()],
            "labels": {"namespace": namespace, "pod": name},
        }))
    };
    Value::Array(pods.iter().filter_map(target).collect())
}

/// Writes the pods into the file whenever they are others, for as long as the server runs.
async fn discover(cluster: Installation, file: PathBuf) {
    let mut written = Value::Null;
    let mut ticks = interval(DISCOVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // What can't be listed now stays as it was, as with discovery proper.
        let Ok(pods) = cluster.pods(Part::Gateway).await else {
            continue;
        };
        let now = targets(&pods);
        if now != written && write(&file, &now).is_ok() {
            written = now;
        }
    }
}

/// Whole or not at all: the server reads while this writes.
fn write(file: &Path, value: &Value) -> Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(value)?)
        .and_then(|()| std::fs::rename(&new, file))
        .with_context(|| format!("cannot write {}", file.display()))
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
    fn pods_with_an_address_are_targets_with_their_names() {
        let pod = |ip: Option<&str>| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "demo-gateway-x", "namespace": "shop"},
                "status": {"podIP": ip},
            }))
            .unwrap()
        };
        let expected = json!([{
            "targets": ["10.0.0.1:9300"],
            "labels": {"namespace": "shop", "pod": "demo-gateway-x"},
        }]);
        assert_eq!(targets(&[pod(None), pod(Some("10.0.0.1"))]), expected);
    }
}
