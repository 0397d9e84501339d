//! The benches, a file each: what is started, what is done in which order, and what is computed from it.

pub(crate) mod capacity;
pub(crate) mod echo;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod ipconfig;
pub(crate) mod link;
pub(crate) mod login;

use std::time::Duration;

use crate::bare::{Counts, Started};
use crate::child::Child;
use crate::cluster;
use crate::report::Report;
use crate::statistics::{COMPARABLE_BARE_ECHO_US, readable};

/// Parts that carry a request: what "server CPU" means everywhere.
const SERVER: [&str; 2] = ["gateway", "state"];

/// Parts that carry a push to a group.
const PUSH_SERVER: [&str; 3] = ["gateway", "state", "routing"];

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
