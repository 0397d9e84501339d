//! Every part's pages for machines: `/metrics`, `/healthz`, `/readyz`, and what the part adds.

mod readiness;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub use self::readiness::{Condition, Readiness};
use crate::http::{self, Limits};
use crate::metrics;

/// A scraper, three probes and a few people at once; more wait. A scraper that keeps its connection must ask at
/// least every half minute; one that stops reading is cut after a minute.
const LIMITS: Limits = Limits {
    connections: 64,
    header_timeout: Duration::from_secs(30),
    max_age: Duration::from_secs(60),
    close_timeout: Duration::from_secs(2),
    buffer_bytes: 16 * 1_024,
};

/// A bound but not yet served admin listener: bind early, so that the address is known and reported.
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    health: Health,
}

/// Fine, or what hangs, as a sentence.
type Health = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

impl fmt::Debug for AdminServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdminServer({})", self.address)
    }
}

impl AdminServer {
    /// Takes the address; port 0 lets the kernel choose.
    pub async fn bind(address: SocketAddr) -> io::Result<AdminServer> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(AdminServer {
            listener,
            address,
            health: Arc::new(|| Ok(())),
        })
    }

    /// Lets `/healthz` answer by `check`, which must not block. Without it, it says that the runtime turns.
    #[must_use]
    pub fn with_health(self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> AdminServer {
        AdminServer {
            health: Arc::new(check),
            ..self
        }
    }

    /// The address in use.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves the pages, and `extra` beside them, until `stop`.
    ///
    /// Keep it served during a drain, and stop it last: a draining part still reports.
    pub async fn serve(
        self,
        registry: Registry,
        readiness: Readiness,
        extra: Router,
        stop: CancellationToken,
    ) {
        let one_at_a_time = Arc::new(Mutex::new(()));
        let health = self.health;
        let pages = Router::new()
            .route(
                "/metrics",
                get(move || page(registry.clone(), Arc::clone(&one_at_a_time))),
            )
            .route("/healthz", get(async move || healthy(&health())))
            .route("/readyz", get(async move || verdict(&readiness)))
            .merge(extra);
        http::serve_router(self.listener, pages, LIMITS, stop).await;
    }
}

/// Rendered off the runtime's thread: reading the process's memory map can take milliseconds.
#[expect(
    clippy::disallowed_methods,
    reason = "one page is rendered at a time, so the pool has one thread at most"
)]
async fn page(registry: Registry, one_at_a_time: Arc<Mutex<()>>) -> impl IntoResponse {
    let _turn = one_at_a_time.lock().await;
    match tokio::task::spawn_blocking(move || metrics::render(&registry)).await {
        Ok(page) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)],
            page,
        ),
        Err(fault) => {
            tracing::error!(%fault, "the metrics page failed");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                [(header::CONTENT_TYPE, "text/plain")],
                String::new(),
            )
        }
    }
}

fn healthy(check: &Result<(), String>) -> (StatusCode, String) {
    match check {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(what) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{what}\n")),
    }
}

fn verdict(readiness: &Readiness) -> (StatusCode, String) {
    let code = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, readiness.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_pages_are_there() {
        let server = AdminServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.local_addr();
        let registry = Registry::new();
        metrics::ProcessMetrics::register(&registry, "state", "0.1.0");
        let (readiness, stop) = (Readiness::new(), CancellationToken::new());
        let link = readiness.condition("link");
        let extra = Router::new().route("/debug", get(async || "more"));
        let serving = tokio::spawn(server.serve(registry, readiness.clone(), extra, stop.clone()));

        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let metrics = ask(address, "/metrics").await;
        assert!(
            metrics.contains("content-type: text/plain; version=0.0.4"),
            "{metrics}"
        );
        assert!(
            metrics.contains("imaccess_build_info{part=\"state\",stamp=\"\",version=\"0.1.0\"} 1"),
            "{metrics}"
        );
        let waiting = ask(address, "/readyz").await;
        assert!(
            waiting.starts_with("HTTP/1.1 503") && waiting.ends_with("no  link\n"),
            "{waiting}"
        );
        link.set(true);
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        readiness.drain();
        assert!(ask(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask(address, "/debug").await.ends_with("more"));
        assert!(ask(address, "/nothing").await.starts_with("HTTP/1.1 404"));

        stop.cancel();
        serving.await.unwrap();
    }
}
