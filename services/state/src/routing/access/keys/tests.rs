use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use imaccess_common::http::{Limits, serve_router};
use imaccess_common::metrics::{counter_vec, gauge, render};
use imaccess_common::tls::{Clients, Identity, ServerTls, TlsConfig, TlsMetrics};
use prometheus::Registry;
use tokio::net::TcpListener;

use super::*;
use crate::authority::{Authority, Files};
use crate::routing::access::testing::{Claims, Signer};

fn keys(config: PushTokensConfig, pause: Duration) -> (Arc<Keys>, Registry) {
    let registry = Registry::new();
    let fetches = counter_vec(&registry, "imaccess_fetches_total", "Fetches.", &["result"]);
    let count = gauge(&registry, "imaccess_keys", "Keys.");
    (
        Arc::new(Keys::new(config, fetches, count).with_pause(pause)),
        registry,
    )
}

fn has(registry: &Registry, line: &str) -> bool {
    render(registry).lines().any(|found| found == line)
}

fn orders() -> Claims {
    Claims::of("shop", "orders", "push")
}

fn refused(account: Result<ServiceAccount, Refusal>) -> &'static str {
    account.unwrap_err().label()
}

#[tokio::test]
async fn a_key_that_is_not_known_is_asked_for_but_not_at_every_call() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jwks");
    let (one, two) = (Signer::es256("one"), Signer::es256("two"));
    let config = PushTokensConfig {
        issuer: Some(orders().iss),
        jwks: file.display().to_string(),
        audience: "push".to_owned(),
        ca: None,
        token: None,
    };
    // Without a pause: what is there counts.
    let (patient, registry) = keys(config.clone(), Duration::ZERO);
    assert_eq!(refused(patient.account(&one.sign(&orders())).await), "no_keys");
    std::fs::write(&file, Signer::key_set(&[&one])).unwrap();
    assert!(patient.account(&one.sign(&orders())).await.is_ok());
    assert_eq!(
        refused(patient.account(&two.sign(&orders())).await),
        "token_unknown_key"
    );
    std::fs::write(&file, Signer::key_set(&[&one, &two])).unwrap();
    assert!(patient.account(&two.sign(&orders())).await.is_ok());
    assert!(has(&registry, "imaccess_keys 2"));
    assert!(has(&registry, "imaccess_fetches_total{result=\"fetched\"} 3"));
    // A set that can't be had leaves the last one in use.
    std::fs::write(&file, "nonsense").unwrap();
    let three = Signer::es256("three").sign(&orders());
    assert_eq!(refused(patient.account(&three).await), "no_keys");
    assert!(patient.account(&one.sign(&orders())).await.is_ok());

    // With a pause: keys that don't exist cost one fetch.
    std::fs::write(&file, Signer::key_set(&[&one])).unwrap();
    let (busy, registry) = keys(config, Duration::from_secs(3_600));
    for _ in 0..10 {
        assert_eq!(refused(busy.account(&three).await), "token_unknown_key");
    }
    assert!(busy.account(&one.sign(&orders())).await.is_ok());
    assert_eq!(refused(busy.account("nonsense").await), "token_malformed");
    assert!(has(&registry, "imaccess_fetches_total{result=\"fetched\"} 1"));
}

#[tokio::test]
async fn the_key_set_is_fetched_with_the_pods_own_token_which_tells_the_issuer() {
    let (authority, other) = (Authority::new("cluster"), Authority::new("other"));
    let files = Files::new(&authority.issue(&["localhost"]), &[&authority]);
    let identity = Identity::load(
        TlsConfig {
            certificate: files.path("tls.crt"),
            key: files.path("tls.key"),
            authority: files.path("ca.crt"),
        },
        TlsMetrics::register(&Registry::new()),
    )
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = ServerTls::http(identity, Clients::Guests)
        .unwrap()
        .incoming(listener);
    let signer = Signer::rs256("one");
    let (set, asked) = (Signer::key_set(&[&signer]), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&asked);
    let jwks = async move |headers: HeaderMap| {
        let number = seen.fetch_add(1, Ordering::Relaxed);
        let sent = headers["authorization"].to_str().unwrap_or_default();
        // The token is read anew for each fetch.
        if sent.ends_with(&format!(".{number}")) {
            Ok(set)
        } else {
            Err(StatusCode::UNAUTHORIZED)
        }
    };
    let router = Router::new().route("/openid/v1/jwks", get(jwks));
    let limits = Limits {
        connections: 4,
        header_timeout: Duration::from_secs(5),
        max_age: Duration::from_secs(30),
        close_timeout: Duration::from_millis(100),
        buffer_bytes: 8_192,
    };
    let stop = CancellationToken::new();
    tokio::spawn(serve_router(incoming, router, limits, stop.clone()));

    let own = files.path("token");
    // A projected token's first two parts; the server above looks at what follows.
    let unsigned = signer.unsigned(&orders(), "RS256");
    let write = |number: usize| std::fs::write(&own, format!("{unsigned}{number}\n")).unwrap();
    let config = PushTokensConfig {
        issuer: None,
        jwks: format!("https://localhost:{port}/openid/v1/jwks"),
        audience: "push".to_owned(),
        ca: Some(files.path("ca.crt")),
        token: Some(own.clone()),
    };
    write(0);
    let (first, _) = keys(config.clone(), Duration::ZERO);
    assert!(first.account(&signer.sign(&orders())).await.is_ok());
    let elsewhere = Claims {
        iss: "https://elsewhere".to_owned(),
        ..orders()
    };
    assert_eq!(
        refused(first.account(&signer.sign(&elsewhere)).await),
        "token_issuer"
    );
    write(1);
    let (second, registry) = keys(config.clone(), Duration::ZERO);
    let kept = tokio::spawn(Arc::clone(&second).keep(stop.clone()));
    while !has(&registry, "imaccess_keys 1") {
        tokio::task::yield_now().await;
    }
    assert!(second.account(&signer.sign(&orders())).await.is_ok());

    // A server of another authority is not believed, and gets no token.
    std::fs::write(files.path("other.crt"), &other.pem).unwrap();
    let (deceived, _) = keys(
        PushTokensConfig {
            ca: Some(files.path("other.crt")),
            ..config
        },
        Duration::ZERO,
    );
    assert_eq!(
        refused(deceived.account(&signer.sign(&orders())).await),
        "no_keys"
    );
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    stop.cancel();
    kept.await.unwrap();
}
