//! `imaccess state`: one program, two roles.

use std::process::ExitCode;

use crate::part::{self, Kind, PartArgs};

/// Arguments of `state`.
#[derive(Debug, clap::Args)]
pub(crate) struct StateArgs {
    /// What this process is
    #[arg(long, value_enum)]
    role: Role,
    #[command(flatten)]
    part: PartArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Role {
    /// Beside one gateway: logins, sessions, requests to businesses
    Session,
    /// For the whole cluster: where each device is, and the push API
    Routing,
}

/// Runs it.
pub(crate) fn run(arguments: &StateArgs) -> anyhow::Result<ExitCode> {
    let kind = match arguments.role {
        Role::Session => Kind::Sidecar,
        Role::Routing => Kind::Routing,
    };
    part::run(&arguments.part, kind)
}
