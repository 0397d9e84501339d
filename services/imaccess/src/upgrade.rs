//! `imaccess upgrade`: puts another binary in a running gateway's or sidecar's place without closing a connection, and
//! the previous one back if that goes wrong.
//!
//! plan and verdict (pure) ← steps (the order of things) → admin pages, binaries, and the place where the part runs: `up`, by
//! its control socket, or this host.

mod admin;
mod host;
mod place;
mod plan;
mod preflight;
mod report;
mod steps;
#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};

use self::host::Host;
use self::place::{Place, UpPlace};
use self::plan::Target;
use self::report::Outcome;
use self::steps::{Patience, Upgrade};
use crate::control::Control;
use crate::exit::{USAGE, WithStatus};
use crate::part::Kind;
use crate::up::DEFAULT_DIRECTORY;
use crate::{run as runs, terminal};

/// Arguments of `upgrade`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpgradeArgs {
    /// What to replace: gateways, or the state sidecars beside them
    #[arg(value_enum)]
    kind: What,
    /// The program to put in their place [default: this one]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Directory of the `up --processes` that runs them
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY, conflicts_with = "config")]
    dir: PathBuf,
    /// Only this one of them, such as gateway-0
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    part: Option<String>,
    /// The configuration file of one that runs by itself on this host
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// With --config: where the new process's output goes [default: nowhere]
    #[arg(long, value_name = "FILE", requires = "config", conflicts_with = "supervised")]
    log: Option<PathBuf>,
    /// With --config: only end it; a service manager, such as systemd with Restart=always, starts the next
    #[arg(long, requires = "config")]
    supervised: bool,
    /// With --config, for state: the gateway's admin address, to check that it is whole before and after
    #[arg(long, value_name = "ADDRESS", requires = "config")]
    gateway_admin: Option<String>,
    /// Print one JSON object per part, each on one line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    Gateway,
    State,
}

impl What {
    fn kind(self) -> Kind {
        match self {
            What::Gateway => Kind::Gateway,
            What::State => Kind::Sidecar,
        }
    }
}

/// Runs it.
pub(crate) fn run(arguments: &UpgradeArgs) -> anyhow::Result<ExitCode> {
    let binary = match &arguments.binary {
        // Whoever starts it may be elsewhere.
        Some(path) => std::path::absolute(path).with_context(|| format!("{}", path.display()))?,
        None => std::env::current_exe().context("can't find this program's file")?,
    };
    runs::quiet_runtime()?.block_on(async {
        match &arguments.config {
            Some(file) => {
                let (target, place) = on_host(arguments, file).or_exit(USAGE)?;
                one(target, place, &binary, arguments.json).await
            }
            None => under_up(arguments, &binary).await,
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn under_up(arguments: &UpgradeArgs, binary: &Path) -> anyhow::Result<()> {
    let control = Control::in_directory(&arguments.dir);
    let parts = control.list().await?;
    let targets = plan::targets(&parts, arguments.kind.kind(), arguments.part.as_deref());
    // One after the other: the first that fails leaves the others as they are.
    for target in targets.map_err(anyhow::Error::msg)? {
        let place = Place::Up(UpPlace {
            control: control.clone(),
            directory: std::path::absolute(&arguments.dir)?,
            part: target.name.clone(),
            neighbour: target.neighbour.clone(),
        });
        one(target, place, binary, arguments.json).await?;
    }
    Ok(())
}

fn on_host(arguments: &UpgradeArgs, file: &Path) -> anyhow::Result<(Target, Place)> {
    let kind = arguments.kind.kind();
    let (host, admin) = Host::new(kind, file, arguments.log.clone(), arguments.supervised)?;
    let gateway_admin = match kind {
        Kind::Gateway => Some(admin.clone()),
        _ => arguments.gateway_admin.clone(),
    };
    let target = Target {
        name: kind.name().to_owned(),
        kind,
        admin,
        gateway_admin,
        neighbour: None,
    };
    Ok((target, Place::Host(Box::new(host))))
}

async fn one(target: Target, place: Place, binary: &Path, json: bool) -> anyhow::Result<()> {
    let upgrade = Upgrade::new(target, place, binary, Patience::USUAL)?;
    let outcome = Box::pin(upgrade.run()).await;
    print(&outcome, json)?;
    match outcome.error {
        None => Ok(()),
        Some(error) => Err(anyhow!("{}: {error}", outcome.part)),
    }
}

fn print(outcome: &Outcome, json: bool) -> anyhow::Result<()> {
    if json {
        terminal::line(&serde_json::to_string(outcome).context("JSON")?);
    } else if outcome.error.is_none() {
        terminal::line(&outcome.text());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
