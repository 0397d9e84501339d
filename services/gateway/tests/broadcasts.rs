//! One frame for many connections, and what is kept of their devices for the next state.

mod harness;

use bytes::Bytes;
use harness::{Client, State, TestGateway};
use imaccess_proto::v1::{Multicast, Priority, StateBatch, Unicast};
use imaccess_wire::FrameType;
use imaccess_wire::frame::Push;

fn frame(text: &[u8]) -> Bytes {
    let mut frame = Vec::new();
    Push {
        business: 1,
        payload: text,
        ..Push::default()
    }
    .encode(&mut frame);
    frame.into()
}

async fn multicast(state: &State, handle: Vec<u64>, text: &[u8], priority: Priority) {
    let multicast = Multicast {
        handle,
        business: 1,
        frame: frame(text),
        priority: priority.into(),
        expires_ms: 0,
    };
    state
        .send(StateBatch {
            multicasts: vec![multicast],
            ..StateBatch::default()
        })
        .await;
}

async fn payload(client: &mut Client) -> Vec<u8> {
    let (kind, body) = client.frame().await;
    assert_eq!(kind, FrameType::Push);
    Push::decode(&body).expect("a push").payload.to_vec()
}

#[tokio::test]
async fn a_multicast_reaches_those_it_names_and_nobody_who_came_after() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (mut first, one) = gateway.online(&mut state, "first").await;
    let (second, two) = gateway.online(&mut state, "second").await;
    let (mut third, three) = gateway.online(&mut state, "third").await;
    multicast(&state, vec![one, three], b"some", Priority::Normal).await;
    assert_eq!(payload(&mut first).await, b"some");
    assert_eq!(payload(&mut third).await, b"some");

    drop(second);
    assert_eq!(state.closed().await.0, two);
    let (mut successor, handle) = gateway.online(&mut state, "successor").await;
    assert_eq!(handle as u32, two as u32, "it has the slot of the one that left");
    multicast(&state, vec![two, three], b"old", Priority::Low).await;
    multicast(&state, vec![handle], b"new", Priority::Low).await;
    assert_eq!(payload(&mut third).await, b"old");
    assert_eq!(
        payload(&mut successor).await,
        b"new",
        "and nothing of what was for the other"
    );
}

#[tokio::test]
async fn unicasts_and_multicasts_to_one_connection_are_whole() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    let (mut client, handle) = gateway.online(&mut state, "one").await;
    let big = vec![7u8; 40_000];
    multicast(&state, vec![handle; 5], &big, Priority::Low).await;
    let single = frame(b"single");
    let unicast = Unicast {
        handle: vec![handle],
        length: vec![single.len() as u32],
        frames: single,
        business: vec![1],
        class: vec![0],
        priority: vec![Priority::High.into()],
        expires_ms: vec![0],
        receipt: vec![0],
        sequence: vec![0],
    };
    state
        .send(StateBatch {
            unicast: Some(unicast),
            ..StateBatch::default()
        })
        .await;
    let (mut bigs, mut singles) = (0, 0);
    while bigs < 1 || singles < 1 {
        let got = payload(&mut client).await;
        if got == b"single" {
            singles += 1;
        } else {
            assert_eq!(got, big);
            bigs += 1;
        }
    }
}

#[tokio::test]
async fn the_next_state_hears_what_the_last_one_said_of_devices() {
    let gateway = TestGateway::start(|_| {}).await;
    let mut state = gateway.state().await;
    state.attributes = Bytes::from_static(b"ios\x001.2");
    let (_first, one) = gateway.online(&mut state, "first").await;
    let (_second, two) = gateway.online(&mut state, "second").await;
    state.attributes = Bytes::new();
    let (_third, three) = gateway.online(&mut state, "third").await;
    drop(state);
    let mut next = gateway.state().await;
    next.snapshot().await;
    next.described.sort_by_key(|(handle, _)| *handle);
    let mut expected = vec![
        (one, Bytes::from_static(b"ios\x001.2")),
        (two, Bytes::from_static(b"ios\x001.2")),
        (three, Bytes::new()),
    ];
    expected.sort_by_key(|(handle, _)| *handle);
    assert_eq!(next.described, expected);
}
