//! What a test does to nodes and can't do through the API server: lose one, and bring it back.

use std::env;

use anyhow::{Context, Result, bail};

use crate::kind;
use crate::layout::Layout;
use crate::lifecycle::{restart_node, stop_node};

/// Environment variable that says what kind of cluster the tests run on: `local` or `kind`.
pub(crate) const KIND_VARIABLE: &str = "IMACCESS_E2E_CLUSTER";

/// The nodes of the cluster that the tests run on.
#[derive(Clone, Debug)]
pub enum Nodes {
    /// Of the local cluster.
    Local(Layout),
    /// Containers of a container engine.
    Kind,
}

impl Nodes {
    /// Reads the environment that `cargo xtask e2e` sets.
    ///
    /// # Errors
    /// When the cluster is of another kind: its nodes are not ours to lose.
    pub fn from_environment() -> Result<Self> {
        match env::var(KIND_VARIABLE).as_deref() {
            Ok("local") => {
                let layout = Layout::from_environment().context("IMACCESS_CLUSTER_DIR isn't set")?;
                Ok(Self::Local(layout))
            }
            Ok("kind") => Ok(Self::Kind),
            _ => bail!("{KIND_VARIABLE} is neither `local` nor `kind`: nodes of this cluster can't be lost"),
        }
    }

    /// Loses the node as a power cut does: no FIN, no reset, nothing answers.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn stop(&self, name: &str) -> Result<()> {
        match self {
            Self::Local(layout) => stop_node(layout, name),
            Self::Kind => kind::stop_node(name),
        }
    }

    /// Starts it again; on the local cluster it is ready on return.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(&self, name: &str) -> Result<()> {
        match self {
            Self::Local(layout) => restart_node(layout, name),
            Self::Kind => kind::start_node(name),
        }
    }
}
