//! Streams to business servers: the part of the isolation (B12) that does I/O.
//!
//! Each worker keeps `connections` streams of its own to each business, each with its own connection and its own
//! task. A business that hangs, breaks or isn't there costs its own requests their answers and nobody else anything:
//! what decides (limits, timeouts, which stream) is [`crate::session::machine`].

use std::sync::Arc;
use std::time::Duration;

use imaccess_common::business::BusinessConfig;
use imaccess_proto::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use imaccess_proto::v1::business_client::BusinessClient;
use imaccess_proto::v1::{AccessHello, FromAccess, FromBusiness};
use prometheus::IntGauge;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::session::link::{Chain, FRAME, MAX_MESSAGE};
use crate::session::mailbox::{Mailbox, mailbox};
use crate::session::metrics::Metrics;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A business that was away is found again within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a server may take to accept a connection, and a stream.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A server whose machine is gone is noticed within both together; requests time out on their own anyway.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// How long a stream that isn't wanted any more may take to carry its last batch away.
const LAST_BATCH: Duration = Duration::from_secs(1);

/// Which stream: position of the business in the worker's list, and number of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId {
    /// Position of the business.
    pub business: usize,
    /// Number of the stream, from 0.
    pub stream: usize,
}

/// What a stream's task tells its worker.
#[derive(Debug)]
pub enum StreamEvent {
    /// It is open.
    Up(Mailbox<FromAccess>),
    /// A batch came.
    Batch(FromBusiness),
    /// It broke.
    Down,
}

/// What all streams of a worker share.
#[derive(Debug, Clone)]
pub struct StreamContext {
    /// Cluster id.
    pub cluster: String,
    /// Instance and worker, as businesses see them.
    pub dialler: String,
    /// Told when a stream can take another batch.
    pub room: Arc<Notify>,
    /// Where events go.
    pub events: mpsc::Sender<(StreamId, StreamEvent)>,
    /// Counts failures.
    pub metrics: Metrics,
}

/// Keeps one stream until the worker is gone, or until `stop`: then it may take what was handed to it along.
pub async fn keep(config: BusinessConfig, id: StreamId, context: StreamContext, stop: CancellationToken) {
    tokio::select! {
        () = keep_on(config, id, context, &stop) => {}
        () = async {
            stop.cancelled().await;
            tokio::time::sleep(LAST_BATCH).await;
        } => {}
    }
}

async fn keep_on(config: BusinessConfig, id: StreamId, context: StreamContext, stop: &CancellationToken) {
    let failures = context.metrics.stream_failures.with_label_values(&[&config.name]);
    let mut pause = FIRST_PAUSE;
    let mut reported = false;
    loop {
        let served = serve(&config, id, &context, &mut pause, &mut reported).await;
        if stop.is_cancelled() {
            return;
        }
        match served {
            Ok(()) => {}
            Err(Fault::WorkerGone) => return,
            Err(Fault::Stream(fault)) => {
                // Once per outage: a business that stays away would fill the log.
                if !std::mem::replace(&mut reported, true) {
                    tracing::warn!(business = config.name, fault = %Chain(&*fault), "a business can't be reached");
                }
            }
        }
        failures.inc();
        tokio::time::sleep(pause.mul_f32(0.5 + fastrand::f32() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Fault {
    WorkerGone,
    Stream(Box<dyn std::error::Error + Send + Sync>),
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Fault {
    fn from(fault: E) -> Self {
        Self::Stream(Box::new(fault))
    }
}

async fn serve(
    config: &BusinessConfig,
    id: StreamId,
    context: &StreamContext,
    pause: &mut Duration,
    reported: &mut bool,
) -> Result<(), Fault> {
    let endpoint = Endpoint::from_shared(config.endpoint.clone())?
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
    let hello = AccessHello {
        cluster: context.cluster.clone(),
        instance: format!("{}.{}", context.dialler, id.stream),
        business: config.id,
    };
    let hello = FromAccess {
        hello: Some(hello),
        ..FromAccess::default()
    };
    let (outgoing, stream) = mailbox(Some(hello), Arc::clone(&context.room));
    let mut client = BusinessClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut batches = tokio::time::timeout(DIAL_TIMEOUT, client.serve(stream))
        .await??
        .into_inner();
    *pause = FIRST_PAUSE;
    if std::mem::take(reported) {
        tracing::info!(business = config.name, "the business is reached again");
    }
    let up = context.metrics.streams.with_label_values(&[&config.name]);
    tell(context, id, StreamEvent::Up(outgoing)).await?;
    let _up = Up::new(up);
    let ended = loop {
        match batches.message().await {
            Ok(Some(batch)) => {
                tell(context, id, StreamEvent::Batch(batch)).await?;
            }
            Ok(None) => break Ok(()),
            Err(fault) => break Err(fault.into()),
        }
    };
    tell(context, id, StreamEvent::Down).await?;
    ended
}

/// A stream that is up, for the gauge; also when its task is dropped.
struct Up(IntGauge);

impl Up {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn tell(context: &StreamContext, id: StreamId, event: StreamEvent) -> Result<(), Fault> {
    context
        .events
        .send((id, event))
        .await
        .map_err(|_| Fault::WorkerGone)
}
