//! A false sidecar: a pod with the labels of the cluster's gateways, whose address leads to the test. Routing must dial it, for it can't
//! know, and must not believe it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_operator_api::names::{Identity, Part, port};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::kubernetes::gateways::number;
use crate::kubernetes::{Installation, Kubernetes, prometheus};
use crate::mesh::Certified;
use crate::wait::Seen;

/// Dials that are waited for: more than one, for what fails once may succeed at the next.
const DIALS: u64 = 3;
/// Routing tries again with waits of half a second.
const DIALLED: Duration = Duration::from_secs(60);
/// The pod's name.
const NAME: &str = "false-sidecar";
/// What TLS begins with.
const HANDSHAKE: u8 = 0x16;

/// What came to it.
#[derive(Debug, Default)]
pub(super) struct Trapped {
    /// Connections.
    pub(super) dialled: u64,
    /// Those that spoke without TLS.
    pub(super) plain: u64,
    /// Those that took its certificate.
    pub(super) trusted: u64,
}

#[derive(Default)]
struct Counts {
    dialled: AtomicU64,
    plain: AtomicU64,
    trusted: AtomicU64,
}

/// Sets it, waits until routing has come several times, and takes it away.
pub(super) async fn sidecar(kubernetes: &Kubernetes, cluster: &Installation) -> Result<Trapped> {
    let address = prometheus::towards_nodes(kubernetes).await?;
    let listener = TcpListener::bind((address, number(port::ROUTES)))
        .await
        .with_context(|| format!("port {} at {address}", port::ROUTES))?;
    let name = Identity::Sidecar.dns_name(cluster.name(), &cluster.names.namespace);
    let acceptor = Certified::foreign(&[name])?.acceptor()?;
    let counts = Arc::new(Counts::default());
    let server = tokio::spawn(serve(listener, acceptor, Arc::clone(&counts)));
    let pods: Api<Pod> = cluster.namespace.api();
    let set = set(&pods, cluster, &address.to_string()).await;
    let waited = match set {
        Ok(()) => {
            kubernetes
                .until("routing dials the false sidecar", DIALLED, async || {
                    let dialled = counts.dialled.load(Ordering::Relaxed);
                    Ok(if dialled >= DIALS {
                        Seen::Yes(())
                    } else {
                        Seen::NotYet(dialled)
                    })
                })
                .await
        }
        Err(error) => Err(error),
    };
    server.abort();
    pods.delete(NAME, &DeleteParams::default().grace_period(0))
        .await
        .context("cannot delete the false sidecar")?;
    waited?;
    Ok(Trapped {
        dialled: counts.dialled.load(Ordering::Relaxed),
        plain: counts.plain.load(Ordering::Relaxed),
        trusted: counts.trusted.load(Ordering::Relaxed),
    })
}

/// A pod that no scheduler places and no kubelet runs: its status is what the test says.
async fn set(pods: &Api<Pod>, cluster: &Installation, address: &str) -> Result<()> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": NAME, "labels": cluster.names.selector(Part::Gateway)},
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "containers": [{"name": "gateway", "image": "imaccess.io/nothing:0"}],
        },
    }))?;
    pods.create(&PostParams::default(), &pod)
        .await
        .context("cannot create the false sidecar")?;
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [ready],
    }});
    pods.patch_status(NAME, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .context("cannot give the false sidecar an address")?;
    Ok(())
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, counts: Arc<Counts>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, counts) = (acceptor.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            receive(stream, &acceptor, &counts).await;
        });
    }
}

async fn receive(stream: TcpStream, acceptor: &TlsAcceptor, counts: &Counts) {
    let mut first = [0];
    // Who connects and says nothing, such as a probe, isn't routing.
    if stream.peek(&mut first).await.unwrap_or_default() == 0 {
        return;
    }
    if first[0] != HANDSHAKE {
        counts.plain.fetch_add(1, Ordering::Relaxed);
    } else if acceptor.accept(stream).await.is_ok() {
        counts.trusted.fetch_add(1, Ordering::Relaxed);
    }
    // Counted when it is known what came of it.
    counts.dialled.fetch_add(1, Ordering::Relaxed);
}
