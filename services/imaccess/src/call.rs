//! `imaccess call`: one request, one reply.

use std::process::ExitCode;
use std::time::Duration;

use imaccess_sdk::RequestOptions;

use crate::cluster::{ClusterArgs, connected};
use crate::exit::{WithStatus, retry_if};
use crate::{run, terminal};

/// What `--help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  imaccess call --business echo --data hello
  imaccess call --business 7 --device alice --data 'what is new?' --deadline 3";

/// Arguments of `call`.
#[derive(Debug, clap::Args)]
pub(crate) struct CallArgs {
    /// Name or id of the business
    #[arg(long)]
    business: String,
    /// What to send
    #[arg(long)]
    data: String,
    /// Device to be [default: a new one for each call]
    #[arg(long)]
    device: Option<String>,
    /// Seconds to wait for the reply, repetitions included
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    deadline: f64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs it.
pub(crate) fn run(arguments: CallArgs) -> anyhow::Result<ExitCode> {
    run::quiet_runtime()?.block_on(call(arguments))
}

async fn call(arguments: CallArgs) -> anyhow::Result<ExitCode> {
    let business = arguments.cluster.business(&arguments.business).await?;
    // Two calls at a time must not be the same device: the later login would end the earlier.
    let device = arguments
        .device
        .unwrap_or_else(|| format!("call-{:016x}", fastrand::u64(..)));
    let client = connected(arguments.cluster.client(&device).connect().await)?;
    let deadline = Duration::try_from_secs_f64(arguments.deadline).unwrap_or(Duration::MAX);
    let answer = client
        .request_with(business, arguments.data, RequestOptions::within(deadline))
        .await;
    client.close().await;
    match answer {
        Ok(reply) => {
            terminal::bytes_line(&reply.payload);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let status = retry_if(error.is_retryable());
            Err(error).or_exit(status)
        }
    }
}
