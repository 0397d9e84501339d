//! The end of a gateway that isn't replaced: clients are accepted for a while, told to go, and closed without a reset.
#![allow(clippy::unwrap_used, reason = "a test that fails here says where")]

mod harness;

use std::time::{Duration, Instant};

use harness::{Client, TestGateway, within};
use imaccess_gateway::config::GatewayDrain;
use imaccess_wire::frame::{GoAway, Ping};
use imaccess_wire::{Code, FrameType};

fn plan(rate: u32, propagation: u64, deadline: u64) -> GatewayDrain {
    GatewayDrain {
        rate,
        propagation: Duration::from_secs(propagation),
        deadline: Duration::from_secs(deadline),
    }
}

/// Reads a go-away that says: ask ipconfig, now.
async fn told(client: &mut Client) {
    let (kind, body) = client.frame().await;
    assert_eq!(kind, FrameType::GoAway);
    let away = GoAway::decode(&body).unwrap();
    assert_eq!((away.code, away.delay_ms), (Code::Draining as u16, 0));
    assert!(away.endpoints.iter().next().is_none() && away.ticket.is_empty());
    assert!(away.deadline_ms > 0 && away.deadline_ms <= 10_000);
}

#[tokio::test]
async fn clients_come_until_it_is_known_then_go_and_nobody_is_reset() {
    let gateway = TestGateway::start(|config| {
        config.drain = plan(0, 4, 8);
        config.deadlines.login = Duration::from_secs(60);
    })
    .await;
    let mut state = gateway.state().await;
    let (mut goes, handle) = gateway.online(&mut state, "goes").await;
    let (mut stays, _) = gateway.online(&mut state, "stays").await;
    gateway.drain.begin();
    gateway.metric_becomes("imaccess_gateway_draining", 1.0).await;
    assert!(gateway.ask("GET /readyz").await.starts_with("HTTP/1.1 503"));
    // It is still listed somewhere, and serves those who come.
    let (mut late, _) = gateway.online(&mut state, "late").await;
    // One that connects and hasn't logged in when the listeners close still may, and is told as well.
    let mut latest = gateway.client().await;
    told(&mut goes).await;
    told(&mut stays).await;
    told(&mut late).await;
    latest.login("latest").await;
    let attempt = state.login().await;
    state.accept(&attempt).await;
    assert_eq!(latest.frame().await.0, FrameType::LoginOk);
    told(&mut latest).await;
    assert!(tokio::net::TcpStream::connect(gateway.tcp).await.is_err());
    drop(goes);
    assert_eq!(state.closed().await, (handle, Code::ConnectionLost));
    gateway
        .metric_becomes("imaccess_gateway_drained_total{by=\"client\"}", 1.0)
        .await;
    assert_eq!(gateway.metric("imaccess_gateway_go_aways_total").await, 4.0);
    // Who stays is served to the end; what it sends when it is closed already turns the close into no reset.
    let mut ping = Vec::new();
    Ping::default().encode(&mut ping);
    stays.write(&ping).await;
    assert_eq!(stays.frame().await.0, FrameType::Pong);
    let (kind, _) = stays.frame().await;
    assert_eq!(kind, FrameType::Close);
    stays.write(&ping).await;
    assert!(stays.next().await.is_none());
    assert_eq!(late.close_code().await, Code::Draining);
    assert_eq!(latest.close_code().await, Code::Draining);
    drop((stays, late, latest));
    within("the end", gateway.ended).await.unwrap();
}

#[tokio::test]
async fn clients_are_told_at_the_rate_of_all_shards_together() {
    let gateway = TestGateway::start(|config| {
        config.shards = 2;
        config.drain = plan(8, 0, 60);
    })
    .await;
    let mut states = [gateway.state().await, gateway.state_of(1).await];
    let mut clients = Vec::new();
    for index in 0..24 {
        clients.push(gateway.online_at_any(&mut states, &format!("d{index}")).await);
    }
    let begin = Instant::now();
    gateway.drain.begin();
    // Reading in order is enough: the last one of each shard is told last.
    for client in &mut clients {
        told(client).await;
    }
    // The first second's share is there at the latest after a tick; a busy machine is only slower.
    assert!(
        begin.elapsed() >= Duration::from_millis(1_900),
        "{:?}",
        begin.elapsed()
    );
    drop(clients);
    // It ends with the last client, long before its deadline.
    within("the end", gateway.ended).await.unwrap();
}

#[tokio::test]
async fn a_client_that_ignores_it_does_not_hold_the_end_up() {
    let gateway = TestGateway::start(|config| config.drain = plan(0, 0, 600)).await;
    let mut state = gateway.state().await;
    let (mut client, _) = gateway.online(&mut state, "deaf").await;
    gateway.drain.begin();
    told(&mut client).await;
    assert_eq!(client.close_code().await, Code::Draining);
    drop(client);
    within("the end", gateway.ended).await.unwrap();
}

#[tokio::test]
async fn without_a_client_the_end_comes_with_the_propagation() {
    let gateway = TestGateway::start(|config| config.drain = plan(1, 1, 600)).await;
    let _state = gateway.state().await;
    gateway.drain.begin();
    within("the end", gateway.ended).await.unwrap();
}

#[tokio::test]
async fn what_may_change_at_run_time_takes_effect_when_the_file_changes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.yaml");
    let write = |text: &str| {
        let new = directory.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &file).unwrap();
    };
    write("limits: {connections: 1}");
    let gateway = TestGateway::start_reloading(&file).await;
    let mut state = gateway.state().await;
    let (mut first, _) = gateway.online(&mut state, "first").await;
    let mut refused = gateway.client().await;
    assert_eq!(refused.frame().await.0, FrameType::LoginRefused);
    write("{bandwidth: 5, limits: {connections: 2}, drain: {deadline: 60s}}");
    gateway
        .metric_becomes("imaccess_gateway_connection_limit", 2.0)
        .await;
    let (mut second, _) = gateway.online(&mut state, "second").await;
    write("{limits: {connections: none}}");
    let failures = "imaccess_configuration_reload_failures_total{what=\"gateway\"}";
    gateway.metric_becomes(failures, 1.0).await;
    assert_eq!(gateway.metric("imaccess_gateway_connection_limit").await, 2.0);
    gateway.drain.begin();
    told(&mut first).await;
    told(&mut second).await;
    drop((first, second, refused));
    within("the end", gateway.ended).await.unwrap();
}
