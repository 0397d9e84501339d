//! Python programs from PyPI, each set in an environment of its own beside the binary: made once, and again when its list changes.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use imaccess_cluster::packages;
use tokio::process::Command;
use tokio::time::timeout;

use crate::command::binary;

/// For fetching and installing a few dozen packages.
const INSTALLATION: Duration = Duration::from_secs(300);

/// An environment with what a list of requirements names.
#[derive(Debug, Clone)]
pub struct Python {
    directory: PathBuf,
}

impl Python {
    /// The environment `name` with the packages of this list (`requirements`: a file of pip's).
    ///
    /// # Errors
    /// When Python or its packages can't be had.
    pub async fn with(name: &str, requirements: &Path) -> Result<Self> {
        let list = std::fs::read_to_string(requirements)
            .with_context(|| format!("can't read {}", requirements.display()))?;
        let mut hasher = DefaultHasher::new();
        list.hash(&mut hasher);
        let beside = binary()?;
        let beside = beside.parent().context("the binary's directory")?;
        let directory = beside
            .join("python")
            .join(format!("{name}-{:016x}", hasher.finish()));
        let python = Self { directory };
        let ready = python.directory.join("ready");
        if ready.is_file() {
            return Ok(python);
        }
        if !packages::answers("python3", &["-c", "import venv, ensurepip"]) {
            packages::install(&["python3", "python3-venv"]).context("Python is needed for this scenario")?;
        }
        eprintln!("installing the Python packages of {name}, once…");
        // What an interrupted attempt left would look whole.
        let _ = std::fs::remove_dir_all(&python.directory);
        succeed(
            Command::new("python3")
                .args(["-m", "venv"])
                .arg(&python.directory),
            INSTALLATION,
        )
        .await?;
        let mut install = python.program("pip");
        install.args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ]);
        succeed(install.arg(requirements), INSTALLATION).await?;
        std::fs::write(&ready, "")?;
        Ok(python)
    }

    /// A program of the environment.
    #[must_use]
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.directory.join("bin").join(name));
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// When it fails, with what it said, or doesn't end in time.
pub async fn succeed(command: &mut Command, deadline: Duration) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    let output = timeout(deadline, command.output())
        .await
        .with_context(|| format!("{shown} didn't end within {deadline:?}"))?
        .with_context(|| format!("cannot run {shown}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} ended with {}:\n{printed}{said}", output.status);
    }
    Ok(printed)
}
