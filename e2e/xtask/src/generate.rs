//! `cargo xtask gen`: what is made from the code and stands in the tree.

use std::process::ExitCode;

use anyhow::Result;

use crate::workspace::{Workspace, succeed};

/// Writes it anew. A test of `imaccess-operator-api` fails while any of it is stale.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    succeed(&mut workspace.cargo([
        "run",
        "--quiet",
        "--release",
        "--package",
        "imaccess-operator-api",
        "--bin",
        "imaccess-gen",
    ]))?;
    Ok(ExitCode::SUCCESS)
}
