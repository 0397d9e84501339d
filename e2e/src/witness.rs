//! A load that witnesses what happens to clients while parts are replaced or killed: thousands of connections, requests
//! of which some are in halves at any instant, pushes to all, and new connections all the time.
//!
//! - [`payload`]: content that follows from its number, and looks like frames.
//! - [`book`]: what one client asked and was told; pure. [`positions`]: the pushes it got. [`out`]: bytes held back.
//! - [`tally`]: all of it added up, and the stall around a change.
//! - `plain`: clients that only speak frames. `sdk`: clients of the SDK. `visitors`: new connections. `pusher`: pushes.
//! - `place`: where it all goes, a cluster of processes or one on Kubernetes. `agenda`, `drive`: what is due when.
//!
//! Invariants: every byte that comes is looked at; a request's latency counts from when its last byte was meant to
//! leave; a plain client is a task with a socket and a few hundred bytes, for reads share one buffer per thread.

mod agenda;
pub mod book;
mod drive;
pub mod out;
pub mod payload;
mod place;
mod plain;
pub mod positions;
mod pusher;
mod sdk;
pub mod tally;
mod visitors;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking::Held;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::Cluster;
use crate::raw_client::APP;
use crate::wait::{Seen, wait_until};
use agenda::Agenda;
pub use place::Place;
use plain::Client;
pub use pusher::Pushed;
use tally::Tally;
pub use visitors::Visits;

/// A lock whose holders never wait and never panic on purpose.
mod parking {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    #[derive(Debug, Default)]
    pub(super) struct Held<T>(Mutex<T>);

    impl<T> Held<T> {
        pub(super) fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        pub(super) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

/// The group that all clients are in.
const GROUP: &[u8] = b"witnesses";
/// Longer than any run; a token is checked at logins only.
const TOKEN_TTL: Duration = Duration::from_secs(86_400);
/// For all clients to be online: at some thousand logins a second, and much else on the machine.
const ONLINE: Duration = Duration::from_secs(120);
/// For connections to be closed in the end.
const LEAVE: Duration = Duration::from_secs(20);

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Of everything random.
    pub seed: u64,
    /// Clients that only speak frames.
    pub plain: u32,
    /// Clients of the SDK.
    pub sdk: u32,
    /// Requests per second, of all clients together.
    pub requests: f64,
    /// Share of the requests that SDK clients send.
    pub sdk_share: f64,
    /// New connections per second.
    pub visits: f64,
    /// Between two pushes to all.
    pub group_push: Option<Duration>,
    /// Between two pushes to some devices.
    pub device_push: Option<Duration>,
    /// Between two pings of a client.
    pub ping: Duration,
    /// Whether a plain client that was closed comes back with its ticket.
    pub reconnect: bool,
}

impl Load {
    /// An ordinary load of this many connections.
    #[must_use]
    pub fn new(seed: u64, connections: u32, requests: f64) -> Self {
        let sdk = (connections / 20).clamp(5, 200);
        Self {
            seed,
            plain: connections - sdk,
            sdk,
            requests,
            sdk_share: 0.1,
            visits: 50.0,
            // A push to 15,000 keeps both sides busy for 0.1 s: more often, latencies would be about nothing else.
            group_push: Some(Duration::from_millis(if connections > 5_000 { 500 } else { 200 })),
            device_push: Some(Duration::from_secs(1)),
            ping: Duration::from_secs(60),
            reconnect: false,
        }
    }
}

/// What everything of a load shares.
struct Ground {
    load: Load,
    begin: Instant,
    place: Place,
    agenda: Agenda,
    plain: Vec<Client>,
    sdk: Held<Vec<sdk::Client>>,
    plain_tally: Held<Tally>,
    sdk_tally: Held<Tally>,
    visits: Held<Visits>,
    pushed: Held<Pushed>,
    /// No new requests, visits or pushes.
    quiet: AtomicBool,
    /// Nobody comes back.
    leaving: AtomicBool,
}

impl Ground {
    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn token(&self, device: &str) -> String {
        self.place
            .issuer
            .issue(&self.place.cluster, APP, device, TOKEN_TTL)
    }
}

/// A running load.
pub struct Witness {
    ground: Arc<Ground>,
    tasks: JoinSet<()>,
    drivers: Vec<JoinHandle<()>>,
}

/// All that it saw.
#[derive(Clone, Debug, Default)]
pub struct Testimony {
    /// Of clients that only speak frames.
    pub plain: Tally,
    /// Of the SDK's clients.
    pub sdk: Tally,
    /// Of new connections.
    pub visits: Visits,
    /// Of who pushed.
    pub pushed: Pushed,
}

impl Testimony {
    /// Group pushes that were said to reach all gateways, and missed clients: one for each client.
    #[must_use]
    pub fn lost_group_pushes(&self) -> u64 {
        let missed = self.plain.missed.iter().chain(&self.sdk.missed);
        let lost = missed.filter(|(place, _)| self.pushed.to_all.contains(*place));
        lost.map(|(_, clients)| clients).sum()
    }
}

impl Witness {
    /// Connects all clients to the first gateway of a cluster, and begins.
    ///
    /// # Errors
    /// When they aren't all online in time.
    pub async fn start(cluster: &Cluster, load: Load) -> Result<Self> {
        Self::begin(Place::of(cluster)?, load).await
    }

    /// Connects all clients to the gateways of a place, and begins.
    ///
    /// # Errors
    /// When they aren't all online in time.
    pub async fn begin(place: Place, load: Load) -> Result<Self> {
        ensure!(!place.gateways.is_empty(), "there is no gateway to connect to");
        let ground = Arc::new(Ground {
            load,
            begin: Instant::now(),
            place,
            agenda: Agenda::default(),
            plain: (0..load.plain)
                .map(|number| Client::new(load.seed, number))
                .collect(),
            sdk: Held::default(),
            plain_tally: Held::default(),
            sdk_tally: Held::default(),
            visits: Held::default(),
            pushed: Held::default(),
            quiet: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        plain::start(&ground, &mut tasks);
        let mut witness = Self {
            ground: Arc::clone(&ground),
            tasks,
            drivers: Vec::new(),
        };
        witness.online(ONLINE).await.context("before anything was done")?;
        sdk::start(&ground, &mut witness.tasks).await?;
        // What a slow start did is not what is to be witnessed.
        *ground.plain_tally.lock() = Tally::default();
        witness
            .drivers
            .push(tokio::spawn(drive::run(Arc::clone(&ground))));
        witness
            .drivers
            .push(tokio::spawn(visitors::run(Arc::clone(&ground))));
        witness.drivers.extend(pusher::start(&ground));
        Ok(witness)
    }

    /// Time since the load's start, as its tallies count it.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.ground.now()
    }

    /// How many clients are online now, of both kinds.
    #[must_use]
    pub fn count_online(&self) -> usize {
        let plain = self
            .ground
            .plain
            .iter()
            .filter(|client| client.is_online())
            .count();
        let sdk = self.ground.sdk.lock();
        plain + sdk.iter().filter(|client| client.is_online()).count()
    }

    /// Clients of both kinds that haven't left.
    #[must_use]
    pub fn count_present(&self) -> usize {
        let plain = self.ground.plain.iter().filter(|client| !client.has_left());
        plain.count() + self.ground.sdk.lock().len()
    }

    /// Waits until all clients that haven't left are online.
    ///
    /// # Errors
    /// When they aren't within the deadline.
    pub async fn online(&self, deadline: Duration) -> Result<()> {
        wait_until("every client is online", deadline, async || {
            let (online, all) = (self.count_online(), self.count_present());
            let failures = self.ground.plain_tally.lock().login_failures.clone();
            Ok(if online == all {
                Seen::Yes(())
            } else {
                Seen::NotYet((online, all, failures))
            })
        })
        .await
    }

    /// The names of the plain clients, in order.
    #[must_use]
    pub fn device(number: u32) -> String {
        plain::device(number)
    }

    /// The names of all devices that haven't left and are to be online in the end.
    #[must_use]
    pub fn devices(&self) -> Vec<String> {
        let plain = self.ground.plain.iter().filter(|client| !client.has_left());
        let mut names: Vec<String> = plain.map(|client| plain::device(client.number())).collect();
        names.extend((0..self.ground.load.sdk).map(sdk::device));
        names
    }

    /// A plain client says goodbye and leaves.
    pub fn leave(&self, number: u32) {
        if let Some(client) = self.ground.plain.get(number as usize) {
            client.leave(&self.ground);
        }
    }

    /// What was seen so far.
    #[must_use]
    pub fn so_far(&self) -> Testimony {
        Testimony {
            plain: self.ground.plain_tally.lock().clone(),
            sdk: self.ground.sdk_tally.lock().clone(),
            visits: self.ground.visits.lock().clone(),
            pushed: self.ground.pushed.lock().clone(),
        }
    }

    /// Sends nothing new, and waits until everything that was asked is answered, or lost.
    ///
    /// # Errors
    /// When something is neither after far more time than that takes.
    pub async fn quiet(&self) -> Result<()> {
        self.ground.quiet.store(true, Ordering::Relaxed);
        wait_until("every request is answered or lost", book::LOST * 3, async || {
            let plain: usize = self.ground.plain.iter().map(Client::unanswered).sum();
            let sdk = self
                .ground
                .sdk
                .lock()
                .iter()
                .map(sdk::Client::unanswered)
                .sum::<u64>();
            let visits = self.ground.visits.lock().under_way;
            Ok(if plain == 0 && sdk == 0 && visits == 0 {
                Seen::Yes(())
            } else {
                Seen::NotYet((plain, sdk, visits))
            })
        })
        .await
    }

    /// Goes on after [`Witness::quiet`].
    pub fn go_on(&self) {
        self.ground.quiet.store(false, Ordering::Relaxed);
    }

    /// Waits until every plain client has got the group push of this number, or a later one.
    ///
    /// # Errors
    /// When one hasn't within the deadline.
    pub async fn group_push_reached_all(&self, sequence: u64, deadline: Duration) -> Result<()> {
        wait_until("a group push reaches every client", deadline, async || {
            let here = self.ground.plain.iter().filter(|client| !client.has_left());
            let least = here.map(Client::group_sequence).min().unwrap_or(u64::MAX);
            Ok(if least >= sequence {
                Seen::Yes(())
            } else {
                Seen::NotYet((least, sequence))
            })
        })
        .await
    }

    /// Goes quiet, lets all clients leave, and returns what was seen.
    ///
    /// # Errors
    /// As [`Witness::quiet`].
    pub async fn stop(mut self) -> Result<Testimony> {
        self.quiet().await?;
        let testimony = self.so_far();
        self.ground.leaving.store(true, Ordering::Relaxed);
        for client in &self.ground.plain {
            client.leave(&self.ground);
        }
        sdk::close(&self.ground).await;
        // A client that doesn't notice its own end is ended with its task.
        let _ = timeout(LEAVE, async { while self.tasks.join_next().await.is_some() {} }).await;
        Ok(testimony)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        for driver in &self.drivers {
            driver.abort();
        }
    }
}

#[cfg(test)]
mod tests;
