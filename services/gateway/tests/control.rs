//! The handover page under certificates.
#![allow(
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "a test that fails here says where"
)]

#[path = "../../common/src/tls/tests/authority.rs"]
mod authority;
mod harness;

use std::net::SocketAddr;

use axum::http::Method;
use imaccess_common::drain::Drain;
use imaccess_common::tls::{ClientTls, Identity, TlsConfig, TlsMetrics};
use imaccess_gateway::{BindError, Gateway, GatewayConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::authority::{Authority, Files};
use self::harness::{PATIENCE, within};

const GATEWAY: &str = "gateway.demo.default.imaccess.internal";
const OPERATOR: &str = "operator.demo.default.imaccess.internal";

fn tls(files: &Files) -> TlsConfig {
    TlsConfig {
        certificate: files.path("tls.crt"),
        key: files.path("tls.key"),
        authority: files.path("ca.crt"),
    }
}

fn config(files: &Files, directory: &tempfile::TempDir) -> GatewayConfig {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    GatewayConfig {
        tcp: vec![any],
        socket_dir: directory.path().to_owned(),
        shards: 1,
        custody: false,
        tls: Some(tls(files)),
        control_listen: Some(any),
        control_clients: vec![OPERATOR.to_owned()],
        ..GatewayConfig::default()
    }
}

/// What the control address answers to the holder of a certificate; nothing if it doesn't talk to it.
async fn ask(address: SocketAddr, method: Method, path: &str, client: &ClientTls) -> Option<(u16, String)> {
    let address = address.to_string();
    let asked = imaccess_common::http::ask(client, &address, method, path, Vec::new(), PATIENCE, 10_000);
    let (status, body) = asked.await.ok()?;
    Some((status.as_u16(), String::from_utf8(body).unwrap()))
}

#[tokio::test]
async fn only_the_operator_asks_for_a_handover() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let files = |authority: &Authority, name| Files::new(&authority.issue(&[name]), &[&ours]);
    let own = files(&ours, GATEWAY);
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::bind(config(&own, &directory)).await.unwrap();
    let (admin, control) = (gateway.admin_addr(), gateway.control_addr().unwrap());
    let drain = Drain::new(PATIENCE);
    let signal = drain.clone();
    let ended = tokio::spawn(async move { gateway.run(signal).await.unwrap() });
    let by_grpc = |files: &Files| {
        let metrics = TlsMetrics::register(&prometheus::Registry::new());
        ClientTls::grpc(Identity::load(tls(files), metrics).unwrap(), GATEWAY).unwrap()
    };
    // What speaks gRPC's protocol isn't served here: the page is HTTP/1's.
    let operator = files(&ours, OPERATOR);
    assert_eq!(
        ask(control, Method::GET, "/handover", &by_grpc(&operator)).await,
        None
    );

    let by_http = |files: &Files| {
        let metrics = TlsMetrics::register(&prometheus::Registry::new());
        ClientTls::http(Identity::load(tls(files), metrics).unwrap(), GATEWAY).unwrap()
    };
    let by_operator = by_http(&operator);
    let (status, shown) = ask(control, Method::GET, "/handover", &by_operator)
        .await
        .unwrap();
    assert!(status == 200 && shown.contains(r#""shards":1"#), "{shown}");
    let (status, asked) = ask(control, Method::POST, "/handover", &by_operator)
        .await
        .unwrap();
    assert_eq!(status, 409, "without custody it has none to give: {asked}");
    let (status, _) = ask(control, Method::GET, "/metrics", &by_operator).await.unwrap();
    assert_eq!(status, 404, "that is on the admin address");

    let sidecar = by_http(&files(&ours, "sidecar.demo.default.imaccess.internal"));
    let stranger = by_http(&files(&theirs, OPERATOR));
    let nobody = ClientTls::http_once(&own.path("ca.crt"), GATEWAY).unwrap();
    for client in [sidecar, stranger, nobody] {
        assert_eq!(ask(control, Method::GET, "/handover", &client).await, None);
    }

    // The admin address tells and takes no orders.
    let plain = async |what: &str| {
        let mut stream = tokio::net::TcpStream::connect(admin).await.unwrap();
        let request = format!("{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("the page", stream.read_to_string(&mut answer))
            .await
            .unwrap();
        answer
    };
    for what in ["GET /handover", "POST /handover", "DELETE /handover?lease=x"] {
        assert!(plain(what).await.starts_with("HTTP/1.1 404"), "{what}");
    }
    assert!(plain("GET /healthz").await.starts_with("HTTP/1.1 200"));
    let page = plain("GET /metrics").await;
    for reason in ["no_certificate", "wrong_name", "unknown_authority"] {
        let line = format!("imaccess_tls_handshake_failures_total{{reason=\"{reason}\",side=\"server\"}} 1");
        assert!(page.contains(&line), "{line} is missing in\n{page}");
    }
    assert!(page.contains("imaccess_tls_certificate_not_after_seconds{certificate=\"own\"}"));
    drain.begin();
    within("the end", ended).await.unwrap();
}

#[tokio::test]
async fn half_a_configuration_does_not_start() {
    let ours = Authority::new("ours");
    let own = Files::new(&ours.issue(&[GATEWAY]), &[&ours]);
    let directory = tempfile::tempdir().unwrap();
    let spoilt: [fn(&mut GatewayConfig); 3] = [
        |config| config.tls = None,
        |config| config.control_listen = None,
        |config| config.control_clients.clear(),
    ];
    for spoil in spoilt {
        let mut config = config(&own, &directory);
        spoil(&mut config);
        let Err(BindError::Config(fault)) = Gateway::bind(config).await else {
            panic!("it was accepted")
        };
        assert!(fault.starts_with("control_listen"), "{fault}");
    }
    let mut config = config(&own, &directory);
    config.tls.as_mut().unwrap().certificate = "/nowhere".into();
    assert!(matches!(Gateway::bind(config).await, Err(BindError::Tls(_))));
}

#[test]
fn the_keys_are_read_as_documented() {
    let text = "
tls: {certificate: /etc/imaccess-tls/tls.crt, key: /etc/imaccess-tls/tls.key, authority: /etc/imaccess-tls/ca.crt}
control_listen: 0.0.0.0:9310
control_clients: [operator.demo.default.imaccess.internal]
";
    let config: GatewayConfig = serde_yaml::from_str(text).unwrap();
    assert_eq!(config.validate(), Ok(()));
}
