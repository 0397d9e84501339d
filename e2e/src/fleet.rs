//! A fleet of devices that use the SDK as an application does, and write down everything that happens to their connections.
//!
//! - [`course`]: what one device went through, from its states; pure. [`pace`]: when many were told to go; pure.
//! - [`farewell`]: clients without SDK that see a gateway's end frame by frame. [`sink`]: clients that only take.
//!
//! Invariants: a device asks ipconfig where to go, as any client; a state is written down with the time at which it was
//! shown; a lost connection is never too short to be seen, because the devices wait before they come again.

pub mod course;
pub mod farewell;
pub mod pace;
pub mod sink;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use imaccess_sdk::{BackoffPolicy, Client, ConnectionState, Endpoint, RequestOptions};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::raw_client::APP;
use crate::wait::{Seen, wait_until_polled};
use course::{Course, Entry};

/// Devices that connect at the same time: a login is a round trip or three, and the rest of the machine works too.
const DOORS: usize = 32;
/// An answer that took longer is told with its time.
const SLOW: Duration = Duration::from_millis(500);
/// For one device to be online, on a machine that does much else.
const ONLINE: Duration = Duration::from_secs(60);
/// A request that isn't answered within this is lost: longer than a move, and than a lost node takes to be noticed.
const REQUEST: Duration = Duration::from_secs(60);
/// Between two looks at all devices.
const LOOK: Duration = Duration::from_millis(50);
/// The first wait after a lost connection. Jitter takes no more than half of it away, so a loss is visible for a quarter
/// of a second at least.
const BACKOFF: BackoffPolicy = BackoffPolicy {
    base: Duration::from_millis(500),
    factor: 1.5,
    jitter: 0.5,
    max: Duration::from_secs(5),
};

/// What a fleet is and does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of everything random.
    pub seed: u64,
    /// Devices are named `<prefix>-<number>`.
    pub prefix: &'static str,
    /// How many.
    pub devices: usize,
    /// The business that they ask, by number.
    pub business: u32,
    /// Between two requests of one device; without it none asks anything.
    pub every: Option<Duration>,
    /// A group of the business that all of them are in.
    pub group: Option<&'static str>,
    /// Connects to this gateway only, and nowhere else ever; without it, where ipconfig says.
    pub only: Option<Endpoint>,
}

/// What was asked, of all devices together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Requests that were begun.
    pub asked: u64,
    /// Those that were answered with their own payload.
    pub answered: u64,
    /// Those that were answered with something else, or not in time, with what came instead; the first few.
    pub failed: Vec<String>,
    /// How many failed.
    pub failures: u64,
    /// The longest wait for an answer.
    pub longest: Duration,
    /// Of the first answers that took longer than [`SLOW`]: when they were asked for, since the fleet's beginning, and how long they
    /// took.
    pub slow: Vec<(Duration, Duration)>,
}

/// Devices that are online, or trying to be.
pub struct Fleet {
    ground: Arc<Ground>,
    members: Vec<Member>,
    tasks: JoinSet<()>,
}

struct Ground {
    begin: Instant,
    plan: Plan,
    traffic: Mutex<Traffic>,
    left: Mutex<BTreeSet<String>>,
}

struct Member {
    device: String,
    client: Client,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl Fleet {
    /// Connects all devices.
    ///
    /// # Errors
    /// When one of them isn't online in time; the message names it.
    pub async fn connect(ipconfig: &str, plan: Plan) -> Result<Self> {
        let ground = Arc::new(Ground {
            begin: Instant::now(),
            plan,
            traffic: Mutex::default(),
            left: Mutex::default(),
        });
        let mut fleet = Self {
            ground,
            members: Vec::new(),
            tasks: JoinSet::new(),
        };
        let mut doors = JoinSet::new();
        for number in 0..fleet.ground.plan.devices {
            if doors.len() >= DOORS {
                let member = doors.join_next().await.context("a door is open")??;
                fleet.admit(member?);
            }
            doors.spawn(Member::connect(
                ipconfig.to_owned(),
                Arc::clone(&fleet.ground),
                number,
            ));
        }
        while let Some(member) = doors.join_next().await {
            fleet.admit(member??);
        }
        Ok(fleet)
    }

    fn admit(&mut self, member: Member) {
        if let Some(every) = self.ground.plan.every {
            let mut random = Rng::with_seed(self.ground.plan.seed ^ self.members.len() as u64);
            // Not in step: each begins somewhere within its interval.
            let first = every.mul_f64(random.f64());
            self.tasks.spawn(ask(
                Arc::clone(&self.ground),
                member.device.clone(),
                member.client.clone(),
                first,
                every,
            ));
        }
        self.members.push(member);
    }

    /// Time since the fleet's beginning, as its entries count it.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.ground.begin.elapsed()
    }

    /// A moment as its entries count it.
    #[must_use]
    pub fn at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.ground.begin)
    }

    /// The names of those that haven't left.
    #[must_use]
    pub fn present(&self) -> Vec<String> {
        let left = lock(&self.ground.left);
        let names = self.members.iter().map(|member| &member.device);
        names.filter(|device| !left.contains(*device)).cloned().collect()
    }

    /// Devices that are online now, and those that should be.
    #[must_use]
    pub fn online(&self) -> (usize, usize) {
        let present: BTreeSet<_> = self.present().into_iter().collect();
        let online = self
            .members
            .iter()
            .filter(|member| present.contains(&member.device) && member.client.state().is_online());
        (online.count(), present.len())
    }

    /// Waits until all that haven't left are online.
    ///
    /// # Errors
    /// When they aren't within the deadline; with how many are.
    pub async fn all_online(&self, deadline: Duration) -> Result<()> {
        wait_until_polled("every device is online", deadline, LOOK, async || {
            let (online, present) = self.online();
            Ok(if online == present {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("{online} of {present}"))
            })
        })
        .await
    }

    /// What each device went through since a time.
    #[must_use]
    pub fn courses(&self, since: Duration) -> Vec<(String, Course)> {
        let course = |member: &Member| (member.device.clone(), Course::of(&lock(&member.entries), since));
        self.members.iter().map(course).collect()
    }

    /// What was asked so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        lock(&self.ground.traffic).clone()
    }

    /// These devices say goodbye.
    pub async fn leave(&self, devices: &[String]) {
        lock(&self.ground.left).extend(devices.iter().cloned());
        for member in &self.members {
            if devices.contains(&member.device) {
                member.client.close().await;
            }
        }
    }

    /// One of the devices' handles.
    #[must_use]
    pub fn client(&self, device: &str) -> Option<&Client> {
        let found = self.members.iter().find(|member| member.device == device);
        found.map(|member| &member.client)
    }

    /// All of them say goodbye.
    pub async fn close(mut self) {
        self.tasks.abort_all();
        let mut goodbyes = JoinSet::new();
        for member in &self.members {
            let client = member.client.clone();
            goodbyes.spawn(async move { client.close().await });
        }
        while goodbyes.join_next().await.is_some() {}
    }
}

impl Traffic {
    /// One outcome: how long the answer took, or what came instead. Who leaves doesn't wait for answers.
    fn take(&mut self, device: &str, asked_at: Duration, outcome: Result<Duration, String>, left: bool) {
        match outcome {
            Ok(took) => {
                self.answered += 1;
                self.longest = self.longest.max(took);
                if took > SLOW && self.slow.len() < 20 {
                    self.slow.push((asked_at, took));
                }
            }
            Err(_) if left => self.asked -= 1,
            Err(what) => {
                self.failures += 1;
                if self.failed.len() < 5 {
                    self.failed.push(format!("{device}: {what}"));
                }
            }
        }
    }
}

impl Member {
    async fn connect(ipconfig: String, ground: Arc<Ground>, number: usize) -> Result<Self> {
        let plan = &ground.plan;
        let device = format!("{}-{number}", plan.prefix);
        let mut builder = Client::builder(&ipconfig, APP, &device)
            .backoff(BACKOFF)
            .connect_within(ONLINE);
        if let Some(group) = plan.group {
            builder = builder.group(plan.business, group);
        }
        if let Some(only) = &plan.only {
            // Who isn't sent by ipconfig has its token from elsewhere.
            let token = crate::tokens::Tokens::new(&ipconfig)?.get(&device).await?;
            builder = builder.token(token).endpoints([only.clone()]);
        }
        let client = builder
            .connect()
            .await
            .with_context(|| format!("{device} can't be online"))?;
        let entries = Arc::new(Mutex::new(Vec::new()));
        let (written, mut states) = (Arc::clone(&entries), client.states());
        lock(&written).push(Entry {
            at: ground.begin.elapsed(),
            state: states.current(),
        });
        tokio::spawn(async move {
            while let Some(state) = states.next().await {
                let at = ground.begin.elapsed();
                lock(&written).push(Entry { at, state });
                if matches!(state, ConnectionState::Closed { .. }) {
                    return;
                }
            }
        });
        Ok(Self {
            device,
            client,
            entries,
        })
    }
}

/// One device asks its business, again and again, until it leaves.
async fn ask(ground: Arc<Ground>, device: String, client: Client, first: Duration, every: Duration) {
    sleep(first).await;
    for number in 0_u64.. {
        let next = Instant::now() + every;
        if lock(&ground.left).contains(&device) {
            return;
        }
        let payload = format!("{device} asks {number}");
        lock(&ground.traffic).asked += 1;
        let (begun, asked_at) = (Instant::now(), ground.begin.elapsed());
        let options = RequestOptions::within(REQUEST);
        let reply = client
            .request_with(ground.plan.business, payload.clone(), options)
            .await;
        let left = lock(&ground.left).contains(&device);
        let outcome = match reply {
            Ok(reply) if reply.payload == payload => Ok(begun.elapsed()),
            other => Err(other.map_or_else(|error| error.to_string(), |reply| format!("{reply:?}"))),
        };
        lock(&ground.traffic).take(&device, asked_at, outcome, left);
        sleep_until(next).await;
    }
}

/// Holders never wait and never panic on purpose.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
