//! Routes under certificates: who may follow them.

use imaccess_common::tls::{ClientTls, Connector, TlsConfig};
use imaccess_proto::v1::FromSidecar;
use tonic::transport::Endpoint;

use super::harness::{Replica, gateway, start};
use super::*;
use crate::authority::{Authority, Files};

const ROUTING: &str = "routing.demo.default.imaccess.internal";
const SIDECAR: &str = "sidecar.demo.default.imaccess.internal";

/// Dials and follows as the holder of these files, if it may.
async fn follow(address: SocketAddr, trusted: &Files, own: Option<&Files>) -> Result<FromSidecar, String> {
    let paths = own.map(|own| (own.path("tls.crt"), own.path("tls.key")));
    let own = paths
        .as_ref()
        .map(|(certificate, key)| (certificate.as_path(), key.as_path()));
    let tls = ClientTls::grpc_once(&trusted.path("ca.crt"), own, SIDECAR).unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = soon(endpoint.connect_with_connector(Connector(tls)))
        .await
        .map_err(|fault| fault.to_string())?;
    let mut replica = Replica::follow_on(channel)
        .await
        .map_err(|status| status.to_string())?;
    Ok(replica.next().await)
}

#[tokio::test]
async fn only_routing_may_follow_the_routes() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let files = |authority: &Authority, name| Files::new(&authority.issue(&[name]), &[authority]);
    let own = files(&ours, SIDECAR);
    let running = start(Vec::new(), |config| {
        config.tls = Some(TlsConfig {
            certificate: own.path("tls.crt"),
            key: own.path("tls.key"),
            authority: own.path("ca.crt"),
        });
        config.route_clients = vec![ROUTING.to_owned()];
    })
    .await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let _link = attach(&mut shard).await;

    let routing = files(&ours, ROUTING);
    let heard = follow(running.routes, &own, Some(&routing)).await.unwrap();
    assert_eq!(heard.hello.unwrap().instance, "pod-1");
    for (who, stranger) in [
        ("without a certificate", None),
        (
            "another part",
            Some(files(&ours, "gateway.demo.default.imaccess.internal")),
        ),
        ("of another authority", Some(files(&theirs, ROUTING))),
    ] {
        let heard = follow(running.routes, &own, stranger.as_ref()).await;
        assert!(heard.is_err(), "{who}: {heard:?}");
    }
    let page = running.metrics().await;
    for reason in ["no_certificate", "wrong_name", "unknown_authority"] {
        let line = format!("imaccess_tls_handshake_failures_total{{reason=\"{reason}\",side=\"server\"}} 1");
        assert!(page.contains(&line), "{line} is missing in\n{page}");
    }
    running.drain.begin();
    soon(running.ended).await.unwrap();
}
