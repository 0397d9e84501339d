//! The routing role: where each device's session is, which instances have members of each group, and the push API.
//!
//! ```text
//!   membership ──▶ one feed per live instance ──▶ store (device → route, group → instances)
//!    source          ▲   dials its sidecar,             ▲
//!                    │   hears routes, receipts         │ look up
//!                    └──────── outbox ◀──────────── push API ◀── front ◀── business servers
//! ```
//!
//! Business servers speak gRPC or HTTP/JSON, on one port (`server`); what stands before both is `front`.
//!
//! Invariants: the sidecars are the truth, everything here is rebuilt from them; every replica hears every sidecar
//! and is complete by itself; a device is called offline only while the replica is in sync with every live instance;
//! the membership source alone says which live; no lock is held over an await; every queue has a bound.

mod access;
mod calls;
mod config;
mod feed;
mod front;
mod gathers;
mod groups;
mod http;
mod hub;
mod idempotency;
mod key;
mod liveness;
mod lost;
mod membership;
mod metrics;
mod names;
mod numbering;
mod outbox;
mod push;
mod rates;
mod server;
mod slab;
mod store;
mod table;
mod timely;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use imaccess_common::admin::{AdminServer, Condition, Readiness};
use imaccess_common::business::{self, BusinessConfig};
use imaccess_common::config::watched::{Follow, Reloads};
use imaccess_common::drain::Drain;
use imaccess_common::identity::InstanceId;
use imaccess_common::metrics::ProcessMetrics;
use imaccess_common::tls::{ClientTls, Clients, Identity, ServerTls, TlsError, TlsMetrics};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::access::{Gate, GateMetrics};
pub use self::config::{MembersConfig, PodMembersConfig, PushTokensConfig, RoutingConfig};
use self::feed::FeedTimes;
use self::front::{Front, FrontMetrics};
use self::http::HttpMetrics;
use self::hub::Hub;
pub use self::membership::Member;
use self::membership::Membership;
use self::metrics::RoutingMetrics;
use self::push::PushApi;
pub use self::store::{Announcement, MemoryStore, Presence, Retraction, RouteStore, Sizes, StoreUnavailable};
pub use self::table::{InstanceIndex, Route, Verdict};

/// How often sizes are read, and readiness until it holds.
const TICK: Duration = Duration::from_millis(100);

/// Why the role can't start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RoutingError {
    /// The configuration contradicts itself.
    #[error("the configuration can't be used: {0}")]
    Config(String),
    /// The pods can't be watched.
    #[error("members.pods: can't watch the pods")]
    Pods(#[from] imaccess_pods::ConnectError),
    /// An address can't be taken.
    #[error("can't listen on {address} ({what})")]
    Bind {
        /// What was to listen there.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The certificate can't be used.
    #[error("the certificate can't be used")]
    Tls(#[from] TlsError),
    /// The push API's server failed.
    #[error("the push API ended")]
    Serve(#[source] tonic::transport::Error),
}

/// A routing replica with its addresses taken; [`run`](Routing::run) serves it.
pub struct Routing {
    config: RoutingConfig,
    /// Who may push for which business follows from these.
    businesses: (
        Follow<Vec<BusinessConfig>>,
        watch::Receiver<Arc<Vec<BusinessConfig>>>,
    ),
    hub: Arc<Hub<MemoryStore>>,
    gate: Arc<Gate>,
    /// Of what stands before the push API, and of its HTTP form.
    metrics: (FrontMetrics, HttpMetrics),
    /// With certificates: who this replica is, and how the push API is secured.
    secure: Option<(Arc<Identity>, ServerTls)>,
    registry: Registry,
    push: TcpListener,
    push_addr: SocketAddr,
    admin: AdminServer,
    members: Membership,
}

// === impl Routing ===

impl Routing {
    /// Checks the configuration and takes the addresses; port 0 lets the kernel choose.
    pub async fn bind(config: RoutingConfig) -> Result<Routing, RoutingError> {
        check(&config).map_err(RoutingError::Config)?;
        let fault = |what, address| {
            move |source| RoutingError::Bind {
                what,
                address,
                source,
            }
        };
        let push_fault = fault("push API", config.push_listen);
        let push = TcpListener::bind(config.push_listen).await.map_err(push_fault)?;
        let push_addr = push.local_addr().map_err(fault("push API", config.push_listen))?;
        let admin_fault = fault("admin pages", config.admin_listen);
        let admin = AdminServer::bind(config.admin_listen)
            .await
            .map_err(admin_fault)?;
        let members = Membership::connect(&config.members).await?;
        let registry = Registry::new();
        ProcessMetrics::register(&registry, "routing", env!("CARGO_PKG_VERSION"));
        let mut hub = Hub::new(MemoryStore::new(), &config, RoutingMetrics::register(&registry));
        let gate = Gate::new(&config, GateMetrics::register(&registry));
        let metrics = (
            FrontMetrics::register(&registry),
            HttpMetrics::register(&registry),
        );
        let secure = match &config.tls {
            Some(tls) => {
                let identity = Identity::load(tls.clone(), TlsMetrics::register(&registry))?;
                let name = config.sidecar_name.as_deref().unwrap_or_default();
                hub.sidecars = Some(ClientTls::grpc(Arc::clone(&identity), name)?);
                let server = ServerTls::grpc_and_http(Arc::clone(&identity), Clients::Guests)?;
                Some((identity, server))
            }
            None => None,
        };
        let (fixed, file) = (config.businesses.clone(), config.businesses_file.clone());
        let paths = file.iter().cloned().collect();
        let load = move || business::load_all(&fixed, file.as_deref());
        let businesses = Follow::begin("businesses", paths, &Reloads::register(&registry), load)
            .map_err(RoutingError::Config)?;
        Ok(Routing {
            config,
            businesses,
            hub: Arc::new(hub),
            gate: Arc::new(gate),
            metrics,
            secure,
            registry,
            push,
            push_addr,
            admin,
            members,
        })
    }

    /// Where the push API listens.
    #[must_use]
    pub fn push_addr(&self) -> SocketAddr {
        self.push_addr
    }

    /// Where the admin pages are.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.local_addr()
    }

    /// Serves until the drain: then new calls are refused, those in flight answered, and the feeds ended last.
    pub async fn run(self, drain: Drain) -> Result<(), RoutingError> {
        let readiness = Readiness::new();
        let in_sync = readiness.condition("in_sync");
        let stop_admin = CancellationToken::new();
        // What runs beside ends with this future, also when it is dropped.
        let _stop_all = stop_admin.clone().drop_guard();
        let admin = self.admin.serve(
            self.registry,
            readiness.clone(),
            Router::new(),
            stop_admin.clone(),
        );
        let admin = tokio::spawn(admin);

        let tls = self.secure.map(|(identity, server)| {
            tokio::spawn(identity.watch(stop_admin.clone()));
            server
        });
        tokio::spawn(Arc::clone(&self.gate).keep(stop_admin.clone()));
        let (of_front, of_http) = self.metrics;
        let api = PushApi::new(Arc::clone(&self.hub), Arc::clone(&self.gate));
        let front = Arc::new(Front::new(api, Arc::clone(&self.gate), of_front));
        let (follow, mut businesses) = self.businesses;
        tokio::spawn(follow.run(stop_admin.clone()));
        let (gate, of_businesses) = (Arc::clone(&self.gate), Arc::clone(&front));
        // Before the first call: a limit that came after it would be none.
        of_businesses.set_businesses(&businesses.borrow());
        tokio::spawn(async move {
            loop {
                let listed = Arc::clone(&businesses.borrow_and_update());
                gate.set_businesses(&listed);
                of_businesses.set_businesses(&listed);
                tracing::debug!(businesses = listed.len(), "businesses are in effect");
                if businesses.changed().await.is_err() {
                    return;
                }
            }
        });
        let feeds = Feeds::new(Arc::clone(&self.hub), &self.config);
        let feeds = tokio::spawn(feeds.run(self.members, in_sync, self.config.suspect_after));

        let begun = drain.clone();
        let until_drain = async move {
            begun.begun().await;
            readiness.drain();
        };
        let serving = server::serve(front, self.gate, of_http, self.push, tls, until_drain);
        let served = tokio::select! {
            served = serving => served.map_err(RoutingError::Serve),
            () = drain.deadline() => Ok(()),
        };

        // Dropping the feeds' task drops their set, which ends them all.
        feeds.abort();
        let _ = feeds.await;
        stop_admin.cancel();
        let _ = admin.await;
        served
    }
}

/// What no field's type can say.
fn check(config: &RoutingConfig) -> Result<(), String> {
    if config.cluster.is_empty() {
        return Err("cluster: must not be empty".to_owned());
    }
    for (key, value) in [
        ("suspect_after", config.suspect_after),
        ("dead_after", config.dead_after),
        ("receipt_timeout", config.receipt_timeout),
        ("reconnect_max", config.reconnect_max),
        ("members.file_interval", config.members.file_interval),
    ] {
        if value.is_zero() {
            return Err(format!("{key}: must not be zero"));
        }
    }
    config.check_access()?;
    if let Some(pods) = &config.members.pods {
        if config.members.file.is_some() || !config.members.fixed.is_empty() {
            return Err("members: give one of `pods`, `file` and `fixed`".to_owned());
        }
        if pods.selector.trim().is_empty() {
            return Err(
                "members.pods.selector: must not be empty, or every pod would be a gateway".to_owned(),
            );
        }
        if pods.routes_port == 0 {
            return Err("members.pods.routes_port: must not be 0".to_owned());
        }
    }
    match membership::fault_in(&config.members.fixed) {
        Some(fault) => Err(format!("members.fixed: {fault}")),
        None => Ok(()),
    }
}

/// The feeds of all instances: one task each, begun and ended as the membership says.
struct Feeds {
    hub: Arc<Hub<MemoryStore>>,
    times: FeedTimes,
    /// Each running feed's address; `None` once its instance left the membership.
    running: HashMap<InstanceId, watch::Sender<Option<String>>>,
    wanted: HashMap<InstanceId, Member>,
    tasks: JoinSet<InstanceId>,
}

impl Feeds {
    fn new(hub: Arc<Hub<MemoryStore>>, config: &RoutingConfig) -> Feeds {
        let times = FeedTimes::new(config.suspect_after, config.reconnect_max, config.resume_window);
        Feeds {
            hub,
            times,
            running: HashMap::new(),
            wanted: HashMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Follows the membership, for as long as it isn't dropped.
    ///
    /// `in_sync` holds from the first time that every instance was heard to the end or is dead, or from
    /// `settle_limit` on: an instance that can't be reached must not keep the others' devices from being pushed to.
    /// From then on it stays: what isn't known is answered retry, call by call.
    async fn run(mut self, mut membership: Membership, in_sync: Condition, settle_limit: Duration) {
        let start = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                members = membership.next() => self.adopt(members),
                Some(ended) = self.tasks.join_next() => self.restart(ended),
                _ = tick.tick() => {
                    let sizes = self.hub.store.sizes();
                    self.hub.metrics.set_sizes(sizes, self.hub.calls.awaited());
                    if let Some(health) = membership.health() {
                        self.hub.metrics.set_watch(health);
                    }
                    if !in_sync.holds() && (self.hub.is_settled() || start.elapsed() >= settle_limit) {
                        in_sync.set(true);
                    }
                }
            }
        }
    }

    fn adopt(&mut self, members: Vec<Member>) {
        self.wanted = members
            .into_iter()
            .map(|member| (InstanceId(member.instance.clone()), member))
            .collect();
        for (instance, routes) in &self.running {
            let address = self.wanted.get(instance).map(|member| member.routes.clone());
            routes.send_if_modified(|current| {
                let differs = *current != address;
                *current = address;
                differs
            });
        }
        let new: Vec<InstanceId> = self
            .wanted
            .keys()
            .filter(|instance| !self.running.contains_key(*instance))
            .cloned()
            .collect();
        for instance in new {
            self.begin(instance);
        }
        // After the feeds have begun: from now on what isn't listed doesn't count.
        self.hub.membership_heard();
    }

    fn begin(&mut self, instance: InstanceId) {
        let Some(member) = self.wanted.get(&instance) else {
            return;
        };
        let peer = self.hub.join(&instance, &member.name);
        let (routes, heard) = watch::channel(Some(member.routes.clone()));
        let (hub, times) = (Arc::clone(&self.hub), self.times);
        self.running.insert(instance.clone(), routes);
        self.tasks.spawn(async move {
            feed::follow(hub, peer, heard, times).await;
            instance
        });
    }

    /// A feed ended: its instance is gone and forgotten. If it was listed again in that moment, it begins anew.
    fn restart(&mut self, ended: Result<InstanceId, tokio::task::JoinError>) {
        match ended {
            Ok(instance) => {
                self.running.remove(&instance);
                self.begin(instance);
            }
            // A panic in a feed leaves its instance as it was, not in sync: nothing false is said of its devices.
            Err(fault) => tracing::error!(%fault, "the feed of an instance failed"),
        }
    }
}

#[cfg(test)]
mod tests;
