//! `imaccess online`: which devices have a session, and where.

use std::process::ExitCode;
use std::time::Duration;

use imaccess_proto::v1::{PresenceStatus, QueryOnlineRequest};

use crate::devices::{DeviceNames, in_calls, of_presence};
use crate::push_api::{PushApi, PushApiArgs};
use crate::run;

/// What `--help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  imaccess online alice bob
  imaccess online --devices crowd.txt --json | jq .outcomes

A device is online from its login until its session ends: for a while also without a connection, while it may resume.

Exit status: 0 known of every device, online or not; 75 not known of some: try again.";

/// Arguments of `online`.
#[derive(Debug, clap::Args)]
pub(crate) struct OnlineArgs {
    #[command(flatten)]
    devices: DeviceNames,
    /// One JSON object on one line, complete, instead of text for people
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: PushApiArgs,
}

/// Runs it.
pub(crate) fn run(arguments: OnlineArgs) -> anyhow::Result<ExitCode> {
    run::quiet_runtime()?.block_on(online(arguments))
}

async fn online(arguments: OnlineArgs) -> anyhow::Result<ExitCode> {
    let devices = arguments.devices.read()?;
    let mut api = PushApi::open(&arguments.api).await?;
    let results = in_calls(&devices, Duration::ZERO, async |devices, _| {
        let request = QueryOnlineRequest {
            business: api.business,
            app: api.app.clone(),
            devices,
        };
        let answer = api
            .call(request, async |push, request| push.query_online(request).await)
            .await?;
        Ok(answer.presences.into_iter().map(|presence| {
            let status = PresenceStatus::try_from(presence.status).unwrap_or(PresenceStatus::Unspecified);
            let gateway = Some(presence.gateway).filter(|name| !name.is_empty());
            (of_presence(status), gateway)
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
    async fn offline_is_an_answer_and_not_known_is_none() {
        let (fake, url) = FakePush::start().await;
        let words = ["alice", "offline-1", "--push", &url, "--app", "shop", "--json"];
        assert_eq!(online(parsed(&words)).await.unwrap(), ExitCode::SUCCESS);
        let words = ["alice", "retry-1", "--push", &url];
        assert_eq!(online(parsed(&words)).await.unwrap(), RETRY.into());
        let Asked::Online(request) = fake.asked().remove(0) else {
            panic!()
        };
        assert_eq!((request.app.as_str(), request.devices.len()), ("shop", 2));
    }
}
