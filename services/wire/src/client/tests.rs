use super::*;
use crate::frame::{Frame, LoginOk, Reply, Request};
use crate::header;
use crate::limits::Limits;

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
fn logs_in_asks_and_is_answered() {
    let mut session = ClientSession::new();
    let mut out = Vec::new();
    let parameters = LoginParameters {
        device: "d",
        app: "a",
        token: b"t",
        ping_jitter: 0.5,
        ..LoginParameters::default()
    };
    session.start(1_000, &parameters, &mut out).expect("valid");
    let split = header::split(&out, Limits::default())
        .expect("a frame")
        .expect("whole");
    let Some(Frame::Login(login)) = Frame::decode(&split).expect("well-formed") else {
        panic!("a login")
    };
    assert_eq!((login.device, login.app, login.token), ("d", "a", &b"t"[..]));
    let mut back = Vec::new();
    LoginOk {
        ticket: b"ticket",
        ping_interval_s: 20,
        ..LoginOk::default()
    }
    .encode(&mut back);
    out.clear();
    session
        .handle_bytes(1_010, &back, &mut out, &mut |event| {
            assert!(matches!(event, ClientEvent::LoggedIn(_)));
        })
        .expect("fine");
    assert_eq!(session.next_deadline(), Some(1_010 + 10_000));
    let id = session
        .request(
            Request {
                business: 1,
                payload: b"hello",
                ..Request::default()
            },
            &mut out,
        )
        .expect("online");
    assert_eq!(id, 1);
    back.clear();
    Reply {
        message_id: id,
        payload: b"hello",
        ..Reply::default()
    }
    .encode(&mut back);
    let mut replies = 0;
    for byte in back.chunks(1) {
        session
            .handle_bytes(1_020, byte, &mut out, &mut |event| {
                assert!(matches!(
                    event,
                    ClientEvent::Reply(Reply {
                        message_id: 1,
                        payload: b"hello",
                        ..
                    })
                ));
                replies += 1;
            })
            .expect("fine");
    }
    assert_eq!((replies, session.partial_capacity()), (1, 0));
    session.connection_lost(1_030);
    assert_eq!(
        (session.state(), session.ticket()),
        (State::Suspended, &b"ticket"[..])
    );
}
