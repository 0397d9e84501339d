//! Clients of the SDK: they connect again, go on with their sessions and repeat requests by themselves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use imaccess_sdk::{ConnectionState, Push, RequestError, RequestOptions, Target};
use tokio::task::JoinSet;

use super::book::{LOST, REQUEST, Seen};
use super::payload::{self, Origin, Verdict};
use super::positions::Positions;
use super::{GROUP, Ground};
use crate::raw_client::APP;

/// Their numbers begin here among all clients'.
const FIRST: u32 = 0xF000_0000;

/// One client.
pub(super) struct Client {
    client: imaccess_sdk::Client,
    number: u32,
    asked: AtomicU64,
    unanswered: Arc<AtomicU64>,
}

/// Its device id.
pub(super) fn device(number: u32) -> String {
    format!("sdk-{number}")
}

/// Connects them all, one after the other.
pub(super) async fn start(ground: &Arc<Ground>, tasks: &mut JoinSet<()>) -> Result<()> {
    for number in 0..ground.load.sdk {
        let device = device(number);
        let client = imaccess_sdk::Client::builder(&ground.place.ipconfig, APP, &device)
            .token(ground.token(&device))
            .group(ground.place.business, GROUP)
            .connect()
            .await
            .with_context(|| device.clone())?;
        let pushes = client.pushes().context("the pushes were taken")?;
        tasks.spawn(receive(Arc::clone(ground), pushes));
        tasks.spawn(follow(Arc::clone(ground), client.states()));
        ground.sdk.lock().push(Client {
            client,
            number,
            asked: AtomicU64::new(0),
            unanswered: Arc::default(),
        });
    }
    Ok(())
}

/// Ends them all.
pub(super) async fn close(ground: &Ground) {
    let clients: Vec<_> = ground
        .sdk
        .lock()
        .iter()
        .map(|client| client.client.clone())
        .collect();
    for client in clients {
        client.close().await;
    }
}

impl Client {
    pub(super) fn is_online(&self) -> bool {
        self.client.state().is_online()
    }

    pub(super) fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }
}

/// One of them asks.
pub(super) fn ask(ground: &Arc<Ground>, due: Duration, random: &mut Rng) {
    let clients = ground.sdk.lock();
    let client = &clients[random.usize(..clients.len())];
    let origin = Origin {
        seed: ground.load.seed,
        who: FIRST + client.number,
        number: client.asked.fetch_add(1, Ordering::Relaxed),
    };
    ground.sdk_tally.lock().sent += 1;
    client.unanswered.fetch_add(1, Ordering::Relaxed);
    let (client, unanswered) = (client.client.clone(), Arc::clone(&client.unanswered));
    let ground = Arc::clone(ground);
    drop(clients);
    tokio::spawn(async move {
        request(&ground, &client, due, origin).await;
        unanswered.fetch_sub(1, Ordering::Relaxed);
    });
}

async fn request(ground: &Ground, client: &imaccess_sdk::Client, due: Duration, origin: Origin) {
    let mut content = Vec::new();
    payload::fill(origin, REQUEST, &mut content);
    let options = RequestOptions::within(LOST);
    let answer = client.request_with(ground.place.business, content, options).await;
    let took = ground.now().saturating_sub(due);
    let mut tally = ground.sdk_tally.lock();
    match answer {
        Ok(reply) => {
            tally.answered(due, took, 0);
            tally.retries += u64::from(reply.attempts.max(1) - 1);
            match payload::judge(origin, REQUEST, &reply.payload, &mut Vec::new()) {
                Verdict::Right => {}
                Verdict::Foreign => tally.foreign += 1,
                Verdict::Torn => tally.torn += 1,
            }
        }
        Err(RequestError::Refused { number, .. }) => tally.answered(due, took, number),
        Err(error) => {
            let what = format!("{}, due at {due:?}: {error}", device(origin.who - FIRST));
            match error {
                RequestError::DeadlineExceeded { last } if last.retryable() => tally.told_retry(due, what),
                _ => tally.lost(due, what),
            }
        }
    }
}

async fn receive(ground: Arc<Ground>, mut pushes: imaccess_sdk::Pushes) {
    let (mut positions, mut seen) = (Positions::default(), Seen::default());
    while let Some(Push { target, payload, .. }) = pushes.recv().await {
        seen.clear();
        match target {
            Target::Group { epoch, sequence, .. } => {
                positions.group_push(ground.load.seed, (epoch, sequence), &payload, &mut seen);
            }
            _ => positions.device_push(ground.load.seed, &payload, &mut seen),
        }
        ground.sdk_tally.lock().add(&seen, None);
    }
}

/// Counts what its states say: a state that is skipped was too short to matter.
async fn follow(ground: Arc<Ground>, mut states: imaccess_sdk::States) {
    let mut lost = false;
    while let Some(state) = states.next().await {
        let mut tally = ground.sdk_tally.lock();
        match state {
            ConnectionState::Online { resumed, .. } if lost => {
                lost = false;
                if resumed {
                    tally.resumed += 1;
                } else {
                    tally.not_resumed += 1;
                }
            }
            ConnectionState::Online { .. } => {}
            ConnectionState::Closed { code } => {
                if !ground.leaving.load(Ordering::Relaxed) {
                    *tally.ended.entry(format!("gave up {code}")).or_default() += 1;
                }
                return;
            }
            _ if !lost => {
                lost = true;
                *tally.ended.entry("close or loss".to_owned()).or_default() += 1;
            }
            _ => {}
        }
    }
}
