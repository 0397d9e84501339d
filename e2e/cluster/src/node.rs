//! One node: containerd, kubelet and kube-proxy in a network of their own; also lost, and back again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::layout::{Layout, NODES, Node};
use crate::namespaces::{inside_node, script, start};
use crate::packages::System;
use crate::record::Record;
use crate::wait::until;
use crate::{cgroups, configuration, network};

/// containerd answers within a second; a busy machine takes longer.
const SOCKET: Duration = Duration::from_secs(30);

/// Writes what the node's components read.
pub(crate) fn configure(layout: &Layout, node: &Node, system: &System) -> Result<()> {
    let directory = layout.path("nodes").join(node.name);
    fs::create_dir_all(directory.join("cni"))
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let files = [
        ("containerd.toml", configuration::containerd(node, system)),
        ("cni/10-pods.conflist", configuration::network(node)),
        ("kubelet.yaml", configuration::kubelet(node, &layout.cgroup())),
        ("proxy.yaml", configuration::proxy(node)),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Starts containerd; [`wait_for_containerd`] before its kubelet, which ends when it finds no socket.
pub(crate) fn start_containerd(layout: &Layout, record: &Record, node: &Node, system: &System) -> Result<()> {
    let words = [
        system.containerd.display().to_string(),
        "--config".into(),
        Layout::inside(&format!("nodes/{}/containerd.toml", node.name)),
    ];
    component(layout, record, node, "containerd", &words)
}

/// Waits until containerd serves.
pub(crate) fn wait_for_containerd(record: &Record, node: &Node, system: &System) -> Result<()> {
    until(&format!("containerd of {} answers", node.name), SOCKET, || {
        ctr(record, node, system, "version").map_err(|error| format!("{error:#}"))
    })
    .map(drop)
}

/// Runs `ctr` on the node, for what the kubelet sees.
pub(crate) fn ctr(record: &Record, node: &Node, system: &System, arguments: &str) -> Result<String> {
    let socket = configuration::containerd_socket(node);
    script(
        record,
        &format!(
            "{} --address {socket} --namespace k8s.io {arguments}",
            system.ctr.display()
        ),
    )
}

/// Starts the kubelet and kube-proxy.
pub(crate) fn start_kubelet(layout: &Layout, record: &Record, node: &Node) -> Result<()> {
    let own = |file: &str| Layout::inside(&format!("nodes/{}/{file}", node.name));
    let kubelet = [
        Layout::inside("bin/kubelet"),
        format!("--config={}", own("kubelet.yaml")),
        format!(
            "--kubeconfig={}",
            Layout::inside(&format!("pki/{}.kubeconfig", node.name))
        ),
        format!("--root-dir={}", own("kubelet")),
        format!("--cert-dir={}", own("kubelet-pki")),
        format!("--hostname-override={}", node.name),
        format!("--node-ip={}", node.address),
        format!("--node-labels=topology.kubernetes.io/zone={}", node.zone),
    ];
    component(layout, record, node, "kubelet", &kubelet)?;
    let proxy = [
        Layout::inside("bin/kube-proxy"),
        format!("--config={}", own("proxy.yaml")),
    ];
    component(layout, record, node, "kube-proxy", &proxy)
}

fn component(layout: &Layout, record: &Record, node: &Node, name: &str, words: &[String]) -> Result<()> {
    let shell = inside_node(record, node.name, "sh");
    // Process ids are others inside; 0 is whoever writes.
    let mut joining = vec!["sh".to_owned(), "-e".to_owned(), "-c".to_owned()];
    joining.push("while [ \"$1\" != -- ]; do echo 0 >\"$1\"; shift; done; shift; exec \"$@\"".to_owned());
    joining.push("sh".to_owned());
    joining.extend(
        cgroups::services(layout)
            .iter()
            .map(|file| file.display().to_string()),
    );
    joining.push("--".to_owned());
    joining.extend_from_slice(words);
    start(shell, &format!("{}-{name}", node.name), &joining)
}

/// Loses the node as a power cut does: first its cable, so that no FIN and no reset gets out, then every process of it.
pub(crate) fn stop(layout: &Layout, record: &Record, node: &Node) -> Result<()> {
    script(record, &network::disconnect(node.name))?;
    let other = NODES.iter().find(|other| other.name != node.name);
    if let Some(other) = other {
        // Those outside reach Services through the node that is left.
        script(record, &network::services_via(other))?;
    }
    until("the node's processes have ended", SOCKET, || {
        // The node's own are in its network, pods in its control groups; one may start another while it is looked at.
        let mut pids = in_network(record, node)?;
        pids.extend(cgroups::processes(layout, node.name));
        for pid in &pids {
            if let Some(pid) = Pid::from_raw(*pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if pids.is_empty() {
            Ok(())
        } else {
            Err(format!("{pids:?}"))
        }
    })
}

/// Processes in the node's network, as this machine numbers them: containerd with its shims, kubelet, kube-proxy.
fn in_network(record: &Record, node: &Node) -> Result<Vec<i32>, String> {
    let namespace = format!("/proc/{}/root/run/netns/{}", record.init, node.name);
    let inode = fs::metadata(&namespace)
        .map_err(|error| format!("{namespace}: {error}"))?
        .ino();
    let link = format!("net:[{inode}]");
    let processes = fs::read_dir("/proc").map_err(|error| error.to_string())?;
    Ok(processes
        .flatten()
        .filter(|entry| {
            // A process that ends meanwhile has no link any more.
            fs::read_link(entry.path().join("ns/net")).is_ok_and(|target| target.as_os_str() == link.as_str())
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// Starts a stopped node again, as after a power cut: containers of before are gone, their pods are started anew.
pub(crate) fn restart(layout: &Layout, record: &Record, node: &Node, system: &System) -> Result<()> {
    script(record, &network::connect(node.name, node.gateway))?;
    let state = format!("/proc/{}/root/run/containerd/{}", record.init, node.name);
    if Path::new(&state).exists() {
        // Memory of a machine that was switched off: mounts and sockets of tasks that are no more.
        script(
            record,
            &format!(
                "grep ' /run/containerd/{name}/' /proc/self/mounts | cut -d' ' -f2 | sort -r | \
                 while read -r place; do umount -l \"$place\" || true; done\n\
                 rm -rf /run/containerd/{name}",
                name = node.name
            ),
        )?;
    }
    configure(layout, node, system)?;
    start_containerd(layout, record, node, system)?;
    wait_for_containerd(record, node, system)?;
    start_kubelet(layout, record, node)
}
