//! Calls by gRPC: what statuses mean, and what is tried again.

use bytes::Bytes;
use imaccess_common::business::BusinessConfig;
use imaccess_proto::v1::EventsHandled;
use imaccess_proto::v1::unary_business_server::{UnaryBusiness, UnaryBusinessServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use super::*;

struct Echo;

#[tonic::async_trait]
impl UnaryBusiness for Echo {
    async fn handle(
        &self,
        request: tonic::Request<BusinessRequest>,
    ) -> Result<tonic::Response<BusinessReply>, Status> {
        let trace = request
            .metadata()
            .get("traceparent")
            .map(|value| value.to_str().unwrap().to_owned());
        assert!(request.metadata().contains_key("grpc-timeout"));
        let request = request.into_inner();
        assert_eq!(trace.unwrap_or_default(), request.traceparent);
        match request.payload.as_ref() {
            b"busy" => Err(Status::resource_exhausted("later")),
            payload => Ok(tonic::Response::new(BusinessReply {
                payload: Bytes::copy_from_slice(payload),
                ..BusinessReply::default()
            })),
        }
    }

    async fn handle_events(
        &self,
        request: tonic::Request<EventBatch>,
    ) -> Result<tonic::Response<EventsHandled>, Status> {
        match request.into_inner().snapshot_done {
            true => Ok(tonic::Response::new(EventsHandled { resync: true })),
            false => Err(Status::internal("not now")),
        }
    }
}

fn asking(payload: &'static [u8], traceparent: &str) -> BusinessRequest {
    BusinessRequest {
        id: 1,
        deadline_ms: 5_000,
        traceparent: traceparent.to_owned(),
        payload: Bytes::from_static(payload),
        ..BusinessRequest::default()
    }
}

#[tokio::test]
async fn a_place_that_is_away_is_passed_over_within_the_call() {
    let mut listeners = Vec::new();
    for _ in 0..2 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    listeners.sort_by_key(|listener| listener.local_addr().unwrap());
    let mut config = BusinessConfig::new(1, "b", "");
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    config.endpoints = listeners.iter().map(url).collect();
    let second = listeners.pop().unwrap();
    drop(listeners);
    let places = Places::new(&config, 0);
    let caller = UnaryCaller::new(&places);
    let serving = tonic::transport::Server::builder()
        .add_service(UnaryBusinessServer::new(Echo))
        .serve_with_incoming(TcpListenerStream::new(second));
    tokio::spawn(serving);
    assert!(!caller.is_connected());
    let reply = caller.ask(asking(b"hello", "")).await.unwrap();
    assert_eq!(reply.payload, "hello");
    assert!(caller.is_connected());
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(
        caller.ask(asking(b"hello", trace)).await.unwrap().payload,
        "hello"
    );
    let busy = caller.ask(asking(b"busy", "")).await.unwrap();
    assert_eq!(
        (busy.code, busy.retry_after_ms),
        (Code::Busy as u32, USUAL_WAIT_MS)
    );
    let mut batch = EventBatch::default();
    let fault = caller.tell(&batch).await.unwrap_err();
    assert!(matches!(fault, CallError::Failed(_)), "{fault:?}");
    batch.snapshot_done = true;
    assert!(caller.tell(&batch).await.unwrap());
}

#[tokio::test]
async fn nobody_there_and_a_connection_that_breaks_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = BusinessConfig::new(1, "b", &format!("http://{}", listener.local_addr().unwrap()));
    let places = Places::new(&config, 0);
    let caller = UnaryCaller::new(&places);
    let breaking = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        // The preface, settings, and then the request's headers.
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains("hello") {
            let mut part = [0; 1_024];
            let count = tokio::io::AsyncReadExt::read(&mut stream, &mut part)
                .await
                .unwrap();
            read.extend_from_slice(&part[..count]);
        }
    };
    let (asked, ()) = tokio::join!(caller.ask(asking(b"hello", "")), breaking);
    let fault = asked.unwrap_err();
    assert!(matches!(fault, CallError::Broken(_)), "{fault:?}");
    drop(listener);
    let fault = caller.ask(asking(b"hello", "")).await.unwrap_err();
    assert!(matches!(fault, CallError::Unreached(_)), "{fault:?}");
    caller.tidy();
    assert!(!caller.is_connected());
    assert!(caller.connect().await.is_err());
}

#[test]
fn what_a_status_means() {
    use tonic::Code as Grpc;
    let of = |code| match judge(Status::new(code, "x")) {
        Ok(reply) => format!("code {}", reply.code),
        Err(CallError::Broken(_)) => "may be repeated".to_owned(),
        Err(CallError::Failed(said)) => format!("failed: {said}"),
        Err(CallError::Unusable(_)) => "unusable".to_owned(),
        Err(CallError::Unreached(_)) => "unreached".to_owned(),
    };
    assert_eq!(of(Grpc::ResourceExhausted), "code 301");
    assert_eq!(of(Grpc::Unavailable), "may be repeated");
    assert_eq!(of(Grpc::Internal), "failed: status Internal: x");
    for code in [
        Grpc::Unknown,
        Grpc::DeadlineExceeded,
        Grpc::Unimplemented,
        Grpc::DataLoss,
    ] {
        assert!(of(code).starts_with("failed"), "{code:?}");
    }
    for code in [
        Grpc::InvalidArgument,
        Grpc::NotFound,
        Grpc::PermissionDenied,
        Grpc::FailedPrecondition,
    ] {
        assert_eq!(of(code), "unusable", "{code:?}");
    }
}
