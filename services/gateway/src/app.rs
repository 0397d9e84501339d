//! The gateway as a whole: everything is bound first and served later.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use imaccess_common::admin::{AdminServer, Readiness};
use imaccess_common::drain::Drain;
use imaccess_common::metrics::ProcessMetrics;
use imaccess_common::process::ProcessSample;
use imaccess_net::socket::{Listener, StreamOptions};
use prometheus::Registry;
use tokio::sync::mpsc;

use crate::config::GatewayConfig;
use crate::limits::Admission;
use crate::link;
use crate::metrics::Metrics;
use crate::shard::{Shard, ShardParts};
use crate::volume::{self, Incarnation};

/// Connections that may wait in the kernel until they are accepted; `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4_096;
/// How often user memory per connection is measured: reading the process's page sums costs milliseconds.
const MEMORY_INTERVAL: Duration = Duration::from_secs(10);

/// Why a gateway can't start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The configuration is wrong.
    #[error("gateway configuration: {0}")]
    Config(String),
    /// The socket directory can't be used.
    #[error("socket directory {path}: make it writable for this user or set socket_dir")]
    Volume {
        /// The directory.
        path: String,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// An address can't be listened on.
    #[error("can't listen on {address}: choose another address, or end what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A thread can't be started.
    #[error("a shard's thread can't be started")]
    Thread(#[source] io::Error),
}

/// A gateway whose sockets are bound. [`Self::run`] serves them.
#[derive(Debug)]
pub struct Gateway {
    config: Arc<GatewayConfig>,
    incarnation: Incarnation,
    listeners: Vec<Vec<Listener>>,
    links: Vec<std::os::unix::net::UnixListener>,
    admin: AdminServer,
}

impl Gateway {
    /// Binds the client addresses, the link's sockets and the admin page. Must be called in a tokio runtime, which
    /// then serves the admin page; shards have threads and runtimes of their own.
    ///
    /// # Errors
    /// [`BindError`], naming what couldn't be bound.
    pub async fn bind(config: GatewayConfig) -> Result<Self, BindError> {
        config.validate().map_err(BindError::Config)?;
        let volume = |source| BindError::Volume {
            path: config.socket_dir.display().to_string(),
            source,
        };
        let incarnation = volume::next_incarnation(&config.socket_dir, &config.instance).map_err(volume)?;
        let options = StreamOptions {
            send_buffer: usize::try_from(config.limits.send_buffer.0).unwrap_or(16 << 10),
            receive_buffer: None,
            user_timeout: config.deadlines.user_timeout,
        };
        let shards = config.shard_count();
        let mut listeners = Vec::with_capacity(shards);
        let mut addresses = config.tcp.clone();
        for _ in 0..shards {
            let mut of_shard = Vec::with_capacity(addresses.len());
            for address in &mut addresses {
                let listener =
                    Listener::bind(*address, BACKLOG, options).map_err(|source| BindError::Listen {
                        address: *address,
                        source,
                    })?;
                // The other shards share the port that the first one was given.
                *address = listener.address();
                of_shard.push(listener);
            }
            listeners.push(of_shard);
        }
        let mut links = Vec::with_capacity(shards);
        for shard in 0..shards {
            links.push(link::bind(&link::socket_path(&config.socket_dir, shard)).map_err(volume)?);
        }
        let admin = AdminServer::bind(config.admin_listen)
            .await
            .map_err(|source| BindError::Listen {
                address: config.admin_listen,
                source,
            })?;
        Ok(Self {
            config: Arc::new(config),
            incarnation,
            listeners,
            links,
            admin,
        })
    }

    /// Where TCP clients connect.
    #[must_use]
    pub fn tcp_addrs(&self) -> Vec<SocketAddr> {
        self.listeners
            .first()
            .map_or_else(Vec::new, |listeners| Shard::addresses(listeners))
    }

    /// Where the metrics and health pages are.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// The pod that this gateway is in.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.incarnation.instance.as_str()
    }

    /// Serves until the drain is over: clients are told, flushed and closed within its time.
    ///
    /// # Errors
    /// When a shard's thread can't be started.
    pub async fn run(self, drain: Drain) -> Result<(), BindError> {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry);
        ProcessMetrics::register(&registry, "gateway", env!("CARGO_PKG_VERSION"));
        metrics
            .connection_limit
            .set(self.config.limits.connections as i64);
        metrics
            .bandwidth
            .set(i64::try_from(self.config.bandwidth.0).unwrap_or(i64::MAX));
        let admission = Arc::new(Admission::new(
            self.config.limits.connections,
            self.config.limits.connections_per_address,
        ));
        let readiness = Readiness::new();
        let shards = self.listeners.len() as u32;
        let mut threads = Vec::with_capacity(self.listeners.len());
        for (id, (listeners, link)) in self.listeners.into_iter().zip(self.links).enumerate() {
            // One waits for the shard's turn, one is being looked at: a sidecar dials once.
            let (attaches, attached) = mpsc::channel(2);
            // Conditions have static names; one per shard and process is leaked.
            let condition: &'static str = Box::leak(format!("link to state, shard {id}").into_boxed_str());
            let parts = ShardParts {
                id: id as u8,
                shards,
                config: Arc::clone(&self.config),
                instance: self.incarnation.instance.as_str().to_owned(),
                incarnation: self.incarnation.number,
                listeners,
                admission: Arc::clone(&admission),
                metrics: metrics.clone(),
                attaches: attached,
                link_up: readiness.condition(condition),
            };
            let drain = drain.clone();
            let thread = thread::Builder::new()
                .name(format!("shard-{id}"))
                .spawn(move || shard_thread(parts, link, attaches, drain))
                .map_err(BindError::Thread)?;
            threads.push(thread);
        }
        tracing::info!(
            gateway = %self.config.name,
            instance = self.incarnation.instance.as_str(),
            incarnation = self.incarnation.number,
            shards,
            "serving"
        );
        let stop_admin = tokio_util::sync::CancellationToken::new();
        let page = self
            .admin
            .serve(registry, readiness.clone(), axum_router(), stop_admin.clone());
        let (ended, shards_end) = tokio::sync::oneshot::channel();
        let joiner = move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a shard's thread panicked; its connections are gone");
                }
            }
            // Nobody waits any more if the gateway was dropped.
            let _ = ended.send(());
        };
        thread::Builder::new()
            .name("shards-end".to_owned())
            .spawn(joiner)
            .map_err(BindError::Thread)?;
        tokio::pin!(page, shards_end);
        let mut measured = tokio::time::interval(MEMORY_INTERVAL);
        let at_start = ProcessSample::of(std::process::id()).map_or(0, |sample| sample.pss_bytes);
        let begun = drain.token();
        loop {
            tokio::select! {
                _ = &mut page => {}
                _ = &mut shards_end => break,
                () = begun.cancelled(), if metrics.draining.get() == 0 => {
                    metrics.draining.set(1);
                    readiness.drain();
                }
                _ = measured.tick() => measure(&metrics, &admission, at_start),
            }
        }
        stop_admin.cancel();
        Ok(())
    }
}

/// User memory per connection: the contract's figure, as a metric.
fn measure(metrics: &Metrics, admission: &Admission, at_start: u64) {
    metrics
        .without_verdict
        .set(i64::try_from(imaccess_net::socket::dropped_without_verdict()).unwrap_or(i64::MAX));
    let open = admission.open() as u64;
    // Below this many the process's own noise is larger than what is measured.
    const ENOUGH: u64 = 1_000;
    if open >= ENOUGH
        && let Ok(sample) = ProcessSample::of(std::process::id())
    {
        let bytes = sample.pss_bytes.saturating_sub(at_start) / open;
        metrics
            .bytes_per_connection
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

fn shard_thread(
    parts: ShardParts,
    link: std::os::unix::net::UnixListener,
    attaches: mpsc::Sender<link::Attach>,
    drain: Drain,
) {
    let id = parts.id;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, shard = id, "a shard's runtime can't be built");
            return;
        }
    };
    runtime.block_on(async move {
        tokio::spawn(link::serve(link, attaches));
        let served = match Shard::new(parts) {
            Ok(shard) => shard.run(drain).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::error!(%error, shard = id, "a shard ended");
        }
    });
}

/// No pages of its own besides the common ones.
fn axum_router() -> axum::Router {
    axum::Router::new()
}
