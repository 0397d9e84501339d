//! Businesses that are asked by calls, by HTTP and by gRPC, from a device's frame to its answer.

use imaccess_common::business::Protocol;
use imaccess_proto::v1::{BusinessReply, ConnectionEvent, EventsHandled};
use imaccess_wire::frame::{Request, Send};
use serde_json::{Value, json};
use tonic::Status;

use super::harness::Running;
use super::servers::{Call, Handled, Post, anywhere, http, unary};
use super::*;

fn by(protocol: Protocol, address: SocketAddr) -> BusinessConfig {
    BusinessConfig {
        protocol,
        ..BusinessConfig::new(1, "web", &format!("http://{address}"))
    }
}

/// A sidecar with one device, `first`, on handle 1.
async fn with_device(config: BusinessConfig) -> (Running, mpsc::Receiver<LinkStream>, LinkStream) {
    let running = start(vec![config], |config| {
        config.resume_window = Duration::from_millis(100);
    })
    .await;
    let mut shard = gateway(running.directory.path(), 0, 1);
    let mut link = attach(&mut shard).await;
    logged_in(&link.login(running.attempt(1, "first", b"", &[])).await);
    (running, shard, link)
}

/// Asks until the business is asked: what comes to it.
async fn until_asked<Q, A>(
    link: &mut LinkStream,
    calls: &mut mpsc::Receiver<Call<Q, A>>,
    message_id: u64,
    payload: &[u8],
) -> Call<Q, A> {
    soon(async {
        loop {
            link.request(1, 1, message_id, payload).await;
            tokio::select! {
                call = calls.recv() => return call.unwrap(),
                (answered, code, _) = link.reply(1) => {
                    assert!(answered != message_id || code == Code::BusinessUnavailable as u16, "{code}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    })
    .await
}

async fn until_page(running: &Running, line: &str) {
    soon(async {
        while !running.metrics().await.lines().any(|shown| shown == line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_goes_out_as_json_and_its_answer_comes_back() {
    let (server, mut posts) = http(anywhere());
    let (_running, _shard, mut link) = with_device(by(Protocol::Http, server.address)).await;
    let post = until_asked(&mut link, &mut posts, 1, b"hello").await;
    assert_eq!(post.question.path, "/request");
    assert_eq!(post.question.headers["content-type"], "application/json");
    assert!(!post.question.headers.contains_key("traceparent"));
    let asked = &post.question.body;
    assert_eq!(
        (
            &asked["app"],
            &asked["device"],
            &asked["message_id"],
            &asked["text"],
            &asked["payload"]
        ),
        (
            &json!("app"),
            &json!("first"),
            &json!("1"),
            &json!("hello"),
            &json!("aGVsbG8=")
        )
    );
    assert_eq!(asked["session"].as_str().unwrap().len(), 32);
    assert!(
        (1..=10_000).contains(&asked["deadline_ms"].as_u64().unwrap()),
        "{asked}"
    );
    post.status(200, r#"{"text": "hi"}"#);
    assert_eq!(link.reply(1).await, (1, 0, b"hi".to_vec()));

    type Case<'a> = (u16, &'a [(&'static str, &'a str)], &'a str, u16, &'a [u8]);
    let cases: [Case<'_>; 9] = [
        (204, &[], "", 0, b""),
        (200, &[], r#"{"payload": "AP8="}"#, 0, &[0, 255]),
        (
            200,
            &[],
            r#"{"code": 306, "text": "no"}"#,
            Code::Forbidden as u16,
            b"no",
        ),
        (500, &[], "oops", Code::BusinessFailed as u16, b""),
        (200, &[], "not json", Code::BusinessFailed as u16, b""),
        (404, &[], "", Code::BusinessFailed as u16, b""),
        (429, &[("retry-after", "2")], "", Code::Busy as u16, b""),
        (503, &[("retry-after", "1")], "", Code::Busy as u16, b""),
        (503, &[], "", Code::BusinessFailed as u16, b""),
    ];
    for (at, (status, headers, body, code, payload)) in cases.into_iter().enumerate() {
        let message_id = at as u64 + 2;
        link.request(1, 1, message_id, b"x").await;
        soon(posts.recv())
            .await
            .unwrap()
            .status_with(status, headers, body);
        assert_eq!(
            link.reply(1).await,
            (message_id, code, payload.to_vec()),
            "{status} {body}"
        );
    }

    // With a trace, and without an answer.
    let mut frame = Vec::new();
    Request {
        business: 1,
        message_id: 20,
        trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ..Request::default()
    }
    .encode(&mut frame);
    link.frame(1, frame).await;
    let post = soon(posts.recv()).await.unwrap();
    assert_eq!(
        post.question.headers["traceparent"],
        post.question.body["traceparent"].as_str().unwrap()
    );
    post.status(200, "");
    assert_eq!(link.reply(1).await, (20, 0, Vec::new()));
    let mut frame = Vec::new();
    Send {
        business: 1,
        message_id: 21,
        payload: b"fire",
        ..Send::default()
    }
    .encode(&mut frame);
    link.frame(1, frame).await;
    let post = soon(posts.recv()).await.unwrap();
    assert_eq!(
        (&post.question.body["one_way"], &post.question.body["text"]),
        (&json!(true), &json!("fire"))
    );
    post.status(500, "");
    assert_eq!(Accepted::decode(body(&link.frame_for(1).await)).unwrap().code, 0);
}

/// Asks until it is answered at once that the business isn't asked. What the business is asked meanwhile hangs.
async fn until_given_up<Q, A>(
    link: &mut LinkStream,
    calls: &mut mpsc::Receiver<Call<Q, A>>,
    first_id: u64,
) -> u64 {
    soon(async {
        let mut hanging = Vec::new();
        for message_id in first_id.. {
            link.request(1, 1, message_id, b"x").await;
            let answered = loop {
                tokio::select! {
                    call = calls.recv() => {
                        hanging.push(call.unwrap());
                        break None;
                    }
                    reply = link.reply(1) => if reply.0 == message_id {
                        break Some(reply.1);
                    }
                }
            };
            if answered == Some(Code::BusinessUnavailable as u16) {
                return message_id;
            }
        }
        unreachable!("there is always another number");
    })
    .await
}

async fn hangs_and_comes_back<Q, A>(
    protocol: Protocol,
    address: SocketAddr,
    mut calls: mpsc::Receiver<Call<Q, A>>,
    answer: impl Fn(Call<Q, A>),
) {
    let config = BusinessConfig {
        timeout: Duration::from_millis(300),
        ..by(protocol, address)
    };
    let (running, _shard, mut link) = with_device(config).await;
    answer(until_asked(&mut link, &mut calls, 1, b"x").await);
    assert_eq!(link.reply(1).await.1, 0);
    let mut hanging = Vec::new();
    for message_id in 2..10 {
        link.request(1, 1, message_id, b"x").await;
        hanging.push(soon(calls.recv()).await.unwrap());
    }
    for _ in 0..8 {
        assert_eq!(link.reply(1).await.1, Code::DeadlineExceeded as u16);
    }
    let last = until_given_up(&mut link, &mut calls, 10).await;
    until_page(
        &running,
        "imaccess_state_business_circuit_open{business=\"web\"} 1",
    )
    .await;
    // It is asked again, now and then, and one answer is enough.
    answer(until_asked(&mut link, &mut calls, last + 1, b"x").await);
    until_page(
        &running,
        "imaccess_state_business_circuit_open{business=\"web\"} 0",
    )
    .await;
    until_page(
        &running,
        "imaccess_state_business_circuit_opened_total{business=\"web\"} 1",
    )
    .await;
    link.request(1, 1, last + 2, b"x").await;
    answer(soon(calls.recv()).await.unwrap());
    loop {
        let (message_id, code, _) = link.reply(1).await;
        if message_id == last + 2 {
            assert_eq!(code, 0);
            break;
        }
    }
}

#[tokio::test]
async fn one_that_hangs_by_http_costs_no_more_waiting_until_it_answers_again() {
    let (server, posts) = http(anywhere());
    hangs_and_comes_back(Protocol::Http, server.address, posts, |post: Post| {
        post.status(204, "");
    })
    .await;
}

#[tokio::test]
async fn one_that_hangs_by_calls_costs_no_more_waiting_until_it_answers_again() {
    let (server, requests, _events) = unary(anywhere());
    let answer = |call: Handled| call.answer(Ok(BusinessReply::default()));
    hangs_and_comes_back(Protocol::GrpcUnary, server.address, requests, answer).await;
}

#[tokio::test]
async fn one_that_errs_by_http_is_given_up_too() {
    let (server, mut posts) = http(anywhere());
    let (running, _shard, mut link) = with_device(by(Protocol::Http, server.address)).await;
    until_asked(&mut link, &mut posts, 1, b"x").await.status(500, "");
    assert_eq!(link.reply(1).await.1, Code::BusinessFailed as u16);
    for message_id in 2..9 {
        link.request(1, 1, message_id, b"x").await;
        soon(posts.recv()).await.unwrap().status(500, "");
        assert_eq!(link.reply(1).await.1, Code::BusinessFailed as u16);
    }
    until_given_up(&mut link, &mut posts, 9).await;
    until_page(
        &running,
        "imaccess_state_business_circuit_opened_total{business=\"web\"} 1",
    )
    .await;
}

/// Which devices the events of a call say to be what.
fn kinds(body: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let events = body["events"].as_array().unwrap().iter();
    events
        .map(|event| (text(&event["device"]), text(&event["kind"])))
        .collect()
}

/// Takes calls, answering each with success, until so many events came.
async fn take_events(posts: &mut mpsc::Receiver<Post>, count: usize) -> Vec<(String, String)> {
    let mut all = Vec::new();
    while all.len() < count {
        let post = soon(posts.recv()).await.unwrap();
        assert_eq!(post.question.path, "/events");
        all.extend(kinds(&post.question.body));
        post.status(204, "");
    }
    all
}

fn was(device: &str, kind: &str) -> (String, String) {
    (device.to_owned(), kind.to_owned())
}

#[tokio::test]
async fn events_by_http_come_in_order_and_again_until_they_are_taken_also_over_a_restart() {
    let (server, mut posts) = http(anywhere());
    let mut config = by(Protocol::Http, server.address);
    config.events = true;
    let (running, _shard, mut link) = with_device(config).await;
    let post = soon(posts.recv()).await.unwrap();
    let first = post.question.body.clone();
    assert_eq!(kinds(&first), [was("first", "online")]);
    assert_eq!(
        first["from"],
        json!({"cluster": harness::CLUSTER, "instance": "pod-1/0.0", "business": 1})
    );
    assert_eq!(first["events"][0]["sequence"], 1);
    assert!(
        first["events"][0]["epoch"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    link.login(running.attempt(2, "second", b"", &[])).await;
    link.closed(2, Code::ClientLeft).await;
    let mut post = post;
    for status in [500, 404, 302] {
        post.status(status, "");
        post = soon(posts.recv()).await.unwrap();
        assert_eq!(post.question.body, first, "the same, and nothing before it");
    }
    post.status(202, "thanks");
    let all = take_events(&mut posts, 2).await;
    assert_eq!(all, [was("second", "online"), was("second", "offline")]);
    until_page(
        &running,
        "imaccess_state_events_waiting{business=\"web\",worker=\"0\"} 0",
    )
    .await;

    let address = server.address;
    server.stop().await;
    link.login(running.attempt(3, "third", b"", &[])).await;
    link.closed(1, Code::PingTimeout).await;
    until_page(
        &running,
        "imaccess_state_events_waiting{business=\"web\",worker=\"0\"} 2",
    )
    .await;
    let (_server, mut posts) = http(address);
    let all = take_events(&mut posts, 2).await;
    assert_eq!(all, [was("third", "online"), was("first", "offline")]);
}

#[tokio::test]
async fn one_that_is_away_is_said_so_and_is_asked_when_it_is_back() {
    let (server, mut posts) = http(anywhere());
    let (running, _shard, mut link) = with_device(by(Protocol::Http, server.address)).await;
    let post = until_asked(&mut link, &mut posts, 1, b"x").await;
    let address = server.address;
    server.stop().await;
    // It had been written: only the client may repeat it.
    assert_eq!(link.reply(1).await, (1, Code::Retry as u16, Vec::new()));
    drop(post);
    link.request(1, 1, 2, b"x").await;
    assert_eq!(
        link.reply(1).await,
        (2, Code::BusinessUnavailable as u16, Vec::new())
    );
    until_page(&running, "imaccess_state_business_streams{business=\"web\"} 0").await;
    let (_server, mut posts) = http(address);
    until_asked(&mut link, &mut posts, 3, b"x").await.status(200, "");
    assert_eq!(link.reply(1).await, (3, 0, Vec::new()));
}

#[tokio::test]
async fn of_two_places_one_may_be_away_and_nobody_notices() {
    let nobody = std::net::TcpListener::bind(anywhere())
        .unwrap()
        .local_addr()
        .unwrap();
    let (server, mut posts) = http(anywhere());
    let mut config = by(Protocol::Http, server.address);
    config.endpoints = vec![std::mem::take(&mut config.endpoint), format!("http://{nobody}")];
    let (running, _shard, mut link) = with_device(config).await;
    until_page(&running, "imaccess_state_business_streams{business=\"web\"} 2").await;
    until_asked(&mut link, &mut posts, 1, b"x").await.status(204, "");
    assert_eq!(link.reply(1).await.1, 0);
    for message_id in 2..20 {
        link.request(1, 1, message_id, b"x").await;
        soon(posts.recv()).await.unwrap().status(204, "");
        assert_eq!(link.reply(1).await, (message_id, 0, Vec::new()));
    }
}

#[tokio::test]
async fn a_host_is_looked_up_and_asked_by_its_name() {
    let (server, mut posts) = http(anywhere());
    let mut config = by(Protocol::Http, server.address);
    config.endpoint = format!("http://localhost:{}", server.address.port());
    let (_running, _shard, mut link) = with_device(config).await;
    let post = until_asked(&mut link, &mut posts, 1, b"x").await;
    let host = format!("localhost:{}", server.address.port());
    assert_eq!(post.question.headers["host"], host.as_str());
    post.status(204, "");
    assert_eq!(link.reply(1).await, (1, 0, Vec::new()));
}

#[tokio::test]
async fn calls_by_grpc_carry_requests_and_events() {
    let (server, mut requests, mut told) = unary(anywhere());
    let mut config = by(Protocol::GrpcUnary, server.address);
    config.events = true;
    let (running, _shard, mut link) = with_device(config).await;
    let call = until_asked(&mut link, &mut requests, 1, b"hello").await;
    let question = call.question.clone();
    assert_eq!(
        (question.device.as_str(), question.payload.as_ref()),
        ("first", &b"hello"[..])
    );
    assert_eq!((question.message_id, question.session.len()), (1, 16));
    call.answer(Ok(BusinessReply {
        // The sidecar knows which request it is.
        id: 99,
        payload: question.payload,
        ..BusinessReply::default()
    }));
    assert_eq!(link.reply(1).await, (1, 0, b"hello".to_vec()));
    for (message_id, status, code) in [
        (2, Status::resource_exhausted("later"), Code::Busy),
        (3, Status::unavailable("going"), Code::Retry),
        (4, Status::internal("oops"), Code::BusinessFailed),
        (5, Status::permission_denied("no"), Code::BusinessFailed),
    ] {
        link.request(1, 1, message_id, b"x").await;
        soon(requests.recv()).await.unwrap().answer(Err(status));
        assert_eq!(link.reply(1).await, (message_id, code as u16, Vec::new()));
    }

    let call = soon(told.recv()).await.unwrap();
    let first = call.question.clone();
    assert_eq!(devices(&first.events), ["first"]);
    assert_eq!(first.from.as_ref().unwrap().instance, "pod-1/0.0");
    call.answer(Err(Status::internal("not now")));
    let call = soon(told.recv()).await.unwrap();
    assert_eq!(call.question, first);
    let address = server.address;
    drop(call);
    server.stop().await;
    link.login(running.attempt(2, "second", b"", &[])).await;
    let (_server, _requests, mut told) = unary(address);
    let mut all = Vec::new();
    while all.len() < 2 {
        let call = soon(told.recv()).await.unwrap();
        all.extend(devices(&call.question.events));
        call.answer(Ok(EventsHandled::default()));
    }
    assert_eq!(all, ["first", "second"]);
    until_page(
        &running,
        "imaccess_state_events_waiting{business=\"web\",worker=\"0\"} 0",
    )
    .await;
}

fn devices(events: &[ConnectionEvent]) -> Vec<String> {
    events.iter().map(|event| event.device.clone()).collect()
}
