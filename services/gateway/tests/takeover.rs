//! One gateway leaves, another takes its place: no client notices. Planned exits only, for a process can't kill itself in a
//! test; deaths are shown with real processes in `e2e/tests`.
#![allow(
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "a test that fails here says where"
)]

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use harness::custodian::Custodian;
use harness::{Client, State, TestGateway, within};
use imaccess_gateway::GatewayConfig;
use imaccess_proto::v1::{Quiesce, SessionRow, StateBatch, Takeover, Unicast};
use imaccess_wire::FrameType;
use imaccess_wire::frame::{Push, Reply, Request};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

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

fn push(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    Push {
        business: 1,
        payload,
        ..Push::default()
    }
    .encode(&mut frame);
    frame
}

async fn unicast(state: &State, handle: u64, frame: Vec<u8>) {
    let unicast = Unicast {
        handle: vec![handle],
        length: vec![frame.len() as u32],
        frames: frame.into(),
        ..Unicast::default()
    };
    state
        .send(StateBatch {
            unicast: Some(unicast),
            ..StateBatch::default()
        })
        .await;
}

async fn start(shards: usize) -> (Custodian, TestGateway) {
    let directory = tempfile::tempdir().unwrap();
    let custodian = Custodian::start(directory.path());
    let gateway = TestGateway::start_in(directory, |config| with_custody(config, shards)).await;
    (custodian, gateway)
}

fn with_custody(config: &mut GatewayConfig, shards: usize) {
    config.custody = true;
    config.shards = shards;
}

/// Lets the gateway hand over, and starts the next.
async fn replace(gateway: TestGateway, states: Vec<State>, shards: usize) -> TestGateway {
    gateway.lease().await;
    gateway.drain.begin();
    for state in states {
        drop(state.let_leave().await);
    }
    let TestGateway { directory, ended, .. } = gateway;
    within("the end", ended).await.unwrap();
    TestGateway::start_in(directory, |config| with_custody(config, shards)).await
}

#[tokio::test]
async fn a_planned_exit_closes_nothing_and_tears_nothing() {
    let (custodian, gateway) = start(1).await;
    let mut state = gateway.state().await;
    let (mut alice, alice_handle) = gateway.online(&mut state, "alice").await;
    let (mut bob, _) = gateway.online(&mut state, "bob").await;
    let (mut slow, slow_handle) = gateway.online_narrow(&mut state, "slow").await;
    let address = gateway.tcp;
    // Half a frame up, whose payload looks like frames.
    let whole = request(5, &request(6, b"\xa9\x01\x10\x00\x00\x00\x00\x00"));
    bob.write(&whole[..9]).await;
    // Half a frame down, and whole ones behind it.
    let pushes: Vec<Vec<u8>> = (0..40u8).map(|fill| push(&vec![fill; 4_000])).collect();
    for frame in &pushes {
        unicast(&state, slow_handle, frame.clone()).await;
    }
    gateway
        .metric_becomes("imaccess_gateway_group_deliveries_total", 0.0)
        .await;
    // A login without an answer, and a connection without a login.
    let mut carol = gateway.client().await;
    carol.login("carol").await;
    let first_try = state.login().await;
    let mut dave = gateway.client().await;
    gateway.metric_becomes("imaccess_gateway_connections", 5.0).await;
    // A request that is with state.
    alice.write(&request(1, b"hello")).await;
    let (from, _) = state.uplink().await;
    assert_eq!(from, alice_handle);

    let next = {
        gateway.lease().await;
        gateway.drain.begin();
        drop(state.let_leave().await);
        let TestGateway { directory, ended, .. } = gateway;
        within("the end", ended).await.unwrap();
        assert_eq!(custodian.sockets(), 5);
        // Sent while nobody is there: it waits in the kernel; so does who connects.
        alice.write(&request(2, b"meanwhile")).await;
        let mut late = Client::connect(address).await;
        late.login("late").await;
        let next = TestGateway::start_in(directory, |config| with_custody(config, 1)).await;
        assert_eq!(next.tcp, address, "the same listener");
        let mut state = next.state().await;
        assert_eq!(state.hello.takeover(), Takeover::Planned);
        // Both logins come, the unanswered one again under its old serial.
        let logins = [state.login().await, state.login().await];
        assert!(logins.iter().any(|login| login.serial == first_try.serial));
        for login in &logins {
            state.accept(login).await;
        }
        state.snapshot().await;
        assert_eq!(state.rows.len(), 3, "{:?}", state.rows);
        assert!(state.rows.iter().all(|(_, ticket)| ticket.starts_with(b"ticket")));
        assert_eq!(late.frame().await.0, FrameType::LoginOk);
        assert_eq!(carol.frame().await.0, FrameType::LoginOk);
        // Nothing is read before state says that it can be asked.
        state.ready().await;
        assert_eq!(state.uplink().await.1, request(2, b"meanwhile"));
        (next, state)
    };
    let (gateway, mut state) = next;
    bob.write(&whole[9..]).await;
    assert_eq!(state.uplink().await.1, whole);
    for expected in &pushes {
        let (kind, body) = slow.frame().await;
        assert_eq!((kind, &body[..]), (FrameType::Push, &expected[8..]));
    }
    dave.login("dave").await;
    let login = state.login().await;
    state.accept(&login).await;
    assert_eq!(dave.frame().await.0, FrameType::LoginOk);
    let page = gateway.ask("GET /handover").await;
    assert!(
        page.contains(r#""kind":"planned","adopted":5,"closed":0,"listeners":1"#),
        "{page}"
    );
    // Five that were taken over (the late one has gone), and the listener.
    gateway.metric_becomes("imaccess_gateway_custody_held", 6.0).await;
    assert_eq!(custodian.listeners(), 1);
}

#[tokio::test]
async fn shards_come_and_go_and_every_held_listener_is_served() {
    let (custodian, mut gateway) = start(2).await;
    let mut online = Vec::new();
    let mut expected = 2;
    for shards in [1, 3, 2] {
        let states = attach_all(&gateway).await;
        let (states, mut clients) = log_in_some(&gateway, states, 12).await;
        online.append(&mut clients);
        gateway = replace(gateway, states, shards).await;
        assert_eq!(custodian.sockets(), online.len());
        // A surplus listener stays; a shard without one adds one.
        expected = expected.max(shards);
        let states = attach_all(&gateway).await;
        let mut rows = 0;
        for mut state in states {
            state.snapshot().await;
            rows += state.rows.len();
        }
        assert_eq!(rows, online.len());
        // More connects than one listener's share: each is taken.
        let mut streams = Vec::new();
        for _ in 0..40 {
            streams.push(
                within("a connection", TcpStream::connect(gateway.tcp))
                    .await
                    .unwrap(),
            );
        }
        let all = (online.len() + 40) as f64;
        gateway.metric_becomes("imaccess_gateway_connections", all).await;
        drop(streams);
        gateway
            .metric_becomes("imaccess_gateway_connections", online.len() as f64)
            .await;
        gateway
            .metric_becomes("imaccess_gateway_custody_complete", 1.0)
            .await;
        assert_eq!(custodian.listeners(), expected);
    }
    for client in &mut online {
        client.write(&[0xA9, 1, 4, 0, 0, 0, 0, 0]).await;
    }
}

async fn attach_all(gateway: &TestGateway) -> Vec<State> {
    let first = gateway.state().await;
    let shards = first.hello.shards;
    let mut states = vec![first];
    for shard in 1..shards {
        let path = gateway.directory.path().join(format!("shard-{shard}.sock"));
        states.push(State::attach(&path).await);
    }
    for state in &states {
        state.ready().await;
    }
    states
}

/// Logs clients in, whichever shard each comes to.
async fn log_in_some(gateway: &TestGateway, states: Vec<State>, count: usize) -> (Vec<State>, Vec<Client>) {
    let mut clients = Vec::new();
    for number in 0..count {
        let mut client = gateway.client().await;
        client.login(&format!("device-{number}")).await;
        clients.push(client);
    }
    let mut answering = Vec::new();
    let (all, done) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    for mut state in states {
        let (all, done) = (all.clone(), Arc::clone(&done));
        answering.push(tokio::spawn(async move {
            loop {
                let login = tokio::select! {
                    login = state.login() => login,
                    () = all.cancelled() => return state,
                };
                state.accept(&login).await;
                if done.fetch_add(1, Ordering::Relaxed) + 1 == count {
                    all.cancel();
                }
            }
        }));
    }
    let mut states = Vec::new();
    for answering in answering {
        states.push(within("all logins", answering).await.unwrap());
    }
    for client in &mut clients {
        assert_eq!(client.frame().await.0, FrameType::LoginOk);
    }
    (states, clients)
}

#[tokio::test]
async fn without_the_lease_the_end_is_a_drain() {
    let (custodian, gateway) = start(1).await;
    let mut state = gateway.state().await;
    let (mut alice, _) = gateway.online(&mut state, "alice").await;
    gateway.metric_becomes("imaccess_gateway_custody_held", 2.0).await;
    gateway.drain.begin();
    assert_eq!(alice.close_code().await, imaccess_wire::Code::Draining);
    drop(alice);
    within("the end", gateway.ended).await.unwrap();
    within("the release", async {
        while custodian.sockets() + custodian.listeners() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_state_that_leaves_in_order_costs_no_request_and_one_that_dies_is_answered_for() {
    let (_custodian, gateway) = start(1).await;
    let mut state = gateway.state().await;
    let (mut alice, handle) = gateway.online(&mut state, "alice").await;
    state.say(Quiesce::Begin).await;
    assert_eq!(state.quiesced().await, Quiesce::Done);
    // From here on nothing comes to this state any more.
    alice.write(&request(1, b"held")).await;
    let mut waiting = gateway.client().await;
    waiting.login("waiting").await;
    gateway.metric_becomes("imaccess_gateway_connections", 2.0).await;
    state.say(Quiesce::Done).await;
    drop(state);
    gateway.metric_becomes("imaccess_gateway_links", 0.0).await;
    let mut state = gateway.state().await;
    let login = state.login().await;
    state.accept(&login).await;
    assert_eq!(waiting.frame().await.0, FrameType::LoginOk);
    state.ready().await;
    let (from, frame) = state.uplink().await;
    assert_eq!((from, frame), (handle, request(1, b"held")));
    // It dies with the request: the gateway knows its number.
    drop(state);
    let (kind, body) = alice.frame().await;
    let reply = Reply::decode(&body).unwrap();
    assert_eq!(
        (kind, reply.message_id, reply.known_code()),
        (FrameType::Reply, 1, Some(imaccess_wire::Code::Retry))
    );
    // One that was answered isn't answered again.
    let mut state = gateway.state().await;
    alice.write(&request(2, b"asked")).await;
    state.uplink().await;
    let mut answer = Vec::new();
    Reply {
        message_id: 2,
        ..Reply::default()
    }
    .encode(&mut answer);
    unicast(&state, handle, answer).await;
    assert_eq!(alice.frame().await.0, FrameType::Reply);
    drop(state);
    gateway.metric_becomes("imaccess_gateway_links", 0.0).await;
    alice.write(&[0xA9, 1, 4, 0, 0, 0, 0, 0]).await;
    assert_eq!(alice.frame().await.0, FrameType::Pong);
}

#[tokio::test]
async fn the_next_state_learns_of_ends_that_the_last_one_did_not_settle() {
    let (_custodian, gateway) = start(1).await;
    let mut state = gateway.state().await;
    let (alice, _) = gateway.online(&mut state, "alice").await;
    let (bob, _) = gateway.online(&mut state, "bob").await;
    drop((alice, bob));
    let (first, second) = (state.closed().await, state.closed().await);
    assert_ne!(first.0, second.0);
    drop(state);
    let mut state = gateway.state().await;
    state.snapshot().await;
    assert_eq!(state.ended.len(), 2);
    assert!(state.ended.iter().all(|end| end.ticket.starts_with(b"ticket")));
    state
        .send(StateBatch {
            settled: vec![state.ended[0].serial],
            ..StateBatch::default()
        })
        .await;
    gateway
        .metric_becomes("imaccess_gateway_ended_waiting", 1.0)
        .await;
    let left = state.ended[1].serial;
    drop(state);
    let mut state = gateway.state().await;
    state.snapshot().await;
    assert_eq!(
        state.ended.iter().map(|end| end.serial).collect::<Vec<_>>(),
        [left]
    );
}

#[tokio::test]
async fn a_session_row_gives_a_ticket_to_what_was_taken_over() {
    let (_custodian, gateway) = start(1).await;
    let mut state = gateway.state().await;
    let (_alice, handle) = gateway.online(&mut state, "alice").await;
    state
        .send(StateBatch {
            sessions: vec![SessionRow {
                handle,
                ticket: (&b"another"[..]).into(),
                ping_interval_s: 30,
                ..SessionRow::default()
            }],
            ..StateBatch::default()
        })
        .await;
    // The row that the next state gets says whether it was kept.
    let (mut bob, _) = gateway.online(&mut state, "bob").await;
    bob.write(&[0xA9, 1, 4, 0, 0, 0, 0, 0]).await;
    assert_eq!(bob.frame().await.0, FrameType::Pong);
    drop(state);
    let mut state = gateway.state().await;
    state.snapshot().await;
    assert!(
        state.rows.iter().any(|(_, ticket)| ticket == b"another"),
        "{:?}",
        state.rows
    );
}

#[tokio::test]
async fn a_state_that_comes_and_goes_puts_nobody_off() {
    let (_custodian, gateway) = start(1).await;
    let mut state = gateway.state().await;
    let (mut alice, _) = gateway.online(&mut state, "alice").await;
    state.ready().await;
    // What alice sends shows that it was heard.
    alice.write(&request(1, b"")).await;
    state.uplink().await;
    drop(state);
    assert_eq!(alice.frame().await.0, FrameType::Reply);
    alice.write(&[0xA9, 1, 4, 0, 0, 0, 0, 0]).await;
    let coming_and_going = async {
        loop {
            drop(gateway.state().await);
        }
    };
    tokio::select! {
        frame = alice.frame() => assert_eq!(frame.0, FrameType::Pong),
        () = coming_and_going => {}
    }
}

#[tokio::test]
async fn a_hang_up_while_state_is_replaced_is_not_forgotten() {
    let (_custodian, gateway) = start(1).await;
    let mut state = gateway.state().await;
    let (mut alice, handle) = gateway.online(&mut state, "alice").await;
    state.say(Quiesce::Begin).await;
    assert_eq!(state.quiesced().await, Quiesce::Done);
    alice.write(&request(1, b"last words")).await;
    let received = gateway.metric("imaccess_gateway_received_bytes_total").await;
    tokio::io::AsyncWriteExt::shutdown(&mut alice.stream)
        .await
        .unwrap();
    state.say(Quiesce::Done).await;
    drop(state);
    let mut state = gateway.state().await;
    state.snapshot().await;
    assert_eq!(
        gateway.metric("imaccess_gateway_received_bytes_total").await,
        received,
        "nothing is read before state can be asked"
    );
    state.ready().await;
    assert_eq!(state.uplink().await, (handle, request(1, b"last words")));
    assert_eq!(
        state.closed().await,
        (handle, imaccess_wire::Code::ConnectionLost)
    );
}

#[tokio::test]
async fn connections_that_are_being_refused_are_not_handed_over() {
    let directory = tempfile::tempdir().unwrap();
    let custodian = Custodian::start(directory.path());
    let change = |config: &mut GatewayConfig| {
        with_custody(config, 1);
        config.limits.connections = 1;
    };
    let gateway = TestGateway::start_in(directory, change).await;
    let mut state = gateway.state().await;
    let (mut alice, _) = gateway.online(&mut state, "alice").await;
    let mut refused = gateway.client().await;
    assert_eq!(refused.frame().await.0, FrameType::LoginRefused);
    // A state that has just come is deposited everything, but not what is about to go.
    drop(state);
    let state = gateway.state().await;
    state.ready().await;
    gateway.lease().await;
    assert_eq!(custodian.sockets(), 1);
    gateway.drain.begin();
    drop(state.let_leave().await);
    let TestGateway { directory, ended, .. } = gateway;
    within("the end", ended).await.unwrap();
    let gateway = TestGateway::start_in(directory, change).await;
    let state = gateway.state().await;
    state.ready().await;
    assert!(refused.next().await.is_none());
    alice.write(&[0xA9, 1, 4, 0, 0, 0, 0, 0]).await;
    assert_eq!(alice.frame().await.0, FrameType::Pong);
    gateway.metric_becomes("imaccess_gateway_connections", 1.0).await;
}
