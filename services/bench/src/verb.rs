//! The benches, a file each: what is started, what is done in which order, and what is computed from it.

mod bare_side;
pub(crate) mod beside;
pub(crate) mod capacity;
pub(crate) mod echo;
pub(crate) mod fanout;
pub(crate) mod groups;
pub(crate) mod idle;
pub(crate) mod ipconfig;
pub(crate) mod link;
pub(crate) mod login;

use std::time::{Duration, Instant};

use crate::bare::{Counts, Started};
use crate::child::{self, Child};
use crate::cluster::{self, Cluster};
use crate::report::Report;
use crate::statistics::{COMPARABLE_BARE_ECHO_US, readable};

/// Parts that carry a request: what "server CPU" means everywhere.
const SERVER: [&str; 2] = ["gateway", "state"];

/// Parts that carry a push to a group.
const PUSH_SERVER: [&str; 3] = ["gateway", "state", "routing"];

/// Longest wait until memory stays as it is.
const STEADY: Duration = Duration::from_secs(6);

/// A bare server in a process of its own.
struct Bare {
    process: Child,
    started: Started,
}

impl Bare {
    fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut process = Child::helper(arguments)?;
        let started = process.receive()?;
        Ok(Self { process, started })
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        cluster::cpu(&[self.process.pid()])
    }

    fn counts(&mut self) -> anyhow::Result<Counts> {
        self.process.send(&"counts")?;
        self.process.receive()
    }
}

/// Memory of the parts, by one of the cluster's measures, once it stays as it is.
fn steady<const N: usize>(
    cluster: &Cluster,
    parts: &[&str; N],
    measure: impl Fn(&Cluster, &[&str]) -> anyhow::Result<u64>,
) -> anyhow::Result<[u64; N]> {
    const STEP: Duration = Duration::from_millis(500);
    cluster.settle(parts)?;
    let sample = || -> anyhow::Result<[u64; N]> {
        let mut bytes = [0; N];
        for (part, bytes) in parts.iter().zip(&mut bytes) {
            *bytes = measure(cluster, &[part])?;
        }
        Ok(bytes)
    };
    let mut before = sample()?;
    let mut waited = Duration::ZERO;
    loop {
        child::pause(STEP)?;
        waited += STEP;
        let now = sample()?;
        let moved = now
            .iter()
            .zip(before)
            .any(|(now, before)| now.abs_diff(before) > before / 1_000);
        if !moved || waited >= STEADY {
            return Ok(now);
        }
        before = now;
    }
}

/// Routing learns of a new group a moment after its members have joined: the first pushes may be told so.
fn first_push<T>(mut push: impl FnMut() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match push() {
            Err(_) if Instant::now() < deadline => child::pause(Duration::from_millis(200))?,
            done => return done,
        }
    }
}

/// Says what the bare server did per operation, so that its fairness can be judged.
fn say_bare(report: &mut Report, name: &str, counts: Counts, operations: u64) {
    if operations == 0 {
        return;
    }
    let per = |count: u64| count as f64 / operations as f64;
    report.remark(format!(
        "{name}: {:.3} reads and {:.3} writes per operation, {:.1} operations per epoll_wait, {} short writes",
        per(counts.reads),
        per(counts.writes),
        operations as f64 / counts.waits.max(1) as f64,
        counts.short_writes
    ));
    report.detail(
        &format!("{name}_per_operation").replace(' ', "_"),
        serde_json::json!({
            "reads": readable(per(counts.reads)),
            "writes": readable(per(counts.writes)),
            "epoll_waits": readable(per(counts.waits)),
        }),
    );
}

/// Says so when this machine's figures can't be held against the published ones.
fn say_comparable(report: &mut Report, bare_us: f64) {
    let comparable = COMPARABLE_BARE_ECHO_US.contains(&bare_us);
    report.detail("comparable", comparable);
    if !comparable {
        report.remark(format!(
            "NOT COMPARABLE: the bare echo takes {bare_us:.2} µs here, outside {}–{} µs; compare ratios only, and those with care",
            COMPARABLE_BARE_ECHO_US.start(),
            COMPARABLE_BARE_ECHO_US.end()
        ));
    }
}
