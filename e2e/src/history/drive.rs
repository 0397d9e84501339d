//! Makes a history of a running cluster: devices, callers, a business and faults at random, then a quiet end that must be the same
//! whatever happened before.
//!
//! - `choice`: what is done next, by chance; pure. `device`, `line`: a device's life, and one connection of it.
//! - `calls`: pushes, kicks and questions, at every replica. `business`: what it is told. `faults`: what is done to parts.
//!
//! Invariants: one clock for all; a time is taken before something is begun and after it is known; only processes that the cluster's `up` has
//! started are signalled, and whatever is paused goes on when this ends, however that is.

pub mod business;
mod calls;
mod choice;
mod device;
mod faults;
mod line;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_common::token::DevelopmentIssuer;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use self::business::Listener;
use self::calls::Callers;
pub use self::choice::Mix;
use self::device::Lived;
use super::limits::Limits;
use super::record::{Device, History, Kick, Moment, Push, Query, Told};
use crate::Cluster;
use crate::page::Page;
use crate::raw_client::APP;
use crate::wait::{Seen, wait_until};

/// For all devices to be online when nothing is at fault any more, and the like: decides nothing but when to give up.
const PATIENCE: Duration = Duration::from_secs(90);
/// Tokens are made anew for each login; this only has to outlive a run.
const TOKEN_TTL: Duration = Duration::from_secs(86_400);
/// What `up` calls every cluster.
const CLUSTER: &str = "local";

/// What is done, and how much of it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of everything random.
    pub seed: u64,
    /// How many devices.
    pub devices: Device,
    /// For how long parts are at fault and devices come and go.
    pub busy: Duration,
    /// Per second, in all.
    pub pushes: f64,
    /// Questions who is online, per second.
    pub questions: f64,
    /// Devices kicked per second.
    pub kicks: f64,
    /// Between two faults, on average.
    pub fault_gap: Duration,
    /// Which faults.
    pub mix: Mix,
    /// As the cluster is configured.
    pub limits: Limits,
}

/// A history and how it came about.
#[derive(Debug)]
pub struct Outcome {
    /// What was seen.
    pub history: History,
    /// What wasn't as it should be in the quiet end.
    pub unsettled: Vec<String>,
    /// Calls that failed, by status.
    pub failed_calls: Vec<(String, u64)>,
    /// Whether the cluster serves kicks and questions.
    pub served: Served,
}

/// What the cluster's push API serves beside pushes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Served {
    /// Kicks.
    pub kicks: bool,
    /// Questions who is online.
    pub questions: bool,
}

/// Where devices are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// They come and go.
    Busy,
    /// They come, and stay.
    Settle,
    /// They leave.
    Leave,
}

/// What everything shares.
struct Ground {
    begin: Instant,
    plan: Plan,
    /// Where the gateways listen, by pod.
    gateways: Vec<String>,
    issuer: DevelopmentIssuer,
    connections: AtomicU32,
    pushes: AtomicU64,
    /// By device.
    online: Vec<AtomicBool>,
    book: Mutex<Book>,
}

/// What callers write down.
#[derive(Default)]
struct Book {
    pushes: Vec<Push>,
    kicks: Vec<Kick>,
    queries: Vec<Query>,
}

impl Ground {
    fn now(&self) -> Moment {
        moment(self.begin)
    }

    fn token(&self, device: Device) -> String {
        self.issuer.issue(CLUSTER, APP, &name(device), TOKEN_TTL)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_connection(&self) -> u32 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    fn next_push(&self) -> u64 {
        self.pushes.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn set_online(&self, device: Device, online: bool) {
        if let Some(flag) = self.online.get(device as usize) {
            flag.store(online, Ordering::Relaxed);
        }
    }

    fn offline_devices(&self) -> Vec<Device> {
        let flags = (0..).zip(&self.online);
        flags
            .filter(|(_, online)| !online.load(Ordering::Relaxed))
            .map(|(device, _)| device)
            .collect()
    }
}

fn moment(begin: Instant) -> Moment {
    Moment(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX))
}

/// A device's id.
fn name(device: Device) -> String {
    format!("{PREFIX}{device}")
}

const PREFIX: &str = "history-";

/// Runs a plan on a cluster whose business is the listener.
///
/// # Errors
/// When a part can't be signalled, or isn't started again; when devices don't leave in the end.
pub async fn run(cluster: &Cluster, listener: Listener, business: u32, plan: Plan) -> Result<Outcome> {
    let pem = cluster.view.directory.join("token-signing-key.pem");
    let pem = std::fs::read_to_string(&pem).with_context(|| format!("cannot read {}", pem.display()))?;
    let ground = Arc::new(Ground {
        begin: listener.begin(),
        gateways: cluster
            .view
            .gateways
            .iter()
            .map(|gateway| gateway.tcp.clone())
            .collect(),
        issuer: DevelopmentIssuer::from_pem_by_thumbprint(&pem)?,
        connections: AtomicU32::new(0),
        pushes: AtomicU64::new(0),
        online: (0..plan.devices).map(|_| AtomicBool::new(false)).collect(),
        book: Mutex::default(),
        plan,
    });
    ensure!(!ground.gateways.is_empty(), "there is no gateway");
    let (phase, phases) = watch::channel(Phase::Busy);
    let mut devices = JoinSet::new();
    for device in 0..ground.plan.devices {
        devices.spawn(device::live(Arc::clone(&ground), device, phases.clone()));
    }
    let callers = Callers::new(&ground, &cluster.view.push_addresses(), business).await?;
    let busy = Instant::now() + ground.plan.busy;
    let faults = faults::Faults::of(cluster, Arc::clone(&ground))?;
    let (faults, ()) = tokio::join!(faults.run(busy), callers.run(busy));
    let faults = faults?;

    phase.send_replace(Phase::Settle);
    let mut unsettled = Vec::new();
    // What failed must not take the history with it, which says why.
    if let Err(error) = settle(&ground, cluster, &callers).await {
        unsettled.push(format!("{error:#}"));
    }
    phase.send_replace(Phase::Leave);
    let mut lived = Vec::new();
    let left = async {
        while let Some(ended) = devices.join_next().await {
            lived.push(ended.context("a device's task")?);
        }
        Ok::<_, anyhow::Error>(())
    };
    // Without all of them the history would lack what happened: there is none to judge then.
    timeout(PATIENCE, left)
        .await
        .context("devices that were to leave are still there")??;
    // As long as every wait takes at its limit, twice.
    let patience = ground.plan.limits.ghost() * 2 + ground.plan.limits.follower_silence;
    if let Err(error) = callers.until_all_offline(patience).await {
        unsettled.push(format!("{error:#}"));
    }
    let mut history = assemble(&ground, lived, faults);
    if let Err(error) = all_told(&history, &listener, patience).await {
        unsettled.push(format!("{error:#}"));
    }
    (history.streams, history.heard) = listener.take();
    history.end = ground.now();
    Ok(Outcome {
        history,
        unsettled,
        failed_calls: callers.failed(),
        served: callers.served(),
    })
}

/// Nothing is at fault any more: everybody comes online, replicas know of all, and pushes reach all.
async fn settle(ground: &Ground, cluster: &Cluster, callers: &Callers) -> Result<()> {
    wait_until("every device is online", PATIENCE, async || {
        let offline = ground.offline_devices();
        Ok(if offline.is_empty() {
            Seen::Yes(())
        } else {
            Seen::NotYet(offline)
        })
    })
    .await?;
    for replica in cluster.parts("routing") {
        let address = replica.metrics.context("a replica has no metrics page")?;
        let what = format!("{} is in sync", replica.name);
        wait_until(&what, PATIENCE, async || {
            let page = Page::scrape(&address).await?;
            Ok(match page.sum("imaccess_routing_in_sync", &[]) {
                in_sync if in_sync > 0.5 => Seen::Yes(()),
                in_sync => Seen::NotYet(in_sync),
            })
        })
        .await?;
    }
    callers.until_all_written(PATIENCE).await
}

/// Puts together what was written down in many places.
fn assemble(ground: &Ground, lived: Vec<Lived>, faults: Vec<super::record::Fault>) -> History {
    let mut history = History {
        limits: ground.plan.limits,
        faults,
        ..History::default()
    };
    for one in lived {
        history.connections.extend(one.connections);
        history.sightings.extend(one.sightings);
    }
    history.connections.sort_by_key(|connection| connection.number);
    history.sightings.sort_by_key(|sighting| sighting.at);
    let book = std::mem::take(&mut *ground.book());
    history.pushes = book.pushes;
    history.kicks = book.kicks;
    history.queries = book.queries;
    history
}

/// Waits until the business was told of the end of each device's latest session. If it never is, a rule says so.
async fn all_told(history: &History, listener: &Listener, patience: Duration) -> Result<()> {
    let mut latest = vec![0; history.connections.len()];
    for connection in &history.connections {
        if let (Some(login), Some(epoch)) = (&connection.login, latest.get_mut(connection.device as usize)) {
            *epoch = login.epoch.max(*epoch);
        }
    }
    wait_until("the end of every session is told", patience, async || {
        let mut told = vec![0; latest.len()];
        listener.each(|heard| {
            if let (Told::Offline { .. }, Some(epoch)) = (heard.told, told.get_mut(heard.device as usize)) {
                *epoch = heard.epoch.max(*epoch);
            }
        });
        let missing: Vec<usize> = (0..latest.len())
            .filter(|device| told[*device] < latest[*device])
            .collect();
        Ok(if missing.is_empty() {
            Seen::Yes(())
        } else {
            Seen::NotYet(missing)
        })
    })
    .await
}
