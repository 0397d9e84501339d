//! A replica between fake sidecars and a business: over real sockets, on ports the kernel chooses.

mod access;
mod commands;
mod fake;
mod http;
mod life;

use std::time::Duration;

use imaccess_common::clock::unix_ms;
use imaccess_proto::v1::{DeliveryClass, Outcome};
use tonic::Code;

use self::fake::{Replica, Sidecar, announcement, eventually, fixed, presence, quick, retraction};
use super::*;

const SESSION_A: [u8; 16] = [0xa; 16];
const SESSION_B: [u8; 16] = [0xb; 16];

#[tokio::test]
async fn a_push_goes_where_the_device_is_and_its_receipt_comes_back() {
    let (mut a, mut b) = (Sidecar::start("a").await, Sidecar::start("b").await);
    let replica = Replica::start(fixed(&[&a, &b])).await;
    let hello = a.accept("test").await;
    assert_eq!(hello.cluster, "test");
    b.accept("test").await;
    a.announce(vec![announcement("d1", SESSION_A, 5)]).await;
    b.announce(vec![announcement("d2", SESSION_B, 6)]).await;
    a.snapshot_done().await;
    b.snapshot_done().await;
    replica.in_sync().await;
    assert_eq!(a.acknowledged().await, 1);

    let before = unix_ms();
    let call = replica.push_later(&["d2", "nobody", "d1"], |request| {
        request.ttl_ms = 60_000;
        request.message_id = "m".into();
    });
    let to_a = a.unicasts(1).await.remove(0);
    let to_b = b.unicasts(1).await.remove(0);
    assert_eq!((to_a.locator, to_a.serial, to_a.epoch), (5_000, 50, 5));
    assert_eq!((to_b.locator, to_b.serial, to_b.epoch), (6_000, 60, 6));
    assert_eq!(
        (to_a.business, &to_a.payload[..], &to_a.message_id[..]),
        (7, &b"hello"[..], &b"m"[..])
    );
    assert!((before + 60_000..before + 70_000).contains(&to_a.expires_ms));
    a.receipt(to_a.id, Outcome::Queued).await;
    b.receipt(to_b.id, Outcome::Written).await;
    assert_eq!(
        call.await.unwrap(),
        [Outcome::Written, Outcome::Offline, Outcome::Queued]
    );

    // The instance says offline, but its route still stands: it may be on its way elsewhere.
    let call = replica.push_later(&["d1"], |_| ());
    let push = a.unicasts(1).await.remove(0);
    a.receipt(push.id, Outcome::Offline).await;
    assert_eq!(call.await.unwrap(), [Outcome::Retry]);
    let call = replica.push_later(&["d1"], |_| ());
    let push = a.unicasts(1).await.remove(0);
    a.retract(vec![retraction("d1", 5)]).await;
    a.receipt(push.id, Outcome::Offline).await;
    assert_eq!(call.await.unwrap(), [Outcome::Offline]);

    let page = replica.page("/metrics").await;
    for line in [
        "imaccess_routing_pushes_total{outcome=\"written\"} 1",
        "imaccess_routing_in_sync 1",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "{line} is missing in\n{page}"
        );
    }
    replica.stop().await;
}

#[tokio::test]
async fn of_two_routes_the_higher_epoch_holds_and_the_loser_is_told() {
    let (mut a, mut b) = (Sidecar::start("a").await, Sidecar::start("b").await);
    let replica = Replica::start(fixed(&[&a, &b])).await;
    a.accept("test").await;
    b.accept("test").await;
    a.snapshot_done().await;
    b.snapshot_done().await;
    replica.in_sync().await;

    a.announce(vec![announcement("d", SESSION_A, 10)]).await;
    a.acknowledged().await;
    b.announce(vec![announcement("d", SESSION_B, 9)]).await;
    let lost = b.outranked(1).await.remove(0);
    assert_eq!(
        (lost.device.as_str(), lost.epoch, lost.winner_epoch),
        ("d", 9, 10)
    );
    assert_eq!(
        (&lost.session[..], &lost.winner_session[..]),
        (&SESSION_B[..], &SESSION_A[..])
    );
    assert_eq!(lost.locator, 9_000);

    b.announce(vec![announcement("d", SESSION_B, 11)]).await;
    let replaced = a.outranked(1).await.remove(0);
    assert_eq!(
        (replaced.epoch, replaced.locator, replaced.winner_epoch),
        (10, 10_000, 11)
    );
    assert_eq!(
        (&replaced.session[..], &replaced.winner_session[..]),
        (&SESSION_A[..], &SESSION_B[..])
    );

    // The loser's retraction comes late and changes nothing.
    a.retract(vec![retraction("d", 10)]).await;
    a.acknowledged().await;
    let call = replica.push_later(&["d"], |_| ());
    let push = b.unicasts(1).await.remove(0);
    assert_eq!(push.epoch, 11);
    b.receipt(push.id, Outcome::Written).await;
    assert_eq!(call.await.unwrap(), [Outcome::Written]);
    replica.stop().await;
}

#[tokio::test]
async fn a_group_push_goes_to_the_instances_with_members_only() {
    let (mut a, mut b, mut c) = (
        Sidecar::start("a").await,
        Sidecar::start("b").await,
        Sidecar::start("c").await,
    );
    let replica = Replica::start(fixed(&[&a, &b, &c])).await;
    for sidecar in [&mut a, &mut b, &mut c] {
        sidecar.accept("test").await;
    }
    a.groups(vec![presence("g", true), presence("h", true)]).await;
    b.groups(vec![presence("g", true)]).await;
    a.snapshot_done().await;
    b.snapshot_done().await;
    replica
        .metric("imaccess_routing_instances{state=\"in_sync\"}", 2)
        .await;

    let first = replica.push_group("g").await.unwrap();
    assert_eq!((first.sequence, first.instances, first.unsynced), (1, 2, 1));
    c.snapshot_done().await;
    replica.in_sync().await;
    let second = replica.push_group("g").await.unwrap();
    assert_eq!((second.sequence, second.instances, second.unsynced), (2, 2, 0));
    assert_eq!(first.group_epoch, second.group_epoch);
    let other = replica.push_group("h").await.unwrap();
    assert_eq!((other.sequence, other.instances), (1, 1));
    let nobody = replica.push_group("nobody").await.unwrap();
    assert_eq!((nobody.instances, nobody.unsynced), (0, 0));

    let numbers = |pushes: &[imaccess_proto::v1::GroupPush]| {
        pushes
            .iter()
            .map(|push| (String::from_utf8(push.group.to_vec()).unwrap(), push.sequence))
            .collect::<Vec<_>>()
    };
    let expect = |pushes: &[(&str, u64)]| pushes.iter().map(|&(g, n)| (g.to_owned(), n)).collect::<Vec<_>>();
    assert_eq!(
        numbers(&a.group_pushes(3).await),
        expect(&[("g", 1), ("g", 2), ("h", 1)])
    );
    assert_eq!(numbers(&b.group_pushes(2).await), expect(&[("g", 1), ("g", 2)]));

    // The last member leaves; a new stream without the group means the same.
    a.groups(vec![presence("g", false)]).await;
    b.disconnect();
    b.accept("test").await;
    b.snapshot_done().await;
    replica.in_sync().await;
    eventually("nobody has g", async || {
        replica.push_group("g").await.unwrap().instances == 0
    })
    .await;
    assert!(c.nothing_arrived());
    replica.stop().await;
}

#[tokio::test]
async fn full_queues_and_silent_sidecars_answer_retry() {
    let mut a = Sidecar::start("a").await;
    let config = RoutingConfig {
        receipt_timeout: Duration::from_millis(100),
        pushes_in_flight: 3,
        instance_queue: imaccess_common::config::ByteSize(300),
        ..fixed(&[&a])
    };
    let replica = Replica::start(config).await;
    a.accept("test").await;
    let devices = ["d1", "d2", "d3", "d4"];
    a.announce(
        devices
            .iter()
            .map(|device| announcement(device, SESSION_A, 1))
            .collect(),
    )
    .await;
    a.groups(vec![presence("g", true)]).await;
    a.snapshot_done().await;
    replica.in_sync().await;

    assert_eq!(
        replica.push(&devices).await,
        [Outcome::Retry; 4],
        "more than may be in flight"
    );
    let call = replica.push_later(&devices[..3], |_| ());
    let pushes = a.unicasts(2).await;
    for push in &pushes {
        a.receipt(push.id, Outcome::Written).await;
    }
    assert_eq!(
        call.await.unwrap(),
        [Outcome::Written, Outcome::Written, Outcome::Retry],
        "the queue holds two"
    );
    let call = replica.push_later(&devices[..1], |_| ());
    let late = a.unicasts(1).await.remove(0);
    assert_eq!(call.await.unwrap(), [Outcome::Retry]);
    a.receipt(late.id, Outcome::Written).await;
    replica.metric("imaccess_routing_receipts_late_total", 1).await;

    let status = replica.push_group_of("g", 1_000).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(
        replica.push_group("g").await.unwrap().sequence,
        1,
        "a refused push takes no number"
    );
    replica.stop().await;
}

#[tokio::test]
async fn what_is_not_served_is_said() {
    let replica = Replica::start(fixed(&[])).await;
    replica.in_sync().await;
    assert_eq!(
        replica.push(&["x"]).await,
        [Outcome::Offline],
        "no instance can have it"
    );
    let class = DeliveryClass::AtLeastOnce.into();
    let status = replica
        .try_push(&["x"], |request| request.class = class)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let status = replica.try_push(&[], |_| ()).await.unwrap_err();
    assert_eq!(
        (status.code(), &status.message()[..8]),
        (Code::InvalidArgument, "devices:")
    );
    replica.metric("imaccess_routing_push_rejected_total", 2).await;
    replica.stop().await;
}

#[tokio::test]
async fn a_configuration_that_contradicts_itself_is_refused() {
    let a = Sidecar::start("a").await;
    let spoilt = [
        (
            "cluster",
            RoutingConfig {
                cluster: String::new(),
                ..quick()
            },
        ),
        (
            "dead_after",
            RoutingConfig {
                dead_after: Duration::ZERO,
                ..quick()
            },
        ),
        ("members.fixed", fixed(&[&a, &a])),
    ];
    for (key, config) in spoilt {
        let Err(RoutingError::Config(fault)) = Routing::bind(config).await else {
            panic!("{key} was accepted")
        };
        assert!(fault.starts_with(key), "{fault}");
    }
}

/// A unary group push should cost at most 100 µs of CPU here; the bound has room for a busy machine. The sidecar reads
/// nothing until the end: thousands of small messages that wait must not cost the stream.
#[tokio::test]
async fn a_group_push_is_cheap() {
    const PUSHES: u32 = 5_000;
    let mut a = Sidecar::start("a").await;
    let replica = Replica::start_on_a_thread(fixed(&[&a])).await;
    a.accept("test").await;
    a.groups(vec![presence("g", true)]).await;
    a.snapshot_done().await;
    replica.in_sync().await;
    for _ in 0..PUSHES {
        replica.push_group("g").await.unwrap();
    }
    a.group_pushes(PUSHES as usize).await;
    let each = replica.stop().await / PUSHES;
    println!("group push, one at a time: {each:?} of CPU");
    assert!(each < Duration::from_micros(200), "{each:?}");
}

/// Ten thousand devices in one call: one batch each way. The bound has room for a busy machine.
#[tokio::test]
async fn a_batch_of_devices_is_cheap() {
    const CALLS: u32 = 10;
    let names: Vec<String> = (0..10_000).map(|number| format!("{number:032x}")).collect();
    let devices: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut a = Sidecar::start("a").await;
    let replica = Replica::start_on_a_thread(fixed(&[&a])).await;
    a.accept("test").await;
    a.announce(
        devices
            .iter()
            .map(|device| announcement(device, SESSION_A, 1))
            .collect(),
    )
    .await;
    a.snapshot_done().await;
    replica.in_sync().await;
    for _ in 0..CALLS {
        let call = replica.push_later(&devices, |_| ());
        let pushes = a.unicasts(devices.len()).await;
        a.receipts(pushes.iter().map(|push| push.id).collect(), Outcome::Written)
            .await;
        assert_eq!(call.await.unwrap(), vec![Outcome::Written; devices.len()]);
    }
    let each = replica.stop().await / CALLS / 10_000;
    println!("push to one of 10,000 devices of a call: {each:?} of CPU, with its announcement");
    assert!(each < Duration::from_micros(20), "{each:?}");
}
