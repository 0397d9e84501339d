//! Programs that come from Debian packages, through apt-get.
//!
//! What would start a service when installed is unpacked into the target directory instead, which needs no root
//! either; what belongs to the system (iptables and its modules) is installed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::process::{command, succeed};

/// Where system programs are when `PATH` doesn't say so (a user's `PATH` on Debian has no `sbin`).
const SYSTEM: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Whether the program starts and ends well with these arguments.
#[must_use]
pub fn answers(program: &str, arguments: &[&str]) -> bool {
    command(program, arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The path of a program, if it is there.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM.map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The path of a program: the installed one, else the one that is unpacked from its package into `directory`.
///
/// # Errors
/// When the package can't be had, or hasn't the program.
pub fn unpacked(program: &str, package: &str, directory: &Path) -> Result<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    let places = ["usr/bin", "usr/sbin", "bin", "sbin"];
    let place = || {
        places
            .iter()
            .map(|place| directory.join(place).join(program))
            .find(|path| path.is_file())
    };
    if place().is_none() {
        unpack(package, directory)?;
    }
    place().with_context(|| format!("the Debian package {package} has no {program}"))
}

/// Unpacks a package into a directory.
///
/// # Errors
/// When it can't be downloaded or unpacked.
pub fn unpack(package: &str, directory: &Path) -> Result<()> {
    println!(
        "unpacking the Debian package {package} into {}",
        directory.display()
    );
    let downloads = directory.join("packages").join(package);
    fs::create_dir_all(&downloads).with_context(|| format!("cannot create {}", downloads.display()))?;
    let mut download = command("apt-get", ["download", package]);
    download.current_dir(&downloads);
    if succeed(&mut download).is_err() {
        // A machine that never asked for packages (a fresh container) has no lists yet.
        succeed(&mut as_root(&["update"]))?;
        succeed(&mut download)?;
    }
    let archive = fs::read_dir(&downloads)?
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

/// Installs packages, with apt-get's own progress shown.
///
/// # Errors
/// When apt-get fails, or needs a password.
pub fn install(packages: &[&str]) -> Result<()> {
    println!("installing Debian packages: {}", packages.join(" "));
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(packages);
    if succeed(&mut as_root(&arguments)).is_err() {
        succeed(&mut as_root(&["update"]))?;
        succeed(&mut as_root(&arguments))
            .with_context(|| format!("install them by hand: {}", packages.join(" ")))?;
    }
    Ok(())
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The local cluster makes namespaces and mounts.
pub(crate) fn must_be_root() -> Result<()> {
    if !is_root() {
        bail!(
            "the local cluster needs root: run the same command by `sudo --preserve-env=PATH,HOME`, or let KUBECONFIG point to a \
             cluster"
        );
    }
    Ok(())
}

fn as_root(arguments: &[&str]) -> Command {
    let mut command = Command::new(if is_root() { "apt-get" } else { "sudo" });
    if !is_root() {
        // Never ask for a password in the middle of a run: say what is missing instead.
        command.args(["--non-interactive", "apt-get"]);
    }
    command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null());
    command
}

/// Programs of the machine that the local cluster runs.
pub(crate) struct System {
    pub(crate) etcd: PathBuf,
    pub(crate) containerd: PathBuf,
    pub(crate) ctr: PathBuf,
    pub(crate) runc: PathBuf,
    pub(crate) busybox: PathBuf,
    /// Directory of the network plugins.
    pub(crate) cni: PathBuf,
}

impl System {
    /// Finds them all, and fetches those that are missing.
    pub(crate) fn find(tools: &Path) -> Result<Self> {
        must_be_root()?;
        // A program of each package that belongs to the system.
        let needed = [
            ("iptables", "iptables"),
            ("conntrack", "conntrack"),
            ("ip", "iproute2"),
            ("nsenter", "util-linux"),
            ("mount", "mount"),
            ("openssl", "openssl"),
        ];
        let missing: Vec<_> = needed
            .iter()
            .filter(|(program, _)| find(program).is_none())
            .map(|(_, package)| *package)
            .collect();
        if !missing.is_empty() {
            install(&missing)?;
        }
        let plugins = [PathBuf::from("/usr/lib/cni"), tools.join("usr/lib/cni")];
        let has_plugins = || plugins.iter().find(|path| path.join("ptp").is_file()).cloned();
        if has_plugins().is_none() {
            unpack("containernetworking-plugins", tools)?;
        }
        Ok(Self {
            etcd: unpacked("etcd", "etcd-server", tools)?,
            containerd: unpacked("containerd", "containerd", tools)?,
            ctr: unpacked("ctr", "containerd", tools)?,
            runc: unpacked("runc", "runc", tools)?,
            busybox: busybox(tools)?,
            cni: has_plugins().context("the package containernetworking-plugins has no ptp")?,
        })
    }
}

/// The static busybox: an installed one may be linked against libraries that an image hasn't.
pub(crate) fn busybox(tools: &Path) -> Result<PathBuf> {
    let path = tools.join("bin/busybox");
    if !path.is_file() {
        unpack("busybox-static", tools)?;
    }
    Ok(path)
}
