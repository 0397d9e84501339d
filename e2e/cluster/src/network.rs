//! Addresses, links and routes inside.

use std::fmt::Write as _;

use crate::layout::{CLIENTS, INSIDE, NODES, Node, OUTSIDE, SERVICES};

/// Hides the places of this machine that components write to, and shows the cluster's directory under a short name.
pub(crate) fn mounts(directory: &str) -> String {
    format!(
        "mount -t tmpfs -o mode=755 tmpfs /run\n\
         mkdir -p {INSIDE} /run/netns /run/containerd /run/lock\n\
         mount --bind '{directory}' {INSIDE}\n\
         for place in /var/log /var/lib/kubelet /var/lib/cni; do\n\
         mkdir -p $place\n\
         mount -t tmpfs -o mode=755 tmpfs $place\n\
         done\n\
         mkdir -p /var/log/containers\n"
    )
}

/// Everything before the nodes' links come up.
pub(crate) fn create() -> String {
    let mut script = format!(
        "ip link set lo up\n\
         ip address add {OUTSIDE}/32 dev lo\n\
         ip address add {CLIENTS} dev lo\n\
         echo 1 > /proc/sys/net/ipv4/ip_forward\n"
    );
    for Node {
        name,
        address,
        gateway,
        pods,
        ..
    } in &NODES
    {
        let _ = write!(
            script,
            "ip netns add {name}\n\
             ip link add {name} type veth peer name eth0 netns {name}\n\
             ip address add {gateway}/24 dev {name}\n\
             ip link set {name} up\n\
             ip -netns {name} link set lo up\n\
             ip -netns {name} address add {address}/24 dev eth0\n\
             nsenter --net=/run/netns/{name} sh -e -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'\n\
             {}\
             ip route add {pods} via {address}\n",
            connect(name, gateway)
        );
    }
    script
}

/// Plugs a node's cable in. Its other routes lead to pods, over links of their own.
pub(crate) fn connect(name: &str, gateway: &str) -> String {
    format!(
        "ip -netns {name} link set eth0 up\n\
         ip -netns {name} route replace default via {gateway}\n"
    )
}

/// Pulls a node's cable: from then on nothing of it arrives anywhere, no reset either, and others wait in vain for
/// its answers.
pub(crate) fn disconnect(name: &str) -> String {
    format!("ip -netns {name} link set eth0 down\n")
}

/// Services are reached from outside through the rules of this node.
pub(crate) fn services_via(node: &Node) -> String {
    format!("ip route replace {SERVICES} via {}\n", node.address)
}
