//! The promised behaviours on Kubernetes, one module each.

mod bad_spec;
mod chart;
mod idle;
mod operator_killed;
mod operator_version;
mod repair;
mod rights;
mod scale;
mod stage;
mod two_operators;

use anyhow::{Result, bail};

use crate::report::{Report, Size};

/// Runs one of them.
pub(super) async fn run(name: &str, size: Size, seed: u64) -> Result<Report> {
    match name {
        "k8s-bad-spec" => bad_spec::run(size, seed).await,
        "k8s-chart" => chart::run(size, seed).await,
        "k8s-idle" => idle::run(size, seed).await,
        "k8s-repair" => repair::run(size, seed).await,
        "k8s-scale" => scale::run(size, seed).await,
        "k8s-operator-killed" => operator_killed::run(size, seed).await,
        "k8s-two-operators" => two_operators::run(size, seed).await,
        "k8s-operator-version" => operator_version::run(size, seed).await,
        "k8s-rights" => rights::run(size, seed).await,
        other => bail!("no scenario is named {other}; `cargo xtask accept --list` names them"),
    }
}
