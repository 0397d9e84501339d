//! The composition root: everything is bound and checked first, then run.
//!
//! Threads: each worker answers clients on a runtime of its own, so that a query never waits for a scrape; the observer
//! and the admin pages run on the caller's runtime.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use bytes::Bytes;
use imaccess_common::admin::{AdminServer, Readiness};
use imaccess_common::clock::Monotonic;
use imaccess_common::config::watched::{Follow, Reloads};
use imaccess_common::http::{Limits, serve_router};
use imaccess_common::token::{DevelopmentIssuer, KeyError};
use imaccess_pods::{ConnectError, PodSource, PodWatch};
use prometheus::Registry;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::answer::Answers;
use crate::businesses;
use crate::config::{BusinessName, IpconfigConfig};
use crate::http::{Desk, Tokens, businesses_body, router};
use crate::metrics::{Metrics, ScoreGauges};
use crate::observer::{HeadSource, Observer};
use crate::picture::Picture;
use crate::scores::{self, Scores};
use crate::source::Source;
use crate::targets::{PodRules, PodTargets, Targets};

/// Handshakes that may wait for a worker: a burst of one second at the login goal of 10,000.
const BACKLOG: i32 = 16_384;

/// Why ipconfig can't start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(String),
    /// An address can't be taken.
    #[error("can't listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The development key's file can't be read.
    #[error("can't read the development signing key {}", path.display())]
    ReadKey {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The development key's file has no key.
    #[error("the development signing key {} can't be used", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The HTTP client of the readings can't be made.
    #[error("can't make the HTTP client")]
    Client(#[from] reqwest::Error),
    /// The pods can't be watched.
    #[error("pods: can't watch them")]
    Pods(#[from] ConnectError),
    /// A worker's thread or runtime can't be made.
    #[error("can't start a worker")]
    Worker(#[source] io::Error),
}

/// ipconfig, bound and not yet running. Dropping it closes everything.
pub struct Ipconfig {
    address: SocketAddr,
    admin: AdminServer,
    observer: Observer,
    businesses: Businesses,
    workers: Vec<Worker>,
    /// Lets the workers begin; they end when it is dropped with the rest.
    stop_workers: DropGuard,
    registry: Registry,
    readiness: Readiness,
    scores: Arc<ArcSwap<Scores>>,
}

struct Worker {
    begin: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Ipconfig {
    /// Checks the configuration, reads the key, takes the addresses. From here on clients can connect; they are
    /// answered once it runs.
    pub async fn bind(config: IpconfigConfig) -> Result<Ipconfig, BindError> {
        config.validate().map_err(BindError::Config)?;
        let registry = Registry::new();
        let metrics = Metrics::register(&registry);
        let readiness = Readiness::new();
        let tokens = development_tokens(&config)?;
        let published = Arc::new(ArcSwap::from_pointee(Answers::none()));
        let (fixed, file) = (config.businesses.clone(), config.businesses_file.clone());
        let paths = file.iter().cloned().collect();
        let load = move || businesses::load(&fixed, file.as_deref());
        let (follow, listed) = Follow::begin("businesses", paths, &Reloads::register(&registry), load)
            .map_err(BindError::Config)?;
        let body = Arc::new(ArcSwap::from_pointee(businesses_body(&listed.borrow())));
        let businesses = Businesses {
            follow,
            listed,
            body: Arc::clone(&body),
        };
        let desk = Desk {
            published: Arc::clone(&published),
            businesses: body,
            retry_after_s: config.retry_after_s,
            tokens,
            metrics: metrics.clone(),
        };

        let (address, listeners) =
            listen(config.listen, config.workers).map_err(|source| BindError::Listen {
                address: config.listen,
                source,
            })?;
        let admin = AdminServer::bind(config.admin)
            .await
            .map_err(|source| BindError::Listen {
                address: config.admin,
                source,
            })?;
        let stop_workers = CancellationToken::new();
        let router = router(Arc::new(desk));
        let limits = Limits {
            connections: config.connections,
            header_timeout: Duration::from_secs(10),
            max_age: Duration::from_secs(300),
            close_timeout: Duration::from_secs(2),
            buffer_bytes: 8 * 1_024,
        };
        let start = |(number, listener)| {
            Worker::start(number, listener, router.clone(), limits, stop_workers.clone())
        };
        let workers = listeners
            .into_iter()
            .enumerate()
            .map(start)
            .collect::<io::Result<_>>()
            .map_err(BindError::Worker)?;

        let mut picture = Picture::new(config.window, config.absence);
        let targets = targets(&config).await?;
        picture.take_targets(targets.current());
        let source = Source::new(&config)?;
        metrics.show_source(source.name());
        let scores = Arc::new(ArcSwap::from_pointee(Scores::default()));
        let observer = Observer {
            targets,
            source,
            picture,
            published,
            scores: Arc::clone(&scores),
            metrics,
            score_gauges: ScoreGauges::register(&registry),
            trouble: None,
            listed: readiness.condition("gateways"),
            interval: Source::interval(&config),
            clock: Monotonic::start(),
            head: HeadSource {
                cluster: config.cluster,
                ttl_s: config.ttl_s,
                retry_after_s: config.retry_after_s,
                version: 0,
            },
        };
        Ok(Ipconfig {
            address,
            admin,
            observer,
            businesses,
            workers,
            stop_workers: stop_workers.drop_guard(),
            registry,
            readiness,
            scores,
        })
    }

    /// Where clients ask.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics, health and readiness are.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// Its readiness: whether there is a gateway to name.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Runs until `stop`; then what is being answered is answered (2 s at most), and the admin pages close last.
    pub async fn run(self, stop: CancellationToken) {
        let Ipconfig {
            admin,
            observer,
            businesses,
            workers,
            stop_workers,
            registry,
            readiness,
            scores,
            ..
        } = self;
        let stop_rest = CancellationToken::new();
        let admin = admin.serve(
            registry,
            readiness.clone(),
            scores::router(scores),
            stop_rest.clone(),
        );
        let observer = observer.run(stop_rest.clone());
        let businesses = businesses.run(stop_rest.clone());
        let ended: Vec<_> = workers.into_iter().map(Worker::begin).collect();
        let drain = async {
            stop.cancelled().await;
            readiness.drain();
            drop(stop_workers);
            for worker in ended {
                // A worker that is gone already has ended, too.
                let _ = worker.await;
            }
            stop_rest.cancel();
        };
        tokio::join!(admin, observer, businesses, drain);
    }
}

/// The businesses, followed.
struct Businesses {
    follow: Follow<Vec<BusinessName>>,
    listed: watch::Receiver<Arc<Vec<BusinessName>>>,
    body: Arc<ArcSwap<Bytes>>,
}

impl Businesses {
    async fn run(self, stop: CancellationToken) {
        let Self {
            follow,
            mut listed,
            body,
        } = self;
        let publish = async move {
            // It ends with the one who follows.
            while listed.changed().await.is_ok() {
                body.store(Arc::new(businesses_body(&listed.borrow_and_update())));
            }
        };
        tokio::join!(follow.run(stop), publish);
    }
}

impl Worker {
    /// A thread with a runtime of its own, waiting for its beginning. An error is the thread's or the runtime's.
    fn start(
        number: usize,
        listener: TcpListener,
        router: Router,
        limits: Limits,
        stop: CancellationToken,
    ) -> io::Result<Worker> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (begin, begun) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let serve = async move {
            match tokio::net::TcpListener::from_std(listener) {
                // An error means that it was dropped before it ran.
                Ok(listener) if begun.await.is_ok() => serve_router(listener, router, limits, stop).await,
                Ok(_) => (),
                Err(fault) => tracing::error!(%fault, "a worker's listener can't be used"),
            }
            let _ = end.send(());
        };
        thread::Builder::new()
            .name(format!("ipconfig-{number}"))
            .spawn(move || runtime.block_on(serve))?;
        Ok(Worker { begin, ended })
    }

    fn begin(self) -> oneshot::Receiver<()> {
        // A worker that can't begin has said why.
        let _ = self.begin.send(());
        self.ended
    }
}

/// The source of the list of gateways. Pods are watched from here on.
async fn targets(config: &IpconfigConfig) -> Result<Targets, BindError> {
    if let Some(pods) = &config.pods {
        let source = PodSource {
            namespace: pods.namespace.clone(),
            selector: pods.selector.clone(),
            kubeconfig: pods.kubeconfig.clone(),
        };
        let watch = PodWatch::connect(&source).await?;
        return Ok(Targets::pods(PodTargets::new(watch, PodRules::new(pods))));
    }
    Ok(match &config.targets_file {
        Some(path) => {
            if !path.exists() {
                tracing::warn!(file = %path.display(), "the targets file isn't there yet; waiting for it");
            }
            Targets::file(path.clone())
        }
        None => Targets::fixed(config.gateways.clone()),
    })
}

/// One listener per worker on the same address. Only several share it by `SO_REUSEPORT`: a single one must fail when
/// another process is there.
fn listen(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let mut address = address;
    let mut listeners = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(workers > 1)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        // The kernel chose the port of the first; the others take the same.
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok((address, listeners))
}

fn development_tokens(config: &IpconfigConfig) -> Result<Option<Tokens>, BindError> {
    let Some(path) = &config.development_signing_key else {
        return Ok(None);
    };
    let pem = fs::read_to_string(path).map_err(|source| BindError::ReadKey {
        path: path.clone(),
        source,
    })?;
    let issuer = match &config.development_key_id {
        Some(key_id) => DevelopmentIssuer::from_pem(key_id, &pem),
        None => DevelopmentIssuer::from_pem_by_thumbprint(&pem),
    };
    let issuer = issuer.map_err(|source| BindError::Key {
        path: path.clone(),
        source,
    })?;
    tracing::warn!(
        key = issuer.key_id(),
        "development mode: anyone who can ask gets a token for any device"
    );
    Ok(Some(Tokens {
        issuer,
        cluster: config.cluster.clone(),
        ttl: config.development_token_ttl,
    }))
}
