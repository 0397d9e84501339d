//! The tests, in a clone that shares nothing with this checkout.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::report::{Report, Size};

/// What is promised for a machine with two cores, in minutes.
const PROMISE_MINUTES: f64 = 60.0;

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("clean-checkout", size, seed);
    let directory = tempfile::Builder::new().prefix("imac-clone-").tempdir()?;
    let clone = directory.path().join("imaccess");
    let mut git = Command::new("git");
    git.args(["clone", "--quiet", "--no-hardlinks"])
        .arg(workspace()?)
        .arg(&clone);
    let status = git
        .stdin(Stdio::null())
        .status()
        .await
        .context("cannot start git")?;
    if !status.success() {
        bail!("git clone failed ({status})");
    }
    let start = Instant::now();
    let output = xtask(&clone, &["test"], Some(&directory.path().join("target"))).await?;
    report.at_most("minutes", start.elapsed().as_secs_f64() / 60.0, PROMISE_MINUTES);
    // The table of steps: name, seconds, result.
    let table = output
        .lines()
        .skip_while(|line| !line.starts_with("step "))
        .skip(1);
    for line in table.take_while(|line| !line.is_empty()) {
        let mut words = line.split_whitespace();
        if let (Some(step), Some(seconds)) = (
            words.next(),
            words.next().and_then(|text| text.parse::<f64>().ok()),
        ) {
            report.figure(&format!("seconds_{step}"), seconds);
        }
    }
    report.figure("result", output.lines().last().unwrap_or_default());
    Ok(report)
}

/// The checkout that is accepted.
pub(super) fn workspace() -> Result<PathBuf> {
    let path = std::env::var_os("IMACCESS_WORKSPACE")
        .context("IMACCESS_WORKSPACE isn't set: use cargo xtask accept")?;
    Ok(path.into())
}

/// Runs `cargo xtask` in a checkout, shows what it says, and returns it.
pub(super) async fn xtask(checkout: &Path, arguments: &[&str], target: Option<&Path>) -> Result<String> {
    let mut command = Command::new("cargo");
    command
        .arg("xtask")
        .args(arguments)
        .current_dir(checkout)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command.stderr(Stdio::inherit());
    // What cargo told us about our own build must not reach another checkout's.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_") && name != "CARGO_HOME" && name != "CARGO_TARGET_DIR"
        {
            command.env_remove(name);
        }
    }
    command.env_remove("IMACCESS_BINARY");
    if let Some(target) = target {
        command.env("CARGO_TARGET_DIR", target);
    }
    let output = command.output().await.context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    eprint!("{said}");
    if !output.status.success() {
        bail!("cargo xtask {} failed ({})", arguments.join(" "), output.status);
    }
    Ok(said)
}
