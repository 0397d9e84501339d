//! `grpc`: one bidirectional stream that carries many requests, their replies, and the events.

use std::sync::Arc;

use imaccess_common::business::BusinessConfig;
use imaccess_proto::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use imaccess_proto::v1::business_client::BusinessClient;
use imaccess_proto::v1::{FromAccess, FromBusiness};
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::places::{Place, Places};
use super::{DIAL_TIMEOUT, Fault, KEEP_ALIVE, Outage, StreamContext, StreamEvent, StreamId};
use crate::session::link::{FRAME, MAX_MESSAGE};
use crate::session::mailbox::{Mailbox, mailbox};

/// Opens the stream and serves it until it breaks.
pub(super) async fn serve(
    config: &BusinessConfig,
    id: StreamId,
    context: &StreamContext,
    places: &Places,
    outage: &mut Outage,
) -> Result<(), Fault> {
    let (outgoing, mut batches) = places.dial(|place| open(config, id, context, place)).await?;
    let _up = outage.end_up();
    context.tell(id, StreamEvent::Up(outgoing)).await?;
    let ended = loop {
        match batches.message().await {
            Ok(Some(batch)) => context.tell(id, StreamEvent::Batch(batch)).await?,
            Ok(None) => break Ok(()),
            Err(fault) => break Err(fault.into()),
        }
    };
    context.tell(id, StreamEvent::Down).await?;
    ended
}

async fn open(
    config: &BusinessConfig,
    id: StreamId,
    context: &StreamContext,
    place: Place,
) -> Result<(Mailbox<FromAccess>, Streaming<FromBusiness>), Fault> {
    let endpoint = Endpoint::from_shared(format!("http://{}", place.address))?
        .origin(place.origin)
        .connect_timeout(DIAL_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_adaptive_window(false)
        .http2_keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await?;
    let hello = FromAccess {
        hello: Some(context.hello(config, id)),
        ..FromAccess::default()
    };
    let (outgoing, stream) = mailbox(Some(hello), Arc::clone(&context.room));
    let mut client = BusinessClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let batches = tokio::time::timeout(DIAL_TIMEOUT, client.serve(stream)).await??;
    Ok((outgoing, batches.into_inner()))
}
