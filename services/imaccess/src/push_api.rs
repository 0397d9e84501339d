//! How the verbs that act as a business reach the push API, and what they say when it refuses.

mod access;

use std::time::Duration;

use anyhow::{Context, anyhow};
use imaccess_common::tls::Connector;
use imaccess_proto::v1::push_client::PushClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

pub(crate) use self::access::{Access, AccessArgs};
use crate::cluster::ClusterArgs;
use crate::exit::{self, FAILED, RETRY, USAGE, WithStatus};

/// Where `up` puts the push API unless told otherwise.
pub(crate) const DEFAULT_PUSH: &str = "http://127.0.0.1:8100";

const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(10);

/// Which push API, and for which business.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PushApiArgs {
    /// Name or id of the business to act for
    #[arg(long, default_value = "1")]
    pub(crate) business: String,
    /// Address of the push API (gRPC)
    #[arg(long, value_name = "URL", env = "IMACCESS_PUSH", default_value = DEFAULT_PUSH)]
    pub(crate) push: String,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// The push API, connected.
pub(crate) struct PushApi {
    client: PushClient<Channel>,
    access: Access,
    /// The business to act for.
    pub(crate) business: u32,
    /// The app of the devices that are named.
    pub(crate) app: String,
}

impl PushApi {
    /// Finds the business and connects.
    pub(crate) async fn open(arguments: &PushApiArgs) -> anyhow::Result<Self> {
        let business = arguments.cluster.business(&arguments.business).await?;
        let access = arguments.access.read(&arguments.push)?;
        let client = client(&arguments.push, &access).await?;
        Ok(Self {
            client,
            access,
            business,
            app: arguments.cluster.app.clone(),
        })
    }

    /// One call. What the push API refuses is an error with its exit status.
    pub(crate) async fn call<M, T>(
        &mut self,
        message: M,
        method: impl AsyncFnOnce(&mut PushClient<Channel>, Request<M>) -> Result<Response<T>, Status>,
    ) -> anyhow::Result<T> {
        let request = self.access.request(message);
        match method(&mut self.client, request).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(refused(&status, &self.access)),
        }
    }
}

/// A channel that connects when it is needed, and again when it broke: for a server, which may be there first.
pub(crate) fn lazy_channel(url: &str, access: &Access) -> anyhow::Result<Channel> {
    let endpoint = endpoint(url)?;
    Ok(match &access.tls {
        Some(tls) => endpoint.connect_with_connector_lazy(Connector(tls.clone())),
        None => endpoint.connect_lazy(),
    })
}

fn endpoint(url: &str) -> anyhow::Result<Endpoint> {
    // tonic leaves https:// to a feature of its own; here the connector makes the connection secure.
    let dialled = url.replacen("https://", "http://", 1);
    let endpoint = Endpoint::from_shared(dialled)
        .with_context(|| format!("{url:?} is no address of the push API; it should look like {DEFAULT_PUSH}"))
        .or_exit(USAGE)?;
    Ok(endpoint.connect_timeout(CONNECT).timeout(ANSWER))
}

async fn client(url: &str, access: &Access) -> anyhow::Result<PushClient<Channel>> {
    let endpoint = endpoint(url)?;
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

/// That some gateways weren't reached by what was sent to all.
pub(crate) fn synced(unsynced: u32, missed: &str) -> anyhow::Result<()> {
    if unsynced == 0 {
        return Ok(());
    }
    Err(anyhow!("{unsynced} gateway(s) {missed}")).or_exit(RETRY)
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
