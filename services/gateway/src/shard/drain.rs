//! A shard's part in the gateway's end: it stops accepting, tells its clients to go at its share of the rate, closes those that
//! don't, and in the end whoever is left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use imaccess_net::wheel::Tick;
use imaccess_wire::Code;
use imaccess_wire::frame::GoAway;
use tokio::time::Instant;

use super::Shard;
use super::connection::Phase;
use super::timers::{TICK, ticks};
use super::write::Delivered;
use crate::drain::{Course, Stage};

/// How long a client that was told to go may take: to ask ipconfig (3 s at most), connect (5 s) and log in elsewhere. One that stays
/// longer doesn't know GO_AWAY, or can't follow it; closed, it comes again by its own rules, and still resumes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Times that each listener's queue is emptied before it is closed: with 128 connections each, all that fit into the queue.
const LAST_ACCEPTS: usize = 32;
/// What one GO_AWAY costs in the bucket: so fine that a share of one in a million connections isn't rounded to nothing.
const TOKEN: u64 = 1_000_000_000;

/// When the next client may be told: the shard's share of a rate that holds for all shards together.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Per second, all shards; 0: no limit.
    rate: u32,
    level: u64,
}

impl Bucket {
    fn new(rate: u32) -> Self {
        Self { rate, level: 0 }
    }

    /// Some ticks have passed, in which this shard had `own` of all shards' `total` clients that are still to be told. What isn't
    /// taken is kept for a second.
    fn fill(&mut self, passed: Tick, own: u64, total: u64) {
        if total == 0 {
            return;
        }
        // In wide numbers: nothing here can overflow them.
        let per_second =
            u128::from(self.rate) * u128::from(TOKEN) * u128::from(own.min(total)) / u128::from(total);
        let gained = per_second * u128::from(passed) * TICK.as_millis() / 1_000;
        let most = per_second.max(u128::from(TOKEN));
        let level = (u128::from(self.level) + gained).min(most);
        self.level = u64::try_from(level).unwrap_or(u64::MAX);
    }

    fn may_take(&self) -> bool {
        self.rate == 0 || self.level >= TOKEN
    }

    fn take(&mut self) {
        self.level = self.level.saturating_sub(TOKEN);
    }
}

/// Clients being told to go. No slot is used anew meanwhile, for nobody is accepted any more.
#[derive(Debug)]
pub(crate) struct Telling {
    bucket: Bucket,
    /// Slots that are still to be told, some of them empty by now.
    waiting: VecDeque<u32>,
    /// Those of them that weren't logged in when their turn came: they are looked at again with each tick.
    later: Vec<u32>,
    /// Told, with when; oldest first.
    told: VecDeque<(u32, Tick)>,
    /// When the bucket was filled last.
    filled: Tick,
    /// When all are closed.
    deadline: Instant,
    /// How many of all shards are waiting, and how many this shard has said that it has.
    all: Arc<AtomicU64>,
    said: u64,
}

impl Telling {
    fn new(course: &Course, all: Arc<AtomicU64>, now: Tick) -> Self {
        Self {
            bucket: Bucket::new(course.rate),
            waiting: VecDeque::new(),
            later: Vec::new(),
            told: VecDeque::new(),
            filled: now,
            deadline: course.deadline,
            all,
            said: 0,
        }
    }

    /// Tells the other shards how many are waiting here.
    fn say(&mut self) {
        let own = (self.waiting.len() + self.later.len()) as u64;
        if own > self.said {
            self.all.fetch_add(own - self.said, Ordering::Relaxed);
        } else {
            self.all.fetch_sub(self.said - own, Ordering::Relaxed);
        }
        self.said = own;
    }

    /// Time has passed.
    fn tick(&mut self, now: Tick) {
        self.waiting.extend(self.later.drain(..));
        self.say();
        let passed = now.saturating_sub(self.filled);
        self.bucket
            .fill(passed, self.said, self.all.load(Ordering::Relaxed));
        self.filled = now;
    }

    /// The next that was told so long ago that it won't go any more.
    fn overdue(&mut self, now: Tick) -> Option<u32> {
        let (slot, at) = *self.told.front()?;
        if now.saturating_sub(at) < ticks(PATIENCE) {
            return None;
        }
        self.told.pop_front();
        Some(slot)
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.all.fetch_sub(self.said, Ordering::Relaxed);
    }
}

impl Shard {
    /// Whether new clients are still accepted.
    pub(crate) fn accepts(&self) -> bool {
        self.stage < Stage::Telling
    }

    /// The gateway's end goes on. A stage that was left out, or is over already, is nothing to do.
    pub(crate) fn enter(&mut self, course: &Course) {
        if course.stage <= self.stage {
            return;
        }
        let accepted = self.accepts();
        self.stage = course.stage;
        if accepted && !self.accepts() {
            self.stop_accepting();
        }
        match course.stage {
            Stage::Serving | Stage::Propagating => {}
            Stage::Telling => self.begin_telling(course),
            Stage::Closing => {
                self.telling = None;
                self.release_held();
                self.end_all(Code::Draining);
            }
        }
    }

    /// Closes the listeners. Who waits in their queues is taken first: closing would reset them.
    fn stop_accepting(&mut self) {
        self.pause_listeners();
        for index in 0..self.listeners.len() {
            for _ in 0..LAST_ACCEPTS {
                if !self.accept(index) {
                    break;
                }
            }
        }
        self.pause_listeners();
        for listener in self.listeners.drain(..) {
            listener.socket.close();
            self.custody.closed(listener.id, true);
        }
    }

    fn begin_telling(&mut self, course: &Course) {
        let mut telling = Telling::new(course, Arc::clone(&self.untold), self.tick);
        for slot in 0..self.connections.slots() {
            let waits = self
                .connections
                .get(slot)
                .is_some_and(|connection| connection.phase != Phase::Closing);
            if waits {
                telling.waiting.push_back(slot);
            }
        }
        telling.say();
        self.telling = Some(telling);
    }

    /// Tells as many as may be told now, within a turn's bound; whether more may be.
    pub(crate) fn tell_away(&mut self) -> bool {
        let Some(mut telling) = self.telling.take() else {
            return false;
        };
        let mut frame = Vec::new();
        let mut told = 0;
        while told < self.limits.fanout_slice && telling.bucket.may_take() {
            let Some(slot) = telling.waiting.pop_front() else {
                break;
            };
            match self.connections.get(slot).map(|connection| connection.phase) {
                None | Some(Phase::Closing) => continue,
                Some(Phase::Connecting | Phase::Authenticating) => {
                    telling.later.push(slot);
                    continue;
                }
                Some(Phase::Online) => {}
            }
            if frame.is_empty() {
                go_away(
                    telling.deadline.saturating_duration_since(Instant::now()),
                    &mut frame,
                );
            }
            telling.bucket.take();
            telling.told.push_back((slot, self.tick));
            told += 1;
            self.metrics.go_aways.inc();
            if self.send_control(slot, &frame) == Delivered::Queued {
                self.look_again(slot);
            }
        }
        let more = !telling.waiting.is_empty() && telling.bucket.may_take();
        self.telling = Some(telling);
        more
    }

    /// Once per tick: fills the bucket, and closes who was told and stays.
    pub(crate) fn tick_telling(&mut self) {
        let Some(mut telling) = self.telling.take() else {
            return;
        };
        telling.tick(self.tick);
        while let Some(slot) = telling.overdue(self.tick) {
            self.end(slot, Code::Draining);
        }
        self.telling = Some(telling);
    }

    /// Counts a connection's end if the gateway's is under way.
    pub(crate) fn count_drained(&self, code: Code) {
        let by = match (self.stage, code) {
            (Stage::Serving, _) => return,
            (Stage::Closing, Code::Draining) => "deadline",
            (_, Code::Draining) => "close",
            _ => "client",
        };
        self.metrics.drained.with_label_values(&[by]).inc();
    }

    /// Whether the end is reached.
    pub(crate) fn is_drained(&self) -> bool {
        !self.accepts() && self.connections.is_empty() && !self.outbox.has_events()
    }
}

/// Go, ask ipconfig where to; with this much time until everybody is closed.
fn go_away(left: Duration, frame: &mut Vec<u8>) {
    GoAway {
        code: Code::Draining as u16,
        deadline_ms: u32::try_from(left.min(PATIENCE).as_millis()).unwrap_or(u32::MAX),
        ..GoAway::default()
    }
    .encode(frame);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are told by shards that have so many clients, in so many ticks.
    fn told(rate: u32, clients: &[u64], ticks: Tick) -> Vec<u64> {
        let mut left = clients.to_vec();
        let mut buckets = vec![Bucket::new(rate); clients.len()];
        for _ in 0..ticks {
            let total = left.iter().sum();
            for (bucket, left) in buckets.iter_mut().zip(&left) {
                bucket.fill(1, *left, total);
            }
            for (bucket, left) in buckets.iter_mut().zip(&mut left) {
                while *left > 0 && bucket.may_take() {
                    bucket.take();
                    *left -= 1;
                }
            }
        }
        clients.iter().zip(left).map(|(had, left)| had - left).collect()
    }

    #[test]
    fn the_rate_holds_over_all_shards_and_each_has_its_share() {
        // Ten seconds at 100 a second, of 4,000: 3,000 here, 1,000 there. A share that doesn't come out even is rounded down.
        let shares = told(100, &[3_000, 1_000], 40);
        assert!(
            (749..=750).contains(&shares[0]) && (249..=250).contains(&shares[1]),
            "{shares:?}"
        );
        // A shard without clients takes nothing from the other.
        assert_eq!(told(100, &[0, 4_000], 4), [0, 100]);
        // A rate below one a tick.
        assert_eq!(told(1, &[100], 40), [10]);
        // The only one of a million elsewhere has its turn when there are fewer.
        assert_eq!(told(1_000, &[1, 5_000], 40).iter().sum::<u64>(), 5_001);
    }

    #[test]
    fn what_is_not_taken_is_kept_for_a_second_only() {
        let mut bucket = Bucket::new(8);
        bucket.fill(400, 1, 1);
        let mut taken = 0;
        while bucket.may_take() {
            bucket.take();
            taken += 1;
        }
        assert_eq!(taken, 8);
        bucket.fill(4, 0, 0);
        assert!(!bucket.may_take());
        assert!(Bucket::new(0).may_take());
        let mut slow = Bucket::new(u32::MAX);
        slow.fill(Tick::MAX, u64::MAX, u64::MAX);
        assert!(slow.may_take());
    }

    #[test]
    fn who_was_told_has_its_time() {
        let course = Course {
            stage: Stage::Telling,
            rate: 0,
            deadline: Instant::now(),
        };
        let all = Arc::new(AtomicU64::new(0));
        let mut telling = Telling::new(&course, Arc::clone(&all), 100);
        telling.waiting.extend([1, 2]);
        telling.later.push(3);
        telling.tick(100);
        assert_eq!((all.load(Ordering::Relaxed), telling.waiting.len()), (3, 3));
        telling.told.extend([(7, 100), (8, 101)]);
        let last = 100 + ticks(PATIENCE);
        assert_eq!(telling.overdue(last - 1), None);
        assert_eq!((telling.overdue(last), telling.overdue(last)), (Some(7), None));
        drop(telling);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
