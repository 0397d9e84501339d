//! The project's tasks: `cargo xtask <verb>`.
//!
//! `test` is what CI runs and what a change must pass; `accept` measures one promised behaviour at its full
//! size; `fuzz` runs the protocol's fuzz targets. The crate is kept light (it compiles in seconds), because
//! it is the first thing that a clean checkout builds: what needs the project's own code is in `imaccess-e2e`.

mod accept;
mod fuzz;
mod generate;
mod layering;
mod programs;
mod sharing;
mod sizes;
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
    let workspace = Workspace::find()?;
    match verb {
        Verb::Test(options) => test::run(&workspace, &options),
        Verb::Accept(options) => accept::run(&workspace, &options),
        Verb::Gen => generate::run(&workspace),
        Verb::Fuzz(options) => fuzz::run(&workspace, &options),
    }
}
