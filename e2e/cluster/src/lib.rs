//! A Kubernetes cluster for the end-to-end tests, on this machine, without a container engine and without a registry.
//!
//! Upstream's own components are built from source once (`components/`) and run inside one set of namespaces that an
//! `unshare` process holds. Inside it there are three network namespaces:
//!
//! ```text
//!   outside 198.18.0.1          etcd, API server, controller manager, scheduler, CoreDNS; the tests
//!    │ 198.18.1.1   │ 198.18.2.1
//!    │ veth         │ veth
//!   node1          node2        containerd, kubelet, kube-proxy each
//!    198.18.1.2     198.18.2.2
//!    10.244.1.0/24  10.244.2.0/24   pods: one routed veth each (`ptp`)
//! ```
//!
//! *Outside* is where clients of the cluster stand: node addresses, pod addresses and Services (10.96.0.0/16) are
//! reached from there by routes, Services through the rules of a node. 198.18.128.0/17 is local to it, so that a test may bind many client addresses.
//!
//! - [`Layout`]: where everything is. [`up()`], [`down()`], [`status()`]: the cluster's life.
//! - [`Nodes`]: loses a node and brings it back, here and on kind, for tests.
//! - [`kind`]: the same for users who have a container engine.
//!
//! Invariants: no port, route or firewall rule of the cluster touches the machine, but for one forwarder on a
//! loopback port that leads to the API server. Whoever kills the `unshare` process kills all of it. Everything needs
//! root; nothing survives a restart of the cluster but logs and built programs.

mod certificates;
mod cgroups;
mod components;
mod configuration;
mod control_plane;
mod images;
pub mod kind;
mod layout;
mod lifecycle;
mod namespaces;
mod network;
mod node;
mod nodes;
pub mod packages;
mod process;
mod record;
mod wait;

pub use images::{load, toolbox};
pub use layout::{Layout, NODES, Node};
pub use lifecycle::{check, down, outside, restart_node, status, stop_node, up};
pub use namespaces::hold;
pub use nodes::Nodes;
pub use record::Record;
