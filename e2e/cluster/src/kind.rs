//! The cluster of those who have a container engine: kind, with the nodes of `e2e/kind/config.yaml`.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::layout::Layout;
use crate::packages::{answers, is_root};
use crate::process::{command, output, succeed};

/// Name of the cluster.
pub const NAME: &str = "imaccess-e2e";
/// Environment variable with the node image to use: which Kubernetes it is. Without it, kind's own default.
pub const IMAGE_VARIABLE: &str = "IMACCESS_E2E_NODE_IMAGE";

/// The API server's audit log, which the configuration puts here.
#[must_use]
pub fn audit_log(workspace: &Path) -> PathBuf {
    workspace.join("target/cluster/kind-audit/audit.log")
}

/// Whether a container engine answers and kind is there.
#[must_use]
pub fn is_there() -> bool {
    answers("docker", &["version", "--format", "{{.Server.Version}}"]) && answers("kind", &["version"])
}

/// Credentials of the cluster's administrator.
#[must_use]
pub fn kubeconfig(layout: &Layout) -> PathBuf {
    layout.path("kind.kubeconfig")
}

/// Creates the cluster, unless it is there, and makes its pods reachable from this machine; answers whether it was there.
///
/// # Errors
/// When kind or the container engine fails.
pub fn up(layout: &Layout, workspace: &Path) -> Result<bool> {
    let there = output(&mut command("kind", ["get", "clusters"]))?;
    let credentials = kubeconfig(layout);
    let was_there = there.lines().any(|name| name == NAME);
    if was_there {
        println!("the kind cluster {NAME} is there already");
        succeed(command("kind", ["export", "kubeconfig", "--name", NAME, "--kubeconfig"]).arg(&credentials))?;
    } else {
        let mut create = command("kind", ["create", "cluster", "--name", NAME, "--wait", "180s"]);
        // Paths in the configuration are relative to it.
        create.current_dir(workspace);
        create
            .arg("--config")
            .arg(workspace.join("e2e/kind/config.yaml"))
            .arg("--kubeconfig")
            .arg(&credentials);
        if let Some(image) = env::var_os(IMAGE_VARIABLE).filter(|image| !image.is_empty()) {
            create.arg("--image").arg(image);
        }
        succeed(&mut create)?;
    }
    route_to_pods(&credentials)?;
    Ok(was_there)
}

/// Pods and Services of kind are behind its nodes, which this machine reaches by the engine's bridge.
fn route_to_pods(credentials: &Path) -> Result<()> {
    let mut get = command("kubectl", ["get", "nodes", "--output=json", "--kubeconfig"]);
    let list: Value = serde_json::from_str(&output(get.arg(credentials))?).context("the list of nodes")?;
    let mut services = None;
    for node in list["items"].as_array().into_iter().flatten() {
        let address = node["status"]["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|address| address["type"] == "InternalIP")
            .and_then(|address| address["address"].as_str());
        let (Some(pods), Some(address)) = (node["spec"]["podCIDR"].as_str(), address) else {
            continue;
        };
        services.get_or_insert_with(|| address.to_owned());
        route(pods, address)?;
    }
    // kind's default range, which the configuration keeps.
    services.map_or(Ok(()), |address| route("10.96.0.0/16", &address))
}

fn route(to: &str, via: &str) -> Result<()> {
    let mut words = vec!["ip", "route", "replace", to, "via", via];
    if !is_root() {
        words.splice(0..0, ["sudo", "--non-interactive"]);
    }
    succeed(&mut command(words[0], &words[1..]))
}

/// Loads an image archive on every node.
///
/// # Errors
/// When kind refuses it.
pub fn load(archive: &Path) -> Result<()> {
    succeed(command("kind", ["load", "image-archive", "--name", NAME]).arg(archive))
}

/// Deletes the cluster.
///
/// # Errors
/// When kind fails.
pub fn down() -> Result<()> {
    succeed(&mut command("kind", ["delete", "cluster", "--name", NAME]))
}

pub(crate) fn stop_node(name: &str) -> Result<()> {
    output(&mut command("docker", ["kill", name])).map(drop)
}

pub(crate) fn start_node(name: &str) -> Result<()> {
    output(&mut command("docker", ["start", name])).map(drop)
}
