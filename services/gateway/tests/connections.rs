//! Connections from the first byte to the last: logins, data, and every way to misbehave.

mod harness;

use std::time::Duration;

use harness::{Client, Relay, State, TestGateway, within};
use imaccess_proto::v1::{CloseConnection, StateBatch, Unicast};
use imaccess_wire::frame::{Accepted, Close, Join, LoginRefused, Ping, Reply, Request};
use imaccess_wire::header::{MAGIC, VERSION};
use imaccess_wire::{Code, FrameType};
use tokio::io::AsyncWriteExt;

fn request(message_id: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    Request {
        business: 1,
        message_id,
        payload,
        ..Request::default()
    }
    .encode(&mut frame);
    frame
}

fn reply(message_id: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    Reply {
        message_id,
        payload,
        ..Reply::default()
    }
    .encode(&mut frame);
    frame
}

fn unicast(frames: &[(u64, &[u8])]) -> StateBatch {
    let unicast = Unicast {
        handle: frames.iter().map(|(handle, _)| *handle).collect(),
        length: frames.iter().map(|(_, frame)| frame.len() as u32).collect(),
        frames: frames
            .iter()
            .flat_map(|(_, frame)| frame.iter().copied())
            .collect::<Vec<u8>>()
            .into(),
        ..Unicast::default()
    };
    StateBatch {
        unicast: Some(unicast),
        ..StateBatch::default()
    }
}

#[tokio::test]
async fn a_request_goes_through_and_its_reply_comes_back() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (mut client, handle) = gateway.online(&mut state, "alice").await;
    let frame = request(1, b"hello");
    // In halves, so that the beginning has to be kept.
    client.write(&frame[..5]).await;
    client.stream.flush().await.unwrap();
    client.write(&frame[5..]).await;
    assert_eq!(state.uplink().await, (handle, frame));
    state
        .send(unicast(&[
            (handle, &reply(1, b"one")),
            (handle, &reply(2, b"two")),
        ]))
        .await;
    for payload in [b"one", b"two"] {
        let (kind, body) = client.frame().await;
        assert_eq!(kind, FrameType::Reply);
        assert_eq!(Reply::decode(&body).unwrap().payload, payload);
    }
}

#[tokio::test]
async fn pings_are_answered_by_the_gateway_also_without_state() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (mut client, _) = gateway.online(&mut state, "alice").await;
    drop(state);
    gateway.metric_becomes("imaccess_gateway_links", 0.0).await;
    let mut ping = Vec::new();
    Ping::default().encode(&mut ping);
    client.write(&ping).await;
    assert_eq!(client.frame().await.0, FrameType::Pong);
    client.write(&request(9, b"anyone?")).await;
    let (kind, body) = client.frame().await;
    let reply = Reply::decode(&body).unwrap();
    assert_eq!(
        (kind, reply.message_id, reply.known_code()),
        (FrameType::Reply, 9, Some(Code::Retry))
    );
    assert!(reply.retry_after_ms > 0);
    let mut join = Vec::new();
    Join {
        business: 1,
        group: b"g",
        message_id: 10,
        ..Join::default()
    }
    .encode(&mut join);
    client.write(&join).await;
    let (kind, body) = client.frame().await;
    let accepted = Accepted::decode(&body).unwrap();
    assert_eq!(
        (kind, accepted.message_id, accepted.known_code()),
        (FrameType::Accepted, 10, Some(Code::Retry))
    );
}

#[tokio::test]
async fn logins_without_state_are_told_when_to_come_again() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut client = gateway.client().await;
    client.login("alice").await;
    let (kind, body) = client.frame().await;
    assert_eq!(kind, FrameType::LoginRefused);
    let refused = LoginRefused::decode(&body).unwrap();
    assert_eq!(refused.known_code(), Some(Code::LoginUnavailable));
    assert!(refused.retry_after_ms > 0 && refused.resumable);
    assert!(client.next().await.is_none());
    gateway.metric_becomes("imaccess_gateway_connections", 0.0).await;
}

#[tokio::test]
async fn what_is_no_protocol_gets_its_close_code_and_counter() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let mut wrong_version = request(1, b"");
    wrong_version[1] = VERSION + 1;
    let mut unknown_type = request(1, b"");
    unknown_type[2] = 99;
    let oversized = [MAGIC, VERSION, FrameType::Login as u8, 0, 0xFF, 0, 0, 0];
    let cases: [(&str, Vec<u8>, Code); 5] = [
        (
            "bad_magic",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            Code::BadMagic,
        ),
        ("unsupported_version", wrong_version, Code::UnsupportedVersion),
        ("unknown_type", unknown_type, Code::UnknownType),
        ("oversized", oversized.to_vec(), Code::Oversized),
        ("not_logged_in", request(1, b"too early"), Code::NotLoggedIn),
    ];
    for (name, bytes, code) in cases {
        let mut client = gateway.client().await;
        client.write(&bytes).await;
        assert_eq!(client.close_code().await, code, "{name}");
        gateway
            .metric_becomes(&format!("imaccess_gateway_closed_total{{code=\"{name}\"}}"), 1.0)
            .await;
    }
    // An ignorable frame of an unknown type is skipped, and others never noticed.
    let (mut client, handle) = gateway.online(&mut state, "alice").await;
    let mut ignorable = request(1, b"");
    (ignorable[2], ignorable[3]) = (99, 1);
    client.write(&ignorable).await;
    let frame = request(2, b"still here");
    client.write(&frame).await;
    assert_eq!(state.uplink().await, (handle, frame));
    // A second login isn't allowed.
    client.login("bob").await;
    assert_eq!(client.close_code().await, Code::Unexpected);
    assert_eq!(state.closed().await, (handle, Code::Unexpected));
}

#[tokio::test]
async fn deadlines_cut_silent_clients_and_endless_frames() {
    let gateway = TestGateway::start(|config| {
        config.deadlines.login = Duration::from_millis(300);
        config.deadlines.frame = Duration::from_millis(300);
    })
    .await;
    let mut state = gateway.state().await;
    let (mut endless, handle) = gateway.online(&mut state, "alice").await;
    let mut silent = gateway.client().await;
    endless.write(&request(1, b"never whole")[..9]).await;
    assert_eq!(silent.close_code().await, Code::LoginTimeout);
    assert_eq!(endless.close_code().await, Code::FrameTimeout);
    assert_eq!(state.closed().await, (handle, Code::FrameTimeout));
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let gateway = TestGateway::start(|config| config.limits.connections = 1).await;
    let mut state = gateway.state().await;
    let (client, _) = gateway.online(&mut state, "alice").await;
    let mut refused = gateway.client().await;
    let (kind, body) = refused.frame().await;
    assert_eq!(kind, FrameType::LoginRefused);
    let frame = LoginRefused::decode(&body).unwrap();
    assert_eq!(frame.known_code(), Some(Code::ConnectionLimit));
    assert!(frame.retry_after_ms > 0);
    drop((client, refused));
    gateway.metric_becomes("imaccess_gateway_connections", 0.0).await;
    gateway.online(&mut state, "bob").await;
}

#[tokio::test]
async fn the_end_of_a_connection_is_told_once_with_its_reason() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (lost, lost_handle) = gateway.online(&mut state, "lost").await;
    drop(lost);
    assert_eq!(state.closed().await, (lost_handle, Code::ConnectionLost));
    let (mut leaves, left_handle) = gateway.online(&mut state, "leaves").await;
    let mut goodbye = Vec::new();
    Close::with_code(Code::ClientLeft).encode(&mut goodbye);
    leaves.write(&goodbye).await;
    assert_eq!(state.closed().await, (left_handle, Code::ClientLeft));
    let (mut kicked, kicked_handle) = gateway.online(&mut state, "kicked").await;
    let mut frame = Vec::new();
    Close::with_code(Code::Kicked).encode(&mut frame);
    let close = CloseConnection {
        handle: kicked_handle,
        code: Code::Kicked as u32,
        frame: frame.into(),
    };
    state
        .send(StateBatch {
            closes: vec![close],
            ..StateBatch::default()
        })
        .await;
    assert_eq!(kicked.close_code().await, Code::Kicked);
    assert_eq!(state.closed().await, (kicked_handle, Code::Kicked));
    gateway.metric_becomes("imaccess_gateway_connections", 0.0).await;
    assert_eq!(
        gateway.metric("imaccess_gateway_sockets_without_verdict").await,
        0.0
    );
}

#[tokio::test]
async fn a_stale_handle_reaches_nobody() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (old, old_handle) = gateway.online(&mut state, "old").await;
    drop(old);
    state.closed().await;
    let (mut new, new_handle) = gateway.online(&mut state, "new").await;
    assert_eq!(old_handle as u32, new_handle as u32, "the slot is used again");
    assert_ne!(old_handle, new_handle);
    state
        .send(unicast(&[
            (old_handle, &reply(1, b"secret")),
            (new_handle, &reply(2, b"mine")),
        ]))
        .await;
    let (_, body) = new.frame().await;
    assert_eq!(Reply::decode(&body).unwrap().message_id, 2);
}

#[tokio::test]
async fn a_new_sidecar_hears_of_all_connections_and_their_groups() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (mut alice, a) = gateway.online(&mut state, "alice").await;
    let (_bob, b) = gateway.online(&mut state, "bob").await;
    let membership = imaccess_proto::v1::Membership {
        handle: b,
        business: 1,
        group: bytes::Bytes::from_static(b"room"),
        member: true,
    };
    state
        .send(StateBatch {
            memberships: vec![membership],
            ..StateBatch::default()
        })
        .await;
    // A reply that is read proves that what was sent before it is applied.
    state.send(unicast(&[(a, &reply(1, b""))])).await;
    alice.frame().await;
    let incarnation = state.hello.incarnation;
    drop(state);
    let mut state = State::attach(&gateway.directory.path().join("shard-0.sock")).await;
    assert_eq!(state.hello.incarnation, incarnation);
    state.snapshot().await;
    let mut rows = state.rows.clone();
    rows.sort();
    let mut expected = vec![
        (a, format!("ticket of {a}").into_bytes()),
        (b, format!("ticket of {b}").into_bytes()),
    ];
    expected.sort();
    assert_eq!(rows, expected);
    assert_eq!(state.groups, [(1, b"room".to_vec(), vec![b])]);
    let frame = request(5, b"goes on");
    alice.write(&frame).await;
    assert_eq!(state.uplink().await, (a, frame));
}

#[tokio::test]
async fn a_sidecar_of_another_generation_is_turned_away_and_nobody_notices() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (mut client, _) = gateway.online(&mut state, "alice").await;
    let stranger = imaccess_proto::v1::StateHello {
        link_generation: imaccess_common::generation::spoken().link.newest + 1,
        ..Default::default()
    };
    state
        .send(StateBatch {
            hello: Some(stranger),
            ..StateBatch::default()
        })
        .await;
    gateway.metric_becomes("imaccess_gateway_links", 0.0).await;
    let mut state = gateway.state().await;
    state.snapshot().await;
    assert_eq!(state.rows.len(), 1);
    client.write(&request(1, b"goes on")).await;
    assert_eq!(state.uplink().await.1, request(1, b"goes on"));
}

#[tokio::test]
async fn clients_are_closed_when_state_stays_away() {
    let gateway =
        TestGateway::start(|config| config.deadlines.without_state = Duration::from_millis(500)).await;
    let mut state = gateway.state().await;
    let (mut client, _) = gateway.online(&mut state, "alice").await;
    drop(state);
    assert_eq!(client.close_code().await, Code::StateLost);
}

#[tokio::test]
async fn clients_are_closed_when_state_hangs() {
    let gateway = TestGateway::start(|config| {
        config.deadlines.state_silence = Duration::from_millis(400);
        config.deadlines.without_state = Duration::from_millis(500);
    })
    .await;
    let directory = gateway.directory.path();
    let path = directory.join("relay.sock");
    let relay = Relay::start(&path, directory.join("shard-0.sock"));
    let mut state = State::attach(&path).await;
    let (mut client, _) = gateway.online(&mut state, "alice").await;
    relay.stop();
    assert_eq!(client.close_code().await, Code::StateLost);
}

#[tokio::test]
async fn a_drain_tells_clients_and_ends() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (mut client, handle) = gateway.online(&mut state, "alice").await;
    gateway.drain.begin();
    assert_eq!(client.close_code().await, Code::Draining);
    assert_eq!(state.closed().await, (handle, Code::Draining));
    drop(client);
    within("the end", gateway.ended).await.unwrap();
    assert!(tokio::net::TcpStream::connect(gateway.tcp).await.is_err());
}

#[tokio::test]
async fn many_clients_at_once_all_get_through() {
    let gateway = TestGateway::start(|config| config.shards = 1).await;
    let mut state = gateway.state().await;
    let mut clients: Vec<(Client, u64)> = Vec::new();
    for index in 0..200 {
        clients.push(gateway.online(&mut state, &format!("d{index}")).await);
    }
    for (client, _) in &mut clients {
        client.write(&request(1, &[0x55; 3000])).await;
    }
    for _ in 0..clients.len() {
        let (handle, frame) = state.uplink().await;
        assert_eq!(frame, request(1, &[0x55; 3000]));
        state.send(unicast(&[(handle, &reply(1, b"done"))])).await;
    }
    for (client, _) in &mut clients {
        assert_eq!(client.frame().await.0, FrameType::Reply);
    }
}
