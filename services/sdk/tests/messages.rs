//! Requests, sends and pushes: against a gateway that plays a script.

mod scripted;

use std::time::Duration;

use imaccess_sdk::{Client, Code, RequestError, RequestOptions, Target};
use imaccess_wire::Frame;
use imaccess_wire::frame::{Accepted, LoginOk, Push, Repeat, Reply};
use scripted::{Gateway, Peer, client, login_ok};

/// A client that is online, and its gateway's side.
async fn online(gateway: &Gateway) -> (Client, Peer) {
    let (admitted, client) = tokio::join!(gateway.admit(login_ok(1)), client(&[gateway]).connect());
    (client.expect("it was admitted"), admitted.0)
}

/// Asks in a task of its own.
fn ask(
    client: &Client,
    payload: &'static str,
) -> tokio::task::JoinHandle<Result<imaccess_sdk::Reply, RequestError>> {
    let client = client.clone();
    tokio::spawn(async move { client.request(1, payload).await })
}

fn reply(message_id: u64, code: Code, payload: &[u8]) -> Frame<'_> {
    Frame::Reply(Reply {
        message_id,
        code: code as u16,
        payload,
        ..Reply::default()
    })
}

#[tokio::test]
async fn replies_find_their_requests_in_any_order() {
    let gateway = Gateway::start().await;
    let (client, mut peer) = online(&gateway).await;
    let (first, second) = (ask(&client, "first"), ask(&client, "second"));
    let one = peer.request().await;
    let two = peer.request().await;
    for (message_id, payload) in [two, one] {
        peer.write(&reply(message_id, Code::Ok, &payload)).await;
    }
    assert_eq!(first.await.unwrap().unwrap().payload, "first");
    assert_eq!(second.await.unwrap().unwrap().payload, "second");
}

#[tokio::test]
async fn retry_busy_and_a_lost_connection_repeat_the_same_message_id() {
    let gateway = Gateway::start().await;
    let (client, mut peer) = online(&gateway).await;
    let asked = ask(&client, "again");
    let (message_id, _) = peer.request().await;
    for code in [Code::Retry, Code::Busy] {
        peer.write(&reply(message_id, code, b"")).await;
        assert_eq!(peer.request().await, (message_id, b"again".to_vec()));
    }
    drop(peer);
    let (mut peer, _) = gateway
        .admit(LoginOk {
            resumed: true,
            ..login_ok(1)
        })
        .await;
    assert_eq!(peer.request().await, (message_id, b"again".to_vec()));
    peer.write(&reply(message_id, Code::Ok, b"done")).await;
    // A second answer changes nothing.
    peer.write(&reply(message_id, Code::Ok, b"twice")).await;
    let answer = asked.await.unwrap().unwrap();
    assert_eq!((&answer.payload[..], answer.attempts), (&b"done"[..], 4));
}

#[tokio::test]
async fn repeat_brings_everything_unanswered_again_on_the_same_connection() {
    let gateway = Gateway::start().await;
    let (client, mut peer) = online(&gateway).await;
    let first = ask(&client, "first");
    let one = peer.request().await;
    let second = ask(&client, "second");
    let two = peer.request().await;
    let join = tokio::spawn({
        let client = client.clone();
        async move { client.join(1, "room").await }
    });
    let raw = peer.read().await;
    let Frame::Join(joined) = raw.frame() else {
        panic!("{raw:?}")
    };
    let sent = tokio::spawn({
        let client = client.clone();
        async move { client.send(1, "one way").await }
    });
    peer.read().await;
    // The first one's answer was on its way: it is answered, and not asked again.
    peer.write(&reply(one.0, Code::Ok, b"early")).await;
    peer.write(&Frame::Repeat(Repeat)).await;
    assert_eq!(sent.await.unwrap(), Err(RequestError::Unknown));
    assert_eq!(peer.request().await, two);
    let raw = peer.read().await;
    let Frame::Join(again) = raw.frame() else {
        panic!("{raw:?}")
    };
    assert_eq!(again, joined);
    // Both were received after all.
    for _ in 0..2 {
        peer.write(&reply(two.0, Code::Ok, b"late")).await;
        peer.write(&Frame::Accepted(Accepted {
            message_id: again.message_id,
            ..Accepted::default()
        }))
        .await;
    }
    assert_eq!(first.await.unwrap().unwrap().payload, "early");
    assert_eq!(second.await.unwrap().unwrap().payload, "late");
    join.await.unwrap().unwrap();
    let third = ask(&client, "third");
    let (message_id, _) = peer.request().await;
    peer.write(&reply(message_id, Code::Ok, b"")).await;
    third.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_final_code_is_told_with_what_came() {
    let gateway = Gateway::start().await;
    let (client, mut peer) = online(&gateway).await;
    let asked = ask(&client, "who?");
    let (message_id, _) = peer.request().await;
    peer.write(&reply(message_id, Code::BusinessUnknown, b"")).await;
    let error = asked.await.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            RequestError::Refused {
                code: Code::BusinessUnknown,
                number: 302,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("check the business id"), "{error}");
}

#[tokio::test]
async fn a_deadline_ends_a_request_also_while_nobody_is_connected() {
    let gateway = Gateway::start().await;
    let (client, mut peer) = online(&gateway).await;
    let options = RequestOptions {
        metadata: "m".into(),
        trace: "t".to_owned(),
        ..RequestOptions::default()
    };
    let within = RequestOptions {
        deadline: Duration::from_millis(200),
        ..options
    };
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.request_with(1, "slow", within).await }
    });
    let raw = peer.read().await;
    let Frame::Request(request) = raw.frame() else {
        panic!("{raw:?}")
    };
    assert_eq!((request.metadata, request.trace), (&b"m"[..], "t"));
    assert!(
        (1..=200).contains(&request.deadline_ms),
        "{}",
        request.deadline_ms
    );
    drop((peer, gateway));
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(
        error,
        RequestError::DeadlineExceeded {
            last: Code::ConnectionLost
        }
    );
    let too_long = client.request(1, vec![0; 70_000]).await;
    assert!(matches!(too_long, Err(RequestError::TooLong { .. })));
}

#[tokio::test]
async fn a_send_is_accepted_or_its_fate_is_unknown() {
    let gateway = Gateway::start().await;
    let (client, mut peer) = online(&gateway).await;
    let send = |payload: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.send(1, payload).await })
    };
    let sent = send("fine");
    let raw = peer.read().await;
    let Frame::Send(frame) = raw.frame() else {
        panic!("{raw:?}")
    };
    peer.write(&Frame::Accepted(Accepted {
        message_id: frame.message_id,
        ..Accepted::default()
    }))
    .await;
    assert_eq!(sent.await.unwrap(), Ok(()));
    let sent = send("lost");
    peer.read().await;
    drop(peer);
    assert_eq!(sent.await.unwrap(), Err(RequestError::Unknown));
}

#[tokio::test]
async fn pushes_keep_their_order_and_are_acknowledged_when_handled() {
    let gateway = Gateway::start().await;
    let (client, mut peer) = online(&gateway).await;
    let (seen, mut received) = tokio::sync::mpsc::channel(16);
    assert!(client.on_push(move |push| {
        let seen = seen.clone();
        async move { seen.send(push).await.unwrap() }
    }));
    assert!(client.pushes().is_none(), "there is one receiver");
    for sequence in [1, 2, 2, 3] {
        let payload = &[sequence as u8];
        peer.write(&Frame::Push(Push {
            business: 1,
            sequence,
            payload,
            ..Push::default()
        }))
        .await;
    }
    for expected in 1..=3 {
        let push = received.recv().await.unwrap();
        assert_eq!(
            (push.target, &push.payload[..]),
            (Target::Device { sequence: expected }, &[expected as u8][..])
        );
    }
    let mut acknowledged = 0;
    while acknowledged < 3 {
        let raw = peer.read().await;
        let Frame::PushAck(ack) = raw.frame() else {
            panic!("{raw:?}")
        };
        assert!(ack.sequence > acknowledged);
        acknowledged = ack.sequence;
    }
}

#[tokio::test]
async fn a_slow_application_stops_the_reading_and_loses_nothing() {
    const PUSHES: u64 = 3_000;
    let gateway = Gateway::start().await;
    let builder = client(&[&gateway]).push_queue(2);
    let (admitted, client) = tokio::join!(gateway.admit(login_ok(1)), builder.connect());
    let (client, (mut peer, _)) = (client.unwrap(), admitted);
    let mut pushes = client.pushes().unwrap();
    let payload = vec![7; 4_096];
    // More than the kernel's buffers hold: the writer only gets on as the application takes.
    let server = async {
        for sequence in 1..=PUSHES {
            peer.write(&Frame::Push(Push {
                business: 1,
                sequence,
                payload: &payload,
                ..Push::default()
            }))
            .await;
        }
        peer
    };
    let application = async {
        for expected in 1..=PUSHES {
            let push = pushes.recv().await.unwrap();
            assert_eq!(push.target, Target::Device { sequence: expected });
        }
    };
    let _ends = tokio::join!(server, application);
    assert_eq!(client.dropped_pushes(), 0);
}
