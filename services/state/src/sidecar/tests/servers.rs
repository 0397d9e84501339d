//! Businesses that are asked by calls: the test is asked, and answers as it likes.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use imaccess_proto::v1::unary_business_server::{UnaryBusiness, UnaryBusinessServer};
use imaccess_proto::v1::{BusinessReply, BusinessRequest, EventBatch, EventsHandled};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;

/// A server with a runtime of its own, so that all of it is gone when it is stopped: listener, connections, calls.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    /// Ends it; when this returns its address is free.
    pub(super) async fn stop(mut self) {
        let runtime = self.runtime.take();
        let (done, is_done) = oneshot::channel();
        // A runtime waits for its threads when it is dropped, which must not be done on a thread of another one.
        std::thread::spawn(move || {
            drop(runtime);
            let _ = done.send(());
        });
        is_done.await.unwrap();
    }
}

impl Server {
    fn start<F>(
        address: SocketAddr,
        serve: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            serve(listener).await;
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }
}

/// Any port of this machine.
pub(super) fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A call that waits for its answer; dropped, it hangs.
pub(super) struct Call<Q, A> {
    pub(super) question: Q,
    answer: oneshot::Sender<A>,
}

impl<Q, A> Call<Q, A> {
    pub(super) fn answer(self, answer: A) {
        // Whoever asked may have given up.
        let _ = self.answer.send(answer);
    }
}

async fn asked<Q, A>(calls: &mpsc::Sender<Call<Q, A>>, question: Q) -> A {
    let (answer, answered) = oneshot::channel();
    let _ = calls.send(Call { question, answer }).await;
    match answered.await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}

// === HTTP ===

/// What was posted.
pub(super) struct Posted {
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

pub(super) type Post = Call<Posted, Response>;

/// Serves a business by HTTP; what is posted comes out of the receiver.
pub(super) fn http(address: SocketAddr) -> (Server, mpsc::Receiver<Post>) {
    let (calls, incoming) = mpsc::channel(64);
    let router = Router::new().fallback(posted).with_state(calls);
    let server = Server::start(address, |listener| async move {
        axum::serve(listener, router).await.unwrap();
    });
    (server, incoming)
}

async fn posted(State(calls): State<mpsc::Sender<Post>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let question = Posted {
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body: serde_json::from_slice(&body).unwrap(),
    };
    asked(&calls, question).await
}

impl Post {
    pub(super) fn status(self, status: u16, body: &str) {
        self.status_with(status, &[], body);
    }

    pub(super) fn status_with(self, status: u16, headers: &[(&'static str, &str)], body: &str) {
        let mut response = Response::new(Body::from(body.to_owned()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            response.headers_mut().insert(*name, value.parse().unwrap());
        }
        self.answer(response);
    }
}

// === Unary gRPC ===

pub(super) type Handled = Call<BusinessRequest, Result<BusinessReply, Status>>;
pub(super) type Told = Call<EventBatch, Result<EventsHandled, Status>>;

struct Unary {
    handled: mpsc::Sender<Handled>,
    told: mpsc::Sender<Told>,
}

/// Serves a business by calls; requests and events come out of the receivers.
pub(super) fn unary(address: SocketAddr) -> (Server, mpsc::Receiver<Handled>, mpsc::Receiver<Told>) {
    let ((handled, requests), (told, events)) = (mpsc::channel(64), mpsc::channel(64));
    let server = Server::start(address, |listener| async move {
        let _ = tonic::transport::Server::builder()
            .add_service(UnaryBusinessServer::new(Unary { handled, told }))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await;
    });
    (server, requests, events)
}

#[tonic::async_trait]
impl UnaryBusiness for Unary {
    async fn handle(
        &self,
        request: tonic::Request<BusinessRequest>,
    ) -> Result<tonic::Response<BusinessReply>, Status> {
        asked(&self.handled, request.into_inner())
            .await
            .map(tonic::Response::new)
    }

    async fn handle_events(
        &self,
        request: tonic::Request<EventBatch>,
    ) -> Result<tonic::Response<EventsHandled>, Status> {
        asked(&self.told, request.into_inner())
            .await
            .map(tonic::Response::new)
    }
}
