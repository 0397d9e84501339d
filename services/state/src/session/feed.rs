//! The gRPC server that routing replicas follow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use imaccess_proto::v1::route_feed_server::RouteFeed;
use imaccess_proto::v1::{FromRouting, FromSidecar};
use tokio::sync::{Notify, mpsc};
use tonic::{Request, Response, Status, Streaming};

use super::mailbox::{Mailbox, Outgoing, mailbox};

/// From a follower to the hub.
#[derive(Debug)]
pub enum FromFollower {
    /// It has said hello.
    New(u32, Mailbox<FromSidecar>),
    /// It has said something.
    Batch(u32, Box<FromRouting>),
    /// Its stream ended.
    Gone(u32),
}

/// The service.
#[derive(Debug)]
pub struct Feed {
    cluster: String,
    to_hub: mpsc::Sender<FromFollower>,
    room: Arc<Notify>,
    next: AtomicU32,
}

impl Feed {
    /// A service whose followers are the hub's; `room` wakes the hub when one can take more.
    #[must_use]
    pub fn new(cluster: String, to_hub: mpsc::Sender<FromFollower>, room: Arc<Notify>) -> Self {
        Self {
            cluster,
            to_hub,
            room,
            next: AtomicU32::new(1),
        }
    }
}

#[tonic::async_trait]
impl RouteFeed for Feed {
    type FollowStream = Sent;

    async fn follow(&self, request: Request<Streaming<FromRouting>>) -> Result<Response<Sent>, Status> {
        let mut batches = request.into_inner();
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (outgoing, stream) = mailbox(None, Arc::clone(&self.room));
        let (cluster, to_hub) = (self.cluster.clone(), self.to_hub.clone());
        // Answered at once: a replica may wait for the response before it says hello.
        tokio::spawn(async move {
            let first = batches.message().await;
            let Ok(Some(FromRouting {
                hello: Some(hello), ..
            })) = first
            else {
                return;
            };
            if hello.cluster != cluster {
                tracing::warn!(
                    theirs = hello.cluster,
                    "a routing replica of another cluster was turned away"
                );
                return;
            }
            tracing::info!(replica = %format_args!("{:016x}", hello.replica), "a routing replica follows");
            if to_hub.send(FromFollower::New(id, outgoing)).await.is_err() {
                return;
            }
            // Waits while the hub is behind, and so does the replica.
            while let Ok(Some(batch)) = batches.message().await {
                if to_hub
                    .send(FromFollower::Batch(id, Box::new(batch)))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            let _ = to_hub.send(FromFollower::Gone(id)).await;
        });
        Ok(Response::new(Sent(stream)))
    }
}

/// What a follower is sent.
#[derive(Debug)]
pub struct Sent(Outgoing<FromSidecar>);

impl tokio_stream::Stream for Sent {
    type Item = Result<FromSidecar, Status>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::pin::Pin::new(&mut self.0)
            .poll_next(context)
            .map(|item| item.map(Ok))
    }
}
