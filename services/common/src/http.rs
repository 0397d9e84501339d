//! One HTTP/1 accept loop for every page and API, with the limits that axum's own loop doesn't offer.
//!
//! A peer can cost at most one connection, one header buffer and [`Limits::max_age`]: a slow header, an idle
//! connection, a response that is never read, all end by a timer. When half of the connections are taken, new
//! ones get one response each, so that idle peers don't hold what a storm of new ones needs; when all are, new
//! ones wait in the listen queue.

mod fetch;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::fetch::{FetchError, ask, fetch};
use crate::tls::{Incoming as TlsIncoming, TlsConnection};

/// How long accepting pauses when the process is out of descriptors or memory: long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a server allows its peers.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// From the first moment of waiting for a request to the end of its header: also the keep-alive's idle time.
    pub header_timeout: Duration,
    /// Age at which a connection is closed after the response under way, which bounds a peer that doesn't read.
    pub max_age: Duration,
    /// Time for the response under way when a connection is closed for its age or at the end.
    pub close_timeout: Duration,
    /// Bytes buffered per direction; a longer header is refused. At least 8 KiB (hyper's own minimum).
    pub buffer_bytes: usize,
}

/// Where connections come from: plain ones of a TCP listener, or those that got through a TLS handshake.
pub trait Source: Send {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one. Nothing is lost when the future is dropped before it is ready.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Source for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = TcpListener::accept(self).await?;
        // Answers are one write each: waiting to fill a segment would only delay them. Failing costs only that.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

impl Source for TlsIncoming {
    type Stream = TlsConnection;

    async fn accept(&mut self) -> io::Result<TlsConnection> {
        Ok(TlsIncoming::accept(self).await)
    }
}

/// Serves `router` until `stop`; returns when every connection has ended.
pub async fn serve_router(source: impl Source, router: Router, limits: Limits, stop: CancellationToken) {
    serve(source, TowerToHyperService::new(router), limits, stop).await;
}

/// Serves any hyper service until `stop`; returns when every connection has ended.
pub async fn serve<S>(mut source: impl Source, service: S, limits: Limits, stop: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
                source.accept().await.map(|stream| (stream, slot))
            } => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let keep_alive = slots.available_permits() >= limits.connections / 2;
                let connection = serve_connection(stream, service.clone(), limits, keep_alive, stop.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(fault) if is_of_the_peer(&fault) => (),
            Err(fault) => {
                tracing::warn!(%fault, "can't accept HTTP connections; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(source);
    tasks.close();
    tasks.wait().await;
}

async fn serve_connection<S>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: S,
    limits: Limits,
    keep_alive: bool,
    stop: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible>,
{
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(limits.buffer_bytes)
            .keep_alive(keep_alive)
            .serve_connection(TokioIo::new(stream), service)
    );
    // What ends a connection early (a bad header, a reset, the timeout) is the peer's doing and no news.
    tokio::select! {
        biased;
        _ = &mut connection => return,
        () = stop.cancelled() => (),
        () = tokio::time::sleep(limits.max_age) => (),
    }
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(limits.close_timeout, connection).await;
}

/// A connection that was gone before it was accepted says nothing about the listener.
pub(crate) fn is_of_the_peer(fault: &io::Error) -> bool {
    matches!(
        fault.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const QUICK: Limits = Limits {
        connections: 1,
        header_timeout: Duration::from_millis(50),
        max_age: Duration::from_secs(30),
        close_timeout: Duration::from_millis(200),
        buffer_bytes: 8_192,
    };

    async fn start(
        limits: Limits,
    ) -> (
        std::net::SocketAddr,
        CancellationToken,
        tokio::task::JoinHandle<()>,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(|| async { "hello" }));
        let server = tokio::spawn(serve_router(listener, router, limits, stop.clone()));
        (address, stop, server)
    }

    async fn exchange(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // The server may reset what it gave up on; what came before counts.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_header_that_never_ends_frees_its_connection() {
        let (address, stop, server) = start(QUICK).await;
        // With one connection allowed, the second client is answered only once the first is cut.
        let half = exchange(address, "GET / HTTP/1.1\r\nHost: x\r\n");
        let whole = exchange(address, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let (half, whole) = tokio::join!(half, whole);
        assert!(!half.contains("hello"), "{half}");
        assert!(whole.ends_with("hello"), "{whole}");
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn an_endless_header_is_refused() {
        let (address, stop, server) = start(QUICK).await;
        let answer = exchange(
            address,
            &format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(20_000)),
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 431") || answer.is_empty(),
            "{answer}"
        );
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_crowded_server_gives_one_response_each() {
        let crowded = Limits {
            connections: 2,
            header_timeout: Duration::from_secs(30),
            ..QUICK
        };
        let (address, stop, server) = start(crowded).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        first.read_exact(&mut [0; 12]).await.unwrap();
        // The first keeps its connection, so this second one doesn't get to keep its own.
        assert!(
            exchange(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .contains("connection: close")
        );
        first
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut rest = String::new();
        first.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest.matches("hello").count(), 2, "{rest}");
        stop.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn age_and_stop_end_kept_alive_connections() {
        let aged = Limits {
            header_timeout: Duration::from_secs(30),
            max_age: Duration::from_millis(50),
            ..QUICK
        };
        let (address, stop, server) = start(aged).await;
        // No "Connection: close": the answer ends only because the connection grows too old.
        assert!(
            exchange(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .ends_with("hello")
        );
        stop.cancel();
        server.await.unwrap();

        let kept = Limits {
            header_timeout: Duration::from_secs(30),
            ..QUICK
        };
        let (address, stop, server) = start(kept).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        stop.cancel();
        server.await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
}
