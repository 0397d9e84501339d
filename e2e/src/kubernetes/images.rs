//! Another image of the same binary, for trying upgrades.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::Kubernetes;
use super::environment::ClusterKind;

/// The reference of the other image, where somebody has loaded it already.
const OTHER: &str = "IMACCESS_OTHER_IMAGE";

impl Kubernetes {
    /// Writes an image with another stamp and loads it on all nodes; returns its reference. Nothing, on a given cluster where
    /// `IMACCESS_OTHER_IMAGE` names none.
    ///
    /// # Errors
    /// When it can't be written or loaded.
    pub async fn other_image(&self, stamp: u32) -> Result<Option<String>> {
        if let Ok(reference) = std::env::var(OTHER) {
            return Ok(Some(reference));
        }
        if self.environment.cluster == ClusterKind::Given {
            return Ok(None);
        }
        let reference = format!("imaccess.io/imaccess:stamp-{stamp}");
        let directory = tempfile::tempdir()?;
        let archive = directory.path().join("image.tar");
        let archive = archive.to_string_lossy();
        let stamp = stamp.to_string();
        // The binary that is under test, which no test builds.
        let binary = crate::command::binary()?;
        let binary = binary.to_string_lossy();
        let words = [
            "image", "--stamp", &stamp, "--tag", &reference, "--output", &archive, "--binary", &binary,
        ];
        xtask(&self.environment.workspace, &words).await?;
        match self.environment.cluster {
            ClusterKind::Kind => {
                let words = ["load", "image-archive", &archive, "--name", "imaccess"];
                run(Command::new("kind").args(words)).await?;
            }
            _ => xtask(&self.environment.workspace, &["cluster", "load", &archive]).await?,
        }
        Ok(Some(reference))
    }
}

/// By the xtask that runs this, where one does: cargo would wait for whoever builds.
async fn xtask(workspace: &Path, words: &[&str]) -> Result<()> {
    let mut command = if let Some(program) = std::env::var_os("IMACCESS_XTASK") {
        Command::new(program)
    } else {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.arg("xtask");
        command
    };
    command.current_dir(workspace).args(words);
    // What starts test programs in the cluster's network must not start xtask there.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_TARGET_") && text.ends_with("_RUNNER") {
            command.env_remove(&name);
        }
    }
    run(&mut command).await
}

async fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{:?}", command.as_std());
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!(
            "{shown} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&said)
        );
    }
    Ok(())
}
