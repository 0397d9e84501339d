//! The promised behaviours on Kubernetes, one module each.

mod bad_spec;
mod businesses;
mod chart;
mod departure;
mod drain;
mod idle;
mod lost_node;
mod mesh;
mod operator_killed;
mod operator_version;
mod quickstart;
mod repair;
mod rights;
mod scale;
mod scoring;
mod stage;
mod timeline;
mod trap;
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
        "k8s-quickstart" => quickstart::run(size, seed).await,
        "k8s-businesses" => businesses::run(size, seed).await,
        "k8s-mesh" => mesh::run(size, seed).await,
        "k8s-drain" => drain::run(size, seed).await,
        "k8s-lost-node" => lost_node::run(size, seed).await,
        "k8s-scoring" => scoring::scrape(size, seed).await,
        "k8s-scoring-prometheus" => scoring::prometheus(size, seed).await,
        other => bail!("no scenario is named {other}; `cargo xtask accept --list` names them"),
    }
}
