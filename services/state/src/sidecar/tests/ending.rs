//! The end of a pod: the gateway has gone before the sidecar.

use super::harness::ServeStream;
use super::*;

async fn events_until(business: &mut ServeStream, kind: EventKind) -> usize {
    let mut seen = 0;
    loop {
        let events = business.next().await.events;
        seen += events.len();
        if let Some(last) = events.last() {
            business.acknowledge(last.sequence).await;
        }
        if events.iter().any(|event| event.kind() == kind) {
            return seen;
        }
    }
}

/// The gateway's process is gone, and its socket leads nowhere.
async fn gateway_ends(running: &harness::Running, link: LinkStream) {
    std::fs::remove_file(running.directory.path().join("shard-0.sock")).unwrap();
    drop(link);
    soon(async {
        while !running.metrics().await.contains("imaccess_state_links 0") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_does_not_come_back_is_told_before_the_sidecar_ends() {
    let (address, mut streams) = business().await;
    let running = start(vec![echo_business(address)], |config| {
        config.resume_window = Duration::from_millis(600);
    })
    .await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    let mut business = soon(streams.recv()).await.unwrap();
    let login = link.login(running.attempt(1, "alice", b"", &[])).await;
    logged_in(&login);
    events_until(&mut business, EventKind::Online).await;
    gateway_ends(&running, link).await;
    running.drain.begin();
    assert_eq!(events_until(&mut business, EventKind::Offline).await, 1);
    soon(running.ended).await.unwrap();
}

#[tokio::test]
async fn what_can_not_be_told_does_not_hold_the_end_up() {
    let running = start(
        vec![echo_business(SocketAddr::from(([127, 0, 0, 1], 1)))],
        |config| {
            config.resume_window = Duration::from_millis(100);
            config.end_grace = Some(Duration::from_millis(400));
        },
    )
    .await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    logged_in(&link.login(running.attempt(1, "alice", b"", &[])).await);
    gateway_ends(&running, link).await;
    running.drain.begin();
    soon(running.ended).await.unwrap();
}

#[tokio::test]
async fn a_sidecar_without_sessions_does_not_wait() {
    let running = start(vec![], |_| ()).await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let link = attach(&mut shard).await;
    gateway_ends(&running, link).await;
    running.drain.begin();
    // Far below its grace, which is beyond what `soon` allows.
    soon(running.ended).await.unwrap();
}
