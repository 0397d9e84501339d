//! `top` over pages that are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::exit::status_of;
use crate::push_api::fake::parsed;

/// A gateway's page whose counter grows by 100 with each reading, and ipconfig's.
async fn cluster() -> String {
    let reads = Arc::new(AtomicU32::new(0));
    let metrics = move || {
        let reads = reads.fetch_add(1, Ordering::Relaxed);
        let page = format!(
            "imaccess_build_info{{part=\"ipconfig\",version=\"1\"}} 1\n\
             imaccess_ipconfig_score{{gateway=\"gw\",kind=\"dynamic\"}} 1.5\n\
             imaccess_gateway_connections 3\nimaccess_gateway_sent_bytes_total {}\n",
            reads * 100
        );
        std::future::ready(page)
    };
    let scores = json!({"cluster": "c", "gateways": [{"name": "gw", "state": "listed", "endpoints": []}]});
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/v1/scores", get(move || std::future::ready(scores.to_string())));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test]
async fn two_readings_become_rates_and_standings() {
    let address = cluster().await;
    let page: NamedUrl = format!("gw={address}").parse().unwrap();
    let pages = Pages::find(None, vec![page], None, Duration::from_secs(1)).unwrap();
    let (before, now) = (pages.read().await, pages.read().await);
    let view = rates::between(&before, &now);
    let gateway = &view.gateways[0];
    assert_eq!(
        (gateway.state.as_deref(), gateway.connections),
        (Some("listed"), Some(3.0))
    );
    assert_eq!(gateway.score_dynamic, Some(1.5));
    assert!(gateway.out_bytes_per_s.unwrap() > 0.0, "{gateway:?}");
}

#[tokio::test]
async fn one_interval_is_enough_and_a_page_that_is_away_is_shown_as_such() {
    let address = cluster().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let away = free.local_addr().unwrap().to_string();
    drop(free);
    let both = format!("gw={address},{away}");
    let words = ["--metrics", &both, "--once", "--json", "--interval", "100ms"];
    assert_eq!(top(parsed(&words)).await.unwrap(), ExitCode::SUCCESS);
    let words = ["--metrics", &away, "--once", "--interval", "100ms"];
    let error = top(parsed(&words)).await.unwrap_err();
    assert_eq!(status_of(&error), RETRY.into());
    assert!(format!("{error:#}").contains(&away), "{error:#}");
}
