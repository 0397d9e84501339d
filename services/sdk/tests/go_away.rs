//! Told to go by a gateway that ends: against gateways and an ipconfig that play a script.

mod scripted;

use imaccess_sdk::{BackoffPolicy, Client, Code, ConnectionState};
use imaccess_wire::Frame;
use imaccess_wire::frame::{Close, GoAway, LoginOk, Reply};
use scripted::{Gateway, Ipconfig, Peer, login_ok};

async fn two_gateways() -> (Gateway, Gateway, Ipconfig) {
    (
        Gateway::start().await,
        Gateway::start().await,
        Ipconfig::start().await,
    )
}

/// A client that ipconfig has told these gateways, online at the first of them.
async fn online(ipconfig: &Ipconfig, gateways: &[&Gateway]) -> (Client, Peer) {
    let builder = Client::builder(&ipconfig.url, "demo", "alice").backoff(BackoffPolicy {
        base: std::time::Duration::from_millis(5),
        ..BackoffPolicy::default()
    });
    let ((), (peer, _), client) = tokio::join!(
        ipconfig.answer(gateways),
        gateways[0].admit(login_ok(1)),
        builder.connect()
    );
    (client.expect("a client that can log in"), peer)
}

/// What a gateway that ends says: go, ask ipconfig where to.
async fn go_away(peer: &mut Peer) {
    let code = Code::Draining as u16;
    peer.write(&Frame::GoAway(GoAway {
        code,
        deadline_ms: 10_000,
        ..GoAway::default()
    }))
    .await;
}

async fn answer(peer: &mut Peer, message_id: u64, payload: &[u8]) {
    let reply = Reply {
        message_id,
        payload,
        ..Reply::default()
    };
    peer.write(&Frame::Reply(reply)).await;
}

fn resumed() -> LoginOk<'static> {
    LoginOk {
        resumed: true,
        ..login_ok(1)
    }
}

#[tokio::test]
async fn ipconfig_is_asked_anew_and_nothing_is_lost_on_the_way() {
    let (old, new, ipconfig) = two_gateways().await;
    let (client, mut leaving) = online(&ipconfig, &[&old]).await;
    let mut states = client.states();
    let ask = |payload: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.request(1, payload).await.unwrap().payload })
    };
    let (answered, repeated) = (ask("one"), ask("two"));
    let (first, second) = (leaving.request().await, leaving.request().await);
    go_away(&mut leaving).await;
    // Its last answer holds for an hour, and the best of the new one is where it must not go.
    ipconfig.answer(&[&old, &new]).await;
    let mut arriving = new.accept().await;
    let raw = arriving.read().await;
    let Frame::Login(login) = raw.frame() else {
        panic!("{raw:?}")
    };
    assert_eq!(login.ticket, b"ticket");
    assert_eq!(client.state(), ConnectionState::Moving);
    // One is answered where it was asked, the other one isn't.
    let payload = first.1.clone();
    answer(&mut leaving, first.0, &payload).await;
    let of_first = if payload == b"one" { answered } else { repeated };
    assert_eq!(of_first.await.unwrap(), payload);
    arriving.write(&Frame::LoginOk(resumed())).await;
    let is_online = |state| matches!(state, ConnectionState::Online { resumed: true, .. });
    assert!(states.wait_for(is_online).await.is_some());
    let raw = leaving.read().await;
    let Frame::Close(close) = raw.frame() else {
        panic!("{raw:?}")
    };
    assert_eq!(close.known_code(), Some(Code::Moved));
    // Repeated with the same id.
    assert_eq!(arriving.request().await, second);
    answer(&mut arriving, second.0, &second.1).await;
    let after = ask("after");
    let (message_id, payload) = arriving.request().await;
    assert_eq!(payload, b"after");
    answer(&mut arriving, message_id, &payload).await;
    assert_eq!(after.await.unwrap(), "after");
    assert!(!old.has_caller().await);
}

#[tokio::test]
async fn where_there_is_nowhere_to_go_it_stays_asks_again_and_comes_back_when_it_was_closed() {
    let (only, ipconfig) = (Gateway::start().await, Ipconfig::start().await);
    let (client, mut leaving) = online(&ipconfig, &[&only]).await;
    go_away(&mut leaving).await;
    for _ in 0..3 {
        ipconfig.answer(&[&only]).await;
    }
    // Meanwhile the old connection serves.
    let request = tokio::spawn({
        let client = client.clone();
        async move { client.request(1, "still here").await }
    });
    let (message_id, payload) = leaving.request().await;
    answer(&mut leaving, message_id, &payload).await;
    assert_eq!(request.await.unwrap().unwrap().payload, "still here");
    assert!(
        !only.has_caller().await,
        "it never goes where it was told to leave"
    );
    leaving
        .write(&Frame::Close(Close::with_code(Code::Draining)))
        .await;
    drop(leaving);
    // A new gateway has come to the address.
    let come_back = async {
        tokio::select! {
            admitted = only.admit(resumed()) => admitted,
            () = async { loop { ipconfig.answer(&[&only]).await } } => unreachable!(),
        }
    };
    let (_peer, ticket) = come_back.await;
    assert_eq!(ticket, b"ticket");
}

/// The session is at the new gateway before its answer to the login is at the client.
#[tokio::test]
async fn a_move_that_ends_the_old_connection_first_is_no_loss() {
    for (code, meanwhile) in [
        (Code::Moved, ConnectionState::Moving),
        (Code::Unexpected, ConnectionState::Suspended),
    ] {
        let (old, new, ipconfig) = two_gateways().await;
        let (client, mut leaving) = online(&ipconfig, &[&old]).await;
        let mut states = client.states();
        go_away(&mut leaving).await;
        ipconfig.answer(&[&new]).await;
        let mut arriving = new.accept().await;
        let raw = arriving.read().await;
        assert!(matches!(raw.frame(), Frame::Login(_)), "{raw:?}");
        leaving.write(&Frame::Close(Close::with_code(code))).await;
        // The client has taken it in when it has closed its side.
        assert!(leaving.try_read().await.is_none());
        assert_eq!(client.state(), meanwhile);
        arriving.write(&Frame::LoginOk(resumed())).await;
        let is_online = |state| matches!(state, ConnectionState::Online { resumed: true, .. });
        assert!(states.wait_for(is_online).await.is_some());
    }
}

#[tokio::test]
async fn while_ipconfig_is_down_another_gateway_of_its_last_answer_serves() {
    let (old, new, ipconfig) = two_gateways().await;
    let (_client, mut leaving) = online(&ipconfig, &[&old, &new]).await;
    drop(ipconfig);
    go_away(&mut leaving).await;
    let (_arriving, ticket) = new.admit(resumed()).await;
    assert_eq!(ticket, b"ticket");
    let raw = leaving.read().await;
    assert!(matches!(raw.frame(), Frame::Close(_)), "{raw:?}");
}
