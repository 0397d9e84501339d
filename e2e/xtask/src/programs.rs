//! Programs that a test needs and cargo does not provide: fetched once, as Debian packages through apt-get.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, status, succeed};

/// Whether the program starts and ends well with these arguments.
pub(crate) fn answers(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Makes sure that python3 is there.
pub(crate) fn python3() -> Result<()> {
    if answers("python3", &["--version"]) {
        return Ok(());
    }
    println!("python3 is missing: installing the Debian package python3");
    let arguments = ["install", "--yes", "--no-install-recommends", "python3"];
    if !status(&mut as_root(&arguments))?.success() {
        refresh_lists()?;
        succeed(&mut as_root(&arguments)).context("python3 is needed for the protocol's second decoder")?;
    }
    Ok(())
}

/// The path of promtool. Its package, `prometheus`, is unpacked into the target directory rather than
/// installed: that needs no root, and starts no Prometheus server on the developer's machine.
pub(crate) fn promtool(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(path) = env::var_os("PROMTOOL") {
        return Ok(path.into());
    }
    if answers("promtool", &["--version"]) {
        return Ok("promtool".into());
    }
    let directory = workspace.target.join("tools");
    let promtool = directory.join("usr/bin/promtool");
    if !promtool.exists() {
        println!(
            "promtool is missing: unpacking the Debian package prometheus into {}",
            directory.display()
        );
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        unpack("prometheus", &directory)?;
    }
    if !answers(&promtool.to_string_lossy(), &["--version"]) {
        bail!("{} does not start", promtool.display());
    }
    Ok(promtool)
}

fn unpack(package: &str, directory: &Path) -> Result<()> {
    let mut download = Command::new("apt-get");
    download
        .args(["download", package])
        .current_dir(directory)
        .stdin(Stdio::null());
    if !status(&mut download)?.success() {
        refresh_lists()?;
        succeed(&mut download)?;
    }
    let archive = fs::read_dir(directory)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get downloaded no .deb file")?;
    succeed(
        Command::new("dpkg-deb")
            .arg("--extract")
            .arg(&archive)
            .arg(directory),
    )?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

/// A machine that never asked for packages (a fresh container) has no lists yet.
fn refresh_lists() -> Result<()> {
    succeed(&mut as_root(&["update"]))
}

fn as_root(arguments: &[&str]) -> Command {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n");
    let mut command = Command::new(if root { "apt-get" } else { "sudo" });
    if !root {
        // Never ask for a password in the middle of a test run: say what is missing instead.
        command.args(["--non-interactive", "apt-get"]);
    }
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}
