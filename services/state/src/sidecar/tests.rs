//! A sidecar among neighbours that the test plays, over real sockets.

mod calls;
mod cost;
mod custody;
mod ending;
mod handover;
mod harness;
mod later;
mod reload;
mod secure;
mod servers;

use std::time::Duration;

use bytes::Bytes;
use imaccess_common::business::BusinessConfig;
use imaccess_proto::v1::{
    EventKind, FromRouting, GatewayBatch, GroupPush, Outcome, Outranked, Receipts, UnicastPush,
};
use imaccess_wire::Code;
use imaccess_wire::frame::{Accepted, Join, LoginOk, LoginRefused, Push};

use self::harness::{LinkStream, Replica, body, business, gateway, soon, start};
use super::*;

fn echo_business(address: SocketAddr) -> BusinessConfig {
    BusinessConfig {
        events: true,
        client_groups: true,
        ..BusinessConfig::new(1, "echo", &format!("http://{address}"))
    }
}

fn logged_in(result: &imaccess_proto::v1::LoginResult) -> (LoginOk<'_>, Bytes) {
    assert!(result.accepted, "{result:?}");
    (
        LoginOk::decode(body(&result.frame)).unwrap(),
        result.ticket.clone(),
    )
}

/// Takes the next stream of a shard, without connections from before.
async fn attach(streams: &mut mpsc::Receiver<LinkStream>) -> LinkStream {
    let stream = soon(streams.recv()).await.unwrap();
    stream.snapshot(&[]).await;
    stream
}

/// Repeats a request until the business is there.
async fn call(link: &mut LinkStream, handle: u64, message_id: u64, payload: &[u8]) -> (u64, u16, Vec<u8>) {
    loop {
        link.request(handle, 1, message_id, payload).await;
        let reply = link.reply(handle).await;
        if reply.1 != Code::BusinessUnavailable as u16 {
            return reply;
        }
    }
}

#[tokio::test]
async fn a_request_goes_to_the_business_and_its_reply_comes_back() {
    let (address, mut streams) = business().await;
    let running = start(vec![echo_business(address)], |_| ()).await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    let policy = link.find(|batch| batch.policy.take()).await;
    assert_eq!((policy.ping_interval_s, policy.businesses.len()), (60, 1));

    let result = link.login(running.attempt(7, "device", b"", &[])).await;
    let (ok, ticket) = logged_in(&result);
    assert!(!ok.resumed && ok.epoch > 0 && ok.resume_window_s == 30 && ok.ticket == &ticket[..]);
    let stream = soon(streams.recv()).await.unwrap();
    assert_eq!(stream.instance, "pod-1/0.0");
    stream.echo();
    assert_eq!(call(&mut link, 7, 1, b"hello").await, (1, 0, b"hello".to_vec()));
    assert_eq!(
        call(&mut link, 7, 1, b"hello").await,
        (1, 0, b"hello".to_vec()),
        "kept"
    );
    link.request(7, 9, 2, b"").await;
    assert_eq!(link.reply(7).await.1, Code::BusinessUnknown as u16);

    // Resumed over another connection: the same session, and the reply to what was asked before.
    link.closed(7, Code::ConnectionLost).await;
    let result = link.login(running.attempt(8, "device", &ticket, &[])).await;
    let (resumed, _) = logged_in(&result);
    assert!(resumed.resumed && resumed.session == ok.session && resumed.epoch > ok.epoch);
    assert_eq!(call(&mut link, 8, 1, b"hello").await, (1, 0, b"hello".to_vec()));

    let page = running.metrics().await;
    assert!(
        page.contains("imaccess_state_logins_total{result=\"resumed\"} 1"),
        "{page}"
    );
    assert!(
        page.contains("imaccess_state_uplink_answers_total{business=\"echo\",code=\"ok\"} 1"),
        "{page}"
    );
    running.drain.begin();
    soon(running.ended).await.unwrap();
}

#[tokio::test]
async fn a_bad_login_is_refused_with_its_code() {
    let running = start(Vec::new(), |_| ()).await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    let mut attempt = running.attempt(1, "device", b"", &[]);
    let mut other = running.attempt(2, "device", b"not a ticket", &[]);
    let refused = link.login(other.clone()).await;
    let code = LoginRefused::decode(body(&refused.frame)).unwrap().known_code();
    assert_eq!((refused.accepted, code), (false, Some(Code::TokenInvalid)));
    attempt.frame = attempt.frame.slice(..12);
    link.send(GatewayBatch {
        logins: vec![attempt],
        ..GatewayBatch::default()
    })
    .await;
    assert_eq!(link.close_of(1).await, Code::Malformed as u32);
    other.frame = running.attempt(2, "device", b"", &[]).frame;
    assert!(link.login(other).await.accepted);
}

#[tokio::test]
async fn a_business_that_hangs_or_breaks_costs_only_its_own_requests() {
    let (address, mut streams) = business().await;
    let (slow_address, mut slow_streams) = business().await;
    let slow = BusinessConfig {
        timeout: Duration::from_millis(200),
        concurrency: 3,
        ..BusinessConfig::new(2, "slow", &format!("http://{slow_address}"))
    };
    let running = start(vec![echo_business(address), slow], |_| ()).await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    link.login(running.attempt(1, "device", b"", &[])).await;
    soon(streams.recv()).await.unwrap().echo();
    let hanging = soon(slow_streams.recv()).await.unwrap();
    assert_eq!(call(&mut link, 1, 1, b"x").await.1, 0);
    for message_id in 2..=5 {
        link.request(1, 2, message_id, b"x").await;
    }
    assert_eq!(
        link.reply(1).await,
        (5, Code::Busy as u16, Vec::new()),
        "three are in flight"
    );
    assert_eq!(call(&mut link, 1, 6, b"y").await, (6, 0, b"y".to_vec()));
    let mut late: Vec<u64> = Vec::new();
    for _ in 0..3 {
        let (message_id, code, _) = link.reply(1).await;
        assert_eq!(code, Code::DeadlineExceeded as u16);
        late.push(message_id);
    }
    late.sort_unstable();
    assert_eq!(late, [2, 3, 4]);
    link.request(1, 2, 2, b"x").await;
    assert_eq!(
        link.reply(1).await.1,
        Code::DeadlineExceeded as u16,
        "the kept answer"
    );

    link.request(1, 2, 7, b"x").await;
    let mut hanging = hanging;
    while !hanging
        .next()
        .await
        .requests
        .iter()
        .any(|request| request.message_id == 7)
    {}
    drop(hanging);
    assert_eq!(link.reply(1).await, (7, Code::Retry as u16, Vec::new()));
    soon(slow_streams.recv()).await.unwrap().echo();
    loop {
        link.request(1, 2, 7, b"again").await;
        let reply = link.reply(1).await;
        if reply.1 == 0 {
            assert_eq!(reply.2, b"again");
            break;
        }
    }
}

#[tokio::test]
async fn events_come_in_order_and_again_until_they_are_acknowledged() {
    let (address, mut streams) = business().await;
    let running = start(vec![echo_business(address)], |config| {
        config.resume_window = Duration::from_millis(100);
    })
    .await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    let mut stream = soon(streams.recv()).await.unwrap();
    let result = link.login(running.attempt(1, "first", b"", &[])).await;
    let epoch = logged_in(&result).0.epoch;
    link.login(running.attempt(2, "second", b"", &[])).await;
    let events = stream.events(2).await;
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.sequence, event.kind(), event.device.as_str()))
        .collect();
    assert_eq!(
        told,
        [(1, EventKind::Online, "first"), (2, EventKind::Online, "second")]
    );
    assert_eq!(events[0].epoch, epoch);
    stream.acknowledge(1).await;
    link.closed(2, Code::PingTimeout).await;
    let events = stream.events(1).await;
    assert_eq!(
        (events[0].kind(), events[0].reason),
        (EventKind::Offline, Code::PingTimeout as u32)
    );

    drop(stream);
    let mut stream = soon(streams.recv()).await.unwrap();
    let events = stream.events(2).await;
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.sequence, event.kind(), event.device.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (1, EventKind::Online, "second"),
            (2, EventKind::Offline, "second")
        ]
    );
    stream.acknowledge(2).await;

    // A resume within the window is no news; a goodbye is, at once.
    link.closed(1, Code::ConnectionLost).await;
    let result = link.login(running.attempt(3, "first", &result.ticket, &[])).await;
    assert!(logged_in(&result).0.resumed);
    link.closed(3, Code::ClientLeft).await;
    let events = stream.events(1).await;
    assert_eq!(
        (events[0].kind(), events[0].reason),
        (EventKind::Offline, Code::ClientLeft as u32)
    );
    assert_eq!(events[0].sequence, 3);
}

#[tokio::test]
async fn a_restarted_sidecar_knows_every_session_again() {
    let (address, mut streams) = business().await;
    let running = start(vec![echo_business(address)], |_| ()).await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    let result = link.login(running.attempt(1, "device", b"", &[])).await;
    let (ok, ticket) = logged_in(&result);
    let session = ok.session;
    let mut before = soon(streams.recv()).await.unwrap();
    before.events(1).await;

    let running = running.crash_and_restart().await;
    let mut link = soon(shard.recv()).await.unwrap();
    link.snapshot(&[(1, 1_001, ticket), (2, 1_002, Bytes::from_static(b"broken"))])
        .await;
    assert_eq!(link.close_of(2).await, Code::SessionLost as u32);
    let mut stream = soon(streams.recv()).await.unwrap();
    let message = loop {
        link.request(1, 1, 5, b"still here").await;
        tokio::select! {
            message = stream.next() => break message,
            // The worker hasn't heard yet that the business is there.
            reply = link.reply(1) => assert_eq!(reply.1, Code::BusinessUnavailable as u16),
        }
    };
    assert!(
        message.events.is_empty(),
        "it was online all the time: {message:?}"
    );
    assert_eq!(
        (
            message.requests[0].session.as_ref(),
            message.requests[0].device.as_str()
        ),
        (&session[..], "device")
    );

    // The link breaks; the next snapshot doesn't have the connection any more.
    drop(link);
    let mut link = attach(&mut shard).await;
    let result = link
        .login(running.attempt(9, "device", &result.ticket, &[]))
        .await;
    let (resumed, _) = logged_in(&result);
    assert!(resumed.resumed && resumed.session == session);
    link.request(9, 1, 6, b"").await;
    let page = running.metrics().await;
    assert!(
        page.contains("imaccess_state_sessions_restored_total 1"),
        "{page}"
    );
}

#[tokio::test]
async fn routing_hears_everything_and_pushes_are_fenced() {
    let (address, _streams) = business().await;
    let running = start(vec![echo_business(address)], |config| {
        config.routing = RoutingMode::Required;
    })
    .await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    let result = link
        .login(running.attempt(1, "device", b"", &[(1, b"room"), (2, b"not mine")]))
        .await;
    let (ok, _) = logged_in(&result);
    let membership = link.find(|batch| batch.memberships.pop()).await;
    assert_eq!(
        (membership.handle, membership.group.as_ref(), membership.member),
        (1, &b"room"[..], true)
    );

    let mut replica = Replica::follow(running.routes).await;
    let heard = replica.read_until(|message| message.snapshot_done).await;
    let hello = heard[0].hello.as_ref().unwrap();
    assert_eq!(
        (hello.instance.as_str(), hello.cluster.as_str()),
        ("pod-1", harness::CLUSTER)
    );
    let announced = heard
        .iter()
        .flat_map(|message| &message.announcements)
        .next()
        .unwrap()
        .clone();
    assert_eq!(
        (announced.device.as_str(), announced.epoch, announced.serial),
        ("device", ok.epoch, 1_001)
    );
    let groups: Vec<_> = heard.iter().flat_map(|message| &message.groups).collect();
    assert!(groups.len() == 1 && groups[0].present && groups[0].group.as_ref() == b"room");
    replica.acknowledge(heard.last().unwrap().sequence).await;

    let push = UnicastPush {
        id: 77,
        locator: announced.locator,
        serial: announced.serial,
        epoch: announced.epoch,
        business: 1,
        payload: Bytes::from_static(b"news"),
        ..UnicastPush::default()
    };
    let stale = UnicastPush {
        id: 78,
        epoch: push.epoch - 1,
        ..push.clone()
    };
    replica
        .send(FromRouting {
            unicasts: vec![push.clone(), stale],
            ..FromRouting::default()
        })
        .await;
    let receipt = link
        .find(|batch| batch.unicast.as_ref()?.receipt.first().copied())
        .await;
    let frame = link.frame_for(1).await;
    assert_eq!(Push::decode(body(&frame)).unwrap().payload, b"news");
    let written = Bytes::from(vec![Outcome::Written as u8]);
    link.send(GatewayBatch {
        receipts: Some(Receipts {
            id: vec![receipt],
            outcome: written,
        }),
        ..GatewayBatch::default()
    })
    .await;
    let mut outcomes = Vec::new();
    while outcomes.len() < 2 {
        if let Some(receipts) = replica.next().await.receipts {
            outcomes.extend(receipts.id.iter().copied().zip(receipts.outcome.iter().copied()));
        }
    }
    outcomes.sort_unstable();
    assert_eq!(
        outcomes,
        [(77, Outcome::Written as u8), (78, Outcome::Retry as u8)]
    );

    let group = GroupPush {
        business: 1,
        group: Bytes::from_static(b"room"),
        sequence: 4,
        payload: Bytes::from_static(b"all"),
        ..GroupPush::default()
    };
    replica
        .send(FromRouting {
            groups: vec![group],
            ..FromRouting::default()
        })
        .await;
    let frame = link.find(|batch| batch.groups.pop()).await;
    assert_eq!((frame.group.as_ref(), frame.sequence), (&b"room"[..], 4));

    // While the link is down nothing is said to be offline.
    drop(link);
    replica
        .send(FromRouting {
            unicasts: vec![UnicastPush { id: 79, ..push }],
            ..FromRouting::default()
        })
        .await;
    let heard = replica.read_until(|message| message.receipts.is_some()).await;
    let receipts = heard.last().unwrap().receipts.clone().unwrap();
    // Retry, or unknown if it was on the link when that broke.
    let outcome = Outcome::try_from(i32::from(receipts.outcome[0])).unwrap();
    assert!(
        receipts.id == [79] && matches!(outcome, Outcome::Retry | Outcome::Unknown),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn offline_waits_for_routing_and_the_later_login_wins() {
    let (address, mut streams) = business().await;
    let running = start(vec![echo_business(address)], |config| {
        config.routing = RoutingMode::Required;
        config.resume_window = Duration::from_millis(100);
    })
    .await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    let mut stream = soon(streams.recv()).await.unwrap();
    let mut replica = Replica::follow(running.routes).await;
    replica.read_until(|message| message.snapshot_done).await;

    // Not confirmed yet, and outranked: it stamps itself higher.
    let result = link.login(running.attempt(1, "device", b"", &[])).await;
    let (ok, _) = logged_in(&result);
    let heard = replica
        .read_until(|message| !message.announcements.is_empty())
        .await;
    let announced = heard.last().unwrap().announcements[0].clone();
    let outranked = |winner_epoch: u64, epoch: u64| Outranked {
        app: "app".to_owned(),
        device: "device".to_owned(),
        session: announced.session.clone(),
        epoch,
        locator: announced.locator,
        winner_epoch,
        winner_session: Bytes::from_static(&[9; 16]),
    };
    let higher = ok.epoch + (1 << 40);
    let lost = outranked(higher, ok.epoch);
    let acknowledged = heard.last().unwrap().sequence;
    replica
        .send(FromRouting {
            outranked: vec![lost],
            acknowledged,
            ..FromRouting::default()
        })
        .await;
    let heard = replica
        .read_until(|message| !message.announcements.is_empty())
        .await;
    let again = heard.last().unwrap().announcements[0].clone();
    assert!(again.epoch > higher, "the later login wins");
    replica.acknowledge(heard.last().unwrap().sequence).await;

    // Confirmed, and outranked: it goes, without an offline event.
    let lost = outranked(again.epoch + 1, again.epoch);
    replica
        .send(FromRouting {
            outranked: vec![lost],
            ..FromRouting::default()
        })
        .await;
    assert_eq!(link.close_of(1).await, Code::Superseded as u32);

    // Another device is lost: its offline event waits for the acknowledgement of the retraction.
    link.login(running.attempt(2, "other", b"", &[])).await;
    link.closed(2, Code::ConnectionLost).await;
    let heard = replica
        .read_until(|message| !message.retractions.is_empty())
        .await;
    link.login(running.attempt(3, "third", b"", &[])).await;
    let told: Vec<_> = stream
        .events(3)
        .await
        .iter()
        .map(|event| (event.kind(), event.device.clone()))
        .collect();
    let online = |device: &str| (EventKind::Online, device.to_owned());
    assert_eq!(
        told,
        [online("device"), online("other"), online("third")],
        "no offline yet"
    );
    replica.acknowledge(heard.last().unwrap().sequence).await;
    let events = stream.events(1).await;
    assert_eq!(
        (events[0].kind(), events[0].device.as_str()),
        (EventKind::Offline, "other")
    );
}

#[tokio::test]
async fn a_session_that_moves_to_another_shard_goes_from_the_first() {
    let (address, mut streams) = business().await;
    let running = start(vec![echo_business(address)], |_| ()).await;
    let (mut first, mut second) = (
        gateway(running.directory.path(), 0, 2),
        gateway(running.directory.path(), 1, 2),
    );
    let mut here = attach(&mut first).await;
    let mut there = attach(&mut second).await;
    let result = here.login(running.attempt(1, "device", b"", &[])).await;
    let (ok, ticket) = logged_in(&result);
    let mut join = Vec::new();
    Join {
        business: 1,
        group: b"room",
        message_id: 1,
        ..Join::default()
    }
    .encode(&mut join);
    here.frame(1, join).await;
    let accepted = here.frame_for(1).await;
    assert_eq!(Accepted::decode(body(&accepted)).unwrap().code, 0);

    let handle = 1 << 56 | 1;
    let moved = there.login(running.attempt(handle, "device", &ticket, &[])).await;
    assert_eq!(logged_in(&moved).0.session, ok.session);
    assert_eq!(here.close_of(1).await, Code::Moved as u32);
    for _ in 0..2 {
        soon(streams.recv()).await.unwrap().echo();
    }
    assert_eq!(call(&mut there, handle, 1, b"here").await.2, b"here");
}
