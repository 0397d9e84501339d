//! The local cluster's life: up, status, down; and that of its nodes.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::layout::{Layout, NODES, Node, OUTSIDE};
use crate::packages::{self, System};
use crate::process::{command, feed, output};
use crate::record::{Record, start_time};
use crate::wait::until;
use crate::{
    certificates, cgroups, components, configuration, control_plane, images, namespaces, network, node,
};

/// The API server answers within 10 s of a quiet machine, nodes are ready within 10 s more.
const START: Duration = Duration::from_secs(120);
/// A cluster that is there should answer at once.
const REUSE: Duration = Duration::from_secs(20);

/// Says what the local cluster lacks on this machine and can't install, before anything is built for it.
///
/// # Errors
/// Without root; without Go, which is asked for even if everything is built already.
pub fn check() -> Result<()> {
    packages::must_be_root()?;
    components::go().map(drop)
}

/// Starts the cluster, or takes the one that runs; what is missing is built and fetched first. Says what it does.
///
/// # Errors
/// When a component can't be had or doesn't come up; its log is in the cluster's directory under `logs/`.
pub fn up(layout: &Layout, workspace: &Path) -> Result<Record> {
    fs::create_dir_all(layout.path("bin"))
        .with_context(|| format!("cannot create {}", layout.directory.display()))?;
    let lock = File::create(layout.path("lock")).context("cannot create the lock file")?;
    lock.lock().context("waiting for another `up` or `down`")?;
    if let Some(record) = Record::live(layout).filter(|record| record.complete) {
        match wait_for_nodes(layout, REUSE) {
            Ok(()) => {
                println!(
                    "the local cluster runs already (API server on port {})",
                    record.port
                );
                return Ok(record);
            }
            Err(error) => println!("the local cluster that runs isn't healthy, and is replaced: {error:#}"),
        }
    }
    end(layout)?;
    let start = Instant::now();
    let system = step("programs", || System::find(&layout.tools()))?;
    step("components", || components::build(layout, workspace))?;
    let record = match begin(layout, &system) {
        Ok(record) => record,
        Err(error) => {
            let kept = layout.path("logs");
            // What it said stays; what it runs ends.
            if let Err(second) = end(layout) {
                println!("{second:#}");
            }
            return Err(error.context(format!(
                "the local cluster doesn't start; logs are in {}",
                kept.display()
            )));
        }
    };
    println!(
        "the local cluster is up after {:.0} s",
        start.elapsed().as_secs_f64()
    );
    Ok(record)
}

fn begin(layout: &Layout, system: &System) -> Result<Record> {
    let mut record = step("namespaces", || {
        for name in ["logs", "etcd", "pki", "etc", "nodes", "images"] {
            let path = layout.path(name);
            if path.exists() {
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        cgroups::make(layout)?;
        let record = namespaces::create(layout)?;
        let directory = fs::canonicalize(&layout.directory).context("the cluster's directory")?;
        namespaces::script(&record, &network::mounts(&directory.to_string_lossy()))?;
        namespaces::script(&record, &network::create())?;
        namespaces::script(&record, &network::services_via(&NODES[0]))?;
        Ok(record)
    })?;
    step("certificates", || certificates::make(layout, record.port))?;
    step("etcd, API server, containerd", || {
        control_plane::configure(layout)?;
        control_plane::start_api(&record, system)?;
        for one in &NODES {
            node::configure(layout, one, system)?;
            node::start_containerd(layout, &record, one, system)?;
        }
        Ok(())
    })?;
    step("images of the cluster", || {
        let archives = [images::pause(layout)?, images::toolbox(layout)?];
        for one in &NODES {
            node::wait_for_containerd(&record, one, system)?;
        }
        for archive in &archives {
            images::import(layout, &record, system, archive)?;
        }
        Ok(())
    })?;
    step("API server answers", || {
        until("the API server is ready", START, || {
            output(&mut kubectl(layout, ["get", "--raw", "/readyz"])).map_err(|error| format!("{error:#}"))
        })?;
        let rights = configuration::coredns_rights().to_string();
        // The first write may meet a default that is still being set up.
        until("CoreDNS has its rights", START, || {
            feed(&mut kubectl(layout, ["apply", "--filename=-"]), &rights)
                .map_err(|error| format!("{error:#}"))
        })
        .map(drop)
    })?;
    step("nodes are ready", || {
        control_plane::start_controllers(&record)?;
        for one in &NODES {
            node::start_kubelet(layout, &record, one)?;
        }
        wait_for_nodes(layout, START)?;
        until("the default service account exists", START, || {
            output(&mut kubectl(layout, ["get", "serviceaccount", "default"]))
                .map_err(|error| format!("{error:#}"))
        })?;
        until("CoreDNS answers", START, || {
            let words = ["nslookup", "kubernetes.default.svc.cluster.local", OUTSIDE];
            let mut look = namespaces::inside(&record, &system.busybox.to_string_lossy());
            output(look.args(words)).map_err(|error| format!("{error:#}"))
        })
        .map(drop)
    })?;
    record.complete = true;
    record.write(layout)?;
    Ok(record)
}

/// Ends the cluster and removes what it leaves; logs and built programs stay.
///
/// # Errors
/// When a process of it can't be ended.
pub fn down(layout: &Layout) -> Result<()> {
    if !layout.directory.exists() {
        return Ok(());
    }
    let lock = File::create(layout.path("lock")).context("cannot create the lock file")?;
    lock.lock().context("waiting for another `up` or `down`")?;
    end(layout)
}

fn end(layout: &Layout) -> Result<()> {
    if let Some(record) = Record::live(layout) {
        for pid in [record.supervisor, record.init] {
            if let Some(pid) = Pid::from_raw(pid) {
                // The one takes the other with it; either may be gone already.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        until(
            "the cluster's processes have ended",
            Duration::from_secs(30),
            || match start_time(record.init) {
                Some(started) if started == record.started => Err("its first process runs".to_owned()),
                _ => Ok(()),
            },
        )?;
    }
    cgroups::remove(layout)?;
    for name in ["cluster.json", "kubeconfig"] {
        let path = layout.path(name);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    for name in ["etcd", "pki", "nodes"] {
        let path = layout.path(name);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// What a person wants to know of the running cluster, or that there is none.
///
/// # Errors
/// When the API server doesn't answer.
pub fn status(layout: &Layout) -> Result<String> {
    let Some(record) = Record::live(layout) else {
        return Ok("no local cluster runs: `cargo xtask cluster up` starts one\n".to_owned());
    };
    let nodes = output(&mut kubectl(layout, ["get", "nodes", "--output=wide"]))?;
    Ok(format!(
        "export KUBECONFIG={}\n# outside of the nodes, where pods, Services and node ports are reached:\n{}\n{nodes}",
        layout.kubeconfig().display(),
        outside(&record).join(" ")
    ))
}

/// The words before a command that is to run *outside* of the nodes but in the cluster's network: with this machine's
/// files and processes.
#[must_use]
pub fn outside(record: &Record) -> Vec<String> {
    vec![
        "nsenter".to_owned(),
        format!("--net=/proc/{}/ns/net", record.init),
        "--".to_owned(),
    ]
}

/// Loses a node as a power cut does: nothing of it says goodbye.
///
/// # Errors
/// When there is no such node, or no cluster.
pub fn stop_node(layout: &Layout, name: &str) -> Result<()> {
    node::stop(layout, &live(layout)?, find(name)?)
}

/// Starts a lost node again, and waits until it is ready.
///
/// # Errors
/// When there is no such node, or no cluster, or it doesn't become ready.
pub fn restart_node(layout: &Layout, name: &str) -> Result<()> {
    let record = live(layout)?;
    let node = find(name)?;
    let before = renewed(layout, node)?;
    node::restart(layout, &record, node, &System::find(&layout.tools())?)?;
    // A node that was lost a moment ago is still said to be ready: only a new sign of life means this life.
    until("the node renews its lease", START, || {
        match renewed(layout, node) {
            Ok(now) if now != before => Ok(()),
            Ok(now) => Err(now),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    wait_for_nodes(layout, START)
}

/// When the node last gave a sign of life, as text.
fn renewed(layout: &Layout, node: &Node) -> Result<String> {
    let path = "--output=jsonpath={.spec.renewTime}";
    output(&mut kubectl(
        layout,
        ["--namespace=kube-node-lease", "get", "lease", node.name, path],
    ))
}

fn live(layout: &Layout) -> Result<Record> {
    Record::live(layout).context("no local cluster runs: `cargo xtask cluster up` starts one")
}

fn find(name: &str) -> Result<&'static Node> {
    let names: Vec<_> = NODES.iter().map(|node| node.name).collect();
    NODES
        .iter()
        .find(|node| node.name == name)
        .with_context(|| format!("no node {name}: there are {}", names.join(", ")))
}

fn kubectl<const N: usize>(layout: &Layout, arguments: [&str; N]) -> Command {
    let mut kubectl = command(layout.program("kubectl"), ["--request-timeout=5s"]);
    kubectl
        .arg("--kubeconfig")
        .arg(layout.kubeconfig())
        .args(arguments)
        .stdin(Stdio::null());
    kubectl
}

/// Every node has registered and says `Ready`, with a lease that is not of its life before.
fn wait_for_nodes(layout: &Layout, deadline: Duration) -> Result<()> {
    until("all nodes are ready", deadline, || {
        let text = output(&mut kubectl(layout, ["get", "nodes", "--output=json"]))
            .map_err(|error| format!("{error:#}"))?;
        let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let ready: Vec<_> = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|node| is_ready(node))
            .filter_map(|node| node["metadata"]["name"].as_str())
            .collect();
        if NODES.iter().all(|node| ready.contains(&node.name)) {
            Ok(())
        } else {
            Err(format!("ready are {ready:?}"))
        }
    })
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    let tainted = node["spec"]["taints"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|taint| taint["key"].as_str())
        .any(|key| key.starts_with("node.kubernetes.io/not-ready") || key.ends_with("unreachable"));
    !tainted
        && conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Says what is being done, and how long it took.
fn step<T>(name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
    print!("{name}… ");
    let _ = std::io::stdout().flush();
    let start = Instant::now();
    let done = step().with_context(|| name.to_owned());
    let word = if done.is_ok() { "done" } else { "FAILED" };
    println!("{word} ({:.1} s)", start.elapsed().as_secs_f64());
    done
}
