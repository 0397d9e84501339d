//! `imaccess chat`: the example business with rooms, from `examples/chat`, as a part like any other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use imaccess_common::drain::Drain;
use imaccess_example_chat::{Config, serve};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::transport::Channel;

use crate::part::{self, PartArgs};
use crate::push_api::{AccessArgs, DEFAULT_PUSH, lazy_channel};

/// Its id in `up`.
const BUSINESS: u32 = 2;

/// Arguments of `chat`.
#[derive(Debug, clap::Args)]
pub(crate) struct ChatArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address of the push API (gRPC) [default: http://127.0.0.1:8100]
    #[arg(long, value_name = "URL", env = "IMACCESS_PUSH")]
    push: Option<String>,
    /// The id under which the access layer knows it [default: 2]
    #[arg(long, value_name = "ID")]
    business: Option<u32>,
    /// Certificates of those who may have issued the push API's; needed for https://
    #[arg(long, value_name = "FILE", env = "IMACCESS_PUSH_TLS_CA")]
    tls_ca: Option<PathBuf>,
    /// A name that the push API's certificate must have, where it isn't the host of the address
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    tls_name: Option<String>,
    /// A file with the service account's token to push with, read again for each call
    #[arg(long, value_name = "FILE", env = "IMACCESS_PUSH_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    part: PartArgs,
}

/// Configuration of the chat business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChatConfig {
    /// Where the access layer dials.
    pub(crate) listen: SocketAddr,
    /// Its id.
    pub(crate) business: u32,
    /// The push API.
    pub(crate) push: String,
    /// Authorities of the push API's certificate.
    pub(crate) tls_ca: Option<PathBuf>,
    /// Its certificate's name, where it isn't the host of the address.
    pub(crate) tls_name: Option<String>,
    /// File with the token to push with.
    pub(crate) token_file: Option<PathBuf>,
}

impl Default for ChatConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7_901)),
            business: BUSINESS,
            push: DEFAULT_PUSH.to_owned(),
            tls_ca: None,
            tls_name: None,
            token_file: None,
        }
    }
}

/// Runs it.
pub(crate) fn run(arguments: &ChatArgs) -> anyhow::Result<ExitCode> {
    // Flags of its own are `--set` by other names, so that they are read and checked the same way.
    let mut part = arguments.part.clone();
    let flags = [
        arguments.listen.map(|address| format!("listen={address}")),
        arguments.push.as_ref().map(|url| format!("push={url:?}")),
        arguments.business.map(|id| format!("business={id}")),
        arguments.tls_ca.as_ref().map(|file| format!("tls_ca={file:?}")),
        arguments
            .tls_name
            .as_ref()
            .map(|name| format!("tls_name={name:?}")),
        arguments
            .token_file
            .as_ref()
            .map(|file| format!("token_file={file:?}")),
    ];
    part.sets.splice(0..0, flags.into_iter().flatten());
    part::run(&part, part::Kind::Chat)
}

/// The server, listening and not yet serving.
pub(crate) struct ChatServer {
    listener: TcpListener,
    push: Channel,
    config: Config,
}

impl ChatServer {
    /// Takes the address and reads the certificates.
    pub(crate) async fn bind(config: ChatConfig) -> anyhow::Result<Self> {
        let access = AccessArgs {
            tls_ca: config.tls_ca,
            tls_name: config.tls_name,
            // The server's own affair: it reads the file for each call. Here it is only checked that it isn't sent in plain.
            token_file: config.token_file.clone(),
            ..AccessArgs::default()
        };
        let access = access.read(&config.push)?;
        let push = lazy_channel(&config.push, &access)?;
        let listener = TcpListener::bind(config.listen).await.with_context(|| {
            format!(
                "can't listen on {}; choose another address by --listen",
                config.listen
            )
        })?;
        let config = Config {
            business: config.business,
            token_file: config.token_file,
        };
        Ok(Self {
            listener,
            push,
            config,
        })
    }

    /// Serves until the drain.
    pub(crate) async fn run(self, drain: Drain) -> anyhow::Result<()> {
        let serving = serve(self.config, self.push, self.listener, drain.begun());
        tokio::select! {
            served = serving => served.context("the server failed"),
            () = drain.deadline() => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_not_sent_in_plain() {
        let config = ChatConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            token_file: Some("token".into()),
            ..ChatConfig::default()
        };
        let fault = ChatServer::bind(config).await.err().unwrap();
        assert!(format!("{fault:#}").contains("https://"), "{fault:#}");
    }
}
