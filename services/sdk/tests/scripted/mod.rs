//! A gateway that does what the test says, frame by frame.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses what it needs"
)]

use std::net::SocketAddr;
use std::time::Duration;

use imaccess_sdk::{BackoffPolicy, Client, ClientBuilder};
use imaccess_wire::frame::LoginOk;
use imaccess_wire::header::{self, HEADER_LEN};
use imaccess_wire::{Frame, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Nothing here should ever take this long.
pub const LONG: Duration = Duration::from_secs(20);

/// Listens on a port of its own.
pub struct Gateway {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Gateway {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// The next connection.
    pub async fn accept(&self) -> Peer {
        let (stream, _) = timeout(LONG, self.listener.accept())
            .await
            .expect("nobody connected")
            .unwrap();
        Peer { stream }
    }

    /// Whether somebody has connected and wasn't accepted yet.
    pub async fn has_caller(&self) -> bool {
        timeout(Duration::ZERO, self.listener.accept()).await.is_ok()
    }

    /// The next connection, logged in with the given answer. Returns the ticket that the login carried.
    pub async fn admit(&self, ok: LoginOk<'_>) -> (Peer, Vec<u8>) {
        let mut peer = self.accept().await;
        let login = peer.read().await;
        let Frame::Login(login) = login.frame() else {
            panic!("no login but {:?}", login.frame())
        };
        let ticket = login.ticket.to_vec();
        peer.write(&Frame::LoginOk(ok)).await;
        (peer, ticket)
    }
}

/// An ipconfig that answers when the test says so.
pub struct Ipconfig {
    listener: TcpListener,
    pub url: String,
}

impl Ipconfig {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// Answers the next question with these gateways, best first; the answer is good for an hour.
    pub async fn answer(&self, gateways: &[&Gateway]) {
        let (mut stream, _) = timeout(LONG, self.listener.accept())
            .await
            .expect("nobody asked")
            .unwrap();
        let mut question = vec![0; 4_096];
        let count = stream.read(&mut question).await.unwrap();
        assert!(question[..count].starts_with(b"GET /v1/endpoints?"));
        let endpoint = |gateway: &&Gateway| {
            let port = gateway.address.port();
            format!(r#"{{"protocol":"tcp","host":"127.0.0.1","port":{port}}}"#)
        };
        let endpoints: Vec<String> = gateways.iter().map(endpoint).collect();
        let answer = format!(
            r#"{{"ttl_s":3600,"retry_after_s":0.01,"token":"served","endpoints":[{}]}}"#,
            endpoints.join(",")
        );
        let length = answer.len();
        let whole =
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{answer}");
        stream.write_all(whole.as_bytes()).await.unwrap();
    }
}

/// One connection, seen from the gateway.
pub struct Peer {
    pub stream: TcpStream,
}

/// A frame's bytes.
#[derive(Debug)]
pub struct Raw(Vec<u8>);

impl Raw {
    pub fn frame(&self) -> Frame<'_> {
        let split = header::split(&self.0, Limits::default()).unwrap().unwrap();
        Frame::decode(&split).unwrap().unwrap()
    }
}

impl Peer {
    /// The next frame; panics if none comes.
    pub async fn read(&mut self) -> Raw {
        timeout(LONG, self.try_read())
            .await
            .expect("no frame came")
            .expect("the connection ended")
    }

    /// The next frame, or `None` at the end of the connection.
    pub async fn try_read(&mut self) -> Option<Raw> {
        let mut bytes = vec![0; HEADER_LEN];
        self.stream.read_exact(&mut bytes).await.ok()?;
        let header = header::peek(&bytes, Limits::default()).unwrap().unwrap();
        bytes.resize(header.frame_len(), 0);
        self.stream.read_exact(&mut bytes[HEADER_LEN..]).await.ok()?;
        Some(Raw(bytes))
    }

    pub async fn write(&mut self, frame: &Frame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// Reads a request and returns its message id and payload.
    pub async fn request(&mut self) -> (u64, Vec<u8>) {
        let raw = self.read().await;
        let Frame::Request(request) = raw.frame() else {
            panic!("no request but {:?}", raw.frame())
        };
        (request.message_id, request.payload.to_vec())
    }
}

/// A login's answer: session `id`, pinged every minute.
pub fn login_ok(id: u8) -> LoginOk<'static> {
    LoginOk {
        session: [id; 16],
        epoch: 1,
        ticket: b"ticket",
        ping_interval_s: 60,
        ..LoginOk::default()
    }
}

/// A client of these gateways that tries again after a few milliseconds.
pub fn client(gateways: &[&Gateway]) -> ClientBuilder {
    Client::builder("", "demo", "alice")
        .endpoints(gateways.iter().map(|gateway| gateway.address))
        .backoff(BackoffPolicy {
            base: Duration::from_millis(5),
            ..BackoffPolicy::default()
        })
}
