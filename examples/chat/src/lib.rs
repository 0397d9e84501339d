//! A business server with rooms: what is said in one reaches everybody in it.
//!
//! The access layer dials this server and sends what devices ask and what becomes of them ([`server`]). A room is a group of the
//! access layer: joining is a call of its push API, and a line that is said crosses each gateway's link once, however many are there.
//!
//! What decides is pure: [`presence`] and [`rooms`] know neither sockets nor clocks.

pub mod line;
pub mod presence;
pub mod push;
pub mod rooms;

mod house;
mod server;

use std::path::PathBuf;

use imaccess_proto::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use imaccess_proto::v1::business_server::BusinessServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Error, Server};

use self::house::House;
use self::push::Push;
use self::server::Chat;

/// Longest message: a batch of the access layer.
const MESSAGE: usize = 16 << 20;

/// What the server must be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The number under which the access layer knows this business.
    pub business: u32,
    /// A file with the token that the push API asks for, if it does.
    pub token_file: Option<PathBuf>,
}

/// Serves on `listener`, calling the push API over `push`, until `stop`: then what is asked already is answered, and the streams end.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    config: Config,
    push: Channel,
    listener: TcpListener,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let push = Push::new(push, config.business, config.token_file);
    let house = House::open(push);
    let ending = watch::Sender::new(false);
    let service = BusinessServer::new(Chat::new(house, ending.subscribe()))
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(service)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async {
            stop.await;
            ending.send_replace(true);
        })
        .await
}
