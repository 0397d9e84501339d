//! `imaccess push`: what a business does to reach devices, by hand.

mod access;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use imaccess_common::tls::Connector;
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{Outcome, PushDevicesRequest, PushGroupRequest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use self::access::{Access, AccessArgs};
use crate::cluster::ClusterArgs;
use crate::exit::{self, FAILED, RETRY, USAGE, WithStatus};
use crate::{run, terminal};

/// Where `up` puts the push API unless told otherwise.
pub(crate) const DEFAULT_PUSH: &str = "http://127.0.0.1:8100";

const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(10);

/// Arguments of `push`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["device", "group"]))]
pub(crate) struct PushArgs {
    /// Devices to push to
    #[arg(long, value_name = "DEVICE", value_delimiter = ',')]
    device: Vec<String>,
    /// Group to push to
    #[arg(long)]
    group: Option<String>,
    /// Name or id of the business that pushes
    #[arg(long, default_value = "1")]
    business: String,
    /// What to push
    #[arg(long)]
    data: String,
    /// Address of the push API (gRPC)
    #[arg(long, value_name = "URL", env = "IMACCESS_PUSH", default_value = DEFAULT_PUSH)]
    push: String,
    #[command(flatten)]
    access: AccessArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs it.
pub(crate) fn run(arguments: PushArgs) -> anyhow::Result<ExitCode> {
    run::quiet_runtime()?.block_on(push(arguments))
}

async fn push(arguments: PushArgs) -> anyhow::Result<ExitCode> {
    let business = arguments.cluster.business(&arguments.business).await?;
    let access = arguments.access.read(&arguments.push)?;
    let mut client = client(&arguments.push, &access).await?;
    let PushArgs {
        device: devices,
        group,
        data,
        cluster,
        ..
    } = arguments;
    let payload = data.into_bytes().into();
    if let Some(group) = group {
        let request = PushGroupRequest {
            business,
            group: group.clone().into(),
            payload,
            ..Default::default()
        };
        let sent = client
            .push_group(access.request(request))
            .await
            .map_err(|status| refused(&status, &access))?
            .into_inner();
        terminal::line(&format!(
            "{group}: push {} sent to {} gateway(s)",
            sent.sequence, sent.instances
        ));
        if sent.unsynced > 0 {
            let unsynced = anyhow!(
                "{} gateway(s) may have missed it; repeat if it matters",
                sent.unsynced
            );
            return Err(unsynced).or_exit(RETRY);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let request = PushDevicesRequest {
        business,
        app: cluster.app,
        devices: devices.clone(),
        payload,
        ..Default::default()
    };
    let answer = client
        .push_devices(access.request(request))
        .await
        .map_err(|status| refused(&status, &access))?
        .into_inner();
    let outcomes: Vec<Outcome> = answer.outcomes().collect();
    for (device, outcome) in devices.iter().zip(&outcomes) {
        terminal::line(&format!("{device}: {}", described(*outcome)));
    }
    if outcomes.len() != devices.len() {
        return Err(anyhow!(
            "{} answers for {} devices",
            outcomes.len(),
            devices.len()
        ));
    }
    Ok(status(&outcomes))
}

async fn client(url: &str, access: &Access) -> anyhow::Result<PushClient<Channel>> {
    // tonic leaves https:// to a feature of its own; here the connector makes the connection secure.
    let dialled = url.replacen("https://", "http://", 1);
    let endpoint = Endpoint::from_shared(dialled)
        .with_context(|| format!("{url:?} is no address of the push API; it should look like {DEFAULT_PUSH}"))
        .or_exit(USAGE)?;
    let endpoint = endpoint.connect_timeout(CONNECT).timeout(ANSWER);
    let channel = match &access.tls {
        Some(tls) => endpoint.connect_with_connector(Connector(tls.clone())).await,
        None => endpoint.connect().await,
    };
    if let Err(error) = &channel
        && let Some(hint) = access.hint(error)
    {
        return Err(anyhow!("can't push to {url}: {hint} ({})", innermost(error))).or_exit(FAILED);
    }
    let channel = channel
        .map_err(|error| anyhow!(innermost(&error)))
        .with_context(|| {
            format!("the push API at {url} can't be reached; try again, or give its address by --push")
        })
        .or_exit(RETRY)?;
    Ok(PushClient::new(channel))
}

fn refused(status: &Status, access: &Access) -> anyhow::Error {
    if let Some(hint) = access.hint_of_call(status) {
        let error = anyhow!("the push API ended the connection without an answer: {hint}");
        return Err::<(), _>(error)
            .or_exit(FAILED)
            .expect_err("it was made of an error");
    }
    let again = matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Cancelled
    );
    let error = anyhow!("the push API answered {}: {}", status.code(), status.message());
    Err::<(), _>(error)
        .or_exit(exit::retry_if(again))
        .expect_err("it was made of an error")
}

/// tonic wraps errors that say nothing around the one that does.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

fn described(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Written => "written",
        Outcome::Acknowledged => "acknowledged",
        Outcome::Queued => "queued",
        Outcome::Offline => "offline",
        Outcome::Refused => "refused: its queue is full",
        Outcome::Retry => "retry: not known now, try again",
        Outcome::Unknown => "unknown: a part died meanwhile; pushed again it may arrive twice",
        Outcome::Unspecified => "no answer",
    }
}

/// One that can't be reached is a failure; else one that isn't known says try again.
fn status(outcomes: &[Outcome]) -> ExitCode {
    let has = |wanted: &[Outcome]| outcomes.iter().any(|outcome| wanted.contains(outcome));
    if has(&[
        Outcome::Offline,
        Outcome::Refused,
        Outcome::Unknown,
        Outcome::Unspecified,
    ]) {
        FAILED.into()
    } else if has(&[Outcome::Retry]) {
        RETRY.into()
    } else {
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests;
