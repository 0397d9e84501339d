//! Pushes, kicks and questions, each replica called as often as the other, and every call written down.
//!
//! A call doesn't wait for those before it: a replica that is paused answers late, and what it was asked meanwhile is what it
//! answers first when it goes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fastrand::Rng;
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{KickRequest, Outcome, PresenceStatus, PushDevicesRequest, QueryOnlineRequest};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Ground, Served, choice, name};
use crate::history::record::{Device, Kick, Presence, Push, Query, Said, Span};
use crate::raw_client::APP;
use crate::wait::{Seen, wait_until_polled};

/// How long one call is waited for: longer than a replica waits for receipts, shorter than the longest pauses.
const CALL: Duration = Duration::from_secs(9);
/// Calls of one replica under way at a time: more than come within [`CALL`], so that a replica that is paused holds up none of another.
const AT_ONCE: u32 = 2_000;
/// Devices of one question.
const ASKED: usize = 32;
/// Devices of one push of the quiet end.
const ROUND: usize = 250;
/// Between two rounds of it.
const PAUSE: Duration = Duration::from_millis(250);

/// Who calls.
pub(super) struct Callers(Arc<Shared>);

struct Shared {
    ground: Arc<Ground>,
    replicas: Vec<PushClient<Channel>>,
    business: u32,
    served: Served,
    /// By replica.
    slots: Vec<Semaphore>,
    failed: Mutex<BTreeMap<String, u64>>,
}

/// The payload of a push: whose run, and its id.
fn payload(seed: u64, id: u64) -> Bytes {
    let mut bytes = Vec::with_capacity(16);
    bytes.extend_from_slice(&seed.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.into()
}

/// The id in a payload, if it is of this run.
pub(super) fn push_in(payload: &[u8], seed: u64) -> Option<u64> {
    let (run, id) = payload.split_at_checked(8)?;
    let run = u64::from_le_bytes(run.try_into().ok()?);
    let id = u64::from_le_bytes(id.try_into().ok()?);
    (run == seed).then_some(id)
}

fn said(outcome: i32) -> Said {
    match Outcome::try_from(outcome) {
        Ok(Outcome::Written) => Said::Written,
        Ok(Outcome::Acknowledged) => Said::Acknowledged,
        Ok(Outcome::Queued) => Said::Queued,
        Ok(Outcome::Offline) => Said::Offline,
        Ok(Outcome::Refused) => Said::Refused,
        Ok(Outcome::Retry) => Said::Retry,
        Ok(Outcome::Unknown) => Said::Unknown,
        Ok(Outcome::Done) => Said::Done,
        Ok(Outcome::Unspecified) | Err(_) => Said::Nonsense,
    }
}

impl Callers {
    /// Callers of these replicas, for a business. Asks the first one what is served.
    ///
    /// # Errors
    /// When an address is none, or the first replica doesn't answer.
    pub(super) async fn new(ground: &Arc<Ground>, replicas: &[String], business: u32) -> Result<Self> {
        let mut clients = Vec::new();
        for address in replicas {
            let endpoint = Endpoint::from_shared(address.clone())
                .with_context(|| format!("{address} is no address"))?
                .connect_timeout(Duration::from_secs(2))
                .tcp_nodelay(true);
            clients.push(PushClient::new(endpoint.connect_lazy()));
        }
        let mut first = clients.first().cloned().context("there is no routing replica")?;
        let served = Served {
            kicks: is_served(first.kick(kick_request(business, "nobody")).await.err())?,
            questions: is_served(
                first
                    .query_online(question(business, vec!["nobody".to_owned()]))
                    .await
                    .err(),
            )?,
        };
        Ok(Self(Arc::new(Shared {
            ground: Arc::clone(ground),
            replicas: clients,
            business,
            served,
            slots: replicas
                .iter()
                .map(|_| Semaphore::new(AT_ONCE as usize))
                .collect(),
            failed: Mutex::default(),
        })))
    }

    /// Calls at random until then, and until each call was answered or given up.
    pub(super) async fn run(&self, until: Instant) {
        let plan = &self.0.ground.plan;
        let kicks = if self.0.served.kicks { plan.kicks } else { 0.0 };
        let questions = if self.0.served.questions {
            plan.questions
        } else {
            0.0
        };
        tokio::join!(
            self.repeat(until, plan.pushes, 1, |shared, random| {
                let mut devices = vec![random.u32(..shared.ground.plan.devices)];
                if random.u8(..8) == 0 {
                    devices.extend((0..random.usize(1..5)).map(|_| random.u32(..shared.ground.plan.devices)));
                    devices.sort_unstable();
                    devices.dedup();
                }
                let replica = random.usize(..shared.replicas.len());
                tokio::spawn(async move { drop(shared.push(replica, devices).await) });
            }),
            self.repeat(until, kicks, 2, |shared, random| {
                let device = random.u32(..shared.ground.plan.devices);
                let replica = random.usize(..shared.replicas.len());
                tokio::spawn(async move { shared.kick(replica, device).await });
            }),
            self.repeat(until, questions, 3, |shared, random| {
                let all = shared.ground.plan.devices;
                let devices = random.choose_multiple(0..all, ASKED.min(all as usize));
                let replica = random.usize(..shared.replicas.len());
                tokio::spawn(async move { shared.ask(replica, devices).await });
            }),
        );
        // Each has a slot for as long as it is under way.
        for slots in &self.0.slots {
            let _ = slots.acquire_many(AT_ONCE).await;
        }
    }

    async fn repeat(
        &self,
        until: Instant,
        per_second: f64,
        salt: u64,
        mut call: impl FnMut(Arc<Shared>, &mut Rng),
    ) {
        if per_second <= 0.0 {
            return;
        }
        let mut random = Rng::with_seed(self.0.ground.plan.seed.rotate_left(17) ^ salt);
        while Instant::now() < until {
            sleep(choice::gap(&mut random, per_second).min(until.saturating_duration_since(Instant::now())))
                .await;
            call(Arc::clone(&self.0), &mut random);
        }
    }

    /// Pushes to all devices by each replica until one round is written to all.
    ///
    /// # Errors
    /// When none is within the deadline.
    pub(super) async fn until_all_written(&self, deadline: Duration) -> Result<()> {
        self.until_all(
            "a push by every replica is written to every device",
            Said::Written,
            deadline,
        )
        .await
    }

    /// The same until all are said to be offline.
    ///
    /// # Errors
    /// When they aren't within the deadline.
    pub(super) async fn until_all_offline(&self, deadline: Duration) -> Result<()> {
        self.until_all(
            "every replica says that every device is offline",
            Said::Offline,
            deadline,
        )
        .await
    }

    async fn until_all(&self, what: &str, wanted: Said, deadline: Duration) -> Result<()> {
        let all: Vec<Device> = (0..self.0.ground.plan.devices).collect();
        wait_until_polled(what, deadline, PAUSE, async || {
            let mut others = BTreeMap::new();
            for replica in 0..self.0.replicas.len() {
                for devices in all.chunks(ROUND) {
                    let answers = self.0.push(replica, devices.to_vec()).await;
                    let answers = answers.unwrap_or_else(|| vec![Said::Nonsense; devices.len()]);
                    for (device, said) in devices.iter().zip(answers).filter(|(_, said)| *said != wanted) {
                        let (count, example) = others.entry((replica, said)).or_insert((0u32, *device));
                        *count += 1;
                        *example = *device;
                    }
                }
            }
            Ok(if others.is_empty() {
                Seen::Yes(())
            } else {
                Seen::NotYet(others)
            })
        })
        .await
    }

    /// Calls that failed, by status.
    pub(super) fn failed(&self) -> Vec<(String, u64)> {
        self.0
            .failed()
            .iter()
            .map(|(code, times)| (code.clone(), *times))
            .collect()
    }

    /// What the cluster serves.
    pub(super) fn served(&self) -> Served {
        self.0.served
    }
}

/// Whether a call was refused because nobody serves it.
fn is_served(refused: Option<Status>) -> Result<bool> {
    match refused {
        None => Ok(true),
        Some(status) if status.code() == Code::Unimplemented => Ok(false),
        Some(status) => bail!("the push API answers {status}"),
    }
}

fn kick_request(business: u32, device: &str) -> KickRequest {
    KickRequest {
        business,
        app: APP.to_owned(),
        devices: vec![device.to_owned()],
        reason: "kicked by chance".to_owned(),
    }
}

fn question(business: u32, devices: Vec<String>) -> QueryOnlineRequest {
    QueryOnlineRequest {
        business,
        app: APP.to_owned(),
        devices,
    }
}

impl Shared {
    fn failed(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call within its time and its slot. `None`: it failed, or nobody waited any longer.
    async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Option<T> {
        match timeout(CALL, call).await {
            Ok(Ok(answer)) => Some(answer.into_inner()),
            Ok(Err(status)) => {
                let code = format!("{what} {:?}", status.code());
                *self.failed().entry(code).or_default() += 1;
                None
            }
            Err(_) => {
                *self.failed().entry(format!("{what} not answered")).or_default() += 1;
                None
            }
        }
    }

    async fn push(&self, replica: usize, devices: Vec<Device>) -> Option<Vec<Said>> {
        let _slot = self.slots[replica].acquire().await.ok()?;
        let id = self.ground.next_push();
        let request = PushDevicesRequest {
            business: self.business,
            app: APP.to_owned(),
            devices: devices.iter().map(|device| name(*device)).collect(),
            payload: payload(self.ground.plan.seed, id),
            ..PushDevicesRequest::default()
        };
        let mut client = self.replicas[replica].clone();
        let from = self.ground.now();
        let answer = self.call("push", client.push_devices(request)).await;
        let to = self.ground.now();
        let answers: Option<Vec<Said>> = answer.map(|answer| answer.outcomes.into_iter().map(said).collect());
        let push = Push {
            id,
            replica,
            devices,
            span: Span::new(from, to),
            answers: answers.clone(),
        };
        self.ground.book().pushes.push(push);
        answers
    }

    async fn kick(&self, replica: usize, device: Device) {
        let Ok(_slot) = self.slots[replica].acquire().await else {
            return;
        };
        let mut client = self.replicas[replica].clone();
        let from = self.ground.now();
        let request = kick_request(self.business, &name(device));
        let answer = self.call("kick", client.kick(request)).await;
        let to = self.ground.now();
        let kick = Kick {
            replica,
            device,
            span: Span::new(from, to),
            answer: answer
                .and_then(|answer| answer.outcomes.first().copied())
                .map(said),
        };
        self.ground.book().kicks.push(kick);
    }

    async fn ask(&self, replica: usize, devices: Vec<Device>) {
        let Ok(_slot) = self.slots[replica].acquire().await else {
            return;
        };
        let mut client = self.replicas[replica].clone();
        let names = devices.iter().map(|device| name(*device)).collect();
        let from = self.ground.now();
        let answer = self
            .call("question", client.query_online(question(self.business, names)))
            .await;
        let to = self.ground.now();
        let answers = answer.map(|answer| {
            let presences = answer.presences.into_iter();
            presences
                .map(|presence| match presence.status() {
                    PresenceStatus::Online => Presence::Online,
                    PresenceStatus::Offline => Presence::Offline,
                    PresenceStatus::Retry | PresenceStatus::Unspecified => Presence::Retry,
                })
                .collect()
        });
        let query = Query {
            replica,
            devices,
            span: Span::new(from, to),
            answers,
        };
        self.ground.book().queries.push(query);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_known_by_its_run() {
        let bytes = payload(7, 42);
        assert_eq!(push_in(&bytes, 7), Some(42));
        assert_eq!(push_in(&bytes, 8), None);
        assert_eq!(push_in(&bytes[..12], 7), None);
        assert_eq!(push_in(b"", 7), None);
    }
}
