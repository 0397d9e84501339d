//! Does what is due: new requests at random moments of a fixed rate, and everything on the agenda.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::sleep_until;

use super::agenda::Task;
use super::{Ground, sdk};

/// Between two looks: a repetition that came onto the agenda meanwhile waits no longer.
const STEP: Duration = Duration::from_millis(2);
/// Clients that are asked whether they can send, before a request is left out: only if nearly nobody is online.
const TRIES: usize = 50;

/// Until it is aborted.
pub(super) async fn run(ground: Arc<Ground>) {
    let mut random = Rng::with_seed(ground.load.seed.rotate_left(7));
    let mut next = ground.now();
    loop {
        let now = ground.now();
        if ground.quiet.load(Ordering::Relaxed) {
            next = now;
        } else if ground.load.requests > 0.0 {
            while next <= now {
                request(&ground, next, &mut random);
                next += pause(ground.load.requests, &mut random);
            }
        }
        while let Some(task) = ground.agenda.due(now) {
            perform(&ground, task);
        }
        sleep_until(ground.begin + now + STEP).await;
    }
}

/// Between two events that come at random, so many a second.
pub(super) fn pause(per_second: f64, random: &mut Rng) -> Duration {
    let share = -(1.0 - random.f64()).ln();
    Duration::from_secs_f64((share / per_second).min(60.0))
}

fn request(ground: &Arc<Ground>, due: Duration, random: &mut Rng) {
    if ground.load.sdk > 0 && random.f64() < ground.load.sdk_share {
        sdk::ask(ground, due, random);
        return;
    }
    for _ in 0..TRIES {
        let Some(client) = ground.plain.get(random.usize(..ground.plain.len().max(1))) else {
            return;
        };
        if client.ask(ground, due, random) {
            ground.plain_tally.lock().sent += 1;
            return;
        }
    }
}

fn perform(ground: &Ground, task: Task) {
    let of = |client: u32| &ground.plain[client as usize];
    match task {
        Task::Piece {
            client,
            connection,
            bytes,
            last,
        } => of(client).release(ground, connection, bytes, last),
        Task::Repeat { client, id } => of(client).repeat(ground, id),
        Task::Expire { client, id } => of(client).expire(ground, id),
        Task::Ping { client } => of(client).ping(ground),
        Task::Flush { client } => of(client).flush(ground),
    }
}
