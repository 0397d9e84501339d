//! The gateway as a whole: everything is bound first and served later.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use imaccess_common::admin::{AdminServer, Readiness};
use imaccess_common::clock::unix_ms;
use imaccess_common::config::Layers;
use imaccess_common::config::watched::Reloads;
use imaccess_common::drain::Drain;
use imaccess_common::handover::Takeover;
use imaccess_common::metrics::ProcessMetrics;
use imaccess_common::process::ProcessSample;
use imaccess_common::tls::TlsError;
use imaccess_net::cursors::{Cursors, MOST_SLOTS};
use imaccess_net::socket::{Listener, StreamOptions};
use imaccess_proto::v1::Held;
use prometheus::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::GatewayConfig;
use crate::control::Control;
use crate::drain::{self, Course};
use crate::handover::file;
use crate::handover::lease::Handover;
use crate::handover::page::{self, Page};
use crate::limits::Admission;
use crate::link;
use crate::metrics::Metrics;
use crate::reload;
use crate::shard::handover::Left;
use crate::shard::{CUSTODY_SOCKET, Ending, OwnListener, Shard, ShardParts};
use crate::takeover::plan::{self, Fate, Why};
use crate::takeover::{self, Inheritance, TakeBackError, TakenBack};
use crate::volume::{self, Incarnation, Lock};

/// Connections that may wait in the kernel until they are accepted; `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4_096;
/// How long a former gateway may take to end: its drain is over by then, or it hangs.
const PREDECESSOR: Duration = Duration::from_secs(15);
/// How often what the custodian holds is brought to the metrics.
const CUSTODY_INTERVAL: Duration = Duration::from_secs(1);
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
    /// What a former gateway left can't be taken back. It is still held: the former version can take it.
    #[error("what the gateway before left can't be taken back")]
    TakeBack(#[source] TakeBackError),
    /// The certificate can't be used.
    #[error("the certificate can't be used")]
    Tls(#[from] TlsError),
    /// A thread can't be started.
    #[error("a shard's thread can't be started")]
    Thread(#[source] io::Error),
}

/// A gateway whose sockets are bound. [`Self::run`] serves them.
#[derive(Debug)]
pub struct Gateway {
    config: Arc<GatewayConfig>,
    incarnation: Incarnation,
    listeners: Vec<Vec<OwnListener>>,
    links: Vec<std::os::unix::net::UnixListener>,
    cursors: Vec<Cursors>,
    inheritance: Inheritance,
    took: Duration,
    registry: Registry,
    admin: AdminServer,
    control: Option<Control>,
    /// Where the configuration comes from, if it is to be read again when its file changes.
    layers: Option<Layers>,
    /// Held for as long as the process has anything of the volume's.
    _lock: Lock,
}

impl Gateway {
    /// Waits for a former gateway's end, takes over what it left, binds what is missing of the client addresses, the link's
    /// sockets and the admin page. Must be called in a tokio runtime, which then serves the admin page; shards have threads
    /// and runtimes of their own.
    ///
    /// Until [`Self::run`] no client socket is touched: a gateway that fails here, or is dropped, leaves everything to the next.
    ///
    /// # Errors
    /// [`BindError`], naming what couldn't be bound.
    pub async fn bind(config: GatewayConfig) -> Result<Self, BindError> {
        config.validate().map_err(BindError::Config)?;
        let volume = |source| BindError::Volume {
            path: config.socket_dir.display().to_string(),
            source,
        };
        let lock = volume::lock(&config.socket_dir, PREDECESSOR)
            .await
            .map_err(volume)?;
        let started = Instant::now();
        tracing::info!(gateway = %config.name, "the volume is this process's");
        let admin = AdminServer::bind(config.admin_listen)
            .await
            .map_err(|source| BindError::Listen {
                address: config.admin_listen,
                source,
            })?;
        let registry = Registry::new();
        let control = Control::bind(&config, &registry).await?;
        let incarnation = volume::next_incarnation(&config.socket_dir, &config.instance).map_err(volume)?;
        let shards = config.shard_count();
        let mut inheritance = Inheritance::none(shards);
        let mut cursors: Vec<Cursors> = (0..shards).map(|_| Cursors::none()).collect();
        if config.custody {
            let custodian = config.socket_dir.join(CUSTODY_SOCKET);
            let taken = take_back(custodian, incarnation.clone())
                .await?
                .unwrap_or_default();
            inheritance =
                Inheritance::gather(&config.socket_dir, &incarnation, taken, shards).map_err(volume)?;
            for (shard, cursors) in cursors.iter_mut().enumerate() {
                let path = takeover::cursors_path(&config.socket_dir, incarnation.number, shard);
                *cursors = Cursors::create(&path, incarnation.number, shard as u32, slots(&config))
                    .map_err(volume)?;
            }
        }
        let held = std::mem::take(&mut inheritance.listeners);
        let listeners = listen(&config, held, &incarnation, shards)?;
        let mut links = Vec::with_capacity(shards);
        for shard in 0..shards {
            links.push(link::bind(&link::socket_path(&config.socket_dir, shard)).map_err(volume)?);
        }
        Ok(Self {
            config: Arc::new(config),
            incarnation,
            listeners,
            links,
            cursors,
            inheritance,
            took: started.elapsed(),
            registry,
            admin,
            control,
            layers: None,
            _lock: lock,
        })
    }

    /// Reads its configuration again when its file changes: `bandwidth`, `limits.connections` and `drain` take effect at once, and a
    /// warning names what else has changed.
    #[must_use]
    pub fn reloading(mut self, layers: Layers) -> Self {
        self.layers = layers.file.is_some().then_some(layers);
        self
    }

    /// Where TCP clients connect.
    #[must_use]
    pub fn tcp_addrs(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for listener in self.listeners.iter().flatten() {
            if !addresses.contains(&listener.socket.address()) {
                addresses.push(listener.socket.address());
            }
        }
        addresses
    }

    /// Where the metrics and health pages are.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// Where the handover page is served under certificates, if it is.
    #[must_use]
    pub fn control_addr(&self) -> Option<SocketAddr> {
        self.control.as_ref().map(Control::local_addr)
    }

    /// The pod that this gateway is in.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.incarnation.instance.as_str()
    }

    /// Serves until the drain is over: clients are told to go, flushed and closed within its time. But if somebody holds the handover
    /// lease when the drain begins, nobody is told anything: what there is is left to the next process, within 200 ms.
    ///
    /// # Errors
    /// When a shard's thread can't be started, or the handover file can't be written.
    pub async fn run(mut self, drain: Drain) -> Result<(), BindError> {
        let registry = std::mem::take(&mut self.registry);
        let metrics = Metrics::register(&registry);
        ProcessMetrics::register(&registry, "gateway", env!("CARGO_PKG_VERSION"));
        metrics.set_declared(&self.config);
        metrics.takeover(self.inheritance.kind());
        let reloads = Reloads::register(&registry);
        let followed = self.layers.take().map(|layers| reload::follow(layers, &reloads));
        let (follow, mut reloaded) = followed.transpose().map_err(BindError::Config)?.unzip();
        let admission = Arc::new(Admission::new(
            self.config.limits.connections,
            self.config.limits.connections_per_address,
        ));
        let readiness = Readiness::new();
        let shards = self.listeners.len();
        let handover = Arc::new(Handover::new(shards as u32, self.config.custody));
        let page = Page {
            handover: Arc::clone(&handover),
            admission: Arc::clone(&admission),
            incarnation: self.incarnation.number,
            takeover: self.view(),
            metrics: metrics.clone(),
        };
        let directory = self.config.socket_dir.clone();
        let volume = |source| BindError::Volume {
            path: directory.display().to_string(),
            source,
        };
        let outdated = self.inheritance.begin().map_err(volume)?;
        let ending = Ending {
            drain: drain.clone(),
            courses: Arc::new(watch::Sender::new(Course::serving())),
            handover: CancellationToken::new(),
        };
        let untold = Arc::new(AtomicU64::new(0));
        let (begun, mut adopted) = mpsc::channel(shards);
        let mut threads = Vec::with_capacity(shards);
        let parts = self.listeners.into_iter().zip(self.links).zip(self.cursors).zip(
            self.inheritance
                .connections
                .into_iter()
                .zip(self.inheritance.ended),
        );
        for (id, (((listeners, link), cursors), (connections, ended))) in parts.enumerate() {
            // One waits for the shard's turn, one is being looked at: a sidecar dials once.
            let (attaches, attached) = mpsc::channel(2);
            // Conditions have static names; one per shard and process is leaked.
            let condition: &'static str = Box::leak(format!("link to state, shard {id}").into_boxed_str());
            let parts = ShardParts {
                id: id as u8,
                shards: shards as u32,
                config: Arc::clone(&self.config),
                instance: self.incarnation.instance.as_str().to_owned(),
                incarnation: self.incarnation.number,
                listeners,
                cursors,
                takeover: self.inheritance.takeover,
                adopted: connections,
                ended,
                handover: Arc::clone(&handover),
                begun: begun.clone(),
                admission: Arc::clone(&admission),
                untold: Arc::clone(&untold),
                metrics: metrics.clone(),
                attaches: attached,
                link_up: readiness.condition(condition),
            };
            let ending = ending.clone();
            let thread = thread::Builder::new()
                .name(format!("shard-{id}"))
                .spawn(move || shard_thread(parts, link, attaches, ending))
                .map_err(BindError::Thread)?;
            threads.push(thread);
        }
        drop(begun);
        tracing::info!(
            gateway = %self.config.name,
            instance = self.incarnation.instance.as_str(),
            incarnation = self.incarnation.number,
            shards,
            "serving"
        );
        let stop_admin = CancellationToken::new();
        let mut extra = page::router(page);
        if let Some(control) = self.control {
            // From here on the admin address tells, and takes no orders.
            let pages = std::mem::take(&mut extra);
            tokio::spawn(control.serve(pages, stop_admin.clone()));
        }
        // The control address ends with this future, also when it is dropped.
        let _stop_control = stop_admin.clone().drop_guard();
        let page = self
            .admin
            .serve(registry, readiness.clone(), extra, stop_admin.clone());
        let (ended, shards_end) = tokio::sync::oneshot::channel();
        let joiner = move || {
            let mut left = Vec::new();
            for thread in threads {
                match thread.join() {
                    Ok(of_shard) => left.extend(of_shard),
                    Err(_) => tracing::error!("a shard's thread panicked; its connections are gone"),
                }
            }
            // Nobody waits any more if the gateway was dropped.
            let _ = ended.send(left);
        };
        thread::Builder::new()
            .name("shards-end".to_owned())
            .spawn(joiner)
            .map_err(BindError::Thread)?;
        tokio::pin!(page, shards_end);
        let stop_rest = stop_admin.clone();
        let following = async move {
            if let Some(follow) = follow {
                follow.run(stop_rest).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(following);
        let mut effective = Arc::clone(&self.config);
        let mut plan = self.config.drain;
        let mut measured = tokio::time::interval(MEMORY_INTERVAL);
        let mut reported = tokio::time::interval(CUSTODY_INTERVAL);
        let at_start = ProcessSample::of(std::process::id()).map_or(0, |sample| sample.pss_bytes);
        let mut outdated = Some(outdated);
        let mut began = None;
        let left = loop {
            tokio::select! {
                _ = &mut page => {}
                left = &mut shards_end => break left.unwrap_or_default(),
                () = drain.begun(), if began.is_none() => {
                    began = Some(Instant::now());
                    readiness.drain();
                    // Also if the link broke since: then whoever waits for an answer is told to ask again.
                    if handover.is_leased(Instant::now()) && handover.is_complete() {
                        ending.handover.cancel();
                    } else {
                        metrics.draining.set(1);
                        let (drain, courses) = (drain.clone(), Arc::clone(&ending.courses));
                        let admission = Arc::clone(&admission);
                        tokio::spawn(async move { drain::conduct(plan, &drain, &courses, &admission).await });
                    }
                }
                () = &mut following => {}
                new = changed(&mut reloaded), if began.is_none() => {
                    apply(&effective, &new, &metrics, &admission, &drain);
                    plan = new.drain;
                    effective = new;
                }
                // The last sender is gone: every shard has its own cursors, or has died.
                None = adopted.recv(), if outdated.is_some() => {
                    if let Some(outdated) = outdated.take() {
                        outdated.remove();
                    }
                }
                _ = measured.tick() => measure(&metrics, &admission, at_start),
                _ = reported.tick() => {
                    metrics.custody_held.set(handover.held.load(Ordering::Relaxed));
                    metrics.custody_complete.set(handover.is_complete().into());
                }
            }
        };
        stop_admin.cancel();
        if metrics.draining.get() == 1 {
            let drained = |by: &str| metrics.drained.with_label_values(&[by]).get();
            tracing::info!(
                told = metrics.go_aways.get(),
                by_client = drained("client"),
                by_close = drained("close"),
                by_deadline = drained("deadline"),
                seconds = began.map_or(0.0, |began| began.elapsed().as_secs_f64()),
                "drained"
            );
        }
        if ending.handover.is_cancelled() {
            leave(
                &directory,
                &self.incarnation,
                left,
                began.unwrap_or_else(Instant::now),
            )
            .map_err(volume)?;
        }
        Ok(())
    }

    fn view(&self) -> Takeover {
        let goes_on = |fate| matches!(fate, Fate::GoesOn(_));
        // One that was ending anyway isn't closed by the takeover.
        let closed = |fate| {
            matches!(
                fate,
                Fate::Closed(..) | Fate::Cut(_, Why::MidFrame | Why::NoRecord)
            )
        };
        Takeover {
            kind: self.inheritance.kind().to_owned(),
            adopted: self.inheritance.count(goes_on) as u64,
            closed: self.inheritance.count(closed) as u64,
            listeners: self.listeners.iter().map(Vec::len).sum::<usize>() as u64,
            milliseconds: self.took.as_millis() as u64,
            stall_milliseconds: match self.inheritance.stopped_unix_ms {
                0 => 0,
                stopped => unix_ms().saturating_sub(stopped),
            },
        }
    }
}

/// The next configuration; never, if it isn't followed.
async fn changed(reloaded: &mut Option<watch::Receiver<Arc<GatewayConfig>>>) -> Arc<GatewayConfig> {
    if let Some(receiver) = reloaded
        && receiver.changed().await.is_ok()
    {
        return Arc::clone(&receiver.borrow_and_update());
    }
    std::future::pending().await
}

/// Puts into effect what may change at run time.
fn apply(old: &GatewayConfig, new: &GatewayConfig, metrics: &Metrics, admission: &Admission, drain: &Drain) {
    metrics.set_declared(new);
    admission.set_most(new.limits.connections);
    if new.drain != old.drain {
        drain.allow(new.drain_time());
    }
    let keys = reload::needs_restart(old, new);
    if !keys.is_empty() {
        tracing::warn!(
            keys = keys.join(", "),
            "these keys have changed and take effect with a restart only"
        );
    }
}

/// Takes back what is held, on a thread of its own: it waits for the custodian, and the runtime must not.
async fn take_back(custodian: PathBuf, incarnation: Incarnation) -> Result<Option<TakenBack>, BindError> {
    let (sender, taken) = tokio::sync::oneshot::channel();
    thread::Builder::new()
        .name("take-back".to_owned())
        .spawn(move || {
            // Nobody waits any more if the gateway was dropped; what was taken is still held then.
            let _ = sender.send(takeover::take_back(&custodian, &incarnation));
        })
        .map_err(BindError::Thread)?;
    match taken.await {
        Ok(taken) => taken.map_err(BindError::TakeBack),
        Err(_) => Err(BindError::Thread(io::Error::other("its thread panicked"))),
    }
}

/// Cells per shard's cursor file: any shard may have all connections, and as many again may be lingering.
fn slots(config: &GatewayConfig) -> u32 {
    let most = config.limits.connections.saturating_mul(2).saturating_add(8_192);
    u32::try_from(most).unwrap_or(MOST_SLOTS).min(MOST_SLOTS)
}

/// Every held listener first, for connections hash to all of them; then those that shards lack.
fn listen(
    config: &GatewayConfig,
    held: Vec<(Held, OwnedFd)>,
    incarnation: &Incarnation,
    shards: usize,
) -> Result<Vec<Vec<OwnListener>>, BindError> {
    let options = StreamOptions {
        send_buffer: usize::try_from(config.limits.send_buffer.0).unwrap_or(16 << 10),
        receive_buffer: None,
        user_timeout: config.deadlines.user_timeout,
    };
    let mut by_address: Vec<(SocketAddr, Vec<OwnListener>)> =
        config.tcp.iter().map(|address| (*address, Vec::new())).collect();
    for (held, descriptor) in held {
        let Ok(address) = held.address.parse::<SocketAddr>() else {
            tracing::warn!(
                address = held.address,
                "a held listener has no address and is left alone"
            );
            continue;
        };
        let listener = match Listener::adopt(descriptor, address, options) {
            Ok(listener) => listener,
            // The process before had begun to drain. The custodian drops it when it finds that nobody has it.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                tracing::warn!(%address, "a held listener doesn't listen any more; there will be another");
                continue;
            }
            Err(source) => return Err(BindError::Listen { address, source }),
        };
        let own = OwnListener {
            socket: listener,
            id: held.id,
        };
        let wanted = by_address.iter_mut().find(|(wanted, listeners)| {
            // Port 0 in the configuration: whichever the kernel gave then.
            *wanted == address
                || wanted.port() == 0
                    && wanted.ip() == address.ip()
                    && listeners
                        .first()
                        .is_none_or(|first| first.socket.address() == address)
        });
        match wanted {
            Some((_, listeners)) => listeners.push(own),
            None => {
                tracing::info!(%address, "a listener is closed: its address isn't configured any more");
                own.socket.close();
            }
        }
    }
    let mut of_shards: Vec<Vec<OwnListener>> = (0..shards).map(|_| Vec::new()).collect();
    let mut added = 0;
    for (mut address, listeners) in by_address {
        if let Some(first) = listeners.first() {
            address = first.socket.address();
        }
        for (shard, mine) in plan::share_out(listeners, shards).into_iter().enumerate() {
            let lacks = mine.is_empty();
            of_shards[shard].extend(mine);
            if lacks {
                let socket = Listener::bind(address, BACKLOG, options)
                    .map_err(|source| BindError::Listen { address, source })?;
                // The other shards share the port that the first one was given.
                address = socket.address();
                added += 1;
                of_shards[shard].push(OwnListener {
                    socket,
                    id: listener_id(incarnation.number, added),
                });
            }
        }
    }
    Ok(of_shards)
}

/// Listeners take numbers of the same space as connections, from the end that no shard's count reaches.
fn listener_id(incarnation: u32, number: u32) -> u64 {
    u64::from(incarnation) << 40 | u64::from(u8::MAX) << 32 | u64::from(u32::MAX - number)
}

/// Writes down what the shards left for the next process.
fn leave(directory: &Path, incarnation: &Incarnation, left: Vec<Left>, began: Instant) -> io::Result<()> {
    let quiesced = left.iter().all(|left| left.quiesced);
    let unheld: usize = left.iter().map(|left| left.unheld).sum();
    let (mut connections, mut ended) = (Vec::new(), Vec::new());
    for of_shard in left {
        connections.extend(of_shard.connections);
        ended.extend(of_shard.ended);
    }
    let count = connections.len();
    let stopped = unix_ms().saturating_sub(began.elapsed().as_millis() as u64);
    let bytes = file::write(directory, incarnation, connections, ended, stopped)?;
    tracing::info!(
        connections = count,
        unheld,
        quiesced,
        bytes,
        milliseconds = began.elapsed().as_millis() as u64,
        "handed over"
    );
    if unheld > 0 {
        tracing::error!(unheld, "connections that nobody else held end with this process");
    }
    Ok(())
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
    ending: Ending,
) -> Option<Left> {
    let (id, custody) = (parts.id, parts.config.custody);
    let silence = parts.config.deadlines.state_silence;
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, shard = id, "a shard's runtime can't be built");
            return None;
        }
    };
    let _guard = custody.then_some(EndsTheProcess);
    runtime.block_on(async move {
        tokio::spawn(link::serve(link, attaches, silence));
        let served = match Shard::new(parts) {
            Ok(shard) => Box::pin(shard.run(ending)).await,
            Err(error) => Err(error),
        };
        served.unwrap_or_else(|error| {
            tracing::error!(%error, shard = id, "a shard ended");
            assert!(!custody, "its sockets would be held and served by nobody");
            None
        })
    })
}

/// With custody a shard's death ends the process: its sockets and listener, which have a second holder, would stay open with nobody
/// to serve them. The next process takes them over.
struct EndsTheProcess;

impl Drop for EndsTheProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("a shard's thread panicked: the process ends, and the next one takes over");
            std::process::abort();
        }
    }
}
