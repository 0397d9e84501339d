//! `grpc-unary`: a gRPC call per request, beside each other over one connection.
//!
//! The connection is ours and not tonic's own channel, which dials again by itself and doesn't say whether a call that failed had been
//! written.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use imaccess_proto::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use imaccess_proto::v1::unary_business_client::UnaryBusinessClient;
use imaccess_proto::v1::{BusinessReply, BusinessRequest, EventBatch};
use imaccess_wire::Code;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tower::Service;

use super::calls::{CallError, Caller};
use super::places::{Place, Places};
use super::{Fault, KEEP_ALIVE};
use crate::session::link::{FRAME, MAX_MESSAGE};

/// How long a connection is used for new calls: a server that was added gets its part of them within that time. Calls on the old one
/// finish.
const AGE: Duration = Duration::from_secs(60);

/// When a server says that it is busy, and not for how long.
const USUAL_WAIT_MS: u32 = 1_000;

/// Calls a business by gRPC.
pub(super) struct UnaryCaller<'a> {
    places: &'a Places,
    current: Mutex<Option<Connection>>,
    /// One dials for all that need a connection.
    dialling: tokio::sync::Mutex<()>,
}

/// A connection, as its calls share it.
#[derive(Clone)]
struct Connection {
    sender: http2::SendRequest<tonic::body::Body>,
    origin: Uri,
    since: Instant,
    /// Moves its bytes until the last call is over.
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl Connection {
    fn is_good(&self) -> bool {
        !self.sender.is_closed() && self.since.elapsed() < AGE
    }
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
#[error("the connection was lost")]
struct Lost {
    unwritten: bool,
    #[source]
    fault: hyper::Error,
}

impl Service<Request<tonic::body::Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = Lost;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Lost>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        // A connection that is lost says so to the call, where tonic doesn't turn the reason into a text.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let response = self.sender.try_send_request(request);
        Box::pin(async move {
            response.await.map_err(|mut fault| Lost {
                // It gives back what it hasn't begun to write.
                unwritten: fault.take_message().is_some(),
                fault: fault.into_error(),
            })
        })
    }
}

impl<'a> UnaryCaller<'a> {
    pub(super) fn new(places: &'a Places) -> Self {
        Self {
            places,
            current: Mutex::new(None),
            dialling: tokio::sync::Mutex::new(()),
        }
    }

    /// The connection for a call: the one there is, or a new one to the stream's place.
    async fn connection(&self) -> Result<Connection, Box<dyn Error + Send + Sync>> {
        if let Some(connection) = self.good() {
            return Ok(connection);
        }
        let _one = self.dialling.lock().await;
        if let Some(connection) = self.good() {
            return Ok(connection);
        }
        let connection = self.places.try_next(open).await?;
        *self.current() = Some(connection.clone());
        Ok(connection)
    }

    fn good(&self) -> Option<Connection> {
        self.current().as_ref().filter(|it| it.is_good()).cloned()
    }

    fn current(&self) -> MutexGuard<'_, Option<Connection>> {
        // Nothing can panic while it is held.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn client(&self) -> Result<UnaryBusinessClient<Connection>, CallError> {
        let connection = self.connection().await.map_err(CallError::Unreached)?;
        let origin = connection.origin.clone();
        Ok(UnaryBusinessClient::with_origin(connection, origin).max_decoding_message_size(MAX_MESSAGE))
    }

    async fn ask_once(&self, request: BusinessRequest) -> Result<BusinessReply, CallError> {
        let mut call = tonic::Request::new(request);
        let request = call.get_ref();
        let deadline = Duration::from_millis(u64::from(request.deadline_ms));
        let trace = request
            .traceparent
            .parse()
            .ok()
            .filter(|_| !request.traceparent.is_empty());
        call.set_timeout(deadline);
        if let Some(trace) = trace {
            call.metadata_mut().insert("traceparent", trace);
        }
        match self.client().await?.handle(call).await {
            Ok(reply) => Ok(reply.into_inner()),
            Err(status) => judge(status),
        }
    }

    async fn tell_once(&self, batch: EventBatch) -> Result<bool, CallError> {
        match self.client().await?.handle_events(batch).await {
            Ok(handled) => Ok(handled.into_inner().resync),
            // Whatever it says, it hasn't taken them.
            Err(status) => Err(match lost(&status) {
                Some(true) => CallError::Unreached(Box::new(status)),
                Some(false) => CallError::Broken(Box::new(status)),
                None => CallError::Failed(said(&status)),
            }),
        }
    }
}

impl Caller for UnaryCaller<'_> {
    async fn connect(&self) -> Result<(), Fault> {
        let open = |place| async move { open(place).await.map_err(Fault::Stream) };
        if self.good().is_none() {
            let connection = self.places.dial(open).await?;
            *self.current() = Some(connection);
        }
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.current().as_ref().is_some_and(|it| !it.sender.is_closed())
    }

    async fn ask(&self, request: BusinessRequest) -> Result<BusinessReply, CallError> {
        match self.ask_once(request.clone()).await {
            Err(CallError::Unreached(_)) => self.ask_once(request).await,
            ended => ended,
        }
    }

    async fn tell(&self, batch: &EventBatch) -> Result<bool, CallError> {
        match self.tell_once(batch.clone()).await {
            Err(CallError::Unreached(_)) => self.tell_once(batch.clone()).await,
            ended => ended,
        }
    }

    fn tidy(&self) {
        let mut current = self.current();
        if current.as_ref().is_some_and(|it| it.sender.is_closed()) {
            *current = None;
        }
    }
}

async fn open(place: Place) -> Result<Connection, Box<dyn Error + Send + Sync>> {
    let stream = place.connect().await?;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        // Servers end connections that are pinged without a call.
        .keep_alive_while_idle(false)
        .handshake(TokioIo::new(stream))
        .await?;
    let driver = tokio::spawn(async move {
        // How it ended is said to whoever waits for an answer.
        let _ = connection.await;
    });
    Ok(Connection {
        sender,
        origin: place.origin,
        since: Instant::now(),
        _driver: Arc::new(AbortOnDropHandle::new(driver)),
    })
}

/// Whether a call was lost with its connection, and then whether before anything was written. What a server says has no source.
fn lost(status: &Status) -> Option<bool> {
    let lost = status.source()?.downcast_ref::<Lost>();
    Some(lost.is_some_and(|lost| lost.unwritten))
}

/// What a status means that isn't fine.
fn judge(status: Status) -> Result<BusinessReply, CallError> {
    match (lost(&status), status.code()) {
        (Some(true), _) => Err(CallError::Unreached(Box::new(status))),
        (Some(false), _) => Err(CallError::Broken(Box::new(status))),
        // It lives, and wants to be asked later.
        (None, tonic::Code::ResourceExhausted) => Ok(BusinessReply {
            code: Code::Busy as u32,
            retry_after_ms: USUAL_WAIT_MS,
            ..BusinessReply::default()
        }),
        // By its meaning it may be asked again, and by whoever keeps its number.
        (None, tonic::Code::Unavailable) => Err(CallError::Broken(Box::new(status))),
        (None, code) if is_failure(code) => Err(CallError::Failed(said(&status))),
        (None, _) => Err(CallError::Unusable(said(&status))),
    }
}

/// Whether a status speaks of the server, and not of the request.
fn is_failure(code: tonic::Code) -> bool {
    matches!(
        code,
        tonic::Code::Unknown
            | tonic::Code::DeadlineExceeded
            | tonic::Code::Unimplemented
            | tonic::Code::Internal
            | tonic::Code::DataLoss
            | tonic::Code::Cancelled
            | tonic::Code::Aborted
    )
}

fn said(status: &Status) -> String {
    format!("status {:?}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests;
