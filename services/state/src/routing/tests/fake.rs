//! Sidecars that say what a test tells them, and a replica with a business's client.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use imaccess_common::drain::Drain;
use imaccess_common::identity::InstanceId;
use imaccess_common::tls::{ClientTls, Connector, ServerTls};
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::route_feed_server::{RouteFeed, RouteFeedServer};
use imaccess_proto::v1::{
    BroadcastPush, FromRouting, FromSidecar, GroupCommand, GroupPresence, GroupPush, InstanceAnswer,
    LostSessions, MovedGroups, Outcome, Outranked, PushDevicesRequest, PushGroupRequest, PushGroupResponse,
    Receipts, RouteAnnouncement, RouteRetraction, RoutingHello, SessionCommand, SidecarHello, UnicastPush,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::accepted::accepted;
use crate::routing::feed::{FEED_CONNECTION_WINDOW, WINDOW};
use crate::routing::{Member, MembersConfig, Routing, RoutingConfig};

/// A state that a test waits for must come within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a replica may take to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Waits until `holds`.
pub(super) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "never came: {what}");
        tokio::task::yield_now().await;
    }
}

/// Ports the kernel chooses, and short pauses.
pub(super) fn quick() -> RoutingConfig {
    RoutingConfig {
        cluster: "test".to_owned(),
        push_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        reconnect_max: Duration::from_millis(20),
        ..RoutingConfig::default()
    }
}

/// The same with these instances.
pub(super) fn fixed(sidecars: &[&Sidecar]) -> RoutingConfig {
    let fixed = sidecars.iter().map(|sidecar| sidecar.member()).collect();
    RoutingConfig {
        members: MembersConfig {
            fixed,
            ..MembersConfig::default()
        },
        ..quick()
    }
}

pub(super) fn announcement(device: &str, session: [u8; 16], epoch: u64) -> RouteAnnouncement {
    RouteAnnouncement {
        app: "app".to_owned(),
        device: device.to_owned(),
        session: Bytes::copy_from_slice(&session),
        serial: epoch * 10,
        epoch,
        locator: epoch * 1_000,
    }
}

pub(super) fn retraction(device: &str, epoch: u64) -> RouteRetraction {
    RouteRetraction {
        app: "app".to_owned(),
        device: device.to_owned(),
        epoch,
    }
}

pub(super) fn presence(group: &str, present: bool) -> GroupPresence {
    GroupPresence {
        business: 7,
        group: Bytes::copy_from_slice(group.as_bytes()),
        present,
    }
}

type Answers = mpsc::Sender<Result<FromSidecar, Status>>;

/// The server half: hands each stream to the test.
struct Feed {
    streams: mpsc::Sender<(Streaming<FromRouting>, Answers)>,
}

#[tonic::async_trait]
impl RouteFeed for Feed {
    type FollowStream = ReceiverStream<Result<FromSidecar, Status>>;

    async fn follow(
        &self,
        request: Request<Streaming<FromRouting>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let (say, said) = mpsc::channel(64);
        self.streams
            .send((request.into_inner(), say))
            .await
            .map_err(|_| Status::unavailable("over"))?;
        Ok(Response::new(ReceiverStream::new(said)))
    }
}

/// A fake sidecar.
pub(super) struct Sidecar {
    name: String,
    address: SocketAddr,
    streams: mpsc::Receiver<(Streaming<FromRouting>, Answers)>,
    stream: Option<(Streaming<FromRouting>, Answers)>,
    sequence: u64,
    /// Heard, and not yet asked for.
    heard: FromRouting,
    stop: CancellationToken,
    server: Option<JoinHandle<()>>,
}

impl Sidecar {
    pub(super) async fn start(name: &str) -> Sidecar {
        Sidecar::start_with(name, None).await
    }

    /// The same, with certificates if `tls` is given.
    pub(super) async fn start_with(name: &str, tls: Option<ServerTls>) -> Sidecar {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hand, streams) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let server = Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(FEED_CONNECTION_WINDOW)
            .add_service(RouteFeedServer::new(Feed { streams: hand }));
        let incoming = accepted(listener, tls);
        let server = tokio::spawn(async move {
            tokio::select! {
                served = server.serve_with_incoming(incoming) => served.unwrap(),
                () = stopped.cancelled() => (),
            }
        });
        Sidecar {
            name: name.to_owned(),
            address,
            streams,
            stream: None,
            sequence: 0,
            heard: FromRouting::default(),
            stop,
            server: Some(server),
        }
    }

    fn instance(&self) -> InstanceId {
        InstanceId(format!("instance-{}", self.name))
    }

    pub(super) fn member(&self) -> Member {
        Member {
            name: self.name.clone(),
            instance: self.instance().0,
            routes: self.address.to_string(),
        }
    }

    /// Takes the next stream and says hello as of `cluster`.
    pub(super) async fn accept(&mut self, cluster: &str) -> RoutingHello {
        let waiting = tokio::time::timeout(PATIENCE, self.streams.recv());
        self.stream = Some(waiting.await.expect("the replica dials").unwrap());
        self.sequence = 0;
        self.heard = FromRouting::default();
        let hello = SidecarHello {
            cluster: cluster.to_owned(),
            instance: self.instance().0,
            instance_key: self.instance().key(),
            gateway_incarnation: 1,
        };
        self.say(FromSidecar {
            hello: Some(hello),
            ..FromSidecar::default()
        })
        .await;
        self.until(|heard| heard.hello.is_some()).await;
        self.heard.hello.take().unwrap()
    }

    async fn say(&mut self, message: FromSidecar) {
        let (_, say) = self.stream.as_ref().unwrap();
        say.send(Ok(message)).await.unwrap();
    }

    pub(super) async fn announce(&mut self, announcements: Vec<RouteAnnouncement>) {
        self.sequence += announcements.len() as u64;
        self.say(FromSidecar {
            announcements,
            sequence: self.sequence,
            ..FromSidecar::default()
        })
        .await;
    }

    pub(super) async fn retract(&mut self, retractions: Vec<RouteRetraction>) {
        self.sequence += retractions.len() as u64;
        self.say(FromSidecar {
            retractions,
            sequence: self.sequence,
            ..FromSidecar::default()
        })
        .await;
    }

    pub(super) async fn groups(&mut self, groups: Vec<GroupPresence>) {
        self.say(FromSidecar {
            groups,
            ..FromSidecar::default()
        })
        .await;
    }

    pub(super) async fn snapshot_done(&mut self) {
        self.say(FromSidecar {
            snapshot_done: true,
            ..FromSidecar::default()
        })
        .await;
    }

    pub(super) async fn leave(&mut self) {
        self.say(FromSidecar {
            leaving: true,
            ..FromSidecar::default()
        })
        .await;
    }

    /// Waits for the replica to say that no push comes any more.
    pub(super) async fn last(&mut self) {
        self.until(|heard| heard.last).await;
    }

    pub(super) async fn receipt(&mut self, id: u64, outcome: Outcome) {
        self.receipts(vec![id], outcome).await;
    }

    pub(super) async fn receipts(&mut self, id: Vec<u64>, outcome: Outcome) {
        let outcome = Bytes::from(vec![u8::try_from(i32::from(outcome)).unwrap(); id.len()]);
        self.say(FromSidecar {
            receipts: Some(Receipts { id, outcome }),
            ..FromSidecar::default()
        })
        .await;
    }

    /// Waits until all that was said is acknowledged.
    pub(super) async fn acknowledged(&mut self) -> u64 {
        let sequence = self.sequence;
        self.until(|heard| heard.acknowledged >= sequence).await;
        self.heard.acknowledged
    }

    pub(super) async fn outranked(&mut self, count: usize) -> Vec<Outranked> {
        self.until(|heard| heard.outranked.len() >= count).await;
        std::mem::take(&mut self.heard.outranked)
    }

    pub(super) async fn unicasts(&mut self, count: usize) -> Vec<UnicastPush> {
        self.until(|heard| heard.unicasts.len() >= count).await;
        std::mem::take(&mut self.heard.unicasts)
    }

    pub(super) async fn group_pushes(&mut self, count: usize) -> Vec<GroupPush> {
        self.until(|heard| heard.groups.len() >= count).await;
        std::mem::take(&mut self.heard.groups)
    }

    pub(super) async fn commands(&mut self, count: usize) -> Vec<SessionCommand> {
        self.until(|heard| heard.commands.len() >= count).await;
        std::mem::take(&mut self.heard.commands)
    }

    pub(super) async fn group_command(&mut self) -> GroupCommand {
        self.until(|heard| !heard.group_commands.is_empty()).await;
        self.heard.group_commands.remove(0)
    }

    pub(super) async fn broadcast(&mut self) -> BroadcastPush {
        self.until(|heard| !heard.broadcasts.is_empty()).await;
        self.heard.broadcasts.remove(0)
    }

    pub(super) async fn lost(&mut self) -> LostSessions {
        self.until(|heard| !heard.lost.is_empty()).await;
        self.heard.lost.remove(0)
    }

    pub(super) async fn answer(&mut self, answer: InstanceAnswer) {
        self.say(FromSidecar {
            answers: vec![answer],
            ..FromSidecar::default()
        })
        .await;
    }

    pub(super) async fn moved_groups(&mut self, moved: MovedGroups) {
        self.say(FromSidecar {
            moved_groups: vec![moved],
            ..FromSidecar::default()
        })
        .await;
    }

    pub(super) fn nothing_arrived(&self) -> bool {
        self.heard.unicasts.is_empty() && self.heard.groups.is_empty() && self.heard.outranked.is_empty()
    }

    async fn until(&mut self, holds: impl Fn(&FromRouting) -> bool) {
        let (stream, _) = self.stream.as_mut().unwrap();
        while !holds(&self.heard) {
            let next = tokio::time::timeout(PATIENCE, stream.message())
                .await
                .expect("the replica answers");
            let message = next.unwrap().expect("the stream goes on");
            self.heard.hello = message.hello.or_else(|| self.heard.hello.take());
            self.heard.acknowledged = self.heard.acknowledged.max(message.acknowledged);
            self.heard.last |= message.last;
            self.heard.outranked.extend(message.outranked);
            self.heard.unicasts.extend(message.unicasts);
            self.heard.groups.extend(message.groups);
            self.heard.commands.extend(message.commands);
            self.heard.group_commands.extend(message.group_commands);
            self.heard.broadcasts.extend(message.broadcasts);
            self.heard.lost.extend(message.lost);
        }
    }

    /// Ends the stream; the next one can be accepted.
    pub(super) fn disconnect(&mut self) {
        self.stream = None;
    }

    /// Ends for good: nothing listens any more.
    pub(super) async fn shut_down(&mut self) {
        self.stream = None;
        self.streams.close();
        self.stop.cancel();
        self.server.take().unwrap().await.unwrap();
    }
}

async fn connect(push: SocketAddr) -> PushClient<Channel> {
    PushClient::connect(format!("http://{push}")).await.unwrap()
}

/// A client that knows and shows certificates.
pub(super) async fn connect_by(
    push: SocketAddr,
    tls: ClientTls,
) -> Result<PushClient<Channel>, tonic::transport::Error> {
    let endpoint = Channel::from_shared(format!("http://{push}")).unwrap();
    let channel = endpoint.connect_with_connector(Connector(tls)).await?;
    Ok(PushClient::new(channel))
}

/// A replica that runs, and a client of its push API.
pub(super) struct Replica {
    pub(super) push_addr: SocketAddr,
    push: PushClient<Channel>,
    admin: SocketAddr,
    drain: Drain,
    /// Ends with the CPU it took, if it has a thread of its own.
    running: JoinHandle<Duration>,
}

impl Replica {
    pub(super) async fn start(config: RoutingConfig) -> Replica {
        Replica::start_with(config, None).await
    }

    /// The same; its push API is dialled by `tls`, if that is given.
    pub(super) async fn start_with(config: RoutingConfig, tls: Option<ClientTls>) -> Replica {
        let routing = Routing::bind(config).await.unwrap();
        let (push, admin) = (routing.push_addr(), routing.admin_addr());
        let drain = Drain::new(DRAIN);
        let until = drain.clone();
        let running = tokio::spawn(async move {
            routing.run(until).await.unwrap();
            Duration::ZERO
        });
        let client = match tls {
            None => connect(push).await,
            Some(tls) => connect_by(push, tls).await.unwrap(),
        };
        Replica {
            push_addr: push,
            push: client,
            admin,
            drain,
            running,
        }
    }

    /// The same on a thread of its own, so that its CPU can be told from that of the test.
    pub(super) async fn start_on_a_thread(config: RoutingConfig) -> Replica {
        let (tell, told) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let drain = Drain::new(DRAIN);
        let until = drain.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let routing = Routing::bind(config).await.unwrap();
                tell.send((routing.push_addr(), routing.admin_addr())).unwrap();
                routing.run(until).await.unwrap();
            });
            // Nanoseconds on a CPU come first.
            let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            let nanos = statistics.split(' ').next().unwrap().parse().unwrap();
            end.send(Duration::from_nanos(nanos)).unwrap();
        });
        let (push, admin) = told.await.unwrap();
        let running = tokio::spawn(async move { ended.await.unwrap() });
        Replica {
            push_addr: push,
            push: connect(push).await,
            admin,
            drain,
            running,
        }
    }

    /// Drains, and sees that it ends in time and well. Returns the CPU that it took, if it had its own thread.
    pub(super) async fn stop(self) -> Duration {
        self.drain.begin();
        drop(self.push);
        tokio::time::timeout(PATIENCE, self.running)
            .await
            .expect("the drain has a deadline")
            .unwrap()
    }

    /// A client of the push API.
    pub(super) fn client(&self) -> PushClient<Channel> {
        self.push.clone()
    }

    pub(super) async fn try_push(
        &self,
        devices: &[&str],
        change: impl FnOnce(&mut PushDevicesRequest),
    ) -> Result<Vec<Outcome>, Status> {
        let mut request = PushDevicesRequest {
            business: 7,
            app: "app".to_owned(),
            devices: devices.iter().map(|&device| device.to_owned()).collect(),
            payload: Bytes::from_static(b"hello"),
            ..PushDevicesRequest::default()
        };
        change(&mut request);
        let response = self.push.clone().push_devices(request).await?;
        Ok(response.into_inner().outcomes().collect())
    }

    pub(super) async fn push(&self, devices: &[&str]) -> Vec<Outcome> {
        self.try_push(devices, |_| ()).await.unwrap()
    }

    /// A push whose receipts the test still has to give.
    pub(super) fn push_later(
        &self,
        devices: &[&str],
        change: impl FnOnce(&mut PushDevicesRequest),
    ) -> JoinHandle<Vec<Outcome>> {
        let mut request = PushDevicesRequest {
            business: 7,
            app: "app".to_owned(),
            devices: devices.iter().map(|&device| device.to_owned()).collect(),
            payload: Bytes::from_static(b"hello"),
            ..PushDevicesRequest::default()
        };
        change(&mut request);
        let mut push = self.push.clone();
        tokio::spawn(async move {
            push.push_devices(request)
                .await
                .unwrap()
                .into_inner()
                .outcomes()
                .collect()
        })
    }

    pub(super) async fn push_group_of(&self, group: &str, bytes: usize) -> Result<PushGroupResponse, Status> {
        let request = PushGroupRequest {
            business: 7,
            group: Bytes::copy_from_slice(group.as_bytes()),
            payload: Bytes::from(vec![b'x'; bytes]),
            ..PushGroupRequest::default()
        };
        Ok(self.push.clone().push_group(request).await?.into_inner())
    }

    pub(super) async fn push_group(&self, group: &str) -> Result<PushGroupResponse, Status> {
        self.push_group_of(group, 5).await
    }

    pub(super) async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Waits until the metric has the value.
    pub(super) async fn metric(&self, name: &str, value: u64) {
        let line = format!("{name} {value}");
        eventually(&line, async || {
            self.page("/metrics").await.lines().any(|found| found == line)
        })
        .await;
    }

    /// Waits until offline may be said.
    pub(super) async fn in_sync(&self) {
        self.metric("imaccess_routing_in_sync", 1).await;
    }
}
