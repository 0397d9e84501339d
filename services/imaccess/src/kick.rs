//! `imaccess kick`: ends devices' sessions, as a business may.

use std::process::ExitCode;
use std::time::Duration;

use imaccess_proto::v1::{KickRequest, Outcome};

use crate::devices::{DeviceNames, in_calls, of_kick};
use crate::push_api::{PushApi, PushApiArgs};
use crate::run;

/// What `--help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  imaccess kick alice --reason 'signed out everywhere'
  imaccess kick --devices stolen.txt --json

Exit status: 0 no device has that session any more, 1 failed, 75 not known of some: try again.";

/// Arguments of `kick`.
#[derive(Debug, clap::Args)]
pub(crate) struct KickArgs {
    #[command(flatten)]
    devices: DeviceNames,
    /// Why, for the client's application: at most 128 bytes
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// One JSON object on one line, complete, instead of text for people
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: PushApiArgs,
}

/// Runs it.
pub(crate) fn run(arguments: KickArgs) -> anyhow::Result<ExitCode> {
    run::quiet_runtime()?.block_on(kick(arguments))
}

async fn kick(arguments: KickArgs) -> anyhow::Result<ExitCode> {
    let devices = arguments.devices.read()?;
    let mut api = PushApi::open(&arguments.api).await?;
    let results = in_calls(&devices, Duration::ZERO, async |devices, _| {
        let request = KickRequest {
            business: api.business,
            app: api.app.clone(),
            devices,
            reason: arguments.reason.clone(),
        };
        let answer = api
            .call(request, async |push, request| push.kick(request).await)
            .await?;
        Ok(answer.outcomes.into_iter().map(|outcome| {
            let outcome = Outcome::try_from(outcome).unwrap_or(Outcome::Unspecified);
            (of_kick(outcome), None)
        }))
    })
    .await?;
    results.finish(arguments.json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::RETRY;
    use crate::push_api::fake::{Asked, FakePush, parsed};

    #[tokio::test]
    async fn devices_are_kicked_and_those_without_a_session_are_fine() {
        let (fake, url) = FakePush::start().await;
        let words = ["alice", "offline-1", "--reason", "signed out", "--push", &url];
        assert_eq!(kick(parsed(&words)).await.unwrap(), ExitCode::SUCCESS);
        let words = ["alice", "retry-1", "--push", &url];
        assert_eq!(kick(parsed(&words)).await.unwrap(), RETRY.into());
        let Asked::Kick(request) = fake.asked().remove(0) else {
            panic!()
        };
        assert_eq!(
            (request.reason.as_str(), request.devices.len()),
            ("signed out", 2)
        );
        assert_eq!((request.business, request.app.as_str()), (1, "demo"));
    }
}
