//! Names, addresses and paths of the local cluster: the one place where they stand.

use std::env;
use std::path::{Path, PathBuf};

/// Environment variable that puts the cluster's directory elsewhere, so that several checkouts share one cluster.
pub(crate) const DIRECTORY_VARIABLE: &str = "IMACCESS_CLUSTER_DIR";

/// Address of everything that is no node: API server, CoreDNS, clients.
pub(crate) const OUTSIDE: &str = "198.18.0.1";
/// Client addresses that a test outside may bind without further ado.
pub(crate) const CLIENTS: &str = "198.18.128.1/17";
/// Addresses of pods; each node has a /24 of it.
pub(crate) const PODS: &str = "10.244.0.0/16";
/// Addresses of Services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The Service `kubernetes`: the first address of [`SERVICES`].
pub(crate) const FIRST_SERVICE: &str = "10.96.0.1";
/// Where the cluster's directory is seen inside its mount namespace: short, because names of Unix sockets are limited
/// to 107 bytes, wherever the checkout is.
pub(crate) const INSIDE: &str = "/run/cluster";
/// What a pod's sandbox runs.
pub(crate) const PAUSE_IMAGE: &str = "imaccess.io/pause:1";
/// A shell, `nslookup`, `wget` and `nc` for tests: busybox.
pub(crate) const TOOLBOX_IMAGE: &str = "imaccess.io/toolbox:1";

/// A node of the local cluster.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    /// Name in Kubernetes, and of its network namespace.
    pub name: &'static str,
    /// Its address.
    pub address: &'static str,
    /// The outside end of its link: its default gateway.
    pub gateway: &'static str,
    /// Addresses of its pods.
    pub pods: &'static str,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: &'static str,
}

/// The nodes. Two are enough for a drain and for a lost one; each more costs half a core of a small machine at start.
pub const NODES: [Node; 2] = [
    Node {
        name: "node1",
        address: "198.18.1.2",
        gateway: "198.18.1.1",
        pods: "10.244.1.0/24",
        zone: "zone-a",
    },
    Node {
        name: "node2",
        address: "198.18.2.2",
        gateway: "198.18.2.1",
        pods: "10.244.2.0/24",
        zone: "zone-b",
    },
];

/// Where the cluster's files are.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The cluster's directory.
    pub directory: PathBuf,
}

impl Layout {
    /// The layout of a checkout, from its target directory: `target/cluster` there, or what the variable
    /// `IMACCESS_CLUSTER_DIR` says.
    #[must_use]
    pub fn new(target: &Path) -> Self {
        Self::from_environment().unwrap_or_else(|| Self {
            directory: target.join("cluster"),
        })
    }

    /// The layout that the variable `IMACCESS_CLUSTER_DIR` says, if it is set: how a test finds its cluster.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let directory = env::var_os(DIRECTORY_VARIABLE)?.into();
        Some(Self { directory })
    }

    /// Programs from Debian packages that are unpacked rather than installed.
    pub(crate) fn tools(&self) -> PathBuf {
        self.path("tools")
    }

    /// A file or directory of the cluster as seen on this machine.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The same as the cluster's own processes see it.
    pub(crate) fn inside(name: &str) -> String {
        format!("{INSIDE}/{name}")
    }

    /// A built program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.path("bin").join(name)
    }

    /// The credentials of the cluster's administrator; they work on the machine and outside alike.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// Where the cluster's control groups are, below each hierarchy's root: two clusters must not share them.
    pub(crate) fn cgroup(&self) -> String {
        // FNV-1a: no more is asked of it than to tell a few checkouts apart.
        let hash = self
            .directory
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
            });
        format!("imaccess-{hash:08x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directories_have_two_control_groups() {
        let at = |directory: &str| Layout {
            directory: directory.into(),
        };
        assert_eq!(at("/a").cgroup(), at("/a").cgroup());
        assert_ne!(at("/a").cgroup(), at("/b").cgroup());
    }
}
