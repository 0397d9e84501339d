//! `cargo xtask cluster`: the local Kubernetes cluster of the end-to-end tests.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use imaccess_cluster::{Layout, Record, down, hold, load, outside, restart_node, status, stop_node, up};

use crate::workspace::Workspace;

/// What to do with the cluster.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start the cluster, or take the one that runs; its components are built and fetched first, once.
    Up,
    /// End every process of the cluster and remove what it leaves; logs and built programs stay.
    Down,
    /// Show how to reach the cluster, and its nodes.
    Status,
    /// Open a shell outside of the nodes, where pods, Services and node ports are reached; or run a command there.
    Shell {
        /// The command and its arguments; without one, `$SHELL`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Import an image archive on every node.
    Load {
        /// What `cargo xtask image` or `docker save` wrote.
        file: PathBuf,
    },
    /// Lose a node as a power cut does, or start it again.
    #[command(subcommand)]
    Node(NodeVerb),
    /// What the first process inside does.
    #[command(hide = true)]
    Hold,
}

#[derive(Subcommand)]
enum NodeVerb {
    /// Pull its cable and kill all its processes.
    Stop {
        /// `node1` or `node2`.
        name: String,
    },
    /// Start it and wait until it is ready.
    Start {
        /// `node1` or `node2`.
        name: String,
    },
}

/// Runs before anything else is looked for: inside, there is no cargo to ask where the workspace is.
pub(crate) fn is_hold(options: &Options) -> bool {
    matches!(options.verb, Verb::Hold)
}

/// Holds the namespaces; see [`hold`].
pub(crate) fn run_hold() -> Result<ExitCode> {
    hold()
}

/// Does it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let layout = Layout::new(&workspace.target);
    match &options.verb {
        Verb::Up => {
            up(&layout, &workspace.root)?;
            print!("{}", status(&layout)?);
        }
        Verb::Down => down(&layout)?,
        Verb::Status => print!("{}", status(&layout)?),
        Verb::Shell { command } => return Err(shell(&layout, command)?),
        Verb::Load { file } => load(&layout, &live(&layout)?, file)?,
        Verb::Node(NodeVerb::Stop { name }) => stop_node(&layout, name)?,
        Verb::Node(NodeVerb::Start { name }) => restart_node(&layout, name)?,
        Verb::Hold => return run_hold(),
    }
    Ok(ExitCode::SUCCESS)
}

fn live(layout: &Layout) -> Result<Record> {
    Record::live(layout).context("no local cluster runs: `cargo xtask cluster up` starts one")
}

/// Becomes the command: returns only what prevented it.
fn shell(layout: &Layout, command: &[String]) -> Result<anyhow::Error> {
    let words = outside(&live(layout)?);
    let mut shell = Command::new(&words[0]);
    shell.args(&words[1..]);
    if command.is_empty() {
        shell.arg(std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()));
    } else {
        shell.args(command);
    }
    shell
        .env("KUBECONFIG", layout.kubeconfig())
        .env("PATH", path_with(&layout.path("bin")));
    Ok(anyhow::Error::new(shell.exec()).context("cannot start the shell"))
}

/// `PATH` with the cluster's own programs (kubectl, helm) first.
pub(crate) fn path_with(directory: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(directory.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(all).unwrap_or_else(|_| path.clone())
}
