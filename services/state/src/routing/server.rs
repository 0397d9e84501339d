//! Serves the push API: gRPC and HTTP/JSON on one port, told apart by what a connection speaks and where a request goes.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use imaccess_common::tls::ServerTls;
use imaccess_proto::v1::push_server::{Push, PushServer};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tonic::service::Routes;
use tonic::transport::{Error, Server};

use super::access::Gate;
use super::feed::WINDOW;
use super::http::{self, HttpMetrics};
use super::push::MESSAGE_LIMIT;
use super::timely::Timely;
use crate::accepted::accepted;

/// Calls in flight per connection; more wait at the caller.
const CALLS_PER_CONNECTION: u32 = 1_024;

/// A caller that is silent for this long is asked whether it lives, and gone after as long again; one that hasn't begun to speak,
/// or that takes nothing, is gone at once.
const CALLER_SILENCE: Duration = Duration::from_secs(30);

/// Serves `push` until `drained`: then what is in flight is answered.
pub(crate) async fn serve<P: Push>(
    push: Arc<P>,
    gate: Arc<Gate>,
    metrics: HttpMetrics,
    listener: TcpListener,
    tls: Option<ServerTls>,
    drained: impl Future<Output = ()>,
) -> Result<(), Error> {
    let grpc = PushServer::from_arc(Arc::clone(&push)).max_decoding_message_size(MESSAGE_LIMIT);
    let routes = Routes::from(http::router(push, gate, metrics)).add_service(grpc);
    let incoming =
        accepted(listener, tls).map(|accepted| accepted.map(|stream| Timely::new(stream, CALLER_SILENCE)));
    Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(CALLS_PER_CONNECTION)
        .http2_keepalive_interval(Some(CALLER_SILENCE))
        .http2_keepalive_timeout(Some(CALLER_SILENCE))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, drained)
        .await
}
