//! The streams from the access layer: requests in, replies out; events in order, and acknowledged; snapshots asked for.

use std::sync::Arc;

use imaccess_proto::v1::business_server::Business;
use imaccess_proto::v1::{BusinessReply, ConnectionEvent, EventKind, FromAccess, FromBusiness};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::house::House;
use crate::presence::Snapshot;

/// Requests of one stream that are worked on; while there are as many, no more are read.
const AT_WORK: usize = 256;
/// Batches that wait to be sent on one stream.
const TO_SEND: usize = 64;

/// The service.
#[derive(Debug)]
pub(crate) struct Chat {
    house: House,
    /// Turns true when the server ends.
    ending: watch::Receiver<bool>,
}

impl Chat {
    pub(crate) fn new(house: House, ending: watch::Receiver<bool>) -> Self {
        Self { house, ending }
    }
}

#[tonic::async_trait]
impl Business for Chat {
    type ServeStream = ReceiverStream<Result<FromBusiness, Status>>;

    async fn serve(
        &self,
        request: Request<Streaming<FromAccess>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let (sender, receiver) = mpsc::channel(TO_SEND);
        let conversation = Conversation {
            house: self.house.clone(),
            dialler: "".into(),
            snapshot: None,
            again: false,
            sender,
        };
        tokio::spawn(conversation.run(request.into_inner(), self.ending.clone()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One stream.
struct Conversation {
    house: House,
    /// Who is at the other end.
    dialler: Arc<str>,
    /// The snapshot that was asked for.
    snapshot: Option<Snapshot>,
    /// Another one is wanted after it: what it says may have been true before something was dropped.
    again: bool,
    sender: mpsc::Sender<Result<FromBusiness, Status>>,
}

/// The other side is gone.
struct Ended;

impl Conversation {
    async fn run(mut self, mut batches: Streaming<FromAccess>, mut ending: watch::Receiver<bool>) {
        // Ends with the stream: what is answered then, nobody waits for.
        let mut at_work: JoinSet<BusinessReply> = JoinSet::new();
        let mut ended = false;
        while !(ended && at_work.is_empty()) {
            tokio::select! {
                // It changes once. An error means that the server is gone.
                _ = ending.changed(), if !ended => ended = true,
                Some(done) = at_work.join_next() => {
                    let Ok(reply) = done else { continue };
                    // 0 is a one-way send.
                    if reply.id == 0 {
                        continue;
                    }
                    let replies = FromBusiness { replies: vec![reply], ..FromBusiness::default() };
                    if self.send(replies).await.is_err() {
                        return;
                    }
                }
                batch = batches.message(), if !ended && at_work.len() < AT_WORK => {
                    let Ok(Some(mut batch)) = batch else { return };
                    for request in std::mem::take(&mut batch.requests) {
                        let house = self.house.clone();
                        at_work.spawn(async move { house.answer(request).await });
                    }
                    if self.take(batch).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Everything but the requests.
    async fn take(&mut self, batch: FromAccess) -> Result<(), Ended> {
        if let Some(hello) = batch.hello {
            self.dialler = hello.instance.into();
            // What was acknowledged before this server began doesn't come again.
            self.resync().await?;
        }
        for event in &batch.events {
            self.hear(event).await?;
        }
        if let Some(last) = batch.events.last() {
            let event_ack = last.sequence;
            self.send(FromBusiness {
                event_ack,
                ..FromBusiness::default()
            })
            .await?;
        }
        for row in &batch.snapshot {
            self.hear(row).await?;
        }
        if batch.snapshot_done
            && let Some(snapshot) = self.snapshot.take()
        {
            self.house.finish(&self.dialler, &snapshot).await;
            if std::mem::take(&mut self.again) {
                self.resync().await?;
            }
        }
        Ok(())
    }

    /// An event, or a row of a snapshot, which reads like one.
    async fn hear(&mut self, event: &ConnectionEvent) -> Result<(), Ended> {
        if event.kind() == EventKind::ResyncNeeded {
            return self.resync().await;
        }
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.hear(event);
        }
        self.house.hear(&self.dialler, event).await;
        Ok(())
    }

    /// Asks for a snapshot, or for another one after that which is on its way.
    async fn resync(&mut self) -> Result<(), Ended> {
        if self.snapshot.is_some() {
            self.again = true;
            return Ok(());
        }
        self.snapshot = Some(Snapshot::default());
        self.send(FromBusiness {
            resync: true,
            ..FromBusiness::default()
        })
        .await
    }

    async fn send(&self, batch: FromBusiness) -> Result<(), Ended> {
        self.sender.send(Ok(batch)).await.map_err(|_| Ended)
    }
}
