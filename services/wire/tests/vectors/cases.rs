//! The bytes of the vectors, and the fuzzers' seeds made of them.

use imaccess_wire::frame::{Accepted, Close, GoAway, GroupPush, LoginOk, Pong, Push, Repeat};
use imaccess_wire::{Code, Frame};

use super::irregular::{extended, invalid};
use super::valid::{connection, data, login};

/// A name and one frame's bytes.
pub(crate) type Case = (String, Vec<u8>);

/// The files of vectors, each with its cases.
pub(crate) fn files() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("login.json", login()),
        ("data.json", data()),
        ("connection.json", connection()),
        ("extended.json", extended()),
        ("invalid.json", invalid()),
    ]
}

/// Seeds: target, file name, bytes.
pub(crate) fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    // What a gateway sends, after a login; the first byte of the client target's input chooses how it is cut.
    let mut story = vec![7];
    for (file, cases) in files() {
        for (name, bytes) in cases {
            let seed = name.replace(' ', "-");
            seeds.push(("frame", seed.clone(), bytes.clone()));
            if file == "login.json" && name.starts_with("login:") {
                seeds.push(("login", seed.clone(), bytes[imaccess_wire::HEADER_LEN..].to_vec()));
            }
            if matches!(file, "data.json" | "connection.json" | "extended.json") {
                let mut one = vec![3];
                LoginOk {
                    ticket: b"ticket",
                    ..LoginOk::default()
                }
                .encode(&mut one);
                one.extend_from_slice(&bytes);
                seeds.push(("client", seed, one));
            }
        }
    }
    for frame in [
        Frame::LoginOk(LoginOk {
            ticket: b"ticket",
            ping_interval_s: 30,
            ..LoginOk::default()
        }),
        Frame::Push(Push {
            sequence: 1,
            payload: b"one",
            ..Push::default()
        }),
        Frame::Push(Push {
            sequence: 1,
            payload: b"one",
            ..Push::default()
        }),
        Frame::Accepted(Accepted {
            message_id: 1,
            ..Accepted::default()
        }),
        Frame::GroupPush(GroupPush {
            group: b"g",
            group_epoch: 1,
            sequence: 5,
            ..GroupPush::default()
        }),
        Frame::Pong(Pong::default()),
        Frame::Repeat(Repeat),
        Frame::GoAway(GoAway {
            code: 404,
            ..GoAway::default()
        }),
        Frame::Close(Close::with_code(Code::Draining)),
    ] {
        frame.encode(&mut story);
    }
    seeds.push(("client", "a-whole-life".to_owned(), story));
    seeds
}
