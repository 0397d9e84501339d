//! Control groups of the nodes: one per node in every hierarchy, or two kubelets would remove each other's pods; and one for what nodes
//! run besides pods.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::layout::{Layout, NODES};
use crate::wait::until;

const ROOT: &str = "/sys/fs/cgroup";

/// What nodes run besides pods: containerd with all that it starts, kubelet, kube-proxy.
const SERVICES: &str = "services";

/// Which file says a group's share of the processors, what it says if nobody has said otherwise, and the most that it may say: version
/// 1, version 2. In both a thread that is in no group counts as much as a group of the default.
const SHARES: [(&str, usize, usize); 2] = [("cpu.shares", 1_024, 262_144), ("cpu.weight", 100, 10_000)];

/// Makes a group for each node, and one for their services.
pub(crate) fn make(layout: &Layout) -> Result<()> {
    let parent = layout.cgroup();
    for hierarchy in hierarchies() {
        let group = hierarchy.join(&parent);
        create(&group)?;
        weigh(&group)?;
        for node in &NODES {
            let group = group.join(node.name);
            create(&group)?;
            hand_down(&group);
        }
        // Controllers aren't handed down there: in version 2 no process could be in it then.
        create(&group.join(SERVICES))?;
    }
    Ok(())
}

/// Gives the nodes the processors that they would have as machines of their own. There a kubelet weighs its pods by 1,024 for each
/// processor, against 1,024 for all of the system's services; here the API server and whoever makes the load are no group, so that
/// each of their threads would count as much as all pods of all nodes. In the nodes' group each node's pods and the services of all nodes
/// weigh the same, which is right for two processors and two nodes, and gives services less than theirs on anything larger.
fn weigh(group: &Path) -> Result<()> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let nodes = (processors + 1) * NODES.len();
    for (file, default, most) in SHARES {
        let file = group.join(file);
        if file.exists() {
            let share = most.min(nodes * default);
            fs::write(&file, share.to_string()).with_context(|| format!("{}", file.display()))?;
        }
    }
    Ok(())
}

/// Files to which a process writes 0 to be among the nodes' services, it and all that it starts: where shares of the processors are
/// said, and nowhere else.
pub(crate) fn services(layout: &Layout) -> Vec<PathBuf> {
    hierarchies()
        .into_iter()
        .map(|hierarchy| hierarchy.join(layout.cgroup()).join(SERVICES))
        .filter(|group| SHARES.iter().any(|(file, ..)| group.join(file).exists()))
        .map(|group| group.join("cgroup.procs"))
        .collect()
}

/// All processes of a node's pods, as pids of the reader's namespace.
pub(crate) fn processes(layout: &Layout, node: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for hierarchy in hierarchies() {
        collect(&hierarchy.join(layout.cgroup()).join(node), &mut pids);
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Removes the groups; their processes must have ended, which the kernel notices a little later.
pub(crate) fn remove(layout: &Layout) -> Result<()> {
    for hierarchy in hierarchies() {
        let group = hierarchy.join(layout.cgroup());
        until("control groups are empty", Duration::from_secs(10), || {
            remove_tree(&group).map_err(|error| format!("{}: {error}", group.display()))
        })?;
    }
    Ok(())
}

/// Every controller's directory on version 1, the root on version 2.
fn hierarchies() -> Vec<PathBuf> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return vec![ROOT.into()];
    }
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let mut hierarchies: Vec<_> = entries
        .map(|entry| entry.path())
        // `cpu,cpuacct` may be there once more under the name of each; a second `mkdir` of the same does no harm.
        .filter(|path| path.join("cgroup.procs").exists())
        .collect();
    hierarchies.sort();
    hierarchies
}

fn create(group: &Path) -> Result<()> {
    fs::create_dir_all(group).with_context(|| format!("cannot create {}", group.display()))?;
    let parent = group.parent().unwrap_or_else(|| Path::new(ROOT));
    for file in ["cpuset.cpus", "cpuset.mems"] {
        // Version 1 starts a group without processors and memory, and nothing can run in it until it has some.
        if parent.join("cpuset.cpus").exists() && !Path::new(ROOT).join("cgroup.controllers").exists() {
            let value = fs::read(parent.join(file)).with_context(|| format!("{}", parent.display()))?;
            fs::write(group.join(file), value).with_context(|| format!("{}", group.display()))?;
        }
    }
    hand_down(parent);
    Ok(())
}

/// Version 2 has controllers in a group only where its parent hands them down.
fn hand_down(group: &Path) {
    let file = group.join("cgroup.subtree_control");
    if file.exists() {
        for controller in ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"] {
            // What the machine hasn't isn't there below either; the kubelet says what it misses.
            let _ = fs::write(&file, format!("+{controller}"));
        }
    }
}

fn collect(group: &Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), pids);
        }
    }
}

/// Groups are removed from the leaves up; the files in them go with them.
fn remove_tree(group: &Path) -> std::io::Result<()> {
    if !group.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(group)?.flatten() {
        if entry.path().is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
