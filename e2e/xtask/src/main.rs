//! The project's tasks: `cargo xtask <verb>`.
//!
//! `test` is what CI runs and what a change must pass; `accept` measures one promised behaviour at its full
//! size; `fuzz` runs the protocol's fuzz targets. The crate is kept light (it compiles in seconds), because
//! it is the first thing that a clean checkout builds: what needs the project's own code is in `imaccess-e2e`.

mod accept;
mod cluster;
mod e2e;
mod fuzz;
mod generate;
mod image;
mod layering;
mod programs;
mod sharing;
mod sizes;
mod space;
mod steps;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use workspace::Workspace;

/// The project's tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run every check that a change must pass, step by step, each timed; stops at the first failure.
    ///
    /// Programs that a step needs are fetched once as Debian packages through apt-get. The last line is
    /// always `N passed, N failed`: every test of cargo, and each step of ours as one.
    Test(test::Options),
    /// Run one promised behaviour at its full size and print its figures; exit status 1 if it fails.
    Accept(accept::Options),
    /// Write what is made from the code: `crds/`, the chart's copy of it, `docs/reference.md`.
    Gen,
    /// Run every fuzz target of the wire protocol for a number of seconds each.
    ///
    /// Needs a nightly toolchain (`rustup toolchain install nightly`); installs cargo-fuzz if it is missing.
    Fuzz(fuzz::Options),
    /// Write the image of the release binary as an OCI archive, without a daemon and without a registry.
    ///
    /// `ctr images import`, `docker load` and `kind load image-archive` take it. The same binary gives the same bytes.
    Image(image::Options),
    /// The local Kubernetes cluster of the end-to-end tests: two nodes, upstream's components, no container engine.
    ///
    /// Needs root, Go (its components are built once, in about ten minutes) and apt-get. Its directory is
    /// `target/cluster`, or what `IMACCESS_CLUSTER_DIR` says.
    Cluster(cluster::Options),
    /// Run the tests that need a Kubernetes cluster.
    ///
    /// On the cluster of `KUBECONFIG`; without it on kind, where a container engine answers; else on the local one.
    E2e(e2e::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    if let Verb::Cluster(options) = &verb
        && cluster::is_hold(options)
    {
        return cluster::run_hold();
    }
    let workspace = Workspace::find()?;
    match verb {
        Verb::Test(options) => test::run(&workspace, &options),
        Verb::Accept(options) => accept::run(&workspace, &options),
        Verb::Gen => generate::run(&workspace),
        Verb::Fuzz(options) => fuzz::run(&workspace, &options),
        Verb::Image(options) => image::run(&workspace, &options),
        Verb::Cluster(options) => cluster::run(&workspace, &options),
        Verb::E2e(options) => e2e::run(&workspace, &options),
    }
}
