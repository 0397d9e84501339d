//! Gateways' pages that the test writes, and a running ipconfig.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use imaccess_common::gateway_page as names;
use imaccess_common::http::{Limits, serve_router};
use imaccess_ipconfig::{EndpointTarget, GatewayTarget, Ipconfig, IpconfigConfig};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Longest wait for a state; far above what any takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const PAGE_LIMITS: Limits = Limits {
    connections: 64,
    header_timeout: PATIENCE,
    max_age: PATIENCE,
    close_timeout: Duration::from_millis(10),
    buffer_bytes: 8 * 1_024,
};

/// A gateway's page: what it says, until it is told to fail.
#[derive(Clone, Default)]
pub(crate) struct Page {
    pub(crate) text: Arc<std::sync::Mutex<String>>,
    pub(crate) reads: Arc<AtomicUsize>,
}

impl Page {
    pub(crate) fn say(&self, text: String) {
        *self.text.lock().unwrap() = text;
    }

    /// A page with this many million connections of 1,000 million, and this bandwidth. The numbers are so big because
    /// the tests ask often, and every answer counts as a client on its way.
    pub(crate) fn of(connections: u32, bandwidth: f64) -> Page {
        let page = Page::default();
        page.say(figures(connections, bandwidth));
        page
    }

    /// Serves it; the token ends it, and frees the port.
    pub(crate) async fn serve(&self) -> (SocketAddr, CancellationToken) {
        self.serve_at(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn serve_at(&self, listener: TcpListener) -> (SocketAddr, CancellationToken) {
        let address = listener.local_addr().unwrap();
        let page = self.clone();
        let router = Router::new().route(
            "/metrics",
            get(async move || {
                page.reads.fetch_add(1, Ordering::Relaxed);
                page.text.lock().unwrap().clone()
            }),
        );
        let stop = CancellationToken::new();
        // Not axum's own loop: that one's connections would outlive it, and the gateway never be dead.
        tokio::spawn(serve_router(listener, router, PAGE_LIMITS, stop.clone()));
        (address, stop)
    }
}

pub(crate) fn figures(connections: u32, bandwidth: f64) -> String {
    format!(
        "# TYPE {c} gauge\n{c} {connections}e6\n{l} 1e9\n{s} 0\n{b} {bandwidth:e}\n{d} 0\n",
        c = names::CONNECTIONS,
        l = names::CONNECTION_LIMIT,
        s = names::SENT_BYTES,
        b = names::BANDWIDTH,
        d = names::DRAINING,
    )
}

pub(crate) fn gateway(name: &str, metrics: SocketAddr) -> GatewayTarget {
    let endpoint = EndpointTarget {
        protocol: "tcp".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 7_000,
        server_name: None,
    };
    GatewayTarget {
        name: name.to_owned(),
        metrics: metrics.to_string(),
        endpoints: vec![endpoint],
        draining: false,
    }
}

/// Everything on free ports and in a hurry.
pub(crate) fn quick(gateways: Vec<GatewayTarget>) -> IpconfigConfig {
    IpconfigConfig {
        cluster: "test".to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        admin: "127.0.0.1:0".parse().unwrap(),
        gateways,
        scrape_interval: Duration::from_millis(50),
        // Generous, so that a busy machine is not taken for a dead gateway.
        scrape_timeout: Duration::from_secs(1),
        absence: Duration::from_millis(1_100),
        window: Duration::from_millis(200),
        ..IpconfigConfig::default()
    }
}

/// A running ipconfig and its client.
pub(crate) struct Running {
    pub(crate) url: String,
    pub(crate) admin: String,
    pub(crate) client: reqwest::Client,
    pub(crate) stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) async fn start(config: IpconfigConfig) -> Running {
        let ipconfig = Ipconfig::bind(config).await.unwrap();
        let url = format!("http://{}", ipconfig.local_addr());
        let admin = format!("http://{}", ipconfig.admin_addr());
        let stop = CancellationToken::new();
        let task = tokio::spawn(ipconfig.run(stop.clone()));
        Running {
            url,
            admin,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            stop,
            task,
        }
    }

    pub(crate) async fn ask(&self, path: &str) -> (StatusCode, Value) {
        let response = self
            .client
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap();
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let status = response.status();
        (status, response.json().await.unwrap())
    }

    pub(crate) async fn names(&self, path: &str) -> Vec<String> {
        let (status, answer) = self.ask(path).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let name = |endpoint: &Value| endpoint["name"].as_str().unwrap().to_owned();
        answer["endpoints"].as_array().unwrap().iter().map(name).collect()
    }

    /// Asks until the answer names exactly these, in this order.
    pub(crate) async fn wait_for(&self, expected: &[&str]) {
        let begun = Instant::now();
        loop {
            let names = self.names("/v1/endpoints").await;
            if names == expected {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{names:?} didn't become {expected:?}");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn page(&self, path: &str) -> (StatusCode, String) {
        let response = self
            .client
            .get(format!("{}{path}", self.admin))
            .send()
            .await
            .unwrap();
        (response.status(), response.text().await.unwrap())
    }

    /// What `/v1/scores` says.
    pub(crate) async fn scores(&self) -> Value {
        let (status, text) = self.page("/v1/scores").await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("it ends when told")
            .unwrap();
    }
}

/// Serves a router until the token ends it.
pub(crate) async fn serve(router: Router) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(serve_router(listener, router, PAGE_LIMITS, stop.clone()));
    (address, stop)
}

pub(crate) async fn wait_for_metric(running: &Running, line: &str) {
    let begun = Instant::now();
    loop {
        let (status, page) = running.page("/metrics").await;
        assert_eq!(status, StatusCode::OK);
        if page.lines().any(|found| found.starts_with(line)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{line} didn't show in\n{page}");
    }
}
