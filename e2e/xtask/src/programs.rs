//! Programs that a test needs and cargo does not provide: fetched once, as Debian packages through apt-get.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use imaccess_cluster::packages;

use crate::workspace::Workspace;

pub(crate) use packages::answers;

/// Makes sure that python3 is there.
pub(crate) fn python3() -> Result<()> {
    if answers("python3", &["--version"]) {
        return Ok(());
    }
    packages::install(&["python3"]).context("python3 is needed for the protocol's second decoder")
}

/// The path of promtool. Its package, `prometheus`, is unpacked into the target directory rather than
/// installed: that needs no root, and starts no Prometheus server on the developer's machine.
pub(crate) fn promtool(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(path) = env::var_os("PROMTOOL") {
        return Ok(path.into());
    }
    let promtool = packages::unpacked("promtool", "prometheus", &workspace.target.join("tools"))?;
    if !answers(&promtool.to_string_lossy(), &["--version"]) {
        bail!("{} does not start", promtool.display());
    }
    Ok(promtool)
}

/// The path of a Prometheus server, for the tests that let one scrape pods; unpacked as promtool is.
pub(crate) fn prometheus(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(path) = env::var_os("PROMETHEUS") {
        return Ok(path.into());
    }
    packages::unpacked("prometheus", "prometheus", &workspace.target.join("tools"))
}
