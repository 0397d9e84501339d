//! `cargo xtask e2e`: the tests that need a Kubernetes cluster, on the one that `KUBECONFIG` names, or on one of ours.
//!
//! They are ordinary tests of cargo in `e2e/tests/k8s_*.rs`, ignored unless asked for, because they need what this
//! verb prepares: a cluster, the image of the binary on its nodes, `kubectl` and `helm`. On the local cluster the test
//! programs run *outside* of the nodes but in the cluster's network, so that they reach pods and Services.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;
use imaccess_cluster::{Layout, Record, check, down, kind, load, outside, toolbox, up};

use crate::cluster::path_with;
use crate::workspace::{Workspace, status, succeed};
use crate::{image, programs};

/// Which tests, and where.
#[derive(Args)]
pub(crate) struct Options {
    /// Run the tests whose name contains this.
    filter: Option<String>,
    /// Leave the cluster running, if this run created it.
    #[arg(long)]
    keep: bool,
}

/// A cluster to test on.
pub(crate) enum Cluster {
    /// Someone else's; the image must be there, under the name that `IMACCESS_IMAGE` says.
    Given,
    /// kind's, and whether it was there before.
    Kind { was_there: bool },
    /// Ours, and whether it ran before.
    Local { record: Record, ran_before: bool },
}

/// Prepares, runs the tests, and ends the cluster if this run created it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let layout = Layout::new(&workspace.target);
    succeed(&mut workspace.cargo(["build", "--release", "-p", "imaccess"]))?;
    let names = test_programs(workspace)?;
    let cluster = Cluster::find_or_create(workspace, &layout)?;
    let outcome = cluster.load(workspace, &layout).and_then(|()| {
        let mut command = workspace.cargo(["test", "--release", "-p", "imaccess-e2e"]);
        arguments(&mut command, &names, options.filter.as_deref());
        cluster.environment(workspace, &layout, &mut command)?;
        status(&mut command)
    });
    if !options.keep {
        cluster.end(&layout)?;
    }
    Ok(if outcome?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Names of the test programs that need a cluster.
pub(crate) fn test_programs(workspace: &Workspace) -> Result<Vec<String>> {
    let directory = workspace.root.join("e2e/tests");
    let mut names: Vec<_> = fs::read_dir(&directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .filter(|name| name.starts_with("k8s_"))
        .collect();
    names.sort();
    if names.is_empty() {
        bail!("{} has no k8s_*.rs", directory.display());
    }
    Ok(names)
}

/// What comes after `cargo test`.
pub(crate) fn arguments(command: &mut Command, programs: &[String], filter: Option<&str>) {
    for name in programs {
        command.args(["--test", name]);
    }
    // One after the other: each has nodes and image to itself, and figures mean something.
    command.args(["--no-fail-fast", "--"]).args(filter).args([
        "--include-ignored",
        "--test-threads=1",
        "--nocapture",
    ]);
}

impl Cluster {
    /// The one that `KUBECONFIG` names; else kind where a container engine answers; else the local one.
    pub(crate) fn find_or_create(workspace: &Workspace, layout: &Layout) -> Result<Self> {
        let own = Record::live(layout).filter(|record| record.complete);
        let given = env::var_os("KUBECONFIG").filter(|path| !path.is_empty());
        if let Some(given) = &given {
            // The local cluster, named by hand, is still the local cluster: its nodes can be lost.
            if own.is_none() || Path::new(given) != layout.kubeconfig() {
                println!("testing on the cluster of KUBECONFIG={}", given.display());
                return Ok(Self::Given);
            }
        }
        if given.is_none() && own.is_none() && kind::is_there() {
            let was_there = kind::up(layout, &workspace.root)?;
            return Ok(Self::Kind { was_there });
        }
        let record = up(layout, &workspace.root)?;
        let ran_before = own.is_some_and(|own| own.init == record.init);
        Ok(Self::Local { record, ran_before })
    }

    /// Fails early where [`Self::find_or_create`] would fail late.
    pub(crate) fn check(layout: &Layout) -> Result<()> {
        let given = env::var_os("KUBECONFIG").is_some_and(|path| !path.is_empty());
        if given || Record::live(layout).is_some() || kind::is_there() {
            return Ok(());
        }
        check()
    }

    /// Puts the image of the present release binary, and the toolbox, on every node.
    pub(crate) fn load(&self, workspace: &Workspace, layout: &Layout) -> Result<()> {
        let archive = workspace.target.join("image/imaccess.tar");
        let binary = workspace.binary("imaccess");
        let ordinary = image::Variation::default();
        match self {
            Self::Given => {
                if env::var_os("IMACCESS_IMAGE").is_none() {
                    bail!(
                        "IMACCESS_IMAGE must name the image that the cluster of KUBECONFIG pulls (a Dockerfile is at \
                         the root; `cargo xtask image` writes an archive)"
                    );
                }
                Ok(())
            }
            Self::Kind { .. } => {
                image::write(workspace, &binary, image::REFERENCE, &ordinary, &archive)?;
                kind::load(&archive)?;
                kind::load(&toolbox(layout)?)
            }
            Self::Local { record, .. } => {
                let written = image::write(workspace, &binary, image::REFERENCE, &ordinary, &archive)?;
                println!("{} {}", image::REFERENCE, written.digest);
                load(layout, record, &archive)
            }
        }
    }

    /// Starts a program where clients of the cluster stand.
    pub(crate) fn command(&self, program: &Path) -> Command {
        match self {
            Self::Given | Self::Kind { .. } => Command::new(program),
            Self::Local { record, .. } => {
                let mut words = outside(record).into_iter();
                let mut command = Command::new(words.next().unwrap_or_default());
                command.args(words).arg(program);
                command
            }
        }
    }

    /// What the tests read: see CONTRIBUTING.md.
    pub(crate) fn environment(
        &self,
        workspace: &Workspace,
        layout: &Layout,
        command: &mut Command,
    ) -> Result<()> {
        command
            .env("IMACCESS_XTASK", workspace.binary("xtask"))
            .env("PATH", path_with(&layout.path("bin")))
            .env("PROMETHEUS", programs::prometheus(workspace)?);
        if !matches!(self, Self::Given) {
            command.env("IMACCESS_IMAGE", image::REFERENCE);
        }
        match self {
            Self::Given => {}
            Self::Kind { .. } => {
                command
                    .env("KUBECONFIG", absolute(&kind::kubeconfig(layout))?)
                    .env("IMACCESS_AUDIT_LOG", kind::audit_log(&workspace.root))
                    .env("IMACCESS_E2E_CLUSTER", "kind");
            }
            Self::Local { record, .. } => {
                command
                    .env("KUBECONFIG", absolute(&layout.kubeconfig())?)
                    .env("IMACCESS_E2E_CLUSTER", "local")
                    .env("IMACCESS_CLUSTER_DIR", absolute(&layout.directory)?)
                    .env("IMACCESS_AUDIT_LOG", absolute(&layout.path("logs/audit.log"))?)
                    .env("HELM", absolute(&layout.program("helm"))?)
                    .env(runner_variable()?, outside(record).join(" "));
            }
        }
        Ok(())
    }

    /// Ends what this run created.
    pub(crate) fn end(&self, layout: &Layout) -> Result<()> {
        match self {
            Self::Kind { was_there: false } => kind::down(),
            Self::Local {
                ran_before: false, ..
            } => down(layout),
            Self::Given | Self::Kind { .. } | Self::Local { .. } => Ok(()),
        }
    }
}

/// The variable by which cargo is told what starts test programs.
fn runner_variable() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc names no host")?;
    let host = host.to_uppercase().replace('-', "_");
    Ok(format!("CARGO_TARGET_{host}_RUNNER"))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{}", path.display()))
}
