//! A real gateway on port 0, a state sidecar that the test plays itself, and clients that speak by hand.
#![allow(dead_code, reason = "each test file uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "a test that fails here says where"
)]

pub(crate) mod custodian;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use imaccess_common::config::Layers;
use imaccess_common::drain::Drain;
use imaccess_common::generation;
use imaccess_gateway::{Gateway, GatewayConfig};
use imaccess_proto::v1::gateway_link_client::GatewayLinkClient;
use imaccess_proto::v1::{
    EndedConnection, GatewayBatch, GatewayHello, LoginAttempt, LoginResult, Quiesce, StateBatch, StateHello,
};
use imaccess_wire::frame::{Login, LoginOk};
use imaccess_wire::header::split;
use imaccess_wire::{Code, FrameType, HEADER_LEN, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

/// Longest that anything in these tests may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} didn't come within {PATIENCE:?}"),
    }
}

pub(crate) struct TestGateway {
    pub(crate) tcp: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) drain: Drain,
    pub(crate) ended: tokio::task::JoinHandle<()>,
}

impl TestGateway {
    pub(crate) async fn start(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change).await
    }

    pub(crate) async fn start_in(
        directory: tempfile::TempDir,
        change: impl FnOnce(&mut GatewayConfig),
    ) -> Self {
        let mut config = GatewayConfig {
            tcp: vec!["127.0.0.1:0".parse().unwrap()],
            socket_dir: directory.path().to_owned(),
            shards: 1,
            custody: false,
            ..GatewayConfig::default()
        };
        change(&mut config);
        Self::run(directory, config, None).await
    }

    /// One that reads its configuration from this file, beside what a test needs.
    pub(crate) async fn start_reloading(file: &std::path::Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sets = [
            "tcp=['127.0.0.1:0']".to_owned(),
            format!("socket_dir={}", directory.path().display()),
            "shards=1".to_owned(),
            "custody=false".to_owned(),
        ];
        let layers = Layers {
            file: Some(file.to_owned()),
            env_prefix: "IMACCESS_TEST_OF_RELOADS".to_owned(),
            sets: sets.into(),
        };
        let config = layers.load().unwrap();
        Self::run(directory, config, Some(layers)).await
    }

    async fn run(directory: tempfile::TempDir, config: GatewayConfig, layers: Option<Layers>) -> Self {
        let grace = config.drain_time();
        let mut gateway = Gateway::bind(config).await.unwrap();
        if let Some(layers) = layers {
            gateway = gateway.reloading(layers);
        }
        let (tcp, admin) = (gateway.tcp_addrs()[0], gateway.admin_addr());
        let drain = Drain::new(grace);
        let signal = drain.clone();
        let ended = tokio::spawn(async move { gateway.run(signal).await.unwrap() });
        Self {
            tcp,
            admin,
            directory,
            drain,
            ended,
        }
    }

    pub(crate) async fn state(&self) -> State {
        State::attach(&self.directory.path().join("shard-0.sock")).await
    }

    pub(crate) async fn state_of(&self, shard: usize) -> State {
        State::attach(&self.directory.path().join(format!("shard-{shard}.sock"))).await
    }

    /// A client that is logged in on whichever shard it came to.
    pub(crate) async fn online_at_any(&self, states: &mut [State; 2], device: &str) -> Client {
        let mut client = self.client().await;
        client.login(device).await;
        let [one, other] = states;
        tokio::select! {
            attempt = one.login() => one.accept(&attempt).await,
            attempt = other.login() => other.accept(&attempt).await,
        }
        assert_eq!(client.frame().await.0, FrameType::LoginOk);
        client
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.tcp).await
    }

    /// A logged-in client and its handle.
    pub(crate) async fn online(&self, state: &mut State, device: &str) -> (Client, u64) {
        let client = self.client().await;
        self.log_in(client, state, device).await
    }

    async fn log_in(&self, mut client: Client, state: &mut State, device: &str) -> (Client, u64) {
        client.login(device).await;
        let attempt = state.login().await;
        state.accept(&attempt).await;
        let (kind, _) = client.frame().await;
        assert_eq!(kind, FrameType::LoginOk);
        (client, attempt.handle)
    }

    /// A logged-in client whose kernel takes little on its behalf.
    pub(crate) async fn online_narrow(&self, state: &mut State, device: &str) -> (Client, u64) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 << 10).unwrap();
        let stream = within("a connection", socket.connect(self.tcp)).await.unwrap();
        self.log_in(
            Client {
                stream,
                buffer: Vec::new(),
            },
            state,
            device,
        )
        .await
    }

    pub(crate) async fn metrics(&self) -> String {
        self.ask("GET /metrics").await
    }

    /// What the admin address answers, header included.
    pub(crate) async fn ask(&self, what: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("{what} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }

    /// Takes the handover lease, as soon as it is given.
    pub(crate) async fn lease(&self) {
        within("the lease", async {
            loop {
                let answer = self.ask("POST /handover").await;
                if answer.starts_with("HTTP/1.1 200") {
                    return;
                }
                assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    /// The value of a sample, 0 if it isn't there.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        let page = self.metrics().await;
        page.lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.trim().parse().ok())
            .unwrap_or(0.0)
    }

    /// Waits until a sample has this value.
    pub(crate) async fn metric_becomes(&self, sample: &str, value: f64) {
        let mut last = f64::NAN;
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                last = self.metric(sample).await;
                if last == value {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if waited.await.is_err() {
            panic!("{sample} is {last}, not {value}");
        }
    }
}

/// The state sidecar, played by the test.
pub(crate) struct State {
    pub(crate) outbound: mpsc::Sender<StateBatch>,
    inbound: Streaming<GatewayBatch>,
    pub(crate) hello: GatewayHello,
    logins: VecDeque<LoginAttempt>,
    pub(crate) uplink: VecDeque<(u64, Vec<u8>)>,
    pub(crate) closed: VecDeque<(u64, Code)>,
    pub(crate) receipts: VecDeque<(u64, u8)>,
    pub(crate) rows: Vec<(u64, Vec<u8>)>,
    /// By row: serial, and frames forwarded.
    pub(crate) serials: Vec<(u64, u32)>,
    pub(crate) ended: Vec<EndedConnection>,
    pub(crate) quiesce: VecDeque<Quiesce>,
    pub(crate) groups: Vec<(u32, Vec<u8>, Vec<u64>)>,
    pub(crate) snapshot_done: bool,
    /// What is said of devices that log in.
    pub(crate) attributes: bytes::Bytes,
    /// By row: what was said of its device.
    pub(crate) described: Vec<(u64, bytes::Bytes)>,
}

impl State {
    pub(crate) async fn attach(path: &std::path::Path) -> Self {
        let uri = format!("unix://{}", path.display());
        let channel = within("the link", Endpoint::from_shared(uri).unwrap().connect())
            .await
            .unwrap();
        let (outbound, queue) = mpsc::channel(16);
        let hello = StateHello {
            link_generation: generation::spoken().link.oldest,
            newest_generation: generation::spoken().link.newest,
        };
        outbound
            .send(StateBatch {
                hello: Some(hello),
                ..StateBatch::default()
            })
            .await
            .unwrap();
        let mut client = GatewayLinkClient::new(channel);
        let mut inbound = client
            .attach(ReceiverStream::new(queue))
            .await
            .unwrap()
            .into_inner();
        let first = within("the hello", inbound.message()).await.unwrap().unwrap();
        Self {
            outbound,
            inbound,
            hello: first.hello.expect("the first message is a hello"),
            logins: VecDeque::new(),
            uplink: VecDeque::new(),
            closed: VecDeque::new(),
            receipts: VecDeque::new(),
            rows: Vec::new(),
            serials: Vec::new(),
            ended: Vec::new(),
            quiesce: VecDeque::new(),
            groups: Vec::new(),
            snapshot_done: false,
            attributes: bytes::Bytes::new(),
            described: Vec::new(),
        }
    }

    pub(crate) async fn send(&self, batch: StateBatch) {
        self.outbound.send(batch).await.unwrap();
    }

    /// Takes the next batch apart.
    pub(crate) async fn receive(&mut self) {
        let batch = within("a batch", self.inbound.message())
            .await
            .unwrap()
            .expect("the stream goes on");
        if batch.quiesce() != Quiesce::Unspecified {
            self.quiesce.push_back(batch.quiesce());
        }
        if let Some(chunk) = batch.snapshot {
            self.serials
                .extend(chunk.serial.iter().copied().zip(chunk.forwarded.iter().copied()));
            self.ended.extend(chunk.ended);
            for (handle, place) in chunk.handle.iter().zip(&chunk.attributes) {
                let text = (*place as usize)
                    .checked_sub(1)
                    .map(|place| &chunk.attribute_table[place]);
                self.described.push((*handle, text.cloned().unwrap_or_default()));
            }
            let mut start = 0;
            for (handle, length) in chunk.handle.iter().zip(&chunk.ticket_length) {
                let end = start + *length as usize;
                self.rows.push((*handle, chunk.tickets[start..end].to_vec()));
                start = end;
            }
            for group in chunk.groups {
                self.groups
                    .push((group.business, group.group.to_vec(), group.member));
            }
            self.snapshot_done |= chunk.done;
        }
        self.logins.extend(batch.logins);
        if let Some(frames) = batch.uplink {
            let mut start = 0;
            for (handle, length) in frames.handle.iter().zip(&frames.length) {
                let end = start + *length as usize;
                self.uplink
                    .push_back((*handle, frames.frames[start..end].to_vec()));
                start = end;
            }
        }
        if let Some(receipts) = batch.receipts {
            self.receipts
                .extend(receipts.id.iter().copied().zip(receipts.outcome.iter().copied()));
        }
        for closed in batch.closed {
            let code = Code::from_u16(closed.code as u16).unwrap();
            self.closed.push_back((closed.handle, code));
        }
    }

    pub(crate) async fn login(&mut self) -> LoginAttempt {
        loop {
            if let Some(attempt) = self.logins.pop_front() {
                return attempt;
            }
            self.receive().await;
        }
    }

    pub(crate) async fn uplink(&mut self) -> (u64, Vec<u8>) {
        loop {
            if let Some(frame) = self.uplink.pop_front() {
                return frame;
            }
            self.receive().await;
        }
    }

    pub(crate) async fn closed(&mut self) -> (u64, Code) {
        loop {
            if let Some(closed) = self.closed.pop_front() {
                return closed;
            }
            self.receive().await;
        }
    }

    pub(crate) async fn receipt(&mut self) -> (u64, u8) {
        loop {
            if let Some(receipt) = self.receipts.pop_front() {
                return receipt;
            }
            self.receive().await;
        }
    }

    pub(crate) async fn snapshot(&mut self) {
        while !self.snapshot_done {
            self.receive().await;
        }
    }

    /// Waits until the gateway says how far leaving has come.
    pub(crate) async fn quiesced(&mut self) -> Quiesce {
        loop {
            if let Some(quiesce) = self.quiesce.pop_front() {
                return quiesce;
            }
            self.receive().await;
        }
    }

    /// Plays state's part when the gateway leaves in order.
    pub(crate) async fn let_leave(mut self) -> Self {
        assert_eq!(self.quiesced().await, Quiesce::Begin);
        self.say(Quiesce::Done).await;
        assert_eq!(self.quiesced().await, Quiesce::Done);
        self
    }

    pub(crate) async fn say(&self, quiesce: Quiesce) {
        self.send(StateBatch {
            quiesce: quiesce.into(),
            ..StateBatch::default()
        })
        .await;
    }

    pub(crate) async fn ready(&self) {
        self.send(StateBatch {
            ready: true,
            ..StateBatch::default()
        })
        .await;
    }

    pub(crate) async fn accept(&self, attempt: &LoginAttempt) {
        let mut frame = Vec::new();
        LoginOk {
            session: [7; 16],
            epoch: 1,
            ping_interval_s: 60,
            ..LoginOk::default()
        }
        .encode(&mut frame);
        let result = LoginResult {
            handle: attempt.handle,
            frame: frame.into(),
            accepted: true,
            ticket: format!("ticket of {}", attempt.handle).into_bytes().into(),
            ping_interval_s: 60,
            attributes: self.attributes.clone(),
        };
        self.send(StateBatch {
            logins: vec![result],
            ..StateBatch::default()
        })
        .await;
    }
}

/// A client that writes and reads bytes.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn login(&mut self, device: &str) {
        let mut frame = Vec::new();
        Login {
            device,
            app: "test",
            token: b"token",
            ..Login::default()
        }
        .encode(&mut frame);
        self.write(&frame).await;
    }

    /// The next frame, or `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<(FrameType, Vec<u8>)> {
        loop {
            if let Some(frame) = split(&self.buffer, Limits::default()).expect("the gateway writes frames") {
                let kind = frame.header.kind.expect("of a known type");
                let body = frame.body().to_vec();
                let len = HEADER_LEN + body.len();
                self.buffer.drain(..len);
                return Some((kind, body));
            }
            let read = self.stream.read_buf(&mut self.buffer);
            if within("bytes", read).await.expect("no reset") == 0 {
                assert!(self.buffer.is_empty(), "the stream ended inside a frame");
                return None;
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> (FrameType, Vec<u8>) {
        self.next().await.expect("the stream goes on")
    }

    /// The code of the close frame that comes next, and then the end of the stream.
    pub(crate) async fn close_code(&mut self) -> Code {
        let (kind, body) = self.frame().await;
        assert_eq!(kind, FrameType::Close);
        let code = imaccess_wire::frame::Close::decode(&body)
            .unwrap()
            .known_code()
            .unwrap();
        assert!(self.next().await.is_none(), "nothing follows a close");
        code
    }
}
