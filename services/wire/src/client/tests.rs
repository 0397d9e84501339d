use super::*;
use crate::code::Code;
use crate::frame::{
    Accepted, Close, Frame, GoAway, GroupPush, LoginOk, LoginRefused, Ping, Pong, Push, Repeat, Reply,
    Request, Send,
};
use crate::header;
use crate::limits::{Limits, MAX_LOGIN_GROUPS};

fn bytes(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.encode(&mut bytes));
    bytes
}

fn parameters() -> LoginParameters<'static> {
    LoginParameters {
        device: "d",
        app: "a",
        ping_jitter: 0.5,
        ..LoginParameters::default()
    }
}

fn ok(ticket: &[u8]) -> LoginOk<'_> {
    LoginOk {
        session: [7; 16],
        ticket,
        ping_interval_s: 20,
        ..LoginOk::default()
    }
}

/// Online since 1,000 ms, with a ticket; the first ping is due at 11,000.
fn online() -> ClientSession {
    let mut session = ClientSession::new();
    session.start(1_000, &parameters(), &mut Vec::new()).unwrap();
    receive(&mut session, 1_000, &[Frame::LoginOk(ok(b"ticket"))]);
    assert_eq!(session.state(), State::Online);
    session
}

/// Receives frames; what the session answered, and how many events there were.
fn receive(session: &mut ClientSession, now_ms: u64, frames: &[Frame<'_>]) -> (Vec<u8>, usize) {
    let (mut out, mut events) = (Vec::new(), 0);
    session
        .handle_bytes(now_ms, &bytes(frames), &mut out, &mut |_| events += 1)
        .unwrap();
    (out, events)
}

fn continuity(session: &mut ClientSession, group: &[u8], group_epoch: u64, sequence: u64) -> Continuity {
    let push = GroupPush {
        business: 1,
        group,
        group_epoch,
        sequence,
        ..GroupPush::default()
    };
    let mut found = None;
    let frame = bytes(&[Frame::GroupPush(push)]);
    session
        .handle_bytes(2_000, &frame, &mut Vec::new(), &mut |event| {
            if let ClientEvent::GroupPush { continuity, .. } = event {
                found = Some(continuity);
            }
        })
        .unwrap();
    found.expect("an event")
}

#[test]
fn a_session_is_small() {
    // 15,000 of them sit in one load generator's thread.
    assert!(
        size_of::<ClientSession>() <= 176,
        "{}",
        size_of::<ClientSession>()
    );
}

#[test]
fn an_answer_in_single_bytes_leaves_no_memory_behind() {
    let mut session = online();
    let mut out = Vec::new();
    let request = Request {
        business: 1,
        payload: b"hello",
        ..Request::default()
    };
    assert_eq!(session.request(request, &mut out), Ok(1));
    let mut replies = 0;
    for byte in bytes(&[Frame::Reply(Reply {
        message_id: 1,
        payload: b"hello",
        ..Reply::default()
    })]) {
        session
            .handle_bytes(1_020, &[byte], &mut out, &mut |_| replies += 1)
            .unwrap();
    }
    assert_eq!((replies, session.partial_capacity()), (1, 0));
}

#[test]
fn what_a_gateway_may_not_send_ends_the_connection_with_its_code() {
    let only_clients = [
        Frame::Login(Login {
            device: "d",
            app: "a",
            ..Login::default()
        }),
        Frame::Ping(Ping::default()),
        Frame::Request(Request::default()),
        Frame::Send(Send::default()),
        Frame::LoginOk(ok(b"")),
        Frame::LoginRefused(LoginRefused::default()),
    ];
    for frame in only_clients {
        let mut session = online();
        let mut out = Vec::new();
        let error = session.handle_bytes(2_000, &bytes(&[frame]), &mut out, &mut |_| panic!("an event"));
        assert_eq!(error.unwrap_err().code(), Code::Unexpected, "{frame:?}");
        assert_eq!(out, bytes(&[Frame::Close(Close::with_code(Code::Unexpected))]));
        assert_eq!(session.state(), State::Suspended);
    }
    for early in [
        Frame::Push(Push::default()),
        Frame::Pong(Pong::default()),
        Frame::GoAway(GoAway::default()),
    ] {
        let mut session = ClientSession::new();
        session.start(0, &parameters(), &mut Vec::new()).unwrap();
        let error = session.handle_bytes(1, &bytes(&[early]), &mut Vec::new(), &mut |_| ());
        assert_eq!(error.unwrap_err().code(), Code::Unexpected);
        assert_eq!(session.state(), State::Connecting);
    }
}

#[test]
fn an_unknown_ignorable_frame_is_skipped_and_another_is_not() {
    let mut session = online();
    let skipped = [
        header::MAGIC,
        header::VERSION,
        77,
        header::FLAG_IGNORABLE,
        0,
        0,
        0,
        1,
        42,
    ];
    assert_eq!(
        session.handle_bytes(2_000, &skipped, &mut Vec::new(), &mut |_| panic!("an event")),
        Ok(())
    );
    let unknown = [header::MAGIC, header::VERSION, 77, 0, 0, 0, 0, 0];
    let error = session.handle_bytes(2_000, &unknown, &mut Vec::new(), &mut |_| ());
    assert_eq!(error, Err(ProtocolError::UnknownType(77)));
}

#[test]
fn nothing_behind_the_end_is_looked_at() {
    let mut session = online();
    let close = Close::with_code(Code::Draining);
    let (_, events) = receive(
        &mut session,
        2_000,
        &[Frame::Close(close), Frame::Ping(Ping::default())],
    );
    assert_eq!(
        (events, session.state(), session.partial_capacity()),
        (1, State::Suspended, 0)
    );
    assert_eq!(
        session.handle_bytes(2_001, b"garbage", &mut Vec::new(), &mut |_| ()),
        Ok(())
    );
}

#[test]
fn a_parameter_over_its_limit_is_refused_and_nothing_is_written() {
    let mut session = ClientSession::new();
    let mut out = b"before".to_vec();
    for wrong in [
        LoginParameters {
            device: "",
            ..parameters()
        },
        LoginParameters {
            app: "thirteen bytes",
            ..parameters()
        },
        LoginParameters {
            token: &[0; 2049],
            ..parameters()
        },
    ] {
        assert!(session.start(0, &wrong, &mut out).is_err());
        assert_eq!((&out[..], session.state()), (&b"before"[..], State::Connecting));
    }
}

#[test]
fn what_is_too_long_is_not_sent_and_uses_up_no_number() {
    let mut session = ClientSession::new();
    let mut out = Vec::new();
    assert_eq!(
        session.request(Request::default(), &mut out),
        Err(SubmitError::NotOnline)
    );
    session.start(0, &parameters(), &mut Vec::new()).unwrap();
    receive(
        &mut session,
        1,
        &[Frame::LoginOk(LoginOk {
            max_body: 10,
            ..ok(b"")
        })],
    );
    let long = Request {
        payload: &[0; 8],
        ..Request::default()
    };
    assert_eq!(
        session.request(long, &mut out),
        Err(SubmitError::TooLong { body: 11, limit: 10 })
    );
    let long = Send {
        metadata: &[0; 1025],
        ..Send::default()
    };
    assert_eq!(session.send(long, &mut out), Err(SubmitError::Length("metadata")));
    assert_eq!(session.join(1, b"", &mut out), Err(SubmitError::Length("group")));
    assert_eq!(
        session.leave(1, &[b'g'; 65], &mut out),
        Err(SubmitError::Length("group"))
    );
    assert!(out.is_empty());
    assert_eq!(
        session.send(
            Send {
                payload: &[0; 7],
                ..Send::default()
            },
            &mut out
        ),
        Ok(1)
    );
}

#[test]
fn numbers_go_on_over_resumes_and_new_sessions() {
    let mut session = online();
    let mut out = Vec::new();
    assert_eq!(session.request(Request::default(), &mut out), Ok(1));
    for resumed in [true, false] {
        session.connection_lost(2_000);
        session.start(3_000, &parameters(), &mut out).unwrap();
        receive(
            &mut session,
            3_001,
            &[Frame::LoginOk(LoginOk {
                resumed,
                ..ok(b"ticket")
            })],
        );
        let repeated = Request {
            message_id: 1,
            ..Request::default()
        };
        assert_eq!(session.request(repeated, &mut out), Ok(1));
    }
    assert_eq!(session.send(Send::default(), &mut out), Ok(2));
    assert_eq!(session.join(1, b"g", &mut out), Ok(3));
    assert_eq!(session.leave(1, b"g", &mut out), Ok(4));
}

#[test]
fn a_pong_measures_and_may_change_the_interval() {
    let mut session = online();
    let mut out = Vec::new();
    assert_eq!(session.next_deadline(), Some(11_000));
    session.handle_timeout(10_999, &mut out, &mut |_| panic!("early"));
    session.handle_timeout(11_000, &mut out, &mut |_| panic!("no loss"));
    assert_eq!(out, bytes(&[Frame::Ping(Ping::default())]));
    assert_eq!(session.next_deadline(), Some(21_000), "the pong is overdue");
    receive(
        &mut session,
        11_042,
        &[Frame::Pong(Pong { ping_interval_s: 100 })],
    );
    assert_eq!(
        (session.last_rtt_ms(), session.next_deadline()),
        (42, Some(111_042))
    );
    out.clear();
    session.handle_timeout(111_042, &mut out, &mut |_| ());
    assert_eq!(out, bytes(&[Frame::Ping(Ping { last_rtt_ms: 42 })]));
}

#[test]
fn anything_heard_puts_off_the_end_but_not_the_next_ping() {
    let mut session = online();
    session.handle_timeout(11_000, &mut Vec::new(), &mut |_| ());
    receive(&mut session, 20_000, &[Frame::Push(Push::default())]);
    assert_eq!(session.next_deadline(), Some(30_000));
    let mut lost = None;
    session.handle_timeout(30_000, &mut Vec::new(), &mut |event| {
        if let ClientEvent::Lost(reason) = event {
            lost = Some(reason);
        }
    });
    assert_eq!(
        (lost, session.state()),
        (Some(LostReason::PongTimeout), State::Suspended)
    );
}

#[test]
fn duplicates_are_dropped_and_acknowledged_again_only_if_handled() {
    let mut session = online();
    let push = |sequence| {
        Frame::Push(Push {
            sequence,
            ..Push::default()
        })
    };
    receive(&mut session, 2_000, &[push(1), push(2), push(5)]);
    let mut out = Vec::new();
    session.push_ack(2, &mut out);
    session.push_ack(1, &mut out);
    assert_eq!(
        out,
        bytes(&[Frame::PushAck(crate::frame::PushAck { sequence: 2 })])
    );
    assert_eq!(receive(&mut session, 2_001, &[push(5)]), (Vec::new(), 1));
    assert_eq!(receive(&mut session, 2_002, &[push(2)]), (out, 1));
    let mut late = Vec::new();
    session.push_ack(99, &mut late);
    assert_eq!(
        late,
        bytes(&[Frame::PushAck(crate::frame::PushAck { sequence: 5 })]),
        "no more than was received"
    );
}

#[test]
fn a_watermark_without_a_connection_is_told_by_the_login() {
    let mut session = online();
    // The second one is received, but not handled: the login must not claim it.
    let push = |sequence| {
        Frame::Push(Push {
            sequence,
            ..Push::default()
        })
    };
    receive(&mut session, 2_000, &[push(3), push(4)]);
    session.connection_lost(2_001);
    let mut out = Vec::new();
    session.push_ack(3, &mut out);
    assert!(out.is_empty());
    session.start(2_002, &parameters(), &mut out).unwrap();
    let split = header::split(&out, Limits::default()).unwrap().unwrap();
    let Some(Frame::Login(login)) = Frame::decode(&split).unwrap() else {
        panic!("a login")
    };
    assert_eq!((login.last_push, login.ticket), (3, &b"ticket"[..]));
}

#[test]
fn how_group_pushes_follow_each_other() {
    let mut session = online();
    // A business put it there: its position is kept as well, and named nowhere.
    assert_eq!(continuity(&mut session, b"other", 1, 1), Continuity::First);
    assert_eq!(
        continuity(&mut session, b"other", 1, 3),
        Continuity::Gap { missing: 1 }
    );
    assert_eq!(continuity(&mut session, b"other", 1, 3), Continuity::Repeated);
    session.join(1, b"g", &mut Vec::new()).unwrap();
    assert_eq!(continuity(&mut session, b"g", 1, 5), Continuity::First);
    assert_eq!(continuity(&mut session, b"g", 1, 6), Continuity::Next);
    assert_eq!(
        continuity(&mut session, b"g", 1, 10),
        Continuity::Gap { missing: 3 }
    );
    assert_eq!(continuity(&mut session, b"g", 1, 10), Continuity::Repeated);
    assert_eq!(continuity(&mut session, b"g", 2, 1), Continuity::NewEpoch);
    assert_eq!(continuity(&mut session, b"g", 2, 2), Continuity::Next);
    assert_eq!(
        continuity(&mut session, b"g", 2, u64::MAX),
        Continuity::Gap {
            missing: u64::MAX - 3
        }
    );
}

#[test]
fn logins_list_the_groups_to_be_in() {
    let listed = |session: &mut ClientSession| {
        let mut out = Vec::new();
        session.start(5_000, &parameters(), &mut out).unwrap();
        receive(
            session,
            5_001,
            &[Frame::LoginOk(LoginOk {
                resumed: true,
                ..ok(b"ticket")
            })],
        );
        let split = header::split(&out, Limits::default()).unwrap().unwrap();
        let Some(Frame::Login(login)) = Frame::decode(&split).unwrap() else {
            panic!("a login")
        };
        login
            .groups
            .iter()
            .map(|position| (position.group.to_vec(), position.sequence))
            .collect::<Vec<_>>()
    };
    let answer = |session: &mut ClientSession, message_id, code: Code| {
        let accepted = Accepted {
            message_id,
            code: code as u16,
            ..Accepted::default()
        };
        receive(session, 4_000, &[Frame::Accepted(accepted)]);
    };
    let mut session = online();
    let mut out = Vec::new();
    let first = session.join(1, b"g", &mut out).unwrap();
    assert_eq!(
        session.join(1, b"g", &mut out),
        Ok(first),
        "unanswered: the same number"
    );
    answer(&mut session, first, Code::Busy);
    assert_eq!(
        session.join(1, b"g", &mut out),
        Ok(first),
        "to be repeated: the same number"
    );
    answer(&mut session, first, Code::Ok);
    continuity(&mut session, b"g", 4, 44);
    let refused = session.join(1, b"h", &mut out).unwrap();
    assert_eq!(listed(&mut session), [(b"g".to_vec(), 44), (b"h".to_vec(), 0)]);
    answer(&mut session, refused, Code::Forbidden);
    let leave = session.leave(1, b"g", &mut out).unwrap();
    assert_eq!(session.leave(1, b"g", &mut out), Ok(leave));
    assert_eq!(listed(&mut session), []);
    answer(&mut session, leave, Code::Ok);
    assert_eq!(continuity(&mut session, b"g", 4, 45), Continuity::First);
    assert_eq!(listed(&mut session), []);
    for index in 0..MAX_LOGIN_GROUPS {
        session.join(2, &index.to_be_bytes(), &mut out).unwrap();
    }
    assert_eq!(
        session.join(2, b"one more", &mut out),
        Err(SubmitError::TooManyGroups)
    );
    assert_eq!(listed(&mut session).len(), MAX_LOGIN_GROUPS);
}

#[test]
fn a_successor_logs_in_elsewhere_while_the_old_connection_works() {
    let mut old = online();
    let push = |sequence| {
        Frame::Push(Push {
            sequence,
            ..Push::default()
        })
    };
    old.join(1, b"g", &mut Vec::new()).unwrap();
    receive(
        &mut old,
        2_000,
        &[
            push(1),
            Frame::GoAway(GoAway {
                ticket: b"there",
                ..GoAway::default()
            }),
        ],
    );
    assert_eq!(old.state(), State::Moving);
    let mut new = old.successor();
    assert_eq!((new.state(), new.ticket()), (State::Suspended, &b"there"[..]));
    new.start(2_001, &parameters(), &mut Vec::new()).unwrap();
    // Meanwhile the old one is pushed to, and asks.
    receive(&mut old, 2_002, &[push(2)]);
    assert_eq!(old.request(Request::default(), &mut Vec::new()), Ok(2));
    continuity(&mut old, b"g", 1, 7);
    new.catch_up(&old);
    let again = [
        Frame::LoginOk(LoginOk {
            resumed: true,
            ..ok(b"ticket")
        }),
        push(1),
        push(2),
        push(3),
    ];
    let mut fresh = Vec::new();
    new.handle_bytes(2_003, &bytes(&again), &mut Vec::new(), &mut |event| {
        if let ClientEvent::Push(push) = event {
            fresh.push(push.sequence);
        }
    })
    .unwrap();
    assert_eq!(fresh, [3]);
    assert_eq!(continuity(&mut new, b"g", 1, 8), Continuity::Next);
    assert_eq!(new.request(Request::default(), &mut Vec::new()), Ok(3));
    let mut out = Vec::new();
    old.close(Code::Moved, &mut out);
    assert_eq!(
        out,
        bytes(&[Frame::Close(Close {
            code: 402,
            ..Close::default()
        })])
    );
    assert_eq!((old.state(), new.state()), (State::Closed, State::Online));
}

#[test]
fn time_at_its_end_does_no_harm() {
    let mut session = ClientSession::new();
    session
        .start(
            u64::MAX,
            &LoginParameters {
                ping_jitter: f32::NAN,
                ..parameters()
            },
            &mut Vec::new(),
        )
        .unwrap();
    let long = LoginOk {
        ping_interval_s: u32::MAX,
        ..ok(b"")
    };
    receive(&mut session, u64::MAX, &[Frame::LoginOk(long)]);
    session.handle_timeout(u64::MAX, &mut Vec::new(), &mut |_| ());
    receive(
        &mut session,
        0,
        &[Frame::Pong(Pong {
            ping_interval_s: u32::MAX,
        })],
    );
    assert!(session.is_online());
}

#[test]
fn repeat_is_told_and_changes_nothing_of_the_session() {
    let mut session = online();
    let mut out = Vec::new();
    let joined = session.join(1, b"room", &mut out).unwrap();
    let mut told = Vec::new();
    session
        .handle_bytes(2_000, &bytes(&[Frame::Repeat(Repeat)]), &mut out, &mut |event| {
            told.push(matches!(event, ClientEvent::Repeat));
        })
        .unwrap();
    assert_eq!((told, session.state()), (vec![true], State::Online));
    assert_eq!(
        session.join(1, b"room", &mut out).unwrap(),
        joined,
        "the same number"
    );
    // Only somebody who is online has something to repeat.
    let mut early = ClientSession::new();
    early.start(0, &parameters(), &mut out).unwrap();
    let refused = early.handle_bytes(1, &bytes(&[Frame::Repeat(Repeat)]), &mut out, &mut |_| ());
    assert!(refused.is_err());
}
