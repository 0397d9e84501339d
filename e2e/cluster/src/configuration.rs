//! Configuration files of the components, as text. JSON is YAML, so that no text needs quoting by hand.

use anyhow::Result;
use serde_json::{Value, json};

use crate::layout::{INSIDE, Layout, Node, OUTSIDE, PAUSE_IMAGE, PODS};
use crate::packages::System;

/// Credentials for one user of the API server, everything inside the file.
pub(crate) fn kubeconfig(server: &str, authority: &str, certificate: &str, key: &str) -> Result<String> {
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "e2e", "cluster": {
            "server": server, "certificate-authority-data": base64(authority.as_bytes()),
        }}],
        "users": [{ "name": "user", "user": {
            "client-certificate-data": base64(certificate.as_bytes()), "client-key-data": base64(key.as_bytes()),
        }}],
        "contexts": [{ "name": "e2e", "context": { "cluster": "e2e", "user": "user" } }],
        "current-context": "e2e",
    });
    Ok(serde_json::to_string_pretty(&text)?)
}

/// Base 64 as RFC 4648 has it, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 63;
            text.push(if place <= chunk.len() {
                char::from(ALPHABET[index as usize])
            } else {
                '='
            });
        }
    }
    text
}

/// Every write is recorded, and by whom; no read, no body.
pub(crate) fn audit_policy() -> String {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            { "level": "None", "verbs": ["get", "list", "watch"] },
            { "level": "Metadata" },
        ],
    })
    .to_string()
}

/// containerd of one node: everything of its own, so that two nodes' don't see each other.
pub(crate) fn containerd(node: &Node, system: &System) -> String {
    let name = node.name;
    format!(
        r#"version = 2
root = "{INSIDE}/nodes/{name}/containerd"
state = "/run/containerd/{name}"
# Snapshotters and exporters that a test doesn't need, and that fail on most machines.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Lowering a process's score needs a capability that a container on CI hasn't.
  restrict_oom_score_adj = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{INSIDE}/nodes/{name}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
      SystemdCgroup = false
"#,
        socket = containerd_socket(node),
        plugins = system.cni.display(),
        runc = system.runc.display(),
    )
}

/// Where containerd of a node answers.
pub(crate) fn containerd_socket(node: &Node) -> String {
    format!("/run/containerd/{}/containerd.sock", node.name)
}

/// Pods' links. Each is routed on its own (`ptp`): on a bridge, replies between pods of one node would pass by the
/// rules that translate Service addresses.
pub(crate) fn network(node: &Node) -> String {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": Layout::inside(&format!("nodes/{}/addresses", node.name)),
                    "ranges": [[{ "subnet": node.pods }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true },
        ],
    })
    .to_string()
}

/// The kubelet of one node.
pub(crate) fn kubelet(node: &Node, cgroup: &str) -> String {
    let pki = Layout::inside("pki");
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", containerd_socket(node)),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{cgroup}/{}", node.name),
        "failSwapOn": false,
        "resolvConf": "/dev/null",
        "clusterDNS": [OUTSIDE],
        "clusterDomain": "cluster.local",
        "podLogsDir": Layout::inside(&format!("nodes/{}/pod-logs", node.name)),
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": format!("{pki}/ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": format!("{pki}/{}.crt", node.name),
        "tlsPrivateKeyFile": format!("{pki}/{}.key", node.name),
        // A full disk of the machine is not the tests' matter.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "memory.available": "100Mi" },
        // A lease every 4 s, so that the controller manager's 15 s mean a lost node also on a busy machine.
        "nodeLeaseDurationSeconds": 16,
        "nodeStatusUpdateFrequency": "4s",
        "serializeImagePulls": false,
        // A business records in its log what it is told of ten thousand devices: a log that is rotated has lost its beginning.
        "containerLogMaxSize": "200Mi",
        "registerNode": true,
    })
    .to_string()
}

/// kube-proxy of one node. What comes from outside for a Service leaves with the node's address.
pub(crate) fn proxy(node: &Node) -> String {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": PODS,
        "detectLocalMode": "ClusterCIDR",
        "hostnameOverride": node.name,
        "clientConnection": { "kubeconfig": Layout::inside("pki/proxy.kubeconfig") },
        "conntrack": { "maxPerCore": 0 },
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    })
    .to_string()
}

/// CoreDNS: Service and pod names, nothing of the world outside.
pub(crate) fn corefile() -> String {
    format!(
        ".:53 {{\n    errors\n    ready 127.0.0.1:8181\n    kubernetes cluster.local in-addr.arpa {{\n        \
         kubeconfig {}\n        pods insecure\n        ttl 5\n    }}\n    cache 5\n}}\n",
        Layout::inside("pki/coredns.kubeconfig")
    )
}

/// What CoreDNS may read.
pub(crate) fn coredns_rights() -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": { "name": "system:coredns" },
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["endpoints", "services", "pods", "namespaces"],
                    "verbs": ["list", "watch"],
                },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": { "name": "system:coredns" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns" }],
        },
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xff, 0xfe]), "///+");
    }

    #[test]
    fn reads_are_not_audited_and_writes_are() {
        let policy: Value = serde_json::from_str(&audit_policy()).unwrap();
        assert_eq!(policy["rules"][0]["level"], "None");
        assert_eq!(policy["rules"][1]["level"], "Metadata");
    }
}
