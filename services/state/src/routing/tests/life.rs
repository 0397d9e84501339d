//! What is said of devices while instances come, break, return and go.

use std::time::Duration;

use imaccess_proto::v1::{InstanceAnswer, Outcome};

use super::fake::{Replica, Sidecar, announcement, eventually, fixed, presence, quick};
use super::{SESSION_A, SESSION_B};
use crate::routing::{MembersConfig, RoutingConfig};

#[tokio::test]
async fn offline_is_said_only_in_sync_with_all() {
    let (mut a, mut b) = (Sidecar::start("a").await, Sidecar::start("b").await);
    let replica = Replica::start(fixed(&[&a, &b])).await;
    assert_eq!(
        replica.push(&["x"]).await,
        [Outcome::Retry],
        "nobody was heard yet"
    );
    a.accept("test").await;
    b.accept("test").await;
    a.announce(vec![announcement("d", SESSION_A, 1)]).await;
    a.snapshot_done().await;
    replica
        .metric("imaccess_routing_instances{state=\"in_sync\"}", 1)
        .await;
    assert_eq!(replica.push(&["x"]).await, [Outcome::Retry], "b may have it");
    assert!(replica.page("/readyz").await.starts_with("HTTP/1.1 503"));
    b.snapshot_done().await;
    replica.in_sync().await;
    assert_eq!(replica.push(&["x"]).await, [Outcome::Offline]);
    eventually("ready", async || {
        replica.page("/readyz").await.starts_with("HTTP/1.1 200")
    })
    .await;

    // A push on its way when the stream breaks is answered at once, and nothing is offline any more.
    let call = replica.push_later(&["d"], |_| ());
    a.unicasts(1).await;
    a.disconnect();
    assert_eq!(call.await.unwrap(), [Outcome::Retry]);
    assert_eq!(replica.push(&["d", "x"]).await, [Outcome::Retry, Outcome::Retry]);

    // It comes back with another snapshot: what is not in it goes at its end, and not before.
    a.accept("test").await;
    a.announce(vec![announcement("e", SESSION_A, 2)]).await;
    a.acknowledged().await;
    assert_eq!(replica.push(&["d", "e"]).await, [Outcome::Retry, Outcome::Retry]);
    a.snapshot_done().await;
    replica.in_sync().await;
    let call = replica.push_later(&["d", "e"], |_| ());
    let push = a.unicasts(1).await.remove(0);
    assert_eq!(push.epoch, 2);
    a.receipt(push.id, Outcome::Written).await;
    assert_eq!(call.await.unwrap(), [Outcome::Offline, Outcome::Written]);
    replica.stop().await;
}

#[tokio::test]
async fn a_dead_instance_is_forgotten_after_its_window() {
    let (mut a, mut b) = (Sidecar::start("a").await, Sidecar::start("b").await);
    let config = RoutingConfig {
        dead_after: Duration::from_millis(300),
        resume_window: Duration::from_millis(300),
        ..fixed(&[&a, &b])
    };
    let replica = Replica::start(config).await;
    a.accept("test").await;
    b.accept("test").await;
    a.announce(vec![announcement("d", SESSION_A, 1)]).await;
    a.snapshot_done().await;
    b.snapshot_done().await;
    replica.in_sync().await;
    a.shut_down().await;
    replica
        .metric("imaccess_routing_instances{state=\"suspect\"}", 1)
        .await;
    assert_eq!(replica.push(&["d"]).await, [Outcome::Retry]);
    replica
        .metric("imaccess_routing_instances{state=\"dead\"}", 1)
        .await;
    assert_eq!(
        replica.push(&["d"]).await,
        [Outcome::Retry],
        "its session may resume elsewhere"
    );
    eventually("offline", async || {
        replica.push(&["d"]).await == [Outcome::Offline]
    })
    .await;
    replica.metric("imaccess_routing_routes", 0).await;
    replica.stop().await;
}

#[tokio::test]
async fn the_devices_of_a_lost_instance_are_said_to_one_that_lives_until_it_has_taken_them() {
    let (mut a, mut b, mut c) = (
        Sidecar::start("a").await,
        Sidecar::start("b").await,
        Sidecar::start("c").await,
    );
    let config = RoutingConfig {
        dead_after: Duration::from_millis(200),
        resume_window: Duration::from_millis(200),
        receipt_timeout: Duration::from_millis(200),
        ..fixed(&[&a, &b, &c])
    };
    let replica = Replica::start(config).await;
    for sidecar in [&mut a, &mut b, &mut c] {
        sidecar.accept("test").await;
    }
    c.announce(vec![
        announcement("lost", SESSION_A, 5),
        announcement("resumed", SESSION_B, 6),
    ])
    .await;
    for sidecar in [&mut a, &mut b, &mut c] {
        sidecar.snapshot_done().await;
    }
    replica.in_sync().await;
    c.shut_down().await;
    b.announce(vec![announcement("resumed", SESSION_B, 9)]).await;
    b.acknowledged().await;
    let said = a.lost().await;
    let names: Vec<_> = said
        .sessions
        .iter()
        .map(|lost| (lost.device.as_str(), lost.epoch))
        .collect();
    assert_eq!((said.instance.as_str(), names), ("instance-c", vec![("lost", 5)]));
    assert_eq!(&said.sessions[0].session[..], SESSION_A);
    // It takes nothing: the next in line is told, as the first is gone.
    a.shut_down().await;
    let again = b.lost().await;
    assert_eq!(again.sessions, said.sessions);
    b.answer(InstanceAnswer {
        id: again.id,
        count: 1,
        ..InstanceAnswer::default()
    })
    .await;
    replica.metric("imaccess_routing_lost_devices_total", 1).await;
    replica.stop().await;
}

#[tokio::test]
async fn the_membership_file_says_who_lives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("members.json");
    let write = |sidecars: &[&Sidecar]| {
        let gateways: Vec<_> = sidecars.iter().map(|sidecar| sidecar.member()).collect();
        let new = directory.path().join("new");
        std::fs::write(&new, serde_json::json!({ "gateways": gateways }).to_string()).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    let (mut a, mut b) = (Sidecar::start("a").await, Sidecar::start("b").await);
    let config = RoutingConfig {
        resume_window: Duration::from_millis(200),
        members: MembersConfig {
            file: Some(path.clone()),
            file_interval: Duration::from_millis(5),
            ..MembersConfig::default()
        },
        ..quick()
    };
    let replica = Replica::start(config).await;
    assert_eq!(
        replica.push(&["x"]).await,
        [Outcome::Retry],
        "who lives isn't known yet"
    );
    assert_eq!(replica.push_group("g").await.unwrap().unsynced, 1);
    write(&[&a]);
    a.accept("test").await;
    a.announce(vec![announcement("d", SESSION_A, 1)]).await;
    a.snapshot_done().await;
    replica.in_sync().await;
    assert_eq!(replica.push(&["x"]).await, [Outcome::Offline]);

    write(&[&a, &b]);
    eventually("b is waited for", async || {
        replica.push(&["x"]).await == [Outcome::Retry]
    })
    .await;
    b.accept("test").await;
    b.snapshot_done().await;
    replica.in_sync().await;

    // Its pod is gone, and all it had was known: others are offline at once, its own devices after the window.
    write(&[&b]);
    replica
        .metric("imaccess_routing_instances{state=\"dead\"}", 1)
        .await;
    assert_eq!(replica.push(&["x"]).await, [Outcome::Offline]);
    eventually("offline", async || {
        replica.push(&["d"]).await == [Outcome::Offline]
    })
    .await;
    replica
        .metric("imaccess_routing_instances{state=\"dead\"}", 0)
        .await;

    // The same instance again, from nothing.
    write(&[&a, &b]);
    a.accept("test").await;
    a.announce(vec![announcement("d", SESSION_A, 1)]).await;
    a.snapshot_done().await;
    replica.in_sync().await;
    replica.metric("imaccess_routing_routes", 1).await;
    replica.stop().await;
}

#[tokio::test]
async fn a_sidecar_of_another_cluster_is_refused() {
    let mut a = Sidecar::start("a").await;
    let replica = Replica::start(fixed(&[&a])).await;
    a.accept("elsewhere").await;
    replica
        .metric("imaccess_routing_feed_refused_total{reason=\"cluster\"}", 1)
        .await;
    assert_eq!(replica.push(&["x"]).await, [Outcome::Retry]);
    a.accept("test").await;
    a.snapshot_done().await;
    replica.in_sync().await;
    replica.stop().await;
}

#[tokio::test]
async fn a_sidecar_that_leaves_gets_what_was_sent_before_and_nothing_after() {
    let mut a = Sidecar::start("a").await;
    let replica = Replica::start(fixed(&[&a])).await;
    a.accept("test").await;
    a.announce(vec![announcement("d", SESSION_A, 1)]).await;
    a.groups(vec![presence("g", true)]).await;
    a.snapshot_done().await;
    replica.in_sync().await;
    let before = replica.push_group("g").await.unwrap();
    assert_eq!((before.instances, before.unsynced), (1, 0));
    let call = replica.push_later(&["d"], |_| ());
    let push = a.unicasts(1).await.remove(0);
    a.leave().await;
    a.last().await;
    // What was sent before has come before.
    assert_eq!(a.group_pushes(1).await.len(), 1);
    let after = replica.push_group("g").await.unwrap();
    assert_eq!(
        (after.instances, after.unsynced),
        (0, 1),
        "it is said that it doesn't arrive"
    );
    assert_eq!(replica.push(&["d"]).await, [Outcome::Retry]);
    // A receipt of what was on its way still counts.
    a.receipt(push.id, Outcome::Written).await;
    assert_eq!(call.await.unwrap(), [Outcome::Written]);
    // A snapshot that ends now says nothing of what comes after.
    a.snapshot_done().await;
    a.announce(vec![announcement("e", SESSION_A, 2)]).await;
    a.acknowledged().await;
    assert_eq!(replica.push(&["d", "e"]).await, [Outcome::Retry, Outcome::Retry]);
    // The next one begins anew.
    a.disconnect();
    a.accept("test").await;
    a.announce(vec![announcement("d", SESSION_A, 1)]).await;
    a.groups(vec![presence("g", true)]).await;
    a.snapshot_done().await;
    replica.in_sync().await;
    let again = replica.push_group("g").await.unwrap();
    assert_eq!((again.instances, again.unsynced), (1, 0));
    replica.stop().await;
}
