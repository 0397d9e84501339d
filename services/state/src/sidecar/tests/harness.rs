//! The neighbours of a sidecar, played by the test: a gateway, a business, a routing replica.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use imaccess_common::business::BusinessConfig;
use imaccess_common::config::ByteSize;
use imaccess_common::drain::Drain;
use imaccess_common::token::DevelopmentIssuer;
use imaccess_proto::v1::business_server::{Business, BusinessServer};
use imaccess_proto::v1::gateway_link_server::{GatewayLink, GatewayLinkServer};
use imaccess_proto::v1::route_feed_client::RouteFeedClient;
use imaccess_proto::v1::{
    BusinessReply, ConnectionClosed, ConnectionEvent, Frames, FromAccess, FromBusiness, FromRouting,
    FromSidecar, GatewayBatch, GatewayHello, LoginAttempt, LoginResult, Quiesce, RoutingHello, SnapshotChunk,
    StateBatch,
};
use imaccess_wire::Limits;
use imaccess_wire::frame::{GroupPosition, GroupPositions, Login, Reply, Request};
use imaccess_wire::header::{self, HEADER_LEN};
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use crate::sidecar::{RoutingMode, Sidecar, SidecarConfig, TicketKeyConfig, TokenKeyConfig};

pub(super) const CLUSTER: &str = "test";
const PATIENCE: Duration = Duration::from_secs(10);

/// Fails the test instead of hanging it.
pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what)
        .await
        .expect("it happens within ten seconds")
}

// === The gateway ===

/// One stream from the sidecar, as the gateway sees it.
pub(super) struct LinkStream {
    to_state: mpsc::Sender<Result<GatewayBatch, Status>>,
    from_state: Streaming<StateBatch>,
    /// Received and not looked for yet.
    seen: VecDeque<StateBatch>,
}

struct FakeGateway {
    hello: GatewayHello,
    streams: mpsc::Sender<LinkStream>,
}

#[tonic::async_trait]
impl GatewayLink for FakeGateway {
    type AttachStream = ReceiverStream<Result<GatewayBatch, Status>>;

    async fn attach(
        &self,
        request: tonic::Request<Streaming<StateBatch>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (to_state, outgoing) = mpsc::channel(64);
        let hello = GatewayBatch {
            hello: Some(self.hello.clone()),
            ..GatewayBatch::default()
        };
        to_state.send(Ok(hello)).await.unwrap();
        let stream = LinkStream {
            to_state,
            from_state: request.into_inner(),
            seen: VecDeque::new(),
        };
        self.streams.send(stream).await.unwrap();
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// What the first start of the gateway says.
pub(super) fn hello(shard: u32, shards: u32) -> GatewayHello {
    GatewayHello {
        instance: "pod-1".to_owned(),
        incarnation: 1,
        shard,
        shards,
        link_generation: 1,
        newest_generation: 2,
        ..GatewayHello::default()
    }
}

/// Serves one shard's socket; streams come out of the receiver.
pub(super) fn gateway(directory: &Path, shard: u32, shards: u32) -> mpsc::Receiver<LinkStream> {
    gateway_saying(directory, hello(shard, shards))
}

/// The same, with another hello. It takes the place of one that was there.
pub(super) fn gateway_saying(directory: &Path, hello: GatewayHello) -> mpsc::Receiver<LinkStream> {
    let (streams, incoming) = mpsc::channel(8);
    let path = directory.join(format!("shard-{}.sock", hello.shard));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    let service = GatewayLinkServer::new(FakeGateway { hello, streams });
    let serving = tonic::transport::Server::builder()
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(4 << 20)
        .max_frame_size(128 << 10)
        .add_service(service)
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(serving);
    incoming
}

impl LinkStream {
    pub(super) async fn send(&self, batch: GatewayBatch) {
        self.to_state.send(Ok(batch)).await.unwrap();
    }

    pub(super) async fn snapshot(&self, rows: &[(u64, u64, Bytes)]) {
        let chunk = SnapshotChunk {
            handle: rows.iter().map(|row| row.0).collect(),
            serial: rows.iter().map(|row| row.1).collect(),
            ticket_length: rows.iter().map(|row| row.2.len() as u32).collect(),
            tickets: rows
                .iter()
                .flat_map(|row| row.2.to_vec())
                .collect::<Vec<u8>>()
                .into(),
            done: true,
            ..SnapshotChunk::default()
        };
        self.send(GatewayBatch {
            snapshot: Some(chunk),
            ..GatewayBatch::default()
        })
        .await;
    }

    pub(super) async fn closed(&self, handle: u64, code: imaccess_wire::Code) {
        let closed = vec![ConnectionClosed {
            handle,
            code: code as u32,
        }];
        self.send(GatewayBatch {
            closed,
            ..GatewayBatch::default()
        })
        .await;
    }

    pub(super) async fn frame(&self, handle: u64, frame: Vec<u8>) {
        let frames = Frames {
            handle: vec![handle],
            length: vec![frame.len() as u32],
            frames: frame.into(),
        };
        self.send(GatewayBatch {
            uplink: Some(frames),
            ..GatewayBatch::default()
        })
        .await;
    }

    pub(super) async fn request(&self, handle: u64, business: u32, message_id: u64, payload: &[u8]) {
        let mut frame = Vec::new();
        Request {
            business,
            message_id,
            payload,
            ..Request::default()
        }
        .encode(&mut frame);
        self.frame(handle, frame).await;
    }

    /// Says how far leaving has come.
    pub(super) async fn quiesce(&self, quiesce: Quiesce) {
        self.send(GatewayBatch {
            quiesce: quiesce as i32,
            ..GatewayBatch::default()
        })
        .await;
    }

    /// Reads until the sidecar says this; nothing may come after `Done`.
    pub(super) async fn until_quiesce(&mut self, quiesce: Quiesce) {
        self.find(|batch| {
            let found = batch.quiesce() == quiesce;
            if found {
                batch.quiesce = 0;
            }
            found.then_some(())
        })
        .await;
    }

    /// Reads until the sidecar ends the stream; everything read.
    pub(super) async fn rest(&mut self) -> Vec<StateBatch> {
        let mut rest = Vec::new();
        while let Ok(Some(batch)) = soon(self.from_state.message()).await {
            rest.push(batch);
        }
        rest
    }

    /// The next policy.
    pub(super) async fn policy(&mut self) -> imaccess_proto::v1::LinkPolicy {
        self.find(|batch| batch.policy.take()).await
    }

    /// Drops what was received.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
    }

    /// How many frames for single connections the next batch has.
    pub(super) async fn count_replies(&mut self) -> u64 {
        let batch = soon(self.from_state.message())
            .await
            .unwrap()
            .expect("the stream goes on");
        batch.unicast.map_or(0, |unicast| unicast.handle.len() as u64)
    }

    /// The first thing that `find` takes out of a batch, now or later.
    pub(super) async fn find<T>(&mut self, mut find: impl FnMut(&mut StateBatch) -> Option<T>) -> T {
        for batch in &mut self.seen {
            if let Some(found) = find(batch) {
                return found;
            }
        }
        loop {
            let mut batch = soon(self.from_state.message())
                .await
                .unwrap()
                .expect("the stream goes on");
            let found = find(&mut batch);
            self.seen.push_back(batch);
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// The next frame for a connection, as its body, of this type.
    pub(super) async fn frame_for(&mut self, handle: u64) -> Vec<u8> {
        self.find(|batch| {
            let unicast = batch.unicast.as_mut()?;
            let at = unicast.handle.iter().position(|other| *other == handle)?;
            let start: u32 = unicast.length[..at].iter().sum();
            let frame = unicast
                .frames
                .slice(start as usize..(start + unicast.length[at]) as usize);
            // Taken: the column keeps its length.
            unicast.handle[at] = 0;
            Some(frame.to_vec())
        })
        .await
    }

    pub(super) async fn reply(&mut self, handle: u64) -> (u64, u16, Vec<u8>) {
        let frame = self.frame_for(handle).await;
        let split = header::split(&frame, Limits::default()).unwrap().unwrap();
        let reply = Reply::decode(split.body()).unwrap();
        (reply.message_id, reply.code, reply.payload.to_vec())
    }

    /// Whether the link was told to close this connection; with which code.
    pub(super) async fn close_of(&mut self, handle: u64) -> u32 {
        self.find(|batch| {
            let at = batch.closes.iter().position(|close| close.handle == handle)?;
            Some(batch.closes.remove(at).code)
        })
        .await
    }

    pub(super) async fn login(&mut self, attempt: LoginAttempt) -> LoginResult {
        let handle = attempt.handle;
        self.send(GatewayBatch {
            logins: vec![attempt],
            ..GatewayBatch::default()
        })
        .await;
        self.find(|batch| {
            let at = batch.logins.iter().position(|login| login.handle == handle)?;
            Some(batch.logins.remove(at))
        })
        .await
    }
}

/// The body of a frame.
pub(super) fn body(frame: &[u8]) -> &[u8] {
    &frame[HEADER_LEN..]
}

// === The business ===

/// One stream from a worker, as the business sees it.
pub(super) struct ServeStream {
    pub(super) to_access: mpsc::Sender<Result<FromBusiness, Status>>,
    from_access: Streaming<FromAccess>,
    pub(super) instance: String,
}

struct FakeBusiness(mpsc::Sender<ServeStream>);

#[tonic::async_trait]
impl Business for FakeBusiness {
    type ServeStream = ReceiverStream<Result<FromBusiness, Status>>;

    async fn serve(
        &self,
        request: tonic::Request<Streaming<FromAccess>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let mut from_access = request.into_inner();
        let hello = from_access
            .message()
            .await?
            .and_then(|message| message.hello)
            .expect("hello first");
        let (to_access, outgoing) = mpsc::channel(64);
        self.0
            .send(ServeStream {
                to_access,
                from_access,
                instance: hello.instance,
            })
            .await
            .unwrap();
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Serves a business; streams come out of the receiver.
pub(super) async fn business() -> (SocketAddr, mpsc::Receiver<ServeStream>) {
    let (streams, incoming) = mpsc::channel(8);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tonic::transport::Server::builder()
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(4 << 20)
        .add_service(BusinessServer::new(FakeBusiness(streams)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(serving);
    (address, incoming)
}

impl ServeStream {
    pub(super) async fn next(&mut self) -> FromAccess {
        soon(self.from_access.message())
            .await
            .unwrap()
            .expect("the stream goes on")
    }

    pub(super) async fn events(&mut self, count: usize) -> Vec<ConnectionEvent> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await.events);
        }
        events
    }

    pub(super) async fn acknowledge(&self, sequence: u64) {
        let message = FromBusiness {
            replies: Vec::new(),
            event_ack: sequence,
            ..FromBusiness::default()
        };
        self.to_access.send(Ok(message)).await.unwrap();
    }

    /// Answers requests with their own payload for ever, and acknowledges events.
    pub(super) fn echo(mut self) {
        tokio::spawn(async move { while self.echo_one().await.is_some() {} });
    }

    /// Answers one batch like that; `None` at the end of the stream.
    pub(super) async fn echo_one(&mut self) -> Option<()> {
        let message = self.from_access.message().await.ok()??;
        let replies = message.requests.into_iter().filter(|request| request.id != 0);
        let replies = replies.map(|request| BusinessReply {
            id: request.id,
            payload: request.payload,
            ..BusinessReply::default()
        });
        let event_ack = message.events.last().map_or(0, |event| event.sequence);
        let answer = FromBusiness {
            replies: replies.collect(),
            event_ack,
            ..FromBusiness::default()
        };
        self.to_access.send(Ok(answer)).await.ok()
    }
}

// === The routing replica ===

/// A replica's stream.
pub(super) struct Replica {
    to_sidecar: mpsc::Sender<FromRouting>,
    from_sidecar: Streaming<FromSidecar>,
}

impl Replica {
    pub(super) async fn follow(address: SocketAddr) -> Replica {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Replica::follow_on(channel).await.unwrap()
    }

    /// The same on a connection that is there, unless it is refused.
    pub(super) async fn follow_on(channel: Channel) -> Result<Replica, Status> {
        let mut client = RouteFeedClient::new(channel);
        let (to_sidecar, outgoing) = mpsc::channel(64);
        let hello = RoutingHello {
            cluster: CLUSTER.to_owned(),
            replica: 1,
        };
        to_sidecar
            .send(FromRouting {
                hello: Some(hello),
                ..FromRouting::default()
            })
            .await
            .unwrap();
        let from_sidecar = client.follow(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Replica {
            to_sidecar,
            from_sidecar,
        })
    }

    pub(super) async fn next(&mut self) -> FromSidecar {
        soon(self.from_sidecar.message())
            .await
            .unwrap()
            .expect("the stream goes on")
    }

    /// Reads until `until` holds for a message; everything read.
    pub(super) async fn read_until(&mut self, until: impl Fn(&FromSidecar) -> bool) -> Vec<FromSidecar> {
        let mut read = Vec::new();
        loop {
            read.push(self.next().await);
            if read.last().is_some_and(&until) {
                return read;
            }
        }
    }

    pub(super) async fn send(&self, message: FromRouting) {
        self.to_sidecar.send(message).await.unwrap();
    }

    pub(super) async fn acknowledge(&self, sequence: u64) {
        self.send(FromRouting {
            acknowledged: sequence,
            ..FromRouting::default()
        })
        .await;
    }
}

// === The sidecar ===

/// A running sidecar and what it needs.
pub(super) struct Running {
    pub(super) directory: TempDir,
    pub(super) issuer: DevelopmentIssuer,
    pub(super) config: SidecarConfig,
    pub(super) routes: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) drain: Drain,
    pub(super) ended: tokio::task::JoinHandle<()>,
}

/// Starts a sidecar with these businesses.
pub(super) async fn start(
    businesses: Vec<BusinessConfig>,
    change: impl FnOnce(&mut SidecarConfig),
) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let issuer = DevelopmentIssuer::generate();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = SidecarConfig {
        cluster: CLUSTER.to_owned(),
        socket_dir: directory.path().to_owned(),
        route_listen: any,
        admin_listen: any,
        routing: RoutingMode::None,
        ticket_keys: vec![TicketKeyConfig {
            id: 1,
            key: "07".repeat(32),
        }],
        token_keys: vec![TokenKeyConfig {
            id: issuer.key_id().to_owned(),
            pem: issuer.public_pem(),
            file: None,
        }],
        businesses,
        reply_cache: ByteSize(64 * 1024),
        ..SidecarConfig::default()
    };
    change(&mut config);
    run(directory, issuer, config).await
}

async fn run(directory: TempDir, issuer: DevelopmentIssuer, config: SidecarConfig) -> Running {
    let sidecar = Sidecar::bind(config.clone()).await.unwrap();
    let (routes, admin) = (sidecar.route_addr(), sidecar.admin_addr());
    let drain = Drain::new(Duration::from_secs(5));
    let running = sidecar.run(drain.clone());
    let ended = tokio::spawn(async move { running.await.unwrap() });
    Running {
        directory,
        issuer,
        config,
        routes,
        admin,
        drain,
        ended,
    }
}

impl Running {
    pub(super) fn attempt(
        &self,
        handle: u64,
        device: &str,
        ticket: &[u8],
        groups: &[(u32, &[u8])],
    ) -> LoginAttempt {
        let token = self.issuer.issue(CLUSTER, "app", device, Duration::from_secs(60));
        let positions: Vec<_> = groups
            .iter()
            .map(|&(business, group)| GroupPosition {
                business,
                group,
                group_epoch: 0,
                sequence: 0,
            })
            .collect();
        let login = Login {
            device,
            app: "app",
            token: if ticket.is_empty() { token.as_bytes() } else { b"" },
            ticket,
            groups: GroupPositions::new(&positions),
            ..Login::default()
        };
        let mut frame = Vec::new();
        login.encode(&mut frame);
        LoginAttempt {
            handle,
            serial: handle + 1_000,
            frame: frame.into(),
            ..LoginAttempt::default()
        }
    }

    /// Ends it as a crash would, and starts another on the same sockets.
    pub(super) async fn crash_and_restart(self) -> Running {
        self.ended.abort();
        let _ = self.ended.await;
        run(self.directory, self.issuer, self.config).await
    }

    /// The metrics page.
    pub(super) async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.admin).await.unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }
}
