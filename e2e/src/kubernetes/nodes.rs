//! Nodes that are lost and started again.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use imaccess_cluster::Nodes;
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
        self.environment.node_command.is_some() || self.environment.cluster != ClusterKind::Given
    }

    /// Loses a node as a power cut does.
    ///
    /// # Errors
    /// When it can't be done here.
    pub async fn stop_node(&self, name: &str) -> Result<()> {
        self.node_verb(Verb::Stop, name).await
    }

    /// Starts a lost node and waits until it is ready.
    ///
    /// # Errors
    /// When it doesn't come back.
    pub async fn start_node(&self, name: &str) -> Result<()> {
        self.node_verb(Verb::Start, name).await?;
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

    async fn node_verb(&self, verb: Verb, name: &str) -> Result<()> {
        let Some(words) = self.environment.node_command.clone() else {
            return own_node(verb, name.to_owned()).await;
        };
        let (program, more) = words.split_first().context("IMACCESS_E2E_NODE is empty")?;
        let status = Command::new(program)
            .args(more)
            .args([verb.as_str(), name])
            .stdin(Stdio::null())
            .status()
            .await
            .with_context(|| format!("cannot start {program}"))?;
        if !status.success() {
            bail!(
                "`{} {} {name}` ended with {status}",
                words.join(" "),
                verb.as_str()
            );
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Verb {
    Stop,
    Start,
}

impl Verb {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Start => "start",
        }
    }
}

/// On a thread of its own: it blocks until the node is away or back.
async fn own_node(verb: Verb, name: String) -> Result<()> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let outcome = Nodes::from_environment().and_then(|nodes| match verb {
            Verb::Stop => nodes.stop(&name),
            Verb::Start => nodes.start(&name),
        });
        // Whoever asked may have given up meanwhile.
        let _ = done.send(outcome);
    });
    outcome.await.context("the thread that does it has ended")?
}
