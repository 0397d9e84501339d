//! `imaccess echo`: a business server that answers every request with its own payload, and can be told to be slow.
//!
//! It is a part of benchmarks, so it does nothing that it need not: one thread, a batch of replies for each batch of
//! requests, no task or queue per request.

mod record;

use std::future::ready;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::Either;
use futures_util::{Stream, StreamExt};
use imaccess_common::config::duration;
use imaccess_common::drain::Drain;
use imaccess_proto::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use imaccess_proto::v1::business_server::{Business, BusinessServer};
use imaccess_proto::v1::{BusinessReply, FromAccess, FromBusiness};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::part::{self, PartArgs};
use record::Recorder;

/// Batches that may wait for their delay on one stream; then no more are read.
const DELAYED: usize = 1_024;
/// Longest message: a batch of the access layer.
const MESSAGE: usize = 16 << 20;

/// Arguments of `echo`.
#[derive(Debug, clap::Args)]
pub(crate) struct EchoArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Write online, offline and session-lost events to this file, a JSON object a line
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Never answer a request
    #[arg(long)]
    hang: bool,
    /// Answer this much later, such as 10ms
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
    #[command(flatten)]
    part: PartArgs,
}

/// Configuration of the echo business.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EchoConfig {
    /// Where the access layer dials.
    pub(crate) listen: SocketAddr,
    /// File for the events, a JSON object a line; it is appended to.
    pub(crate) record: Option<PathBuf>,
    /// Whether requests are never answered.
    pub(crate) hang: bool,
    /// How much later answers are given.
    #[serde(with = "duration")]
    pub(crate) delay: Duration,
}

impl Default for EchoConfig {
    fn default() -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], 7_900));
        Self {
            listen,
            record: None,
            hang: false,
            delay: Duration::ZERO,
        }
    }
}

/// Runs it.
pub(crate) fn run(arguments: &EchoArgs) -> anyhow::Result<ExitCode> {
    // Flags of its own are `--set` by other names, so that they are read and checked the same way.
    let mut part = arguments.part.clone();
    let flags = [
        arguments.listen.map(|address| format!("listen={address}")),
        arguments.record.as_ref().map(|file| format!("record={file:?}")),
        arguments.hang.then(|| "hang=true".to_owned()),
        arguments.delay.as_ref().map(|delay| format!("delay={delay}")),
    ];
    part.sets.splice(0..0, flags.into_iter().flatten());
    part::run(&part, part::Kind::Echo)
}

/// The server, listening and not yet serving.
pub(crate) struct EchoServer {
    listener: TcpListener,
    echo: Echo,
}

#[derive(Clone)]
struct Echo {
    recorder: Option<Arc<Recorder>>,
    hang: bool,
    delay: Duration,
    drain: Drain,
}

impl EchoServer {
    /// Takes the address and opens the file.
    pub(crate) async fn bind(config: EchoConfig) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(config.listen).await.with_context(|| {
            format!(
                "can't listen on {}; choose another address by --listen",
                config.listen
            )
        })?;
        let recorder = match &config.record {
            Some(path) => {
                let opened = Recorder::open(path);
                Some(Arc::new(
                    opened.with_context(|| format!("can't write to {}", path.display()))?,
                ))
            }
            None => None,
        };
        let drain = Drain::new(Duration::ZERO);
        let echo = Echo {
            recorder,
            hang: config.hang,
            delay: config.delay,
            drain,
        };
        Ok(Self { listener, echo })
    }

    /// Serves until the drain.
    pub(crate) async fn run(self, drain: Drain) -> anyhow::Result<()> {
        let echo = Echo {
            drain: drain.clone(),
            ..self.echo
        };
        let service = BusinessServer::new(echo)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE);
        let begun = drain.clone();
        let serving = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_service(service)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(self.listener).with_nodelay(Some(true)),
                async move { begun.begun().await },
            );
        tokio::select! {
            served = serving => served.context("the server failed"),
            () = drain.deadline() => Ok(()),
        }
    }
}

impl Echo {
    /// What to answer to one batch; `None` if nothing.
    fn answer(&self, batch: FromAccess) -> Result<Option<FromBusiness>, Status> {
        let event_ack = batch.events.last().map_or(0, |event| event.sequence);
        if let Some(recorder) = &self.recorder {
            // Not acknowledged unless it is written: the access layer sends it again.
            recorder.write(&batch.events).map_err(|error| {
                tracing::error!(%error, "events can't be recorded");
                Status::internal("events can't be recorded")
            })?;
        }
        let reply = |id, payload| BusinessReply {
            id,
            payload,
            ..BusinessReply::default()
        };
        let replies: Vec<_> = batch
            .requests
            .into_iter()
            // 0 is a one-way send.
            .filter(|request| request.id != 0 && !self.hang)
            .map(|request| reply(request.id, request.payload))
            .collect();
        let nothing = replies.is_empty() && event_ack == 0;
        Ok((!nothing).then_some(FromBusiness {
            replies,
            event_ack,
            // Nothing is kept that a snapshot could put right.
            resync: false,
        }))
    }
}

#[tonic::async_trait]
impl Business for Echo {
    type ServeStream = Pin<Box<dyn Stream<Item = Result<FromBusiness, Status>> + Send>>;

    async fn serve(
        &self,
        request: Request<Streaming<FromAccess>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let (echo, drain, delay) = (self.clone(), self.drain.clone(), self.delay);
        let batches = request
            .into_inner()
            .take_until(async move { drain.begun().await });
        let answers = batches
            .map(move |batch| batch.and_then(|batch| echo.answer(batch)))
            .filter_map(|answer| ready(answer.transpose()));
        let answers = if delay.is_zero() {
            Either::Left(answers)
        } else {
            let later = move |answer| async move {
                tokio::time::sleep(delay).await;
                answer
            };
            Either::Right(answers.map(later).buffered(DELAYED))
        };
        Ok(Response::new(Box::pin(answers)))
    }
}

#[cfg(test)]
mod tests {
    use imaccess_proto::v1::business_client::BusinessClient;
    use imaccess_proto::v1::{BusinessRequest, ConnectionEvent, EventKind};

    use super::*;

    async fn serve(config: EchoConfig) -> (Streaming<FromBusiness>, Drain) {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = EchoServer::bind(EchoConfig { listen, ..config }).await.unwrap();
        let address = server.listener.local_addr().unwrap();
        let drain = Drain::new(Duration::from_secs(5));
        tokio::spawn(server.run(drain.clone()));
        let mut client = BusinessClient::connect(format!("http://{address}"))
            .await
            .unwrap();
        let event = |sequence| ConnectionEvent {
            sequence,
            kind: EventKind::Online.into(),
            device: "alice".to_owned(),
            session: vec![0xAB; 16].into(),
            ..Default::default()
        };
        let request = |id| BusinessRequest {
            id,
            payload: "hi".into(),
            ..Default::default()
        };
        let batch = FromAccess {
            requests: vec![request(7), request(0), request(8)],
            events: vec![event(1), event(2)],
            ..Default::default()
        };
        // The stream goes on after the batch, as the access layer's does.
        let batches = futures_util::stream::iter([batch]).chain(futures_util::stream::pending());
        (client.serve(batches).await.unwrap().into_inner(), drain)
    }

    #[tokio::test]
    async fn requests_are_echoed_and_events_recorded_before_they_are_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let record = directory.path().join("events.jsonl");
        let config = EchoConfig {
            record: Some(record.clone()),
            delay: Duration::from_millis(1),
            ..Default::default()
        };
        let (mut answers, drain) = serve(config).await;
        let answer = answers.message().await.unwrap().unwrap();
        let echoed: Vec<_> = answer
            .replies
            .iter()
            .map(|reply| (reply.id, &reply.payload[..]))
            .collect();
        assert_eq!((echoed, answer.event_ack), (vec![(7, &b"hi"[..]), (8, b"hi")], 2));
        let written = std::fs::read_to_string(record).unwrap();
        assert_eq!(written.lines().count(), 2);
        let first: serde_json::Value = serde_json::from_str(written.lines().next().unwrap()).unwrap();
        assert_eq!(
            (&first["kind"], &first["device"]),
            (&"online".into(), &"alice".into())
        );
        assert_eq!(first["session"], "ab".repeat(16));
        drain.begin();
        assert!(
            answers.message().await.unwrap().is_none(),
            "the drain ends the stream"
        );
    }

    #[tokio::test]
    async fn one_that_hangs_still_acknowledges_events() {
        let (mut answers, _drain) = serve(EchoConfig {
            hang: true,
            ..Default::default()
        })
        .await;
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.replies.len(), answer.event_ack), (0, 2));
    }
}
