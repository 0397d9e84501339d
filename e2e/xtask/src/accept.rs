//! `cargo xtask accept`: builds what is to be measured, without lints' compiler, and runs the scenario.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use imaccess_cluster::Layout;

use crate::e2e::Cluster;
use crate::programs;
use crate::workspace::{Workspace, status, succeed};

/// What is to be accepted.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Options {
    /// The scenario's name; `all` for those that need no Kubernetes, `k8s-all` for those that do.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Name every scenario and what it shows.
    #[arg(long)]
    list: bool,
    /// Seed of everything random; printed with the figures, so that a failure can be repeated.
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object per scenario: name, passed, seed, figures, limits.
    #[arg(long)]
    json: bool,
    /// Run at the size of the tests: complete, but with no limit on speed.
    #[arg(long)]
    small: bool,
}

/// The scenario that needs a program with a fault, and the variable that names it there.
const BROKEN_FENCE: &str = "history-broken-fence";
const BROKEN_BINARY: &str = "IMACCESS_BROKEN_BINARY";

/// Builds in release, the way a user does, and hands over to the e2e crate's `accept`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let broken = match options.name.as_deref() {
        Some(BROKEN_FENCE | "all") if !options.list => Some(broken_binary(workspace)?),
        _ => None,
    };
    succeed(&mut workspace.cargo([
        "build",
        "--release",
        "--quiet",
        "-p",
        "imaccess",
        "-p",
        "imaccess-e2e",
        "--bins",
    ]))?;
    // What needs a Kubernetes cluster gets one, and it stays for the next: `cargo xtask cluster down` ends it.
    let on_kubernetes = !options.list
        && options
            .name
            .as_deref()
            .is_some_and(|name| name.starts_with("k8s-"));
    let layout = Layout::new(&workspace.target);
    let cluster = on_kubernetes
        .then(|| Cluster::find_or_create(workspace, &layout))
        .transpose()?;
    let mut command = match &cluster {
        Some(cluster) => cluster.command(&workspace.binary("accept")),
        None => workspace.command(workspace.binary("accept"), [] as [&str; 0]),
    };
    command.args(options.name.as_deref());
    if let Some(cluster) = &cluster {
        cluster.load(workspace, &layout)?;
        cluster.environment(workspace, &layout, &mut command)?;
    }
    command.env("IMACCESS_BINARY", workspace.binary("imaccess"));
    command.env("IMACCESS_WORKSPACE", &workspace.root);
    command.envs(broken.map(|binary| (BROKEN_BINARY, binary)));
    if options.list {
        command.arg("--list");
    }
    if options.json {
        command.arg("--json");
    }
    if options.small {
        command.arg("--small");
    }
    if let Some(seed) = options.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    if options
        .name
        .as_deref()
        .is_some_and(|name| name == "metrics-pages" || name == "all")
    {
        // Full size means the real checker: without promtool this behaviour can't be accepted.
        command.env("PROMTOOL", programs::promtool(workspace)?);
    }
    Ok(if status(&mut command)?.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds the program without its fence, and puts it aside: what is built after it takes its place. Nothing else is compiled again, for the
/// feature is of two crates only.
fn broken_binary(workspace: &Workspace) -> Result<PathBuf> {
    succeed(&mut workspace.cargo([
        "build",
        "--release",
        "--quiet",
        "-p",
        "imaccess",
        "--features",
        "broken-fence",
    ]))?;
    let directory = workspace.target.join("broken-fence");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let (from, to) = (workspace.binary("imaccess"), directory.join("imaccess"));
    // A copy: cargo's own file may be a second name of what it keeps.
    std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(to)
}
