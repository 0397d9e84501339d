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
mod upgrade;

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
        "k8s-witness" => upgrade::calm(size, seed).await,
        "k8s-upgrade" => upgrade::in_place(size, seed).await,
        "k8s-upgrade-order" => upgrade::order(size, seed).await,
        "k8s-upgrade-refused" => upgrade::refused(size, seed).await,
        "k8s-upgrade-operator-killed" => upgrade::operator_killed(size, seed).await,
        "k8s-ten-upgrades" => upgrade::ten(size, seed).await,
        "k8s-containers-killed" => upgrade::containers_killed(size, seed).await,
        other => bail!("no scenario is named {other}; `cargo xtask accept --list` names them"),
    }
}
