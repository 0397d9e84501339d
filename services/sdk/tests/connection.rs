//! Coming online, staying there, and being told to go: against a gateway that plays a script.

mod scripted;

use std::time::Duration;

use imaccess_sdk::{Client, Code, ConnectError, ConnectionState, NetworkType, SessionId};
use imaccess_wire::Frame;
use imaccess_wire::frame::{
    Close, Endpoints, GoAway, GoAwayEndpoint, GroupPush, LoginOk, LoginRefused, Reply, Transport,
};
use scripted::{Gateway, client, login_ok};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

fn online(session: u8, resumed: bool) -> ConnectionState {
    ConnectionState::Online {
        session: SessionId([session; 16]),
        epoch: 1,
        resumed,
    }
}

#[tokio::test]
async fn the_login_says_who_it_is_and_close_says_goodbye() {
    let gateway = Gateway::start().await;
    let server = async {
        let mut peer = gateway.accept().await;
        let raw = peer.read().await;
        let Frame::Login(login) = raw.frame() else {
            panic!("{raw:?}")
        };
        assert_eq!(
            (login.app, login.device, login.token),
            ("demo", "alice", &b"secret"[..])
        );
        assert_eq!(
            (login.platform, login.version, login.carrier),
            ("linux", "1.0", "one")
        );
        assert_eq!(
            (login.network, login.transport),
            (NetworkType::Wifi, Transport::Tcp)
        );
        assert!(login.ticket.is_empty());
        peer.write(&Frame::LoginOk(login_ok(7))).await;
        let raw = peer.read().await;
        let Frame::Close(close) = raw.frame() else {
            panic!("{raw:?}")
        };
        assert_eq!(close.known_code(), Some(Code::ClientLeft));
        assert!(peer.try_read().await.is_none());
    };
    let application = async {
        let builder = client(&[&gateway]).token("secret").platform("linux", "1.0");
        let client = builder.network(NetworkType::Wifi, "one").connect().await.unwrap();
        assert_eq!(client.state(), online(7, false));
        client.close().await;
        assert_eq!(client.state(), ConnectionState::Closed { code: Code::Ok });
        assert!(client.request(1, "late").await.is_err());
    };
    tokio::join!(server, application);
}

#[tokio::test]
async fn a_lost_connection_is_resumed_with_the_ticket() {
    let gateway = Gateway::start().await;
    let (first, client) = tokio::join!(gateway.admit(login_ok(1)), client(&[&gateway]).connect());
    let client = client.unwrap();
    let mut states = client.states();
    drop(first);
    let (_peer, ticket) = gateway
        .admit(LoginOk {
            resumed: true,
            ..login_ok(1)
        })
        .await;
    assert_eq!(ticket, b"ticket");
    assert_eq!(
        states.wait_for(|state| state == online(1, true)).await,
        Some(online(1, true))
    );
}

#[tokio::test]
async fn a_retry_after_is_waited_for_and_a_final_refusal_is_not() {
    let gateway = Gateway::start().await;
    let wait = Duration::from_millis(300);
    let server = async {
        let mut peer = gateway.accept().await;
        peer.read().await;
        let code = Code::Overloaded as u16;
        let refused = LoginRefused {
            code,
            retry_after_ms: 300,
            ..LoginRefused::default()
        };
        peer.write(&Frame::LoginRefused(refused)).await;
        let refused_at = Instant::now();
        let mut peer = gateway.accept().await;
        assert!(
            refused_at.elapsed() >= wait,
            "came back after {:?}",
            refused_at.elapsed()
        );
        peer.read().await;
        let code = Code::TokenInvalid as u16;
        peer.write(&Frame::LoginRefused(LoginRefused {
            code,
            reason: "forged",
            ..LoginRefused::default()
        }))
        .await;
    };
    let ((), outcome) = tokio::join!(server, client(&[&gateway]).connect());
    let error = outcome.unwrap_err();
    assert!(
        matches!(
            error,
            ConnectError::Refused {
                code: Code::TokenInvalid,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error.to_string().contains("forged") && error.to_string().contains("new token"),
        "{error}"
    );
}

#[tokio::test]
async fn a_retry_after_beyond_the_time_to_connect_is_told_at_once() {
    let gateway = Gateway::start().await;
    let server = async {
        let mut peer = gateway.accept().await;
        peer.read().await;
        let code = Code::Overloaded as u16;
        let refused = LoginRefused {
            code,
            retry_after_ms: 600_000,
            ..LoginRefused::default()
        };
        peer.write(&Frame::LoginRefused(refused)).await;
    };
    let ((), outcome) = tokio::join!(server, client(&[&gateway]).connect());
    let expected = Some(Duration::from_secs(600));
    assert!(
        matches!(outcome.unwrap_err(), ConnectError::Refused { retry_after, .. } if retry_after == expected)
    );
}

#[tokio::test]
async fn the_next_endpoint_is_tried_when_one_is_dead_or_full() {
    let (dead, full, good) = (
        Gateway::start().await,
        Gateway::start().await,
        Gateway::start().await,
    );
    let builder = client(&[&dead, &full, &good]);
    drop(dead);
    let server = async {
        let mut peer = full.accept().await;
        peer.read().await;
        let code = Code::ConnectionLimit as u16;
        peer.write(&Frame::LoginRefused(LoginRefused {
            code,
            ..LoginRefused::default()
        }))
        .await;
        good.admit(login_ok(3)).await
    };
    let (_peer, client) = tokio::join!(server, builder.connect());
    assert_eq!(client.unwrap().state(), online(3, false));
}

#[tokio::test]
async fn a_silent_gateway_is_found_out_by_its_missing_pong() {
    let gateway = Gateway::start().await;
    let ok = LoginOk {
        ping_interval_s: 1,
        ..login_ok(1)
    };
    let (first, client) = tokio::join!(gateway.admit(ok), client(&[&gateway]).connect());
    let _client = client.unwrap();
    // The first connection stays open and says nothing; the client comes again on its own.
    let (_second, ticket) = gateway.admit(LoginOk { resumed: true, ..ok }).await;
    assert_eq!(ticket, b"ticket");
    let (mut first, _) = first;
    let raw = first.read().await;
    assert!(matches!(raw.frame(), Frame::Ping(_)), "{raw:?}");
}

#[tokio::test]
async fn another_login_of_the_device_ends_this_client() {
    let gateway = Gateway::start().await;
    let (admitted, client) = tokio::join!(gateway.admit(login_ok(1)), client(&[&gateway]).connect());
    let (client, (mut peer, _)) = (client.unwrap(), admitted);
    let request = tokio::spawn({
        let client = client.clone();
        async move { client.request(1, "never answered").await }
    });
    peer.request().await;
    peer.write(&Frame::Close(Close::with_code(Code::Superseded)))
        .await;
    let closed = imaccess_sdk::RequestError::Closed {
        code: Code::Superseded,
    };
    assert_eq!(request.await.unwrap(), Err(closed));
    let mut states = client.states();
    let code = Code::Superseded;
    assert!(
        states
            .wait_for(|state| state == ConnectionState::Closed { code })
            .await
            .is_some()
    );
}

#[tokio::test]
async fn a_go_away_is_followed_before_the_old_connection_is_left() {
    let (old, new) = (Gateway::start().await, Gateway::start().await);
    let (admitted, client) = tokio::join!(old.admit(login_ok(1)), client(&[&old]).connect());
    let (client, (mut leaving, _)) = (client.unwrap(), admitted);
    let mut states = client.states();
    let endpoints = [GoAwayEndpoint {
        cluster: "",
        transport: Transport::Tcp,
        host: "127.0.0.1",
        port: new.address.port(),
        server_name: "",
    }];
    let code = Code::Draining as u16;
    let away = GoAway {
        code,
        endpoints: Endpoints::new(&endpoints),
        ticket: b"there",
        ..GoAway::default()
    };
    leaving.write(&Frame::GoAway(away)).await;
    let mut arriving = new.accept().await;
    let raw = arriving.read().await;
    let Frame::Login(login) = raw.frame() else {
        panic!("{raw:?}")
    };
    assert_eq!(login.ticket, b"there");
    assert_eq!(client.state(), ConnectionState::Moving);
    // Until the new gateway has answered, the old one serves.
    let request = tokio::spawn({
        let client = client.clone();
        async move { client.request(1, "still here").await }
    });
    let (message_id, payload) = leaving.request().await;
    let reply = Reply {
        message_id,
        payload: &payload,
        ..Reply::default()
    };
    leaving.write(&Frame::Reply(reply)).await;
    assert_eq!(request.await.unwrap().unwrap().payload, "still here");
    arriving
        .write(&Frame::LoginOk(LoginOk {
            resumed: true,
            ..login_ok(1)
        }))
        .await;
    assert!(states.wait_for(|state| state == online(1, true)).await.is_some());
    let raw = leaving.read().await;
    let Frame::Close(close) = raw.frame() else {
        panic!("{raw:?}")
    };
    assert_eq!(close.known_code(), Some(Code::Moved));
    let request = tokio::spawn(async move { client.request(1, "moved").await });
    let (message_id, payload) = arriving.request().await;
    arriving
        .write(&Frame::Reply(Reply {
            message_id,
            payload: &payload,
            ..Reply::default()
        }))
        .await;
    assert_eq!(request.await.unwrap().unwrap().payload, "moved");
}

#[tokio::test]
async fn ipconfig_is_asked_and_its_last_answer_serves_while_it_is_down() {
    let gateway = Gateway::start().await;
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", http.local_addr().unwrap());
    let port = gateway.address.port();
    let answer = format!(
        r#"{{"version":1,"cluster":"c","ttl_s":0,"retry_after_s":0.01,"token":"served",
            "endpoints":[{{"name":"g","cluster":"c","protocol":"tcp","host":"127.0.0.1","port":{port}}}]}}"#
    );
    let ipconfig = async move {
        let (mut stream, _) = http.accept().await.unwrap();
        let mut question = vec![0; 4_096];
        let count = stream.read(&mut question).await.unwrap();
        let question = String::from_utf8_lossy(&question[..count]).into_owned();
        assert!(
            question.starts_with("GET /v1/endpoints?app=demo&device=alice HTTP/1.1"),
            "{question}"
        );
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            answer.len()
        );
        stream
            .write_all(format!("{head}{answer}").as_bytes())
            .await
            .unwrap();
        // `http` ends here: whoever asks again is refused.
    };
    let server = async {
        let mut peer = gateway.accept().await;
        let raw = peer.read().await;
        let Frame::Login(login) = raw.frame() else {
            panic!("{raw:?}")
        };
        assert_eq!(login.token, b"served");
        peer.write(&Frame::LoginOk(login_ok(1))).await;
        peer
    };
    let builder = Client::builder(&url, "demo", "alice");
    let ((), peer, client) = tokio::join!(ipconfig, server, builder.connect());
    let _client = client.unwrap();
    drop(peer);
    gateway
        .admit(LoginOk {
            resumed: true,
            ..login_ok(1)
        })
        .await;
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address() {
    let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", http.local_addr().unwrap());
    drop(http);
    let builder = Client::builder(&url, "demo", "alice").connect_within(Duration::from_millis(100));
    let error = builder.connect().await.unwrap_err();
    assert!(
        error.to_string().contains(&url) && error.is_retryable(),
        "{error}"
    );
}

#[tokio::test]
async fn groups_are_joined_again_by_the_login_and_gaps_are_told() {
    let gateway = Gateway::start().await;
    let mut peer = {
        let joins = async {
            let (mut peer, _) = gateway.admit(login_ok(1)).await;
            let raw = peer.read().await;
            let Frame::Join(join) = raw.frame() else {
                panic!("{raw:?}")
            };
            let accepted = imaccess_wire::frame::Accepted {
                message_id: join.message_id,
                ..Default::default()
            };
            peer.write(&Frame::Accepted(accepted)).await;
            peer
        };
        let (peer, client) = tokio::join!(joins, client(&[&gateway]).group(1, "lobby").connect());
        (peer, client.unwrap())
    };
    let mut pushes = peer.1.pushes().unwrap();
    let push = |sequence| GroupPush {
        business: 1,
        group: b"lobby",
        group_epoch: 9,
        sequence,
        ..GroupPush::default()
    };
    peer.0.write(&Frame::GroupPush(push(1))).await;
    drop(peer.0);
    let missed = |push: imaccess_sdk::Push| match push.target {
        imaccess_sdk::Target::Group { missed, sequence, .. } => (sequence, missed),
        other => panic!("{other:?}"),
    };
    assert_eq!(missed(pushes.recv().await.unwrap()), (1, 0));
    let mut second = gateway.accept().await;
    let raw = second.read().await;
    let Frame::Login(login) = raw.frame() else {
        panic!("{raw:?}")
    };
    let positions: Vec<_> = login
        .groups
        .iter()
        .map(|group| (group.group, group.group_epoch, group.sequence))
        .collect();
    assert_eq!(positions, [(&b"lobby"[..], 9, 1)]);
    second
        .write(&Frame::LoginOk(LoginOk {
            resumed: true,
            ..login_ok(1)
        }))
        .await;
    for sequence in [2, 2, 5] {
        second.write(&Frame::GroupPush(push(sequence))).await;
    }
    assert_eq!(missed(pushes.recv().await.unwrap()), (2, 0));
    assert_eq!(missed(pushes.recv().await.unwrap()), (5, 2));
}
