//! The open loop against a push API and a gateway in one, which lose on purpose.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use imaccess_proto::v1::push_server::{Push, PushServer};
use imaccess_proto::v1::*;
use imaccess_wire::frame::{GroupPush as GroupPushFrame, Push as PushFrame};
use tonic::{Request, Response, Status};

use crate::clock::monotonic_ns;
use crate::job::{Answer, Connect, Job, Publish, Pushed, Pushes, Receivers, Stream, To};
use crate::worker::{UNIMPLEMENTED, Worker};

/// Writes what is pushed to the clients' sockets, but for some.
struct Fake {
    clients: Arc<Mutex<Vec<TcpStream>>>,
}

/// What isn't served here.
type Nothing<T> = Result<Response<T>, Status>;

fn nothing<T>() -> Nothing<T> {
    Err(Status::unimplemented("not here"))
}

/// The number in a payload, without the stream's own part.
fn message(payload: &[u8]) -> u64 {
    u64::from_be_bytes(*payload.first_chunk().unwrap()) & 0xffff
}

#[tonic::async_trait]
impl Push for Fake {
    async fn push_devices(
        &self,
        request: Request<PushDevicesRequest>,
    ) -> Result<Response<PushDevicesResponse>, Status> {
        let request = request.into_inner();
        let index: usize = request.devices[0].strip_prefix("p0-").unwrap().parse().unwrap();
        let outcome = match message(&request.payload) % 10 {
            7 => Outcome::Retry,
            3 => Outcome::Written,
            number => {
                let mut frame = Vec::new();
                PushFrame {
                    business: 1,
                    payload: &request.payload,
                    ..PushFrame::default()
                }
                .encode(&mut frame);
                // To the next one instead.
                let wrong = usize::from(number == 5);
                let clients = self.clients.lock().unwrap();
                let at = (index + wrong) % clients.len();
                (&clients[at]).write_all(&frame).unwrap();
                Outcome::Written
            }
        };
        Ok(Response::new(PushDevicesResponse {
            outcomes: vec![outcome.into()],
        }))
    }

    async fn push_group(
        &self,
        request: Request<PushGroupRequest>,
    ) -> Result<Response<PushGroupResponse>, Status> {
        let request = request.into_inner();
        if message(&request.payload) == 1 {
            return Err(Status::resource_exhausted("full"));
        }
        let mut frame = Vec::new();
        GroupPushFrame {
            business: 1,
            group: &request.group,
            payload: &request.payload,
            ..GroupPushFrame::default()
        }
        .encode(&mut frame);
        for client in &*self.clients.lock().unwrap() {
            let mut client = client;
            client.write_all(&frame).unwrap();
            if message(&request.payload) == 2 {
                client.write_all(&frame).unwrap();
            }
        }
        Ok(Response::new(PushGroupResponse {
            instances: 1,
            ..PushGroupResponse::default()
        }))
    }

    async fn broadcast(&self, _: Request<BroadcastRequest>) -> Nothing<BroadcastResponse> {
        nothing()
    }
    async fn query_online(&self, _: Request<QueryOnlineRequest>) -> Nothing<QueryOnlineResponse> {
        nothing()
    }
    async fn kick(&self, _: Request<KickRequest>) -> Nothing<KickResponse> {
        nothing()
    }
    async fn create_group(&self, _: Request<ChangeMembersRequest>) -> Nothing<ChangeMembersResponse> {
        nothing()
    }
    async fn join_group(&self, _: Request<ChangeMembersRequest>) -> Nothing<ChangeMembersResponse> {
        nothing()
    }
    async fn leave_group(&self, _: Request<ChangeMembersRequest>) -> Nothing<ChangeMembersResponse> {
        nothing()
    }
    async fn list_members(&self, _: Request<ListMembersRequest>) -> Nothing<ListMembersResponse> {
        nothing()
    }
    async fn destroy_group(&self, _: Request<DestroyGroupRequest>) -> Nothing<DestroyGroupResponse> {
        nothing()
    }
}

/// A worker with five connections to the fake, whose push API's URL it is given.
fn worker() -> (Worker, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let clients = Arc::new(Mutex::new(Vec::new()));
    let mut worker = Worker::new().unwrap();
    let job = Connect {
        targets: vec![listener.local_addr().unwrap()],
        count: 5,
        // One after the other, so that the fake has them in their order.
        in_flight: 1,
        login: None,
        seconds: None,
    };
    assert!(matches!(worker.work(Job::Connect(job)), Answer::Connected(done) if done.count == 5));
    for _ in 0..5 {
        clients.lock().unwrap().push(listener.accept().unwrap().0);
    }
    let (found, address) = std::sync::mpsc::sync_channel::<SocketAddr>(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            found.send(listener.local_addr().unwrap()).unwrap();
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(PushServer::new(Fake { clients }));
            server.serve_with_incoming(incoming).await.unwrap();
        });
    });
    (worker, format!("http://{}", address.recv().unwrap()))
}

fn push(worker: &mut Worker, url: &str, to: To, receivers: Receivers) -> Pushed {
    let publish = Publish {
        url: url.to_owned(),
        business: 1,
        to,
        bytes: 100,
    };
    let stream = Stream {
        first: 0xabcd_0000,
        per_second: 100.0,
        receivers,
    };
    let job = Pushes {
        publish: Some(publish),
        streams: vec![stream],
        start_ns: monotonic_ns() + 1_000_000,
        seconds: 0.2,
    };
    match worker.work(Job::Push(job)) {
        Answer::Pushed(done) => done,
        other => panic!("{other:?}"),
    }
}

#[test]
fn unicasts_that_were_promised_and_never_came_are_lost() {
    let (mut worker, url) = worker();
    let to = To::Devices {
        app: "bench".to_owned(),
        prefix: "p0-".to_owned(),
    };
    let done = push(&mut worker, &url, to, Receivers::One);
    let published = done.published.unwrap();
    assert_eq!(
        (published.answers["written"], published.answers["retry"]),
        (18, 2)
    );
    assert_eq!((published.promised, published.fault), (18, None));
    // Of twenty: two were written to nobody, two to another device, and two were answered retry, which is no loss.
    assert_eq!(published.lost, 4);
    assert_eq!((done.received[0].expected, done.received[0].received), (20, 14));
    assert_eq!(done.failures["wrong_device"], 2);
    assert_eq!(done.failures.len(), 1);
}

#[test]
fn pushes_to_a_group_are_counted_per_member() {
    let (mut worker, url) = worker();
    let to = To::Group { id: "g".to_owned() };
    let done = push(&mut worker, &url, to, Receivers::All);
    let published = done.published.unwrap();
    assert_eq!(published.answers["sent"], 19);
    assert_eq!(published.answers["resource_exhausted"], 1);
    assert!(published.fault.unwrap().contains("full"));
    assert_eq!(published.promised, 19);
    assert_eq!((done.received[0].expected, done.received[0].received), (100, 95));
    assert_eq!(done.failures["received_twice"], 5);
    assert_eq!(done.received[0].messages, 20);
    assert!(done.received[0].frame_bytes > 100);
}

#[test]
fn a_push_api_that_knows_no_broadcast_says_so() {
    let (mut worker, url) = worker();
    let done = push(&mut worker, &url, To::Everybody, Receivers::All);
    let published = done.published.unwrap();
    assert_eq!(published.answers[UNIMPLEMENTED], 20);
    assert_eq!((published.promised, done.received[0].received), (0, 0));
}

#[test]
fn without_a_push_api_it_fails_and_says_why() {
    let (mut worker, _) = worker();
    let publish = Publish {
        url: "http://127.0.0.1:1".to_owned(),
        business: 1,
        to: To::Everybody,
        bytes: 100,
    };
    let job = Pushes {
        publish: Some(publish),
        streams: vec![Stream {
            first: 0,
            per_second: 100.0,
            receivers: Receivers::All,
        }],
        start_ns: monotonic_ns(),
        seconds: 0.1,
    };
    let Answer::Failed(why) = worker.work(Job::Push(job)) else {
        panic!("it pushed")
    };
    assert!(why.contains("connect to the push API"), "{why}");
}
