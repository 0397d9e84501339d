//! A replica with certificates, between a sidecar that has one too and callers of every kind.

use std::sync::Arc;

use imaccess_common::business::{BusinessConfig, ServiceAccount};
use imaccess_common::tls::TlsConfig;
use imaccess_proto::v1::PushGroupRequest;
use imaccess_proto::v1::push_client::PushClient;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::fake::{connect_by, eventually};
use super::*;
use crate::authority::{Authority, Files};
use crate::routing::access::testing::{Claims, Signer};

pub(super) const ROUTING: &str = "routing.demo.default.imaccess.internal";
pub(super) const SIDECAR: &str = "sidecar.demo.default.imaccess.internal";
pub(super) const PUSH: &str = "push.demo.default.imaccess.internal";

/// Files of a part, which must outlive it, and what it counts.
pub(super) struct Part {
    pub(super) files: Files,
    identity: Arc<Identity>,
    registry: Registry,
}

fn tls(files: &Files) -> TlsConfig {
    TlsConfig {
        certificate: files.path("tls.crt"),
        key: files.path("tls.key"),
        authority: files.path("ca.crt"),
    }
}

impl Part {
    pub(super) fn new(authority: &Authority, name: &str) -> Part {
        let files = Files::new(&authority.issue(&[name]), &[authority]);
        let registry = Registry::new();
        let identity = Identity::load(tls(&files), TlsMetrics::register(&registry)).unwrap();
        Part {
            files,
            identity,
            registry,
        }
    }

    fn config(&self) -> TlsConfig {
        tls(&self.files)
    }

    pub(super) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity)
    }

    /// As a client of the push API.
    pub(super) fn caller(&self) -> ClientTls {
        ClientTls::grpc(self.identity(), ROUTING).unwrap()
    }

    pub(super) fn nobody(&self) -> ClientTls {
        ClientTls::grpc_once(&self.files.path("ca.crt"), None, ROUTING).unwrap()
    }

    async fn sidecar(&self, name: &str) -> Sidecar {
        let clients = Clients::Named(vec![ROUTING.to_owned()]);
        Sidecar::start_with(name, Some(ServerTls::grpc(self.identity(), clients).unwrap())).await
    }
}

async fn push(client: &PushClient<Channel>, business: u32, token: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(PushGroupRequest {
        business,
        group: "nobody".into(),
        payload: "x".into(),
        ..PushGroupRequest::default()
    });
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    client.clone().push_group(request).await.map(drop)
}

pub(super) fn secured(part: &Part, config: RoutingConfig) -> RoutingConfig {
    RoutingConfig {
        tls: Some(part.config()),
        sidecar_name: Some(SIDECAR.to_owned()),
        push_clients: vec![PUSH.to_owned()],
        ..config
    }
}

#[tokio::test]
async fn only_the_sidecar_with_the_right_certificate_is_heard() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let routing = Part::new(&ours, ROUTING);
    let [right, wrong_name] =
        [SIDECAR, "gateway.demo.default.imaccess.internal"].map(|name| Part::new(&ours, name));
    let stranger = Part::new(&theirs, SIDECAR);
    let mut a = right.sidecar("a").await;
    let b = wrong_name.sidecar("b").await;
    let c = stranger.sidecar("c").await;
    let plain = Sidecar::start("d").await;
    let config = secured(&routing, fixed(&[&a, &b, &c, &plain]));
    let caller = Part::new(&ours, PUSH);
    let replica = Replica::start_with(config, Some(caller.caller())).await;
    a.accept("test").await;
    a.announce(vec![announcement("d1", SESSION_A, 5)]).await;
    a.snapshot_done().await;
    replica
        .metric("imaccess_routing_instances{state=\"in_sync\"}", 1)
        .await;
    for reason in ["wrong_name", "unknown_authority", "not_tls"] {
        let counter =
            format!("imaccess_tls_handshake_failures_total{{reason=\"{reason}\",side=\"client\"}} ");
        eventually(&counter, async || {
            replica.page("/metrics").await.contains(&counter)
        })
        .await;
    }
    let call = replica.push_later(&["d1"], |_| ());
    let pushed = a.unicasts(1).await.remove(0);
    a.receipt(pushed.id, Outcome::Written).await;
    assert_eq!(call.await.unwrap(), [Outcome::Written]);

    // A sidecar that doesn't accept this replica's certificate isn't heard either, and says so.
    let impostor = Part::new(&ours, "gateway.demo.default.imaccess.internal");
    let mut config = secured(&impostor, fixed(&[&a]));
    config.suspect_after = Duration::from_secs(1);
    let refused = Replica::start_with(config, None).await;
    let counter = "imaccess_tls_handshake_failures_total{reason=\"wrong_name\",side=\"server\"} ";
    eventually(counter, async || {
        imaccess_common::metrics::render(&right.registry).contains(counter)
    })
    .await;
    refused.metric("imaccess_routing_feed_broken_total", 0).await;
    replica.stop().await;
    refused.stop().await;
}

#[tokio::test]
async fn a_push_needs_a_certificate_or_a_token_that_may() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let routing = Part::new(&ours, ROUTING);
    let directory = tempfile::tempdir().unwrap();
    let jwks = directory.path().join("jwks");
    let signer = Signer::rs256("one");
    std::fs::write(&jwks, Signer::key_set(&[&signer])).unwrap();
    let shop = BusinessConfig {
        pushers: vec![ServiceAccount {
            namespace: "shop".to_owned(),
            service_account: "orders".to_owned(),
        }],
        ..BusinessConfig::new(7, "shop", "http://shop:1")
    };
    let config = RoutingConfig {
        push_tokens: Some(PushTokensConfig {
            issuer: Some("https://kubernetes.default.svc".to_owned()),
            jwks: jwks.display().to_string(),
            audience: "imaccess-push".to_owned(),
            ca: None,
            token: None,
        }),
        businesses: vec![shop, BusinessConfig::new(8, "chat", "http://chat:1")],
        ..secured(&routing, quick())
    };
    let caller = Part::new(&ours, PUSH);
    let replica = Replica::start_with(config, Some(caller.caller())).await;
    let by = async |tls: ClientTls| connect_by(replica.push_addr, tls).await.unwrap();
    let code = |pushed: Result<(), Status>| pushed.map_or_else(|status| status.code(), |()| Code::Ok);

    // By certificate, for any business.
    let listed = by(caller.caller()).await;
    assert_eq!(code(push(&listed, 7, None).await), Code::Ok);
    assert_eq!(code(push(&listed, 99, Some("nonsense")).await), Code::Ok);
    let sidecar = Part::new(&ours, SIDECAR);
    let other = by(sidecar.caller()).await;
    let status = push(&other, 7, None).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains(SIDECAR), "{status}");
    let stranger = Part::new(&theirs, PUSH);
    let tls = ClientTls::grpc_once(
        &caller.files.path("ca.crt"),
        Some((&stranger.files.path("tls.crt"), &stranger.files.path("tls.key"))),
        ROUTING,
    );
    let refused = match connect_by(replica.push_addr, tls.unwrap()).await {
        Ok(client) => push(&client, 7, None).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "a certificate of another authority");

    // By token, for its businesses.
    let guest = by(caller.nobody()).await;
    let orders = Claims::of("shop", "orders", "imaccess-push");
    let token = |claims: &Claims| signer.sign(claims);
    assert_eq!(code(push(&guest, 7, Some(&token(&orders))).await), Code::Ok);
    assert_eq!(code(push(&other, 7, Some(&token(&orders))).await), Code::Ok);
    let expired = Claims {
        exp: 1,
        ..orders.clone()
    };
    let cases = [
        (7, None, Code::Unauthenticated, "unknown"),
        (8, Some(token(&orders)), Code::PermissionDenied, "account"),
        (99, Some(token(&orders)), Code::PermissionDenied, "account"),
        (
            7,
            Some(token(&Claims::of("shop", "carts", "imaccess-push"))),
            Code::PermissionDenied,
            "account",
        ),
        (
            7,
            Some(token(&Claims::of("shop", "orders", "vault"))),
            Code::Unauthenticated,
            "token_audience",
        ),
        (7, Some(token(&expired)), Code::Unauthenticated, "token_expired"),
        (
            7,
            Some(Signer::rs256("two").sign(&orders)),
            Code::Unauthenticated,
            "token_unknown_key",
        ),
        (
            7,
            Some(signer.unsigned(&orders, "none")),
            Code::Unauthenticated,
            "token_malformed",
        ),
    ];
    for (business, token, expected, reason) in cases {
        assert_eq!(
            code(push(&guest, business, token.as_deref()).await),
            expected,
            "{reason}"
        );
        let page = replica.page("/metrics").await;
        let counter = format!("imaccess_routing_push_refused_total{{reason=\"{reason}\"}}");
        assert!(page.contains(&counter), "{counter} is missing in\n{page}");
    }

    // Whoever doesn't speak TLS gets nothing at all.
    let plain = PushClient::connect(format!("http://{}", replica.push_addr)).await;
    let refused = match plain {
        Ok(client) => push(&client, 7, None).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    replica.stop().await;
}

#[tokio::test]
async fn what_would_be_open_by_mistake_does_not_start() {
    let ours = Authority::new("ours");
    let part = Part::new(&ours, ROUTING);
    let tokens = || PushTokensConfig {
        issuer: None,
        jwks: "https://kubernetes.default.svc/openid/v1/jwks".to_owned(),
        audience: "push".to_owned(),
        ca: Some("ca.crt".into()),
        token: Some("token".into()),
    };
    let full = || RoutingConfig {
        push_tokens: Some(tokens()),
        ..secured(&part, quick())
    };
    assert!(Routing::bind(full()).await.is_ok());
    type Spoil = fn(&mut RoutingConfig, PushTokensConfig);
    let spoilt: [(&str, Spoil); 9] = [
        ("push_clients: needs", |c, _| c.tls = None),
        ("push_tokens: needs", |c, _| {
            c.tls = None;
            c.push_clients.clear();
        }),
        ("sidecar_name: needs", |c, _| {
            c.tls = None;
            c.push_clients.clear();
            c.push_tokens = None;
        }),
        ("sidecar_name: must", |c, _| c.sidecar_name = None),
        ("push_clients: with", |c, _| {
            c.push_clients.clear();
            c.push_tokens = None;
        }),
        ("push_tokens.ca", |c, t| {
            c.push_tokens = Some(PushTokensConfig { ca: None, ..t });
        }),
        ("push_tokens.issuer", |c, t| {
            c.push_tokens = Some(PushTokensConfig { token: None, ..t });
        }),
        ("push_tokens.audience", |c, t| {
            c.push_tokens = Some(PushTokensConfig {
                audience: String::new(),
                ..t
            });
        }),
        ("businesses", |c, _| {
            c.businesses = vec![BusinessConfig::new(0, "zero", "http://a:1")];
        }),
    ];
    for (expected, spoil) in spoilt {
        let mut config = full();
        spoil(&mut config, tokens());
        let Err(RoutingError::Config(fault)) = Routing::bind(config).await else {
            panic!("{expected} was accepted")
        };
        assert!(fault.starts_with(expected), "{fault:?} should say {expected:?}");
    }
    let missing = RoutingConfig {
        tls: Some(TlsConfig {
            key: "/nowhere".into(),
            ..part.config()
        }),
        ..full()
    };
    assert!(matches!(Routing::bind(missing).await, Err(RoutingError::Tls(_))));
}

#[test]
fn the_keys_are_read_as_documented() {
    let text = "
tls: {certificate: /etc/imaccess-tls/tls.crt, key: /etc/imaccess-tls/tls.key, authority: /etc/imaccess-tls/ca.crt}
sidecar_name: sidecar.demo.default.imaccess.internal
push_clients: [push.demo.default.imaccess.internal]
push_tokens:
  jwks: https://kubernetes.default.svc/openid/v1/jwks
  audience: imaccess-push
  ca: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
  token: /var/run/secrets/kubernetes.io/serviceaccount/token
businesses:
  - {id: 7, name: shop, endpoint: 'http://shop:80', pushers: [{namespace: shop, service_account: orders}]}
";
    let config: RoutingConfig = serde_yaml::from_str(text).unwrap();
    assert_eq!(check(&config), Ok(()));
    assert_eq!(config.businesses[0].pushers[0].service_account, "orders");
    assert!(
        serde_yaml::from_str::<RoutingConfig>("tls: {certificate: a, key: b, authority: c, ca: d}").is_err()
    );
    assert!(serde_yaml::from_str::<RoutingConfig>("push_tokens: {jwks: a, audience: b, aud: c}").is_err());
}
