//! The custodian's thread: accepts, keeps time, and closes.
//!
//! Everything runs on one `current_thread` runtime, a task per connection and one that keeps house. The store is borrowed
//! between two awaits at most, so that no borrow meets another.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use imaccess_common::clock::Monotonic;
use imaccess_net::descriptors::{DescriptorListener, DescriptorSocket};
use rustix::net::Shutdown;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;

use super::connection::{self, Peer};
use super::metrics::Metrics;
use super::store::Store;
use super::sweep::{self, Sign};
use super::{Custody, CustodyEvent, CustodyTimes};

/// Connections at a time: 256 shards of two gateways, and those that take back.
const MAX_CONNECTIONS: usize = 600;

/// Whether the socket still has its name is looked at as often.
const LOOK: Duration = Duration::from_secs(1);

/// What all tasks share.
pub(super) struct Custodian {
    pub(super) store: RefCell<Store<OwnedFd>>,
    /// Connections that are let in, by number.
    pub(super) peers: RefCell<HashMap<u32, Rc<Peer>>>,
    /// What messages are received into, one after the other.
    pub(super) scratch: RefCell<Scratch>,
    pub(super) clock: Monotonic,
    pub(super) metrics: Metrics,
    linked: Arc<AtomicU32>,
    held: Arc<AtomicUsize>,
    times: CustodyTimes,
    events: mpsc::Sender<CustodyEvent>,
    connections: Cell<usize>,
}

#[derive(Default)]
pub(super) struct Scratch {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Runs until `stop`.
pub(super) fn run(
    custody: Custody,
    times: CustodyTimes,
    events: mpsc::Sender<CustodyEvent>,
    stop: CancellationToken,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let clock = Monotonic::start();
    let custodian = Rc::new(Custodian {
        store: RefCell::new(Store::new(times.listeners, times.sockets, clock.now())),
        peers: RefCell::new(HashMap::new()),
        scratch: RefCell::new(Scratch::default()),
        clock,
        metrics: custody.metrics,
        linked: custody.linked,
        held: custody.held,
        times,
        events,
        connections: Cell::new(0),
    });
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        tokio::task::spawn_local(Rc::clone(&custodian).keep_house());
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            ended = custodian.accept(custody.listener, &custody.path) => ended,
        }
    })
}

impl Custodian {
    async fn accept(self: Rc<Self>, listener: DescriptorListener, path: &std::path::Path) -> io::Result<()> {
        let mut listener = registered(listener, Interest::READABLE)?;
        let mut look = tokio::time::interval(LOOK);
        loop {
            let accepted = tokio::select! {
                biased;
                ready = listener.readable() => match ready?.try_io(|listener| listener.get_ref().accept()) {
                    Ok(accepted) => accepted,
                    Err(_nobody) => continue,
                },
                _ = look.tick() => {
                    // The volume may have been emptied. (A file that isn't ours is our successor's: leave it.)
                    if matches!(path.try_exists(), Ok(false)) {
                        match super::bind(path) {
                            Ok(again) => listener = registered(again, Interest::READABLE)?,
                            Err(fault) => tracing::warn!(%fault, path = %path.display(), "the custody socket is gone and can't be bound again"),
                        }
                    }
                    continue;
                }
            };
            match accepted {
                Ok(socket) => self.welcome(socket),
                Err(fault) => {
                    tracing::warn!(%fault, "a connection to the custodian can't be accepted");
                    // Too many open descriptors, for instance, which don't become fewer by trying at once.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn welcome(self: &Rc<Self>, socket: DescriptorSocket) {
        let refuse = |reason: &str| self.metrics.refused.with_label_values(&[reason]).inc();
        let own = rustix::process::geteuid().as_raw();
        // As for the link: the directory and the socket are private, but a volume may be mounted more widely than meant.
        if !socket.peer_uid().is_ok_and(|uid| uid == own || uid == 0) {
            refuse("user");
            tracing::warn!("a process of another user dialled the custodian and was turned away");
            return;
        }
        if self.connections.get() >= MAX_CONNECTIONS {
            refuse("full");
            tracing::warn!(MAX_CONNECTIONS, "the custodian has too many connections");
            return;
        }
        let socket = match registered(socket, Interest::READABLE | Interest::WRITABLE) {
            Ok(socket) => socket,
            Err(fault) => {
                tracing::warn!(%fault, "a connection to the custodian can't be served");
                return;
            }
        };
        self.connections.set(self.connections.get() + 1);
        let custodian = Rc::clone(self);
        tokio::task::spawn_local(async move {
            connection::serve(&custodian, Rc::new(Peer::new(socket))).await;
            custodian.connections.set(custodian.connections.get() - 1);
        });
    }

    /// Dead-man timers, the sweep, and the gauges.
    async fn keep_house(self: Rc<Self>) {
        let tick = (self.times.listeners / 10).clamp(Duration::from_millis(10), Duration::from_secs(1));
        let mut ticks = tokio::time::interval(tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut swept = Instant::now();
        loop {
            ticks.tick().await;
            let linked = self.linked.load(Ordering::Relaxed);
            let now = self.clock.now();
            self.store.borrow_mut().look_at_clock(now);
            self.store.borrow_mut().seen(linked, now);
            self.bury().await;
            if swept.elapsed() >= self.times.sweep {
                self.sweep().await;
                swept = Instant::now();
            }
            let away = self.store.borrow().away(self.clock.now());
            self.metrics
                .away
                .set(i64::try_from(away.as_secs()).unwrap_or(i64::MAX));
        }
    }

    async fn bury(&self) {
        let due = self.store.borrow_mut().due(self.clock.now());
        if !due.listeners.is_empty() {
            let listeners = due.listeners.len();
            tracing::warn!(listeners, after = ?self.times.listeners, "no gateway has come back: its listeners are closed");
            self.metrics.dead_man_listeners.inc_by(listeners as u64);
            due.listeners.into_iter().for_each(shut);
        }
        if let Some(sockets) = due.sockets {
            tracing::warn!(
                sockets = sockets.len(),
                after = ?self.times.sockets,
                "no gateway has come back, or it hangs: its connections are closed"
            );
            self.metrics.dead_man_sockets.inc_by(sockets.len() as u64);
            sockets.into_iter().for_each(shut);
            self.tell(CustodyEvent::AllGone).await;
        }
        self.note();
    }

    async fn sweep(&self) {
        let mut at = 0;
        loop {
            let here = self.store.borrow().gateway_is_here();
            let away = self.store.borrow().away(self.clock.now());
            // As long as listeners are kept a gateway may come at any moment, and finish what the peer began.
            let sign = if here || away < self.times.listeners {
                Sign::Over
            } else {
                Sign::PeerGone
            };
            let found = sweep::over(self.store.borrow().slice(at, sweep::SLICE), sign);
            let (over, asked) = match found {
                Ok(found) => found,
                Err(fault) => {
                    tracing::warn!(%fault, "held sockets can't be swept");
                    break;
                }
            };
            for id in &over {
                let socket = self.store.borrow_mut().release(*id);
                match socket {
                    // Both sides are shut already, and the gateway may still read what is there.
                    Some(socket) if here => drop(socket),
                    Some(socket) => shut(socket),
                    None => {}
                }
            }
            self.metrics.swept.inc_by(over.len() as u64);
            at += asked - over.len();
            if !here && !over.is_empty() {
                self.tell(CustodyEvent::Gone(over.into())).await;
            }
            if asked < sweep::SLICE {
                break;
            }
            tokio::task::yield_now().await;
        }
        self.store.borrow_mut().tidy();
        self.note();
    }

    async fn tell(&self, event: CustodyEvent) {
        // Without a sidecar there is nobody to be told, and this thread ends too.
        let _ = self.events.send(event).await;
    }

    /// Sets the gauges of what is held.
    pub(super) fn note(&self) {
        let store = self.store.borrow();
        self.held.store(store.sockets(), Ordering::Release);
        self.metrics.sockets.set(store.sockets() as i64);
        self.metrics.listeners.set(store.listeners() as i64);
    }
}

/// Ends a socket, or a listener, also for other holders.
pub(super) fn shut(descriptor: OwnedFd) {
    // It may be over already, which is what we want.
    let _ = rustix::net::shutdown(&descriptor, Shutdown::Both);
    drop(descriptor);
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe, for types that can change their descriptor; these can't"
)]
fn registered<T: std::os::fd::AsRawFd>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(socket, interest)
}
