//! Nodes that are lost and started again.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use tokio::process::Command;

use super::Kubernetes;
use super::environment::ClusterKind;
use crate::wait::Seen;

/// A node that starts has its pods' network to set up.
const STARTED: Duration = Duration::from_secs(120);

impl Kubernetes {
    /// Names of the nodes that pods run on, sorted.
    ///
    /// # Errors
    /// When the API server doesn't list them.
    pub async fn workers(&self) -> Result<Vec<String>> {
        let api: Api<Node> = Api::all(self.client.clone());
        let nodes = api
            .list(&ListParams::default())
            .await
            .context("cannot list nodes")?;
        let mut names: Vec<_> = nodes
            .into_iter()
            .filter(|node| {
                let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
                !taints
                    .into_iter()
                    .flatten()
                    .any(|taint| taint.key.ends_with("/control-plane"))
            })
            .filter_map(|node| node.metadata.name)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Whether nodes can be lost here.
    #[must_use]
    pub fn can_lose_nodes(&self) -> bool {
        self.environment.node_command.is_some() || self.environment.cluster == ClusterKind::Kind
    }

    /// Loses a node as a power cut does.
    ///
    /// # Errors
    /// When it can't be done here.
    pub async fn stop_node(&self, name: &str) -> Result<()> {
        self.node_verb("stop", name).await
    }

    /// Starts a lost node and waits until it is ready.
    ///
    /// # Errors
    /// When it doesn't come back.
    pub async fn start_node(&self, name: &str) -> Result<()> {
        self.node_verb("start", name).await?;
        self.node_is(name, true, STARTED).await
    }

    /// Waits until the node's condition `Ready` is true, or isn't.
    ///
    /// # Errors
    /// When it doesn't change in time.
    pub async fn node_is(&self, name: &str, ready: bool, deadline: Duration) -> Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        self.until(&format!("{name} is ready: {ready}"), deadline, async || {
            let status = api.get(name).await?.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let now = conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True");
            Ok(if now == ready {
                Seen::Yes(())
            } else {
                Seen::NotYet(now)
            })
        })
        .await
    }

    async fn node_verb(&self, verb: &str, name: &str) -> Result<()> {
        let words = match (&self.environment.node_command, self.environment.cluster) {
            (Some(words), _) => words.clone(),
            (None, ClusterKind::Kind) => vec!["docker".to_owned()],
            _ => bail!("nodes can't be lost here: IMACCESS_E2E_NODE names no command"),
        };
        let (program, more) = words.split_first().context("IMACCESS_E2E_NODE is empty")?;
        let status = Command::new(program)
            .args(more)
            .args([verb, name])
            .stdin(Stdio::null())
            .status()
            .await
            .with_context(|| format!("cannot start {program}"))?;
        if !status.success() {
            bail!("`{} {verb} {name}` ended with {status}", words.join(" "));
        }
        Ok(())
    }
}
