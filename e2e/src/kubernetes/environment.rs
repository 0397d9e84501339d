//! What `cargo xtask e2e` and `cargo xtask accept` prepared, as environment variables.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

/// With this variable, what a scenario made stays, for whoever looks into a failure.
pub const KEEP: &str = "IMACCESS_E2E_KEEP";

/// Whose cluster it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterKind {
    /// That of `e2e/cluster`: its nodes' processes are this machine's.
    Local,
    /// kind's: a node is a container.
    Kind,
    /// Someone else's.
    Given,
}

/// The variables.
#[derive(Clone, Debug)]
pub struct Environment {
    /// Whose cluster it is: `IMACCESS_E2E_CLUSTER`.
    pub cluster: ClusterKind,
    /// The image that is on all nodes: `IMACCESS_IMAGE`.
    pub image: Option<String>,
    /// helm: `HELM`, else found by `PATH`.
    pub helm: PathBuf,
    /// kubectl: `KUBECTL`, else found by `PATH`.
    pub kubectl: PathBuf,
    /// The API server's audit log, where it can be read: `IMACCESS_AUDIT_LOG`.
    pub audit_log: Option<PathBuf>,
    /// The words that stop and start a node, before the verb: `IMACCESS_E2E_NODE`.
    pub node_command: Option<Vec<String>>,
    /// The checkout: `IMACCESS_WORKSPACE`, else where this was built.
    pub workspace: PathBuf,
    /// By how much deadlines are stretched: `IMACCESS_E2E_PATIENCE`, 1 if nothing is said.
    pub patience: f64,
}

impl Environment {
    /// Reads them.
    ///
    /// # Errors
    /// When one doesn't parse.
    pub fn read() -> Result<Self> {
        let cluster = match env::var("IMACCESS_E2E_CLUSTER").as_deref() {
            Ok("local") => ClusterKind::Local,
            Ok("kind") => ClusterKind::Kind,
            _ => ClusterKind::Given,
        };
        let patience = match env::var("IMACCESS_E2E_PATIENCE") {
            Ok(text) => text
                .parse()
                .with_context(|| format!("IMACCESS_E2E_PATIENCE is no number: {text:?}"))?,
            Err(_) => 1.0,
        };
        let workspace = env::var_os("IMACCESS_WORKSPACE").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")),
            PathBuf::from,
        );
        Ok(Self {
            cluster,
            image: text("IMACCESS_IMAGE"),
            helm: path("HELM").unwrap_or_else(|| "helm".into()),
            kubectl: path("KUBECTL").unwrap_or_else(|| "kubectl".into()),
            audit_log: path("IMACCESS_AUDIT_LOG"),
            node_command: text("IMACCESS_E2E_NODE")
                .map(|text| text.split_whitespace().map(str::to_owned).collect()),
            workspace,
            patience,
        })
    }

    /// The image, for scenarios that run pods.
    ///
    /// # Errors
    /// When none is named.
    pub fn image(&self) -> Result<&str> {
        self.image
            .as_deref()
            .context("IMACCESS_IMAGE names no image: `cargo xtask e2e` loads one and names it")
    }

    /// A deadline as this machine needs it.
    #[must_use]
    pub fn patience(&self, deadline: Duration) -> Duration {
        deadline.mul_f64(self.patience.max(0.1))
    }

    /// A directory or file of the checkout.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        self.workspace.join(path)
    }
}

impl fmt::Display for ClusterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "the local cluster",
            Self::Kind => "kind",
            Self::Given => "a given cluster",
        })
    }
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}

fn path(name: &str) -> Option<PathBuf> {
    text(name).map(PathBuf::from)
}
