//! `imaccess bench`: arguments only; what is measured and how is the bench's own.

use std::process::ExitCode;

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: imaccess_bench::Command,
    /// One JSON object on one line instead of a table
    #[arg(long, global = true)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: BenchArgs) -> anyhow::Result<ExitCode> {
    imaccess_bench::run(arguments.command, arguments.json)
}
