//! ipconfig from outside: real sockets on port 0, gateways whose metrics pages the test writes.
#![expect(
    clippy::unwrap_used,
    reason = "a test that unwraps fails with the place and the value"
)]

mod scoring;
mod sources;
mod support;

use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::http::StatusCode;
use imaccess_common::clock::unix_s;
use imaccess_common::token::{Claims, DevelopmentIssuer, DevelopmentVerifier, TokenVerifier};
use imaccess_ipconfig::{BusinessName, GatewayTarget, Ipconfig, IpconfigConfig};
use serde_json::json;
use tokio::net::TcpListener;

use self::support::{PATIENCE, Page, Running, figures, gateway, quick, wait_for_metric};

#[tokio::test]
async fn the_list_follows_the_scores() {
    let (a, b, c) = (Page::of(900, 1e9), Page::of(100, 1e9), Page::of(999, 2e9));
    let ((a_at, _), (b_at, _), (c_at, _)) = (a.serve().await, b.serve().await, c.serve().await);
    let running = Running::start(quick(vec![
        gateway("a", a_at),
        gateway("b", b_at),
        gateway("c", c_at),
    ]))
    .await;
    // Bandwidth first, then free connections.
    running.wait_for(&["c", "b", "a"]).await;
    assert_eq!(running.names("/v1/endpoints?k=2").await, ["c", "b"]);
    c.say(figures(999, 2e9).replace("draining 0", "draining 1"));
    running.wait_for(&["b", "a"]).await;
    c.say(figures(1_000, 2e9));
    running.wait_for(&["b", "a", "c"]).await;
    running.end().await;
}

#[tokio::test]
async fn an_answer_has_the_promised_form_and_its_version_rises() {
    let (at, _) = Page::of(0, 1e9).serve().await;
    let running = Running::start(quick(vec![gateway("a", at)])).await;
    let (_, first) = running
        .ask("/v1/endpoints?app=x&platform=ios&carrier=a%20b&whatever")
        .await;
    let endpoint = json!({
        "name": "a", "cluster": "test", "protocol": "tcp", "host": "127.0.0.1", "port": 7000, "server_name": null,
    });
    let version = first["version"].as_u64().unwrap();
    let expected = json!({
        "version": version, "cluster": "test", "ttl_s": 60, "retry_after_s": 1, "endpoints": [endpoint],
    });
    assert_eq!(first, expected);
    let begun = Instant::now();
    while running.ask("/v1/endpoints").await.1["version"].as_u64().unwrap() <= version {
        assert!(begun.elapsed() < PATIENCE);
    }
    running.end().await;
}

#[tokio::test]
async fn a_gateway_that_dies_leaves_and_comes_back() {
    let (a, b, c) = (Page::of(0, 3e9), Page::of(0, 2e9), Page::of(0, 1e9));
    let ((a_at, stop_a), (b_at, _), (c_at, _)) = (a.serve().await, b.serve().await, c.serve().await);
    let running = Running::start(quick(vec![
        gateway("a", a_at),
        gateway("b", b_at),
        gateway("c", c_at),
    ]))
    .await;
    wait_for_metric(&running, "imaccess_ipconfig_gateways{state=\"listed\"} 3").await;
    running.wait_for(&["a", "b", "c"]).await;
    stop_a.cancel();
    running.wait_for(&["b", "c"]).await;
    // A page that is none is as bad as no page; now two of three fail, and it's the scraper that is ill.
    b.say("<html>".to_owned());
    wait_for_metric(&running, "imaccess_ipconfig_scraper_ill 1").await;
    let reads = b.reads.load(Ordering::Relaxed);
    while b.reads.load(Ordering::Relaxed) < reads + 10 {
        assert_eq!(running.names("/v1/endpoints").await, ["b", "c"]);
    }
    b.say(figures(0, 2e9));
    wait_for_metric(&running, "imaccess_ipconfig_scraper_ill 0").await;
    running.end().await;
}

#[tokio::test]
async fn pages_that_are_none_are_counted_by_what_is_wrong() {
    let (good, long, short) = (Page::of(0, 1e9), Page::of(0, 1e9), Page::of(0, 1e9));
    long.say("x".repeat(2 << 20));
    short.say(figures(0, 1e9).replace("limit 1e9", "limit NaN"));
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ((good_at, _), (long_at, _), (short_at, _)) =
        (good.serve().await, long.serve().await, short.serve().await);
    let gateways = vec![
        gateway("good", good_at),
        gateway("long", long_at),
        gateway("short", short_at),
        gateway("silent", silent.local_addr().unwrap()),
    ];
    let running = Running::start(quick(gateways)).await;
    running.wait_for(&["good"]).await;
    for result in ["ok", "too_long", "malformed", "timeout"] {
        wait_for_metric(
            &running,
            &format!("imaccess_ipconfig_scrapes_total{{result=\"{result}\"}}"),
        )
        .await;
    }
    running.end().await;
}

#[tokio::test]
async fn a_targets_file_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("targets.json");
    let write = |gateways: &[GatewayTarget]| {
        let new = directory.path().join("new");
        std::fs::write(&new, json!({ "gateways": gateways }).to_string()).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    let ((a_at, _), (b_at, _)) = (Page::of(0, 2e9).serve().await, Page::of(0, 1e9).serve().await);
    let config = IpconfigConfig {
        targets_file: Some(path.clone()),
        ..quick(Vec::new())
    };
    let running = Running::start(config).await;

    let (status, answer) = running.ask("/v1/endpoints").await;
    assert_eq!(
        (status, &answer["error"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("no_gateways"))
    );
    assert_eq!(running.page("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(running.page("/healthz").await.0, StatusCode::OK);

    write(&[gateway("a", a_at), gateway("b", b_at)]);
    let begun = Instant::now();
    while running.page("/readyz").await.0 != StatusCode::OK {
        assert!(begun.elapsed() < PATIENCE);
    }
    running.wait_for(&["a", "b"]).await;
    write(&[gateway("b", b_at)]);
    wait_for_metric(&running, "imaccess_ipconfig_gateways{state=\"listed\"} 1").await;
    running.wait_for(&["b"]).await;
    std::fs::write(&path, "{gateways: nonsense").unwrap();
    wait_for_metric(&running, "imaccess_ipconfig_target_faults_total 1").await;
    assert_eq!(running.names("/v1/endpoints").await, ["b"]);
    running.end().await;
}

#[tokio::test]
async fn development_mode_issues_tokens_for_device_and_app() {
    let directory = tempfile::tempdir().unwrap();
    let issuer = DevelopmentIssuer::generate();
    let key = directory.path().join("key.pem");
    std::fs::write(&key, issuer.to_pem()).unwrap();
    let (at, _) = Page::of(0, 1e9).serve().await;
    let config = IpconfigConfig {
        development_signing_key: Some(key),
        ..quick(vec![gateway("a", at)])
    };
    let running = Running::start(config).await;

    let (_, answer) = running.ask("/v1/endpoints?device=d%201&app=demo&k=3").await;
    let verifier = DevelopmentVerifier::new("test", [issuer.public_key().clone()]);
    let token = answer["token"].as_str().unwrap();
    let expected = Claims {
        device: "d 1".to_owned(),
        app: "demo".to_owned(),
    };
    assert_eq!(verifier.verify(token.as_bytes(), unix_s()), Ok(expected));
    for without in [
        "/v1/endpoints",
        "/v1/endpoints?device=d",
        "/v1/endpoints?app=demo",
    ] {
        assert_eq!(running.ask(without).await.1.get("token"), None, "{without}");
    }
    for wrong in [
        format!("device=d&app={}", "a".repeat(13)),
        format!("app=a&device={}", "d".repeat(37)),
        "app=&device=d".to_owned(),
    ] {
        assert_eq!(
            running.ask(&format!("/v1/endpoints?{wrong}")).await.0,
            StatusCode::BAD_REQUEST,
            "{wrong}"
        );
    }
    running.end().await;

    let ordinary = Running::start(quick(vec![gateway("a", at)])).await;
    assert_eq!(
        ordinary
            .ask("/v1/endpoints?device=d&app=demo")
            .await
            .1
            .get("token"),
        None
    );
    ordinary.end().await;
}

#[tokio::test]
async fn what_can_not_be_answered_is_said_in_json() {
    let (at, _) = Page::of(0, 1e9).serve().await;
    let businesses = vec![BusinessName {
        id: 1,
        name: "echo".to_owned(),
    }];
    let running = Running::start(IpconfigConfig {
        businesses,
        ..quick(vec![gateway("a", at)])
    })
    .await;
    for wrong in ["k=0", "k=-1", "k=x", "k=1&k=2"] {
        let (status, answer) = running.ask(&format!("/v1/endpoints?{wrong}")).await;
        assert_eq!(
            (status, &answer["error"]),
            (StatusCode::BAD_REQUEST, &json!("query")),
            "{wrong}"
        );
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|message| message.contains('k')),
            "{answer}"
        );
    }
    let (status, _) = running.ask("/v1/endpoints?k=100").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(running.ask("/v2").await.0, StatusCode::NOT_FOUND);
    let posted = running
        .client
        .post(format!("{}/v1/endpoints", running.url))
        .send()
        .await
        .unwrap();
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
    let (_, businesses) = running.ask("/v1/businesses").await;
    assert_eq!(businesses, json!({ "businesses": [{ "id": 1, "name": "echo" }] }));
    running.end().await;
}

#[tokio::test]
async fn several_workers_share_one_address() {
    let (at, _) = Page::of(0, 1e9).serve().await;
    let config = IpconfigConfig {
        workers: 3,
        ..quick(vec![gateway("a", at)])
    };
    let running = Running::start(config).await;
    for _ in 0..20 {
        // A connection of its own each, so that every worker gets some.
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client
            .get(format!("{}/v1/endpoints", running.url))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    running.end().await;
}

#[tokio::test]
async fn what_can_not_start_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let failing = [
        (
            IpconfigConfig {
                listen: address,
                ..quick(Vec::new())
            },
            address.to_string(),
        ),
        (
            IpconfigConfig {
                admin: address,
                ..quick(Vec::new())
            },
            address.to_string(),
        ),
        (
            IpconfigConfig {
                cluster: String::new(),
                ..quick(Vec::new())
            },
            "cluster".to_owned(),
        ),
        (
            IpconfigConfig {
                development_signing_key: Some("/nowhere/k.pem".into()),
                ..quick(Vec::new())
            },
            "/nowhere/k.pem".to_owned(),
        ),
    ];
    for (config, expected) in failing {
        let fault = Ipconfig::bind(config)
            .await
            .err()
            .expect("it can't start")
            .to_string();
        assert!(fault.contains(&expected), "{fault:?} should name {expected}");
    }
    // Bound and dropped: the port is free again as soon as the worker has gone.
    let ipconfig = Ipconfig::bind(quick(Vec::new())).await.unwrap();
    let address = ipconfig.local_addr();
    drop(ipconfig);
    let begun = Instant::now();
    while TcpListener::bind(address).await.is_err() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
}
