//! A business that greets whoever writes to it.

use imaccess_proto::v1::business_server::{Business, BusinessServer};
use imaccess_proto::v1::{BusinessReply, BusinessRequest, FromAccess, FromBusiness};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

struct Greeter;

#[tonic::async_trait]
impl Business for Greeter {
    type ServeStream = ReceiverStream<Result<FromBusiness, Status>>;

    /// The access layer opens a few of these and keeps them open: batches of requests and events come in, replies go out.
    async fn serve(
        &self,
        request: Request<Streaming<FromAccess>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let mut batches = request.into_inner();
        let (sender, replies) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(batch)) = batches.message().await {
                if sender.send(Ok(answer(batch))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}

fn answer(batch: FromAccess) -> FromBusiness {
    for event in &batch.events {
        println!("{:?}: {}", event.kind(), event.device);
    }
    FromBusiness {
        // What is acknowledged doesn't come again.
        event_ack: batch.events.last().map_or(0, |event| event.sequence),
        replies: batch.requests.into_iter().map(greet).collect(),
        ..FromBusiness::default()
    }
}

fn greet(request: BusinessRequest) -> BusinessReply {
    let text = String::from_utf8_lossy(&request.payload);
    BusinessReply {
        id: request.id,
        payload: format!("{text} to you too, {}!", request.device).into(),
        ..BusinessReply::default()
    }
}

#[tokio::main]
async fn main() -> Result<(), tonic::transport::Error> {
    let address = ([127, 0, 0, 1], 9003).into();
    Server::builder()
        .add_service(BusinessServer::new(Greeter))
        .serve(address)
        .await
}
