//! The sidecar: the session role as one part, from configuration to end.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use imaccess_common::admin::{AdminServer, Readiness};
use imaccess_common::business::BusinessConfig;
use imaccess_common::drain::Drain;
use imaccess_common::identity::EpochClock;
use imaccess_common::metrics::ProcessMetrics;
use imaccess_common::tls::{Clients, Identity, ServerTls, TlsError, TlsMetrics};
use imaccess_proto::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use imaccess_proto::v1::route_feed_server::RouteFeedServer;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::accepted::accepted;
pub use crate::config::{RoutingMode, SidecarConfig, SidecarConfigError, TicketKeyConfig, TokenKeyConfig};
use crate::custody::{self, Custody, CustodyEvent, CustodyTimes};
use crate::reload::{Reloaded, SidecarReloads};
use crate::session::feed::Feed;
use crate::session::hub::Hub;
use crate::session::link::{FRAME, MAX_MESSAGE};
use crate::session::machine::{Gone, Settings, Shared};
use crate::session::metrics::Metrics;
use crate::session::worker::{self, WorkerConfig};

/// Events that may wait for the hub: a few turns of every worker.
const TO_HUB: usize = 256;
/// For routing to say that its last push is on its way: a round trip. Nobody waits for it but this process's end.
const LAST_PUSHES: Duration = Duration::from_millis(500);
/// Messages that may wait for a worker: a few turns of the hub.
const TO_WORKER: usize = 256;

/// Why a sidecar doesn't start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// Its configuration can't be used.
    #[error("the sidecar's configuration can't be used")]
    Config(#[from] SidecarConfigError),
    /// An address can't be taken.
    #[error("can't listen on {address} for {what}")]
    Bind {
        /// For what.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its certificate can't be used.
    #[error("the certificate can't be used")]
    Tls(#[from] TlsError),
    /// The custodian's socket can't be taken.
    #[error("can't listen on {} for custody", path.display())]
    Custody {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A worker's thread ended before it should.
    #[error("worker {0} ended early")]
    Worker(u8),
}

/// A sidecar that has its addresses and isn't running yet.
pub struct Sidecar {
    config: SidecarConfig,
    shared: Shared,
    reloads: SidecarReloads,
    registry: Registry,
    readiness: Readiness,
    routes: TcpListener,
    route_addr: SocketAddr,
    /// With certificates: who this sidecar is, and how routes are secured.
    secure: Option<(Arc<Identity>, ServerTls)>,
    admin: AdminServer,
    custody: Option<Custody>,
}

impl Sidecar {
    /// Checks the configuration, reads the keys, takes the addresses.
    ///
    /// # Errors
    /// See [`SidecarError`].
    pub async fn bind(config: SidecarConfig) -> Result<Self, SidecarError> {
        config.validate()?;
        #[cfg(feature = "broken-fence")]
        tracing::error!(
            "this build pushes to whoever has a session's place: it is there to be found out, and must serve nobody"
        );
        let registry = Registry::new();
        ProcessMetrics::register(&registry, "state-sidecar", env!("CARGO_PKG_VERSION"));
        let reloads = SidecarReloads::begin(&config, &registry)?;
        let (tickets, tokens) = reloads.now.keys.current();
        let shared = Shared {
            tickets,
            tokens,
            epochs: Arc::new(EpochClock::new()),
            metrics: Metrics::register(&registry),
        };
        let bind = |what, address| {
            move |source| SidecarError::Bind {
                what,
                address,
                source,
            }
        };
        let routes = TcpListener::bind(config.route_listen)
            .await
            .map_err(bind("routes", config.route_listen))?;
        let route_addr = routes.local_addr().map_err(bind("routes", config.route_listen))?;
        let admin = AdminServer::bind(config.admin_listen)
            .await
            .map_err(bind("the admin pages", config.admin_listen))?;
        let secure = match &config.tls {
            Some(tls) => {
                let identity = Identity::load(tls.clone(), TlsMetrics::register(&registry))?;
                let clients = Clients::Named(config.route_clients.clone());
                Some((Arc::clone(&identity), ServerTls::grpc(identity, clients)?))
            }
            None => None,
        };
        let custody = bind_custody(&config, &registry).map_err(|source| SidecarError::Custody {
            path: Custody::path(&config.socket_dir),
            source,
        })?;
        Ok(Self {
            config,
            shared,
            reloads,
            registry,
            readiness: Readiness::new(),
            routes,
            route_addr,
            secure,
            admin,
            custody,
        })
    }

    /// Where routing replicas dial.
    #[must_use]
    pub fn route_addr(&self) -> SocketAddr {
        self.route_addr
    }

    /// Where the admin pages are.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// Runs until the drain is done: requests in flight are answered, then everything ends. Sessions stay: their
    /// connections are the gateway's, and the next sidecar restores them. What is held in custody the gateway has too, and
    /// deposits with the next sidecar. But if the gateway has ended before, sessions first go on elsewhere or come to their ends, within
    /// `end_grace`.
    ///
    /// # Errors
    /// [`SidecarError::Worker`] when a worker dies, [`SidecarError::Custody`] when the custodian has no thread.
    pub async fn run(self, drain: Drain) -> Result<(), SidecarError> {
        let Self {
            config,
            shared,
            reloads,
            registry,
            readiness,
            routes,
            secure,
            admin,
            custody,
            ..
        } = self;
        let stop = CancellationToken::new();
        // Everything ends with this future, also when it is dropped.
        let _stop_all = stop.clone().drop_guard();
        let link_ready = readiness.condition("link");
        let serving = admin.serve(registry, readiness.clone(), axum::Router::new(), stop.clone());
        tokio::spawn(serving);

        let (custody_tx, mut from_custody) = mpsc::channel(custody::EVENTS);
        let linked = custody.as_ref().map(Custody::linked).unwrap_or_default();
        let held = custody.as_ref().map(Custody::held);
        let Reloaded {
            mut businesses,
            mut keys,
        } = reloads.follow(&stop);
        if let Some(custody) = custody {
            let times = CustodyTimes {
                listeners: config.custody_listeners,
                sockets: config.custody_sockets,
                sweep: custody::SWEEP,
            };
            let started = custody.start(times, custody_tx, stop.clone());
            started.map_err(|source| SidecarError::Custody {
                path: Custody::path(&config.socket_dir),
                source,
            })?;
        }
        let (followers_tx, mut from_followers) = mpsc::channel(TO_HUB);
        let room = Arc::new(Notify::new());
        let feed = Feed::new(config.cluster.clone(), followers_tx, Arc::clone(&room));
        let tls = secure.map(|(identity, server)| {
            tokio::spawn(identity.watch(stop.clone()));
            server
        });
        tokio::spawn(serve_feed(routes, tls, feed, stop.clone()));

        let (workers_tx, mut from_workers) = mpsc::channel(TO_HUB);
        // The workers leave after the followers: what those have sent until then is handed on.
        let of_workers = Drain::new(drain.remaining());
        let (ended_tx, mut ended) = mpsc::channel::<u8>(usize::from(u8::MAX) + 1);
        let start = {
            let (config, mut shared, drain, stop) =
                (config.clone(), shared.clone(), of_workers.clone(), stop.clone());
            let (businesses, keys) = (businesses.clone(), keys.clone());
            let started = ended_tx.clone();
            move |number: u8| {
                let (sender, from_hub) = mpsc::channel(TO_WORKER);
                // Those in effect now: the first worker begins at the start, others when the gateway has more shards.
                (shared.tickets, shared.tokens) = keys.current();
                let worker = WorkerConfig {
                    settings: settings(&config, &businesses.borrow(), number),
                    shared: shared.clone(),
                    cluster: config.cluster.clone(),
                    socket_dir: config.socket_dir.clone(),
                    gateway_silence: config.gateway_silence,
                    to_hub: workers_tx.clone(),
                    from_hub,
                    drain_grace: config.drain_grace,
                    end_grace: config.end_grace(),
                    held: held.clone(),
                    drain: drain.clone(),
                    stop: stop.clone(),
                };
                spawn_worker(number, worker, started.clone());
                sender
            }
        };
        let alone = config.routing == RoutingMode::None;
        let mut hub = Hub::new(config.cluster, alone, shared.metrics, link_ready, Box::new(start));
        let mut gone = 0;
        let mut told = None;
        loop {
            if told.is_some() && !of_workers.has_begun() && hub.followers_have_left() {
                of_workers.allow(drain.remaining());
                of_workers.begin();
            }
            let patience = async {
                match told {
                    Some(at) if !of_workers.has_begun() => tokio::time::sleep_until(at + LAST_PUSHES).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(number) = ended.recv() => {
                    if !drain.has_begun() {
                        return Err(SidecarError::Worker(number));
                    }
                    gone += 1;
                    if gone == hub.workers() {
                        break;
                    }
                }
                () = drain.begun(), if told.is_none() => {
                    readiness.drain();
                    told = Some(tokio::time::Instant::now());
                    if hub.linked_incarnation() == 0 {
                        // The pod ends: routing has to know until the end where sessions go on.
                        of_workers.allow(drain.remaining());
                        of_workers.begin();
                    } else {
                        hub.leave().await;
                    }
                }
                () = patience => {
                    tracing::warn!("a routing replica didn't say in time that it sends no more pushes");
                    of_workers.allow(drain.remaining());
                    of_workers.begin();
                }
                Ok(()) = businesses.changed() => {
                    let now = Arc::clone(&businesses.borrow_and_update());
                    hub.businesses(now).await;
                }
                () = keys.changed() => {
                    let (tickets, tokens) = keys.current();
                    hub.keys(tickets, tokens).await;
                }
                Some(event) = from_custody.recv() => hub.connections_gone(&gone_from(event)).await,
                Some(event) = from_workers.recv() => {
                    hub.worker(event).await;
                    linked.store(hub.linked_incarnation(), Ordering::Relaxed);
                }
                Some(event) = from_followers.recv() => hub.follower(event).await,
                () = room.notified() => hub.flush().await,
            }
        }
        Ok(())
    }
}

fn bind_custody(config: &SidecarConfig, registry: &Registry) -> io::Result<Option<Custody>> {
    if config.custody {
        Custody::bind(&config.socket_dir, registry).map(Some)
    } else {
        Custody::remove(&config.socket_dir)?;
        Ok(None)
    }
}

fn gone_from(event: CustodyEvent) -> Gone {
    match event {
        CustodyEvent::AllGone => Gone::All,
        CustodyEvent::Gone(serials) => Gone::Serials(serials),
    }
}

fn spawn_worker(number: u8, config: WorkerConfig, ended: mpsc::Sender<u8>) {
    let thread = std::thread::Builder::new().name(format!("state-{number}"));
    let run = move || {
        // Also when it panics.
        let _said_at_the_end = SayAtEnd(number, ended);
        if let Err(fault) = worker::run(config) {
            tracing::error!(number, %fault, "a worker can't run");
        }
    };
    if let Err(fault) = thread.spawn(run) {
        tracing::error!(number, %fault, "a worker's thread can't be started");
    }
}

struct SayAtEnd(u8, mpsc::Sender<u8>);

impl Drop for SayAtEnd {
    fn drop(&mut self) {
        // It holds one place per worker; if the receiver is gone nobody is interested.
        let _ = self.1.try_send(self.0);
    }
}

fn settings(config: &SidecarConfig, businesses: &[BusinessConfig], worker: u8) -> Settings {
    Settings {
        worker,
        ping_interval: config.ping_interval,
        resume_window: config.resume_window,
        ticket_lifetime: config.ticket_lifetime,
        max_in_flight: config.max_in_flight,
        login_queue: config.login_queue,
        token_checks_per_turn: config.token_checks_per_turn,
        reply_cache_bytes: config.reply_cache.as_usize(),
        event_backlog_bytes: config.event_backlog.as_usize(),
        businesses: businesses.to_vec(),
    }
}

async fn serve_feed(listener: TcpListener, tls: Option<ServerTls>, feed: Feed, stop: CancellationToken) {
    let service = RouteFeedServer::new(feed).max_decoding_message_size(MAX_MESSAGE);
    let serving = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .add_service(service)
        .serve_with_incoming(accepted(listener, tls));
    tokio::select! {
        () = stop.cancelled() => {}
        served = serving => {
            if let Err(fault) = served {
                tracing::error!(%fault, "routes can't be served any more");
            }
        }
    }
}

#[cfg(test)]
mod tests;
