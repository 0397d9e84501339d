//! The two ends of the gateway ⇄ state link without gateway and state: column batches over a Unix socket.
//!
//! The gateway's end keeps a fixed number of batches under way; the state's end answers each event with one.
//! Both build their batches event by event and walk what they get, as the real ones must.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use imaccess_common::process::cpu_of;
use imaccess_proto::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use imaccess_proto::v1::gateway_link_client::GatewayLinkClient;
use imaccess_proto::v1::gateway_link_server::{GatewayLink, GatewayLinkServer};
use imaccess_proto::v1::{Frames, GatewayBatch, StateBatch, Unicast};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::server::UdsConnectInfo;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// HTTP/2 frame size, as the gateway's end of the real link has it.
const FRAME: u32 = 64 << 10;

/// What is exchanged, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Traffic {
    /// The Unix socket
    #[arg(long)]
    pub(crate) socket: PathBuf,
    /// Events in a batch
    #[arg(long, default_value_t = 256)]
    pub(crate) batch: usize,
    /// Bytes of an event's frame
    #[arg(long, default_value_t = 128)]
    pub(crate) bytes: usize,
    /// Batches under way
    #[arg(long, default_value_t = 8)]
    pub(crate) under_way: usize,
    /// Measurements
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u64,
    /// Seconds of each
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Events that the state's end got and answered, and those answers: both directions.
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    /// CPU of the gateway's end, µs.
    pub(crate) gateway_us: f64,
    /// CPU of the state's end, µs.
    pub(crate) state_us: f64,
}

/// The gateway's end: serves the socket, drives the traffic, prints a [`Measured`] per round.
pub(crate) fn gateway(traffic: &Traffic) -> anyhow::Result<()> {
    crate::child::end_with_parent();
    runtime()?.block_on(async {
        let listener = UnixListener::bind(&traffic.socket).context("bind the socket")?;
        super::say(&"bound")?;
        let (done, mut finished) = mpsc::channel(1);
        let service = GatewayLinkServer::new(GatewayEnd {
            traffic: traffic.clone(),
            done,
        })
        .max_decoding_message_size(usize::MAX);
        let serving = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .add_service(service)
            .serve_with_incoming(UnixListenerStream::new(listener));
        tokio::select! {
            served = serving => served.context("serve the link"),
            _ = finished.recv() => Ok(()),
        }
    })?;
    super::wait_for_end();
    Ok(())
}

use super::runtime;

struct GatewayEnd {
    traffic: Traffic,
    done: mpsc::Sender<()>,
}

#[tonic::async_trait]
impl GatewayLink for GatewayEnd {
    type AttachStream = ReceiverStream<Result<GatewayBatch, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<StateBatch>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let peer = request
            .extensions()
            .get::<UdsConnectInfo>()
            .and_then(|info| info.peer_cred);
        let state_pid = peer
            .and_then(|peer| peer.pid())
            .and_then(|pid| u32::try_from(pid).ok())
            .ok_or_else(|| Status::internal("the peer's process isn't known"))?;
        // As many as may be under way: the sender never waits.
        let (batches, outgoing) = mpsc::channel(self.traffic.under_way);
        let (traffic, done) = (self.traffic.clone(), self.done.clone());
        let incoming = request.into_inner();
        tokio::spawn(async move {
            if let Err(error) = drive(&traffic, state_pid, incoming, &batches).await {
                eprintln!("link: {error:#}");
            }
            // Received or not, this end is finished.
            let _ = done.send(()).await;
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

async fn drive(
    traffic: &Traffic,
    state_pid: u32,
    mut incoming: Streaming<StateBatch>,
    batches: &mpsc::Sender<Result<GatewayBatch, Status>>,
) -> anyhow::Result<()> {
    let payload = vec![7; traffic.bytes];
    let batch = || {
        let uplink = Some(columns(traffic.batch, |_| &payload));
        GatewayBatch {
            uplink,
            ..GatewayBatch::default()
        }
    };
    for _ in 0..traffic.under_way {
        batches.send(Ok(batch())).await?;
    }
    // Round 0 warms up.
    for round in 0..=traffic.rounds {
        let seconds = if round == 0 {
            traffic.seconds.min(0.5)
        } else {
            traffic.seconds
        };
        let (gateway, state) = (cpu_of(std::process::id())?, cpu_of(state_pid)?);
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(seconds);
        let mut events = 0;
        while Instant::now() < end {
            let answer = incoming.next().await.context("the state's end is gone")??;
            let unicast = answer.unicast.unwrap_or_default();
            walk(&unicast.handle, &unicast.length, &unicast.frames, |_, _| {
                events += 2;
            })?;
            batches.send(Ok(batch())).await?;
        }
        let seconds = started.elapsed().as_secs_f64();
        let micros = |spent: Duration| spent.as_secs_f64() * 1e6;
        if round > 0 {
            super::say(&Measured {
                events,
                seconds,
                gateway_us: micros(cpu_of(std::process::id())? - gateway),
                state_us: micros(cpu_of(state_pid)? - state),
            })?;
        }
    }
    Ok(())
}

/// The state's end: dials the socket and answers every event until the stream ends.
pub(crate) fn state(socket: &Path) -> anyhow::Result<()> {
    crate::child::end_with_parent();
    runtime()?.block_on(async {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME);
        let mut client =
            GatewayLinkClient::new(endpoint.connect().await?).max_decoding_message_size(usize::MAX);
        let (answers, outgoing) = mpsc::channel(64);
        let mut incoming = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
        super::say(&"attached")?;
        // The other end closes the stream when it is finished, whatever it says then.
        while let Some(Ok(batch)) = incoming.next().await {
            if answers.send(answer(&batch)?).await.is_err() {
                break;
            }
        }
        anyhow::Ok(())
    })?;
    super::wait_for_end();
    Ok(())
}

/// Every event comes back to where it came from.
fn answer(batch: &GatewayBatch) -> anyhow::Result<StateBatch> {
    let none = Frames::default();
    let uplink = batch.uplink.as_ref().unwrap_or(&none);
    let (mut handle, mut length) = (Vec::with_capacity(uplink.handle.len()), Vec::new());
    length.reserve_exact(uplink.handle.len());
    let mut frames = BytesMut::with_capacity(uplink.frames.len());
    walk(&uplink.handle, &uplink.length, &uplink.frames, |to, frame| {
        handle.push(to);
        length.push(frame.len() as u32);
        frames.extend_from_slice(frame);
    })?;
    let unicast = Unicast {
        handle,
        length,
        frames: frames.freeze(),
        ..Unicast::default()
    };
    Ok(StateBatch {
        unicast: Some(unicast),
        ..StateBatch::default()
    })
}

/// One batch, event by event.
fn columns<'a>(events: usize, frame: impl Fn(usize) -> &'a [u8]) -> Frames {
    /// Handles that differ, as those of many connections do.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let first = NEXT.fetch_add(events as u64, Ordering::Relaxed);
    let (mut handle, mut length) = (Vec::with_capacity(events), Vec::with_capacity(events));
    let mut frames = BytesMut::with_capacity(events * frame(0).len());
    for index in 0..events {
        handle.push(first + index as u64);
        length.push(frame(index).len() as u32);
        frames.extend_from_slice(frame(index));
    }
    Frames {
        handle,
        length,
        frames: frames.freeze(),
    }
}

/// Hands each event of a batch to `each`.
fn walk(
    handle: &[u64],
    length: &[u32],
    frames: &Bytes,
    mut each: impl FnMut(u64, &[u8]),
) -> anyhow::Result<()> {
    let mut rest = &frames[..];
    for (handle, length) in handle.iter().zip(length) {
        let (frame, after) = rest
            .split_at_checked(*length as usize)
            .context("the columns don't fit")?;
        each(*handle, frame);
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_answered_to_its_own_handle() {
        let sizes: Vec<Vec<u8>> = (0..10).map(|len| vec![len as u8; len]).collect();
        let batch = GatewayBatch {
            uplink: Some(columns(10, |at| &sizes[at])),
            ..GatewayBatch::default()
        };
        let answer = answer(&batch).unwrap().unicast.unwrap();
        assert_eq!(answer.handle, batch.uplink.unwrap().handle);
        let mut seen = Vec::new();
        walk(&answer.handle, &answer.length, &answer.frames, |_, frame| {
            seen.push(frame.to_vec());
        })
        .unwrap();
        assert_eq!(seen, sizes);
        assert!(walk(&[1], &[5], &Bytes::from_static(b"abc"), |_, _| {}).is_err());
    }
}
