//! etcd, API server, controller manager, scheduler and CoreDNS: one of each, outside of the nodes.

use std::fs;

use anyhow::{Context, Result};

use crate::configuration;
use crate::layout::{Layout, OUTSIDE, PODS, SERVICES};
use crate::namespaces::{inside, start};
use crate::packages::System;
use crate::record::Record;

/// Writes what the control plane reads.
pub(crate) fn configure(layout: &Layout) -> Result<()> {
    let files = [
        ("audit-policy.yaml", configuration::audit_policy()),
        ("Corefile", configuration::corefile()),
    ];
    fs::create_dir_all(layout.path("etc")).context("cannot create etc/")?;
    for (name, text) in files {
        let path = layout.path("etc").join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Starts etcd and the API server.
pub(crate) fn start_api(record: &Record, system: &System) -> Result<()> {
    component(
        record,
        "etcd",
        system.etcd.display().to_string(),
        &[
            format!("--data-dir={}", Layout::inside("etcd")),
            "--listen-client-urls=http://127.0.0.1:2379".into(),
            "--advertise-client-urls=http://127.0.0.1:2379".into(),
            "--listen-peer-urls=http://127.0.0.1:2380".into(),
            // Nothing is to survive: waiting for the disk would only make a busy machine's API server slow.
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ],
    )?;
    let pki = |file: &str| Layout::inside(&format!("pki/{file}"));
    component(
        record,
        "kube-apiserver",
        Layout::inside("bin/kube-apiserver"),
        &[
            "--etcd-servers=http://127.0.0.1:2379".into(),
            "--bind-address=0.0.0.0".into(),
            format!("--secure-port={}", record.port),
            format!("--advertise-address={OUTSIDE}"),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--allow-privileged=true".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement".into(),
            format!("--client-ca-file={}", pki("ca.crt")),
            format!("--tls-cert-file={}", pki("apiserver.crt")),
            format!("--tls-private-key-file={}", pki("apiserver.key")),
            format!("--kubelet-client-certificate={}", pki("kubelet-client.crt")),
            format!("--kubelet-client-key={}", pki("kubelet-client.key")),
            format!("--kubelet-certificate-authority={}", pki("ca.crt")),
            // Nodes' names are in no DNS that the API server asks: logs and exec go to their addresses.
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!(
                "--service-account-signing-key-file={}",
                pki("service-accounts.key")
            ),
            format!("--service-account-key-file={}", pki("service-accounts.pub")),
            format!("--audit-policy-file={}", Layout::inside("etc/audit-policy.yaml")),
            format!("--audit-log-path={}", Layout::inside("logs/audit.log")),
            "--audit-log-maxsize=200".into(),
            "--audit-log-maxbackup=2".into(),
            // Pods of a lost node are replaced after this time instead of five minutes.
            "--default-not-ready-toleration-seconds=20".into(),
            "--default-unreachable-toleration-seconds=20".into(),
        ],
    )
}

/// Starts what works through the API server, which must answer.
pub(crate) fn start_controllers(record: &Record) -> Result<()> {
    let pki = |file: &str| Layout::inside(&format!("pki/{file}"));
    component(
        record,
        "kube-controller-manager",
        Layout::inside("bin/kube-controller-manager"),
        &[
            format!("--kubeconfig={}", pki("controller-manager.kubeconfig")),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
            format!("--cluster-cidr={PODS}"),
            format!("--service-cluster-ip-range={SERVICES}"),
            "--allocate-node-cidrs=false".into(),
            "--use-service-account-credentials=true".into(),
            format!("--root-ca-file={}", pki("ca.crt")),
            format!(
                "--service-account-private-key-file={}",
                pki("service-accounts.key")
            ),
            format!("--cluster-signing-cert-file={}", pki("ca.crt")),
            format!("--cluster-signing-key-file={}", pki("ca.key")),
            // A lost node shows after 15 s instead of 50.
            "--node-monitor-grace-period=15s".into(),
            "--node-monitor-period=2s".into(),
        ],
    )?;
    component(
        record,
        "kube-scheduler",
        Layout::inside("bin/kube-scheduler"),
        &[
            format!("--kubeconfig={}", pki("scheduler.kubeconfig")),
            "--bind-address=127.0.0.1".into(),
            "--leader-elect=false".into(),
        ],
    )?;
    component(
        record,
        "coredns",
        Layout::inside("bin/coredns"),
        &["-conf".into(), Layout::inside("etc/Corefile")],
    )
}

fn component(record: &Record, name: &str, program: String, arguments: &[String]) -> Result<()> {
    let mut words = vec![program];
    words.extend_from_slice(arguments);
    start(inside(record, "sh"), name, &words)
}
