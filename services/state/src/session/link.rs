//! Dialling a gateway shard and reading its stream; one task per worker.
//!
//! The task dials until it succeeds and again whenever the stream breaks: every 5 ms for a second, then at most a quarter of a
//! second apart. The gateway is in the same pod, so it is either there or about to be, and one that is being replaced is back
//! within a fraction of a second, which clients feel. What it reads goes to the worker over a short
//! bounded channel; when the worker is behind, nothing is read and gRPC's window stops the gateway.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use imaccess_common::generation::{self, Span};
use imaccess_proto::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use imaccess_proto::v1::gateway_link_client::GatewayLinkClient;
use imaccess_proto::v1::{GatewayBatch, GatewayHello, StateBatch, StateHello};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use super::mailbox::{Mailbox, mailbox};

/// Batches read ahead of the worker: enough that it never waits for a task switch, few enough to stay in cache.
pub const READ_AHEAD: usize = 4;

/// HTTP/2 frames: at 16 KiB, the default, a batch would be cut into many.
pub const FRAME: u32 = 128 * 1024;

/// Longest message taken from a business or a routing replica.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Longest message taken from the gateway: what it may have queued for us goes out as one.
const MAX_LINK_MESSAGE: usize = 64 * 1024 * 1024;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// How often that pause is kept before it grows: a dial that finds nobody costs tens of microseconds.
const SHORT_PAUSES: u32 = 200;
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What the link task tells its worker.
#[derive(Debug)]
pub enum LinkEvent {
    /// A stream has begun.
    Up {
        /// The gateway's first message.
        hello: GatewayHello,
        /// Link generation that both speak.
        generation: u32,
        /// Where batches for it go.
        outgoing: Mailbox<StateBatch>,
    },
    /// A batch came.
    Batch(Box<GatewayBatch>),
    /// The stream broke.
    Down,
}

/// Keeps a stream to one shard until the worker is gone or `leaving`: then none is begun any more. A gateway that says nothing for
/// `silence`, not even to a ping, has lost its stream.
pub async fn keep(
    socket_dir: PathBuf,
    shard: u8,
    silence: Duration,
    room: Arc<Notify>,
    events: mpsc::Sender<LinkEvent>,
    leaving: CancellationToken,
) {
    let path = socket_dir.join(format!("shard-{shard}.sock"));
    let (mut pause, mut failures) = (FIRST_PAUSE, 0u32);
    while !leaving.is_cancelled() {
        match follow(&path, shard, silence, &room, &events, &mut failures).await {
            Ok(()) => {}
            Err(Fault::WorkerGone) => return,
            Err(Fault::Link(fault)) => {
                tracing::debug!(shard, fault = %Chain(&*fault), "the link to the gateway is down");
            }
            Err(Fault::Hello(what)) => tracing::error!(shard, what, "the gateway can't be spoken with"),
        }
        tokio::time::sleep(pause).await;
        failures = failures.saturating_add(1);
        pause = if failures < SHORT_PAUSES {
            FIRST_PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
    }
}

enum Fault {
    WorkerGone,
    Hello(String),
    Link(Box<dyn std::error::Error + Send + Sync>),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Fault {
    fn from(fault: E) -> Self {
        Self::Link(Box::new(fault))
    }
}

async fn follow(
    path: &Path,
    shard: u8,
    silence: Duration,
    room: &Arc<Notify>,
    events: &mpsc::Sender<LinkEvent>,
    failures: &mut u32,
) -> Result<(), Fault> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))?
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_adaptive_window(false)
        // Half of it until it is asked, half of it for its answer; also one that hasn't answered the first word yet.
        .http2_keep_alive_interval(silence / 2)
        .keep_alive_timeout(silence / 2)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await?;
    let ours = generation::spoken().link;
    let hello = StateBatch {
        hello: Some(StateHello {
            link_generation: ours.oldest,
            newest_generation: ours.newest,
        }),
        ..StateBatch::default()
    };
    let (outgoing, stream) = mailbox(Some(hello), Arc::clone(room));
    let mut client = GatewayLinkClient::new(channel).max_decoding_message_size(MAX_LINK_MESSAGE);
    let mut batches = client.attach(stream).await?.into_inner();
    let Some(hello) = batches.message().await?.and_then(|batch| batch.hello) else {
        return Err(Fault::Hello("its first message was no hello".to_owned()));
    };
    let theirs = Span::new(hello.link_generation, hello.newest_generation);
    let Some(generation) = ours.common(theirs) else {
        return Err(Fault::Hello(format!(
            "it speaks link generation {theirs}, this sidecar {ours}: run versions that share one"
        )));
    };
    if hello.shard != u32::from(shard) {
        return Err(Fault::Hello("it is another shard".to_owned()));
    }
    *failures = 0;
    let up = LinkEvent::Up {
        hello,
        generation,
        outgoing,
    };
    tell(events, up).await?;
    let ended = loop {
        match batches.message().await {
            Ok(Some(batch)) => tell(events, LinkEvent::Batch(Box::new(batch))).await?,
            Ok(None) => break Ok(()),
            Err(fault) => break Err(fault.into()),
        }
    };
    tell(events, LinkEvent::Down).await?;
    ended
}

async fn tell(events: &mpsc::Sender<LinkEvent>, event: LinkEvent) -> Result<(), Fault> {
    events.send(event).await.map_err(|_| Fault::WorkerGone)
}

/// An error with its causes, in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn std::error::Error + Send + Sync));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(fault) = cause {
            write!(f, ": {fault}")?;
            cause = fault.source();
        }
        Ok(())
    }
}
