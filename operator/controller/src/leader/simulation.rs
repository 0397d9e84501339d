//! Elections in a world where clocks differ and run at different rates, packets take their time or come after they were given up,
//! and processes are stopped and continued: whatever happens, no two gates are open at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use jiff::Timestamp;

use super::evaluate::{Elector, Record, Timing, Verdict};

const NODES: usize = 3;
/// Milliseconds of one election.
const LENGTH: u64 = 300_000;

struct Node {
    elector: Elector,
    /// Milliseconds that its clock is ahead, and thousandths that it runs fast (or slow).
    ahead: u64,
    rate: i64,
    /// The resource version that it read or wrote last.
    version: Option<u64>,
    /// The request that it waits for.
    request: u64,
    stopped_until: u64,
    /// In true time: until when its gate is open.
    open_until: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wake,
    /// The server gets a read, or a write planned from a version.
    Read(u64),
    Write(u64, Option<u64>, Vec<u8>),
    /// The node gets the answer: the version and the record; or none, if it was refused.
    HasRead(u64, Option<(u64, Vec<u8>)>),
    HasWritten(u64, Option<(u64, Vec<u8>)>),
    GivesUp(u64),
}

struct World {
    random: Rng,
    timing: Timing,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(u64, u64, usize, Event)>>,
    serial: u64,
    lease: Option<(u64, Vec<u8>)>,
    openings: u64,
    holders: std::collections::BTreeSet<usize>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Rng::with_seed(seed);
        let nodes = (0..NODES)
            .map(|index| Node {
                elector: Elector::new(format!("node-{index}"), Timing::DEFAULT),
                ahead: random.u64(0..1_000_000),
                rate: random.i64(-50..=50),
                version: None,
                request: 0,
                stopped_until: 0,
                open_until: 0,
            })
            .collect();
        let mut world = World {
            random,
            timing: Timing::DEFAULT,
            nodes,
            events: BinaryHeap::new(),
            serial: 0,
            lease: None,
            openings: 0,
            holders: std::collections::BTreeSet::new(),
        };
        for node in 0..NODES {
            let at = world.random.u64(0..5_000);
            world.at(at, node, Event::Wake);
        }
        world
    }

    fn at(&mut self, time: u64, node: usize, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((time, self.serial, node, event)));
    }

    /// What the node's clock says at `time`.
    fn clock(&self, node: usize, time: u64) -> Duration {
        let node = &self.nodes[node];
        let run = time as i64 * (1_000 + node.rate) / 1_000;
        Duration::from_millis(node.ahead + run.unsigned_abs())
    }

    /// How long `span` of the node's clock really is.
    fn really(&self, node: usize, span: Duration) -> u64 {
        (span.as_millis() as i64 * 1_000 / (1_000 + self.nodes[node].rate)).unsigned_abs()
    }

    /// Mostly short; now and then longer than a request waits.
    fn delay(&mut self) -> u64 {
        match self.random.u8(0..20) {
            0 => self.random.u64(0..9_000),
            1..=3 => self.random.u64(0..1_500),
            _ => self.random.u64(0..30),
        }
    }

    fn run(&mut self) {
        while let Some(Reverse((time, _, node, event))) = self.events.pop() {
            if time > LENGTH {
                break;
            }
            let at_server = matches!(event, Event::Read(_) | Event::Write(..));
            if !at_server && self.nodes[node].stopped_until > time {
                let continued = self.nodes[node].stopped_until;
                self.at(continued, node, event);
                continue;
            }
            if !at_server && self.random.u8(0..60) == 0 {
                self.nodes[node].stopped_until = time + self.random.u64(0..40_000);
            }
            self.handle(time, node, event);
        }
    }

    fn handle(&mut self, time: u64, node: usize, event: Event) {
        match event {
            Event::Wake => self.wake(time, node),
            Event::Read(request) => {
                let (answer, delay) = (self.lease.clone(), self.delay());
                self.at(time + delay, node, Event::HasRead(request, answer));
            }
            Event::Write(request, planned, record) => {
                let fresh = self.lease.as_ref().map(|(version, _)| *version) == planned;
                let answer = fresh.then(|| (planned.unwrap_or(0) + 1, record));
                if fresh {
                    self.lease.clone_from(&answer);
                }
                let delay = self.delay();
                self.at(time + delay, node, Event::HasWritten(request, answer));
            }
            Event::HasRead(request, answer) if self.nodes[node].request == request => {
                let now = self.clock(node, time);
                self.nodes[node].request = 0;
                self.nodes[node].version = answer.as_ref().map(|(version, _)| *version);
                self.nodes[node]
                    .elector
                    .see(answer.map(|(_, record)| decode(&record)), now);
                self.decide(time, node);
            }
            Event::HasWritten(request, answer) => self.has_written(time, node, request, answer),
            Event::GivesUp(request) if self.nodes[node].request == request => {
                self.nodes[node].request = 0;
                self.nodes[node].version = None;
                self.sleep(time, node, self.timing.retry);
            }
            Event::HasRead(..) | Event::GivesUp(_) => {}
        }
    }

    fn wake(&mut self, time: u64, node: usize) {
        let known = &self.nodes[node];
        let ours = known.elector.holder() == Some(known.elector.me());
        if known.version.is_some() && ours {
            self.decide(time, node);
            return;
        }
        let request = self.begin(time, node);
        let delay = self.delay();
        self.at(time + delay, node, Event::Read(request));
    }

    fn decide(&mut self, time: u64, node: usize) {
        let now = self.clock(node, time);
        let verdict = self.nodes[node].elector.verdict(now);
        if let Verdict::Wait { until } = verdict {
            let pause = self.timing.retry.min(until.saturating_sub(now));
            self.sleep(time, node, pause);
            return;
        }
        let record = encode(&self.nodes[node].elector.record(Timestamp::UNIX_EPOCH + now));
        let planned = self.nodes[node].version;
        let request = self.begin(time, node);
        let delay = self.delay();
        self.at(time + delay, node, Event::Write(request, planned, record));
    }

    fn has_written(&mut self, time: u64, node: usize, request: u64, answer: Option<(u64, Vec<u8>)>) {
        if self.nodes[node].request != request {
            return;
        }
        // The request's number says when it was sent.
        let sent = request >> 20;
        self.nodes[node].request = 0;
        let Some((version, record)) = answer else {
            self.nodes[node].version = None;
            self.sleep(time, node, Duration::from_millis(50));
            return;
        };
        let now = self.clock(node, time);
        self.nodes[node].version = Some(version);
        self.nodes[node].elector.see(Some(decode(&record)), now);
        let until = sent + self.really(node, self.timing.entitles());
        if until > time {
            for (index, other) in self.nodes.iter().enumerate() {
                assert!(
                    index == node || other.open_until <= time,
                    "node {index} may write until {}, and node {node} from {time}",
                    other.open_until
                );
            }
            self.openings += 1;
            self.holders.insert(node);
            self.nodes[node].open_until = until;
        }
        self.sleep(time, node, self.timing.renew);
    }

    /// A request's number: when it was sent, and a serial.
    fn begin(&mut self, time: u64, node: usize) -> u64 {
        self.serial += 1;
        let request = (time << 20) | (self.serial & 0xf_ffff);
        self.nodes[node].request = request;
        let patience = self.really(node, self.timing.request);
        self.at(time + patience, node, Event::GivesUp(request));
        request
    }

    fn sleep(&mut self, time: u64, node: usize, pause: Duration) {
        let pause = self.really(node, pause).max(1);
        self.at(time + pause, node, Event::Wake);
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let holder = record.holder.clone().unwrap_or_default();
    let renewed = record.renewed.map_or(0, Timestamp::as_millisecond);
    format!("{holder} {renewed} {}", record.transitions).into_bytes()
}

fn decode(bytes: &[u8]) -> Record {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.split(' ');
    let mut next = || parts.next().unwrap();
    Record {
        holder: Some(next().to_owned()),
        duration: Timing::DEFAULT.duration,
        renewed: Timestamp::from_millisecond(next().parse().unwrap()).ok(),
        transitions: next().parse().unwrap(),
    }
}

#[test]
fn no_two_gates_are_ever_open_at_once() {
    let (mut openings, mut changes) = (0, 0);
    for seed in 0..2_000 {
        let mut world = World::new(seed);
        world.run();
        openings += world.openings;
        changes += world.holders.len() - 1;
    }
    // Somebody leads, and not always the same.
    assert!(openings > 50_000, "{openings}");
    assert!(changes > 1_000, "{changes}");
}
