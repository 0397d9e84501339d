//! The gRPC service that the state sidecar dials: one Unix socket and one stream per shard, served on the shard's
//! own thread.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use imaccess_proto::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use imaccess_proto::v1::gateway_link_server::{GatewayLink, GatewayLinkServer};
use imaccess_proto::v1::{GatewayBatch, StateBatch};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Longest message either way: a batch holds at most the link queue's bound and its columns.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;
/// Largest HTTP/2 frame: a batch of 16–64 KiB goes in one.
const FRAME: u32 = 64 << 10;
/// Batches handed to the stream and not taken by it yet. More would only hide that state is slow: what is not
/// handed over goes on growing as one batch, which costs less per event.
const QUEUE: usize = 4;

/// A sidecar that has attached to a shard.
#[derive(Debug)]
pub(crate) struct Attach {
    /// What it sends.
    pub(crate) inbound: Streaming<StateBatch>,
    /// What it is sent.
    pub(crate) outbound: mpsc::Sender<Result<GatewayBatch, Status>>,
}

/// The path of a shard's socket.
pub(crate) fn socket_path(directory: &Path, shard: usize) -> PathBuf {
    directory.join(format!("shard-{shard}.sock"))
}

/// Binds a shard's socket, mode 0600, in place of what a former gateway left there.
///
/// # Errors
/// The file system's.
pub(crate) fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves a shard's socket on the runtime that calls it, until that ends. A state that says nothing for `silence`, not even to a
/// ping, has lost its stream.
pub(crate) async fn serve(
    listener: std::os::unix::net::UnixListener,
    attaches: mpsc::Sender<Attach>,
    silence: Duration,
) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the link's socket can't be served");
            return;
        }
    };
    let own = rustix::process::geteuid().as_raw();
    let incoming = UnixListenerStream::new(listener).filter(move |stream| {
        // The directory is 0700 and the socket 0600; the peer is checked as well, because a volume may be mounted
        // more widely than meant. Root may always look.
        let trusted = match stream {
            Ok(stream) => stream
                .peer_cred()
                .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0),
            Err(_) => true,
        };
        if !trusted {
            tracing::warn!("a process of another user dialled the link and was turned away");
        }
        std::future::ready(trusted)
    });
    let service = GatewayLinkServer::new(Service { attaches })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let served = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        // Half of it until it is asked, half of it for its answer.
        .http2_keepalive_interval(Some(silence / 2))
        .http2_keepalive_timeout(Some(silence / 2))
        .add_service(service)
        .serve_with_incoming(incoming)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the link's server ended");
    }
}

#[derive(Debug)]
struct Service {
    attaches: mpsc::Sender<Attach>,
}

#[tonic::async_trait]
impl GatewayLink for Service {
    type AttachStream = ReceiverStream<Result<GatewayBatch, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<StateBatch>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (outbound, queue) = mpsc::channel(QUEUE);
        let attach = Attach {
            inbound: request.into_inner(),
            outbound,
        };
        self.attaches
            .send(attach)
            .await
            .map_err(|_| Status::unavailable("this gateway's shard is ending"))?;
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}
