//! Real requests to a real server before a push API that only listens. Every answer is held against the document.

mod contract;
mod mapping;
mod once;
mod refusals;
mod schema;

use std::net::SocketAddr;
use std::sync::Arc;

use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::HttpMetrics;
use super::testing::{Answer, Ask, over_http1};
use crate::routing::RoutingConfig;
use crate::routing::front::Front;
use crate::routing::front::testing::{Fake, fronted};
use crate::routing::server::serve;

/// A server on a port that the kernel chose.
struct Served {
    address: SocketAddr,
    front: Arc<Front<Fake>>,
    fake: Fake,
    registry: Registry,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Served {
    async fn start() -> Served {
        Served::start_with(&RoutingConfig::default()).await
    }

    async fn start_with(config: &RoutingConfig) -> Served {
        let (front, fake, gate, registry) = fronted(config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = HttpMetrics::register(&registry);
        let stop = CancellationToken::new();
        let (served, stopped) = (Arc::clone(&front), stop.clone());
        let running = tokio::spawn(async move {
            let stopped = async move { stopped.cancelled().await };
            serve(served, gate, metrics, listener, None, stopped)
                .await
                .unwrap();
        });
        Served {
            address,
            front,
            fake,
            registry,
            stop,
            running,
        }
    }

    /// Asks over HTTP/1.1, and holds the answer against the document.
    async fn ask(&self, ask: Ask) -> Answer {
        let answer = over_http1(self.address, &ask).await;
        schema::check(&ask, &answer);
        answer
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask(Ask::new("POST", path).json(body)).await
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}
