//! What is known of a running cluster: `cluster.json` in its directory.

use std::fs;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// The processes that hold the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The `unshare` process: killing it ends everything.
    pub supervisor: i32,
    /// First process inside, as seen on this machine: its namespaces are the cluster's, its network is *outside*.
    pub init: i32,
    /// When `init` started, in clock ticks since boot: a pid alone may belong to another process by now.
    pub started: u64,
    /// Port of the API server, on 127.0.0.1 of the machine and of *outside*.
    pub port: u16,
    /// Whether the start came to its end.
    pub complete: bool,
}

impl Record {
    /// The record of a cluster that runs, if one does.
    #[must_use]
    pub fn live(layout: &Layout) -> Option<Self> {
        let text = fs::read(layout.path("cluster.json")).ok()?;
        let record: Self = serde_json::from_slice(&text).ok()?;
        (start_time(record.init) == Some(record.started)).then_some(record)
    }

    /// Writes the record.
    pub(crate) fn write(&self, layout: &Layout) -> Result<()> {
        let path = layout.path("cluster.json");
        fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// When a process started, in clock ticks since boot; none when there is no such process, or it has ended.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in parentheses and may contain anything; fields are counted after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_test_has_a_start_time_and_no_process_has_none() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(own).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time(i32::MAX), None);
    }
}
