//! One routing replica that follows this sidecar: what it is still to hear, and what it has acknowledged.

use std::collections::VecDeque;

use imaccess_proto::v1::{FromSidecar, GroupPresence, InstanceAnswer, Outcome, Receipts, SidecarHello};

use super::machine::RouteChunk;
use super::mailbox::Mailbox;
use super::out::RouteOut;

/// Things that may wait for one follower: about 30 MB, which is a quarter of a minute of 10,000 logins a second. A
/// snapshot is asked for in parts and never waits in full.
const MAX_WAITING: usize = 262_144;

/// Things per message: about 1 MB, below what gRPC takes by default.
const PER_MESSAGE: usize = 8_192;

/// A follower.
#[derive(Debug)]
pub struct Follower {
    outgoing: Mailbox<FromSidecar>,
    /// Not sent yet, numbered, in order.
    waiting: VecDeque<FromSidecar>,
    /// How many things are in there.
    weight: usize,
    receipts: Vec<u64>,
    outcomes: Vec<u8>,
    answers: VecDeque<InstanceAnswer>,
    /// Number of the last announcement or retraction.
    sequence: u64,
    acknowledged: u64,
    /// With this number acknowledged, this worker's deltas up to there are.
    marks: VecDeque<(u64, u8, u64)>,
    /// By worker: deltas acknowledged.
    deltas: Vec<u64>,
    snapshot: Snapshot,
    /// It has said that no push comes any more.
    left: bool,
}

#[derive(Debug)]
enum Snapshot {
    NotBegun,
    Running {
        workers: usize,
        worker: usize,
        from: u32,
        asked: bool,
    },
    /// Everything is said; it is in sync once this number is acknowledged.
    Done(u64),
}

impl Follower {
    /// A follower that has heard nothing.
    #[must_use]
    pub fn new(outgoing: Mailbox<FromSidecar>, workers: usize) -> Self {
        Self {
            outgoing,
            waiting: VecDeque::new(),
            weight: 0,
            receipts: Vec::new(),
            outcomes: Vec::new(),
            answers: VecDeque::new(),
            sequence: 0,
            acknowledged: 0,
            marks: VecDeque::new(),
            deltas: vec![0; workers],
            snapshot: Snapshot::NotBegun,
            left: false,
        }
    }

    /// Tells it that the sidecar leaves.
    pub fn leave(&mut self) {
        if self.has_begun() {
            self.enqueue(FromSidecar {
                leaving: true,
                ..FromSidecar::default()
            });
        }
    }

    /// It has sent its last push.
    pub fn said_last(&mut self) {
        self.left = true;
    }

    /// Whether no push comes from it: it has said so, or doesn't know the instance yet.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.left || !self.has_begun()
    }

    /// Whether its snapshot has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !matches!(self.snapshot, Snapshot::NotBegun)
    }

    /// Begins its snapshot: who speaks, and the groups, which the hub knows; the sessions come in parts.
    pub fn begin(&mut self, hello: SidecarHello, groups: Vec<GroupPresence>, workers: usize) {
        self.enqueue(FromSidecar {
            hello: Some(hello),
            ..FromSidecar::default()
        });
        self.enqueue(FromSidecar {
            groups,
            ..FromSidecar::default()
        });
        self.snapshot = Snapshot::Running {
            workers,
            worker: 0,
            from: 0,
            asked: false,
        };
    }

    /// The part of the snapshot to ask for next: worker and record. Only when nothing waits: its pace is the
    /// follower's.
    pub fn next_chunk(&mut self) -> Option<(u8, u32)> {
        let Snapshot::Running {
            worker, from, asked, ..
        } = &mut self.snapshot
        else {
            return None;
        };
        if *asked || !self.waiting.is_empty() {
            return None;
        }
        *asked = true;
        Some((*worker as u8, *from))
    }

    /// A part of the snapshot.
    pub fn chunk(&mut self, of: u8, chunk: RouteChunk) {
        let Snapshot::Running {
            workers,
            worker,
            from,
            asked,
        } = &mut self.snapshot
        else {
            return;
        };
        *asked = false;
        let mut done = false;
        match chunk.next {
            Some(next) => *from = next,
            None => {
                *worker += 1;
                *from = 0;
                done = *worker == *workers;
            }
        }
        let last_of_worker = chunk.next.is_none();
        self.enqueue(FromSidecar {
            announcements: chunk.announcements,
            retractions: chunk.retractions,
            ..FromSidecar::default()
        });
        if last_of_worker {
            self.mark(of, chunk.upto);
        }
        if done {
            self.snapshot = Snapshot::Done(self.sequence);
            self.enqueue(FromSidecar {
                snapshot_done: true,
                ..FromSidecar::default()
            });
        }
    }

    /// What happened on a worker. Before the snapshot has begun it needn't hear it.
    pub fn delta(&mut self, worker: u8, delta: &RouteOut) {
        if !self.has_begun() {
            return;
        }
        self.enqueue(FromSidecar {
            announcements: delta.announcements.clone(),
            retractions: delta.retractions.clone(),
            groups: delta.groups.clone(),
            moved_groups: delta.moved_groups.clone(),
            ..FromSidecar::default()
        });
        self.mark(worker, delta.upto);
    }

    /// What became of one of its commands for a group, or of a broadcast.
    pub fn answer(&mut self, answer: InstanceAnswer) {
        self.answers.push_back(answer);
    }

    /// What became of one of its pushes.
    pub fn receipt(&mut self, id: u64, outcome: Outcome) {
        self.receipts.push(id);
        self.outcomes
            .push(u8::try_from(outcome as i32).unwrap_or_default());
    }

    /// It has applied everything up to this number.
    pub fn acknowledge(&mut self, sequence: u64) {
        self.acknowledged = self.acknowledged.max(sequence);
        while let Some(&(at, worker, upto)) = self.marks.front()
            && at <= self.acknowledged
        {
            self.marks.pop_front();
            self.passed(worker, upto);
        }
    }

    /// Whether it has acknowledged the end of its snapshot.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        matches!(self.snapshot, Snapshot::Done(at) if at <= self.acknowledged)
    }

    /// The deltas that it has acknowledged, by worker.
    #[must_use]
    pub fn deltas(&self) -> &[u64] {
        &self.deltas
    }

    /// Those of one worker.
    #[must_use]
    pub fn acknowledged_of(&self, worker: usize) -> u64 {
        self.deltas.get(worker).copied().unwrap_or_default()
    }

    /// Whether too much waits for it.
    #[must_use]
    pub fn is_too_far_behind(&self) -> bool {
        let named: usize = self.answers.iter().map(|answer| 1 + answer.members.len()).sum();
        self.weight + self.receipts.len() + named > MAX_WAITING
    }

    /// Sends what waits, if it took what was sent before.
    pub fn flush(&mut self) {
        // Asked again after each: only who found no room is told when there is some.
        while (!self.waiting.is_empty() || !self.receipts.is_empty() || !self.answers.is_empty())
            && self.outgoing.has_room()
        {
            self.send();
        }
    }

    fn send(&mut self) {
        let mut message = self.waiting.pop_front().unwrap_or_default();
        let mut size = weight(&message);
        while let Some(next) = self.waiting.front() {
            let alone = message.hello.is_some() || message.snapshot_done;
            size += weight(next);
            if alone || size > PER_MESSAGE {
                break;
            }
            if let Some(next) = self.waiting.pop_front() {
                // Within a message announcements come first; that changes nothing, for the higher epoch wins.
                message.announcements.extend(next.announcements);
                message.retractions.extend(next.retractions);
                message.groups.extend(next.groups);
                message.moved_groups.extend(next.moved_groups);
                message.snapshot_done = next.snapshot_done;
                message.leaving |= next.leaving;
                message.sequence = next.sequence;
            }
        }
        self.weight -= weight(&message);
        if message.hello.is_none() && !self.receipts.is_empty() {
            let (id, outcome) = (
                std::mem::take(&mut self.receipts),
                std::mem::take(&mut self.outcomes),
            );
            message.receipts = Some(Receipts {
                id,
                outcome: outcome.into(),
            });
        }
        if message.hello.is_none() {
            let mut named = 0;
            while let Some(answer) = self
                .answers
                .pop_front_if(|answer| named == 0 || named + answer.members.len() <= PER_MESSAGE)
            {
                named += 1 + answer.members.len();
                message.answers.push(answer);
            }
        }
        self.outgoing.put(message);
    }

    fn enqueue(&mut self, mut message: FromSidecar) {
        let things = weight(&message);
        if things == 0 && message.hello.is_none() && !message.snapshot_done && !message.leaving {
            return;
        }
        self.sequence += (message.announcements.len() + message.retractions.len()) as u64;
        message.sequence = self.sequence;
        self.weight += things;
        self.waiting.push_back(message);
    }

    /// What was just enqueued brings this worker's deltas to `upto`.
    fn mark(&mut self, worker: u8, upto: u64) {
        if self.sequence <= self.acknowledged {
            self.passed(worker, upto);
        } else {
            self.marks.push_back((self.sequence, worker, upto));
        }
    }

    fn passed(&mut self, worker: u8, upto: u64) {
        let worker = usize::from(worker);
        if self.deltas.len() <= worker {
            self.deltas.resize(worker + 1, 0);
        }
        self.deltas[worker] = self.deltas[worker].max(upto);
    }
}

fn weight(message: &FromSidecar) -> usize {
    let routes = message.announcements.len() + message.retractions.len() + message.groups.len();
    routes + message.moved_groups.len()
}
