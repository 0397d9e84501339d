//! What a replica's tasks share: the store, the instances, and the calls that wait.
//!
//! Each instance has one task ([`feed`](super::feed)), the only one that changes its liveness and its part of the store.
//! Push calls read. Whether "offline" may be said is one atomic, recomputed at each change of any liveness.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use imaccess_common::clock::{CoarseInstant, Monotonic};
use imaccess_common::identity::InstanceId;
use imaccess_common::tls::ClientTls;
use imaccess_proto::v1::RoutingHello;

use super::calls::Calls;
use super::config::RoutingConfig;
use super::gathers::Gathers;
use super::key::Keyer;
use super::liveness::{Liveness, Patience, Phase};
use super::metrics::RoutingMetrics;
use super::numbering::Numbering;
use super::outbox::Outbox;
use super::pulse::Pulse;
use super::store::RouteStore;
use super::table::InstanceIndex;

/// Everything shared.
pub(crate) struct Hub<S> {
    pub(crate) store: S,
    pub(crate) calls: Calls,
    pub(crate) gathers: Gathers,
    pub(crate) metrics: RoutingMetrics,
    pub(crate) cluster: String,
    /// How sidecars are dialled where they have certificates.
    pub(crate) sidecars: Option<ClientTls>,
    /// Random at each start: names this replica's numbering of groups.
    pub(crate) replica: u64,
    pub(crate) receipt_timeout: Duration,
    /// For the groups' numbers; the store's keys are its own.
    pub(crate) keyer: Keyer,
    /// Guards the numbers of group pushes. Held while a push is put into the queues, so that every instance gets the
    /// pushes of a group in the order of their numbers. Comes before the queues' locks.
    pub(crate) numbering: Mutex<Numbering>,
    clock: Monotonic,
    /// Whether this process has been running: what it knows is of the past if it hasn't.
    pulse: Pulse,
    standstills: AtomicU64,
    patience: Patience,
    queue_limit: usize,
    /// By index; read by every push, changed when an instance comes or goes.
    peers: ArcSwap<Vec<Option<Arc<Peer>>>>,
    /// Serialises changes of `peers` and of any liveness; comes before `Peer::liveness`.
    changes: Mutex<()>,
    /// Whether a device without a route is offline for sure.
    offline_known: AtomicBool,
    /// Whether the membership source has been heard.
    membership_known: AtomicBool,
}

/// One instance.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) index: InstanceIndex,
    pub(crate) instance: InstanceId,
    pub(crate) name: String,
    pub(crate) outbox: Arc<Outbox>,
    /// Told when the stream must be cut because too many notices wait.
    pub(crate) cut: tokio::sync::Notify,
    in_sync: AtomicBool,
    liveness: Mutex<Liveness>,
}

/// All instances, as they were at one moment.
pub(crate) type Peers = Guard<Arc<Vec<Option<Arc<Peer>>>>>;

impl<S: RouteStore> Hub<S> {
    pub(crate) fn new(store: S, config: &RoutingConfig, metrics: RoutingMetrics) -> Hub<S> {
        let mut replica = [0; 8];
        getrandom::fill(&mut replica).expect("the operating system's random source works");
        let clock = Monotonic::start();
        Hub {
            store,
            calls: Calls::new(config.pushes_in_flight),
            gathers: Gathers::default(),
            metrics,
            cluster: config.cluster.clone(),
            sidecars: None,
            // 0 would read as "no numbering".
            replica: u64::from_le_bytes(replica).max(1),
            receipt_timeout: config.receipt_timeout,
            keyer: Keyer::random(),
            numbering: Mutex::new(Numbering::new()),
            pulse: Pulse::new(config.suspect_after, clock.now()),
            clock,
            standstills: AtomicU64::new(0),
            patience: Patience {
                dead_after: config.dead_after,
                resume_window: config.resume_window,
            },
            queue_limit: config.instance_queue.as_usize(),
            peers: ArcSwap::default(),
            changes: Mutex::new(()),
            offline_known: AtomicBool::new(false),
            membership_known: AtomicBool::new(false),
        }
    }

    /// How this replica introduces itself.
    pub(crate) fn hello(&self) -> RoutingHello {
        RoutingHello {
            cluster: self.cluster.clone(),
            replica: self.replica,
        }
    }

    /// All instances, by index.
    pub(crate) fn peers(&self) -> Peers {
        self.peers.load()
    }

    /// Whether a device without a route is offline for sure.
    pub(crate) fn offline_known(&self) -> bool {
        self.offline_known.load(Ordering::Acquire) && self.is_awake()
    }

    /// Whether this process has been running, so that what it knows is of the present.
    pub(crate) fn is_awake(&self) -> bool {
        !self.pulse.has_stood_still(self.clock.now())
    }

    /// Said again and again for as long as this process runs. If it stood still meanwhile, nothing is in sync any more until it was
    /// heard anew: what waits to be read on the streams is of the time in between.
    pub(crate) fn beat(&self) {
        let now = self.clock.now();
        if let Some(still) = self.pulse.standstill(now) {
            tracing::warn!(?still, "this replica stood still; it hears every instance anew");
            self.standstills.fetch_add(1, Ordering::AcqRel);
            for peer in self.peers().iter().flatten() {
                if matches!(peer.phase(), Phase::InSync | Phase::Syncing) {
                    self.broken(peer);
                    peer.cut.notify_one();
                }
                self.change(peer, |life, now| life.stood_still(still, now));
            }
        }
        // Last: until then nobody is called offline.
        self.pulse.beat(now);
    }

    /// How often it has stood still: a stream that was opened before may hold what was so then.
    pub(crate) fn standstills(&self) -> u64 {
        self.standstills.load(Ordering::Acquire)
    }

    /// Live instances that are not in sync; one, for want of a better number, while nothing says which live.
    pub(crate) fn unsynced(&self) -> usize {
        if self.offline_known() {
            return 0;
        }
        if !self.membership_known.load(Ordering::Acquire) {
            return 1;
        }
        let peers = self.peers();
        peers
            .iter()
            .flatten()
            .filter(|peer| !matches!(peer.phase(), Phase::InSync | Phase::Dead))
            .count()
    }

    /// Whether it is known which instances live.
    pub(crate) fn knows_members(&self) -> bool {
        self.membership_known.load(Ordering::Acquire)
    }

    /// Whether every known instance was heard to the end or is dead.
    pub(crate) fn is_settled(&self) -> bool {
        self.membership_known.load(Ordering::Acquire)
            && self
                .peers()
                .iter()
                .flatten()
                .all(|peer| matches!(peer.phase(), Phase::InSync | Phase::Dead))
    }

    /// The membership source was heard.
    pub(crate) fn membership_heard(&self) {
        self.membership_known.store(true, Ordering::Release);
        let changes = self.changes();
        self.recompute(&changes);
    }

    /// An instance appeared in the membership: gives it an index.
    pub(crate) fn join(&self, instance: &InstanceId, name: &str) -> Arc<Peer> {
        let changes = self.changes();
        let mut peers = Vec::clone(&self.peers.load());
        let place = peers.iter().position(Option::is_none).unwrap_or_else(|| {
            peers.push(None);
            peers.len() - 1
        });
        let peer = Arc::new(Peer {
            index: InstanceIndex(u32::try_from(place).expect("instances are counted in thousands")),
            instance: instance.clone(),
            name: name.to_owned(),
            outbox: Arc::new(Outbox::new(self.queue_limit)),
            cut: tokio::sync::Notify::new(),
            in_sync: AtomicBool::new(false),
            liveness: Mutex::new(Liveness::listed(self.clock.now())),
        });
        peers[place] = Some(Arc::clone(&peer));
        self.peers.store(Arc::new(peers));
        self.recompute(&changes);
        peer
    }

    /// Nothing of the instance is left: its index is free again.
    pub(crate) fn part(&self, peer: &Peer) {
        let changes = self.changes();
        let mut peers = Vec::clone(&self.peers.load());
        peers[peer.index.0 as usize] = None;
        self.peers.store(Arc::new(peers));
        self.recompute(&changes);
    }

    /// A stream to the instance is open and says who it should.
    pub(crate) fn connected(&self, peer: &Peer) {
        self.change(peer, |life, _| life.connected());
    }

    /// Its snapshot is complete.
    pub(crate) fn synced(&self, peer: &Peer) {
        self.change(peer, |life, _| life.synced());
    }

    /// Its stream ended: pushes on their way to it are not known to have arrived.
    pub(crate) fn broken(&self, peer: &Peer) {
        // In this order: after the first nobody sends, after the second nobody queues, and the third finds all that
        // were queued before.
        self.change(peer, |life, now| life.broken(now));
        peer.outbox.close();
        self.calls.lost(peer.index);
        self.gathers.lost(peer.index);
    }

    /// It is being replaced: what is on its way still arrives, and nothing else is sent.
    pub(crate) fn leaving(&self, peer: &Peer) {
        // In this order: after the first nobody sends, and the second comes behind what was sent before.
        self.change(peer, |life, now| life.broken(now));
        peer.outbox.end();
    }

    /// It left the membership.
    pub(crate) fn gone(&self, peer: &Peer) {
        let awake = self.is_awake();
        self.change(peer, |life, now| {
            if !awake {
                // What was in sync before this replica stood still isn't known to be so now.
                life.broken(now);
            }
            life.gone(now);
        });
    }

    /// It is in the membership again.
    pub(crate) fn returned(&self, peer: &Peer) {
        self.change(peer, |life, now| life.returned(now));
    }

    /// Time passed. Says whether its routes are to be dropped now; never for the time that this replica has stood still.
    pub(crate) fn tick(&self, peer: &Peer) -> bool {
        self.is_awake() && self.change(peer, |life, now| life.tick(now, self.patience))
    }

    fn change<T>(&self, peer: &Peer, change: impl FnOnce(&mut Liveness, CoarseInstant) -> T) -> T {
        let changes = self.changes();
        let mut life = peer.liveness();
        let before = life.phase();
        let result = change(&mut life, self.clock.now());
        let after = life.phase();
        peer.in_sync.store(after == Phase::InSync, Ordering::Release);
        drop(life);
        if before != after {
            tracing::info!(instance = %peer.instance, name = peer.name, from = ?before, to = ?after, "instance");
        }
        self.recompute(&changes);
        result
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under `changes`, so that the last change is what stays.
    fn recompute(&self, _changes: &MutexGuard<'_, ()>) {
        let peers = self.peers.load();
        let hidden = peers
            .iter()
            .flatten()
            .any(|peer| peer.liveness().may_hide_devices());
        let known = !hidden && self.membership_known.load(Ordering::Acquire);
        self.offline_known.store(known, Ordering::Release);
        self.metrics.in_sync.set(i64::from(known));
        let phases: Vec<Phase> = peers.iter().flatten().map(|peer| peer.phase()).collect();
        self.metrics.set_instances(&phases);
    }
}

impl Peer {
    pub(crate) fn phase(&self) -> Phase {
        self.liveness().phase()
    }

    /// Whether all that the instance knows is known here: only then is a push sent to a device there.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.in_sync.load(Ordering::Acquire)
    }

    /// Whether nothing can be connected there any more.
    pub(crate) fn is_dead(&self) -> bool {
        self.phase() == Phase::Dead
    }

    /// Whether nothing of it is left in the store.
    pub(crate) fn is_forgotten(&self) -> bool {
        self.liveness().is_forgotten()
    }

    /// Whole between any two statements that could panic; held for a few instructions.
    fn liveness(&self) -> MutexGuard<'_, Liveness> {
        self.liveness.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
