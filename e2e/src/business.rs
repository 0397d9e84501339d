//! Business servers that misbehave, for scenarios.

pub mod scripted;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use imaccess_proto::v1::business_server::{Business, BusinessServer};
use imaccess_proto::v1::{BusinessReply, FromAccess, FromBusiness};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Replies that wait to be written; requests beyond are read when there is room again.
const REPLIES: usize = 1024;

/// A server that takes requests and never answers them, until it is told to.
#[derive(Debug)]
pub struct HangingBusiness {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    waiting: AtomicU64,
    /// How often all waiting requests were answered.
    released: watch::Sender<u64>,
}

impl HangingBusiness {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("a port for the business")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            waiting: AtomicU64::new(0),
            released: watch::Sender::new(0),
        });
        let server = BusinessServer::new(Server(state.clone()));
        let task = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let _ = tonic::transport::Server::builder()
                .add_service(server)
                .serve_with_incoming(incoming)
                .await;
        });
        Ok(Self { address, state, task })
    }

    /// Requests that it has taken and not answered.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.state.waiting.load(Ordering::Relaxed)
    }

    /// Answers all that wait now.
    pub fn release(&self) {
        self.state.released.send_modify(|count| *count += 1);
    }
}

impl Drop for HangingBusiness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Server(Arc<State>);

#[tonic::async_trait]
impl Business for Server {
    type ServeStream = ReceiverStream<Result<FromBusiness, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<FromAccess>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let (sender, receiver) = mpsc::channel(REPLIES);
        tokio::spawn(hang(request.into_inner(), sender, self.0.clone()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Collects one stream's requests; answers them when released.
async fn hang(
    mut input: Streaming<FromAccess>,
    output: mpsc::Sender<Result<FromBusiness, Status>>,
    state: Arc<State>,
) {
    let mut released = state.released.subscribe();
    let mut waiting: Vec<u64> = Vec::new();
    loop {
        let message = tokio::select! {
            message = input.message() => message,
            changed = released.changed() => {
                let replies: Vec<_> =
                    waiting.drain(..).map(|id| BusinessReply { id, ..BusinessReply::default() }).collect();
                state.waiting.fetch_sub(replies.len() as u64, Ordering::Relaxed);
                if changed.is_err() || output.send(Ok(FromBusiness { replies, ..FromBusiness::default() })).await.is_err() {
                    break;
                }
                continue;
            }
        };
        let Ok(Some(message)) = message else { break };
        state
            .waiting
            .fetch_add(message.requests.len() as u64, Ordering::Relaxed);
        waiting.extend(message.requests.iter().map(|request| request.id));
        if let Some(last) = message.events.last() {
            let ack = FromBusiness {
                event_ack: last.sequence,
                ..FromBusiness::default()
            };
            if output.send(Ok(ack)).await.is_err() {
                break;
            }
        }
    }
    state.waiting.fetch_sub(waiting.len() as u64, Ordering::Relaxed);
}
