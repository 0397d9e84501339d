//! A client for tests: one request on a connection of its own, by HTTP/1.1 or by HTTP/2.

use std::net::SocketAddr;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, Version};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::codegen::Service;
use tonic::transport::Channel;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) version: Version,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Ask {
    pub(crate) fn new(method: &str, path: &str) -> Ask {
        Ask {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn json(self, body: &str) -> Ask {
        self.with("content-type", "application/json")
            .body(body.as_bytes())
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Ask {
        self.body = body.to_vec();
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Ask {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn request(&self, authority: &str) -> axum::http::request::Builder {
        let builder = Request::builder()
            .method(self.method.as_str())
            .uri(format!("http://{authority}{}", self.path));
        self.headers
            .iter()
            .fold(builder, |builder, (name, value)| builder.header(*name, value))
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Over a connection of its own.
pub(crate) async fn over_http1(address: SocketAddr, ask: &Ask) -> Answer {
    let stream = TcpStream::connect(address).await.unwrap();
    over_stream(stream, ask).await
}

/// Over this one, which may be secure.
pub(crate) async fn over_stream(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ask: &Ask,
) -> Answer {
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    // It ends with this future.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut request = ask
        .request("push.test")
        .header("host", "push.test")
        .body(Body::from(ask.body.clone()))
        .unwrap();
    *request.uri_mut() = ask.path.parse().unwrap();
    let response = send.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
    Answer {
        version: parts.version,
        status: parts.status,
        headers: parts.headers,
        body: body.to_vec(),
    }
}

/// Over the connection of a gRPC client.
pub(crate) async fn over_http2(channel: &Channel, ask: &Ask) -> Answer {
    let mut channel = channel.clone();
    std::future::poll_fn(|context| channel.poll_ready(context))
        .await
        .unwrap();
    let body = tonic::body::Body::new(Body::from(ask.body.clone()));
    let request = ask.request("push.test").body(body).unwrap();
    let response = channel.call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
    Answer {
        version: parts.version,
        status: parts.status,
        headers: parts.headers,
        body: body.to_vec(),
    }
}
