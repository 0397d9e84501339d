//! The chat server between a push API that remembers what it was asked and a stream that is driven by hand.
#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use imaccess_example_chat::{Config, serve};
use imaccess_proto::v1::business_client::BusinessClient;
use imaccess_proto::v1::push_server::{Push, PushServer};
use imaccess_proto::v1::{
    AccessHello, BroadcastRequest, BroadcastResponse, BusinessReply, BusinessRequest, ChangeMembersRequest,
    ChangeMembersResponse, ConnectionEvent, DestroyGroupRequest, DestroyGroupResponse, EventKind, FromAccess,
    FromBusiness, KickRequest, KickResponse, ListMembersRequest, ListMembersResponse, Outcome,
    PushDevicesRequest, PushDevicesResponse, PushGroupRequest, PushGroupResponse, QueryOnlineRequest,
    QueryOnlineResponse,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// The business's number.
const CHAT: u32 = 2;
/// For anything that a test waits for: a busy machine must not fail it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the push API has been asked, and how it answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pushed {
    /// Members of each group.
    pub(crate) groups: BTreeMap<String, BTreeSet<String>>,
    /// Group, text and key of each push.
    pub(crate) said: Vec<(String, String, String)>,
    /// Devices that were made members, in order.
    pub(crate) joins: Vec<String>,
    /// How the next joins end, instead of well.
    pub(crate) joins_end: VecDeque<Outcome>,
    /// The push API is away.
    pub(crate) away: bool,
    /// Gateways that are said to be out of sync.
    pub(crate) unsynced: u32,
}

/// Everything.
pub(crate) struct Stage {
    state: watch::Sender<Pushed>,
    business: String,
    end: oneshot::Sender<()>,
    served: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// One stream to the server.
pub(crate) struct Stream {
    to: mpsc::Sender<FromAccess>,
    from: Streaming<FromBusiness>,
    next: u64,
}

impl Stage {
    /// Starts both servers on free ports.
    pub(crate) async fn open() -> Self {
        let state = watch::Sender::new(Pushed::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let push = format!("http://{}", listener.local_addr().unwrap());
        let server = PushServer::new(Fake(state.clone()));
        let incoming = TcpListenerStream::new(listener);
        tokio::spawn(
            Server::builder()
                .add_service(server)
                .serve_with_incoming(incoming),
        );

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let business = format!("http://{}", listener.local_addr().unwrap());
        let config = Config {
            business: CHAT,
            token_file: None,
        };
        let channel = Endpoint::from_shared(push).unwrap().connect_lazy();
        let (end, stop) = oneshot::channel();
        let served = tokio::spawn(serve(config, channel, listener, async {
            // Dropped with the stage, which ends it as well.
            let _ = stop.await;
        }));
        Self {
            state,
            business,
            end,
            served,
        }
    }

    /// Another stream of this dialler. The server asks it for a snapshot first of all, and gets none yet.
    pub(crate) async fn stream(&self, dialler: &str) -> Stream {
        let mut client = BusinessClient::connect(self.business.clone()).await.unwrap();
        let (to, batches) = mpsc::channel(16);
        let hello = AccessHello {
            cluster: "local".to_owned(),
            instance: dialler.to_owned(),
            business: CHAT,
        };
        let hello = FromAccess {
            hello: Some(hello),
            ..FromAccess::default()
        };
        to.send(hello).await.unwrap();
        let from = client
            .serve(ReceiverStream::new(batches))
            .await
            .unwrap()
            .into_inner();
        let mut stream = Stream { to, from, next: 1 };
        assert!(stream.answer().await.resync);
        stream
    }

    /// Tells the server to end, and waits until it has.
    pub(crate) async fn close(self) {
        self.end.send(()).unwrap();
        let served = tokio::time::timeout(PATIENCE, self.served).await;
        served.expect("it ends in time").unwrap().unwrap();
    }

    /// What the push API has been asked so far.
    pub(crate) fn pushed(&self) -> Pushed {
        self.state.borrow().clone()
    }

    /// Changes how it answers.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Pushed)) {
        self.state.send_modify(change);
    }

    /// Waits until a room has been told something.
    pub(crate) async fn told(&self, room: &str, text: &str) {
        let mut state = self.state.subscribe();
        let is_there = |pushed: &Pushed| {
            pushed
                .said
                .iter()
                .any(|(in_room, said, _)| in_room == room && said == text)
        };
        let waited = tokio::time::timeout(PATIENCE, state.wait_for(is_there)).await;
        assert!(waited.is_ok(), "{text:?} isn't among {:?}", self.pushed().said);
    }
}

impl Stream {
    /// Sends a batch.
    pub(crate) async fn send(&self, batch: FromAccess) {
        self.to.send(batch).await.unwrap();
    }

    /// The stream must end in order.
    pub(crate) async fn ended(&mut self) {
        let end = tokio::time::timeout(PATIENCE, self.from.message()).await;
        assert_eq!(end.expect("an end in time").unwrap(), None);
    }

    /// The server's next batch.
    pub(crate) async fn answer(&mut self) -> FromBusiness {
        let answer = tokio::time::timeout(PATIENCE, self.from.message()).await;
        answer
            .expect("an answer in time")
            .unwrap()
            .expect("the stream goes on")
    }

    /// A device's line, and the reply to it.
    pub(crate) async fn ask(&mut self, device: &str, line: &str) -> BusinessReply {
        let id = self.next;
        self.next += 1;
        self.repeat(device, line, id).await
    }

    /// The same under a number of its own choice.
    pub(crate) async fn repeat(&mut self, device: &str, line: &str, message_id: u64) -> BusinessReply {
        let request = BusinessRequest {
            id: message_id,
            app: "demo".to_owned(),
            device: device.to_owned(),
            session: vec![7; 16].into(),
            message_id,
            payload: line.to_owned().into(),
            ..BusinessRequest::default()
        };
        self.send(FromAccess {
            requests: vec![request],
            ..FromAccess::default()
        })
        .await;
        let mut answer = self.answer().await;
        assert_eq!(answer.replies.len(), 1, "{answer:?}");
        let reply = answer.replies.remove(0);
        assert_eq!(reply.id, message_id);
        reply
    }

    /// As [`ask`](Self::ask); the reply must be fine, and is given as text.
    pub(crate) async fn say(&mut self, device: &str, line: &str) -> String {
        let reply = self.ask(device, line).await;
        assert_eq!(reply.code, 0, "{line}");
        String::from_utf8(reply.payload.to_vec()).unwrap()
    }

    /// Events, which the server must acknowledge.
    pub(crate) async fn events(&mut self, events: &[(EventKind, &str, u64)]) {
        let events: Vec<ConnectionEvent> = (1..)
            .zip(events)
            .map(|(sequence, event)| ConnectionEvent {
                sequence,
                ..row(*event)
            })
            .collect();
        let last = events.len() as u64;
        self.send(FromAccess {
            events,
            ..FromAccess::default()
        })
        .await;
        assert_eq!(self.answer().await.event_ack, last);
    }

    /// Rows of a snapshot, and whether they are the last.
    pub(crate) async fn snapshot(&self, devices: &[(&str, u64)], done: bool) {
        let online = |(device, epoch): &(&str, u64)| row((EventKind::Online, device, *epoch));
        self.send(FromAccess {
            snapshot: devices.iter().map(online).collect(),
            snapshot_done: done,
            ..FromAccess::default()
        })
        .await;
    }
}

/// An event of a device's login with this epoch, or a snapshot's row.
fn row((kind, device, epoch): (EventKind, &str, u64)) -> ConnectionEvent {
    ConnectionEvent {
        kind: kind.into(),
        app: "demo".to_owned(),
        device: device.to_owned(),
        session: format!("session {epoch}").into(),
        epoch,
        ..ConnectionEvent::default()
    }
}

/// The push API.
struct Fake(watch::Sender<Pushed>);

impl Fake {
    fn asked<T>(&self, business: u32, change: impl FnOnce(&mut Pushed) -> T) -> Result<Response<T>, Status> {
        assert_eq!(business, CHAT);
        let mut answer = None;
        self.0
            .send_modify(|pushed| answer = (!pushed.away).then(|| change(pushed)));
        answer
            .map(Response::new)
            .ok_or_else(|| Status::unavailable("it is away"))
    }
}

fn group(request: &ChangeMembersRequest) -> (String, String) {
    let group = String::from_utf8(request.group.to_vec()).unwrap();
    (group, request.devices[0].clone())
}

#[tonic::async_trait]
impl Push for Fake {
    async fn push_group(
        &self,
        request: Request<PushGroupRequest>,
    ) -> Result<Response<PushGroupResponse>, Status> {
        let request = request.into_inner();
        self.asked(request.business, |pushed| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let said = (
                text(&request.group),
                text(&request.payload),
                request.idempotency_key,
            );
            pushed.said.push(said);
            PushGroupResponse {
                unsynced: pushed.unsynced,
                ..PushGroupResponse::default()
            }
        })
    }

    async fn join_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        let request = request.into_inner();
        self.asked(request.business, |pushed| {
            let (group, device) = group(&request);
            let outcome = pushed.joins_end.pop_front().unwrap_or(Outcome::Done);
            if outcome == Outcome::Done {
                pushed.joins.push(device.clone());
                pushed.groups.entry(group).or_default().insert(device);
            }
            ChangeMembersResponse {
                outcomes: vec![outcome.into()],
            }
        })
    }

    async fn leave_group(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        let request = request.into_inner();
        self.asked(request.business, |pushed| {
            let (group, device) = group(&request);
            pushed.groups.entry(group).or_default().remove(&device);
            ChangeMembersResponse {
                outcomes: vec![Outcome::Done.into()],
            }
        })
    }

    async fn push_devices(
        &self,
        _request: Request<PushDevicesRequest>,
    ) -> Result<Response<PushDevicesResponse>, Status> {
        Err(unexpected())
    }

    async fn broadcast(
        &self,
        _request: Request<BroadcastRequest>,
    ) -> Result<Response<BroadcastResponse>, Status> {
        Err(unexpected())
    }

    async fn query_online(
        &self,
        _request: Request<QueryOnlineRequest>,
    ) -> Result<Response<QueryOnlineResponse>, Status> {
        Err(unexpected())
    }

    async fn kick(&self, _request: Request<KickRequest>) -> Result<Response<KickResponse>, Status> {
        Err(unexpected())
    }

    async fn create_group(
        &self,
        _request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        Err(unexpected())
    }

    async fn list_members(
        &self,
        _request: Request<ListMembersRequest>,
    ) -> Result<Response<ListMembersResponse>, Status> {
        Err(unexpected())
    }

    async fn destroy_group(
        &self,
        _request: Request<DestroyGroupRequest>,
    ) -> Result<Response<DestroyGroupResponse>, Status> {
        Err(unexpected())
    }
}

fn unexpected() -> Status {
    Status::unimplemented("chat doesn't need it")
}
