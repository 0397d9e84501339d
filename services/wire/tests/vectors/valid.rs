//! Frames as this version writes them.

use imaccess_wire::frame::{
    Accepted, Close, DeliveryClass, Endpoints, GoAway, GoAwayEndpoint, GroupPosition, GroupPositions,
    GroupPush, Join, Leave, Login, LoginOk, LoginRefused, NetworkType, Ping, Pong, Priority, Push, PushAck,
    Repeat, Reply, Request, Send, Transport,
};
use imaccess_wire::{Code, Frame};

use super::cases::Case;

fn case(name: &str, frame: Frame<'_>) -> Case {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    (name.to_owned(), bytes)
}

fn least() -> Login<'static> {
    Login {
        device: "d",
        app: "a",
        ..Login::default()
    }
}

pub(crate) fn login() -> Vec<Case> {
    let long = "x".repeat(2048);
    let groups: Vec<_> = (0..256)
        .map(|business| GroupPosition {
            business,
            group: b"g",
            group_epoch: 0,
            sequence: 0,
        })
        .collect();
    let position = GroupPosition {
        business: u32::MAX,
        group: &[0xFF; 64],
        group_epoch: u64::MAX,
        sequence: u64::MAX,
    };
    vec![
        case("login: least", Frame::Login(least())),
        case(
            "login: first",
            Frame::Login(Login {
                device: "2f1c8a52-6d0e-4b0a-9a53-0f6f2f3e9c11",
                app: "chat",
                token: b"eyJhbGciOiJFZERTQSJ9.e30.c2ln",
                install: &[1, 2, 3, 4],
                platform: "android",
                version: "4.7.1",
                network: NetworkType::Cellular4g,
                carrier: "262-01",
                transport: Transport::Tcp,
                ..Login::default()
            }),
        ),
        case(
            "login: resume with groups",
            Frame::Login(Login {
                ticket: &[0xAB; 80],
                last_push: 300,
                groups: GroupPositions::new(&[
                    GroupPosition {
                        business: 7,
                        group: b"room-1",
                        group_epoch: 3,
                        sequence: 129,
                    },
                    GroupPosition {
                        business: 8,
                        group: &[0, 255],
                        group_epoch: 0,
                        sequence: 0,
                    },
                ]),
                features: 5,
                network: NetworkType::Wifi,
                transport: Transport::Quic,
                ..least()
            }),
        ),
        case(
            "login: longest values",
            Frame::Login(Login {
                device: &long[..36],
                app: &long[..12],
                token: long.as_bytes(),
                ticket: &[0x11; 96],
                install: &[0x22; 16],
                platform: &long[..16],
                version: &long[..32],
                last_push: u64::MAX,
                groups: GroupPositions::new(&[position]),
                features: u64::MAX,
                network: NetworkType::Cellular5g,
                carrier: &long[..32],
                transport: Transport::Wss,
            }),
        ),
        case(
            "login: most groups",
            Frame::Login(Login {
                groups: GroupPositions::new(&groups),
                ..least()
            }),
        ),
        case(
            "login: text beyond ASCII",
            Frame::Login(Login {
                carrier: "Ö-Netz 电信",
                ..least()
            }),
        ),
        case("login-ok: least", Frame::LoginOk(LoginOk::default())),
        case(
            "login-ok: all fields",
            Frame::LoginOk(LoginOk {
                session: *b"0123456789abcdef",
                epoch: u64::MAX,
                ticket: &[0x5A; 96],
                resume_window_s: 30,
                ping_interval_s: 60,
                max_body: 65_536,
                max_in_flight: 64,
                features: 1,
                resumed: true,
                server_unix_ms: 1_790_000_000_000,
            }),
        ),
        case(
            "login-refused: least",
            Frame::LoginRefused(LoginRefused {
                code: 200,
                ..LoginRefused::default()
            }),
        ),
        case(
            "login-refused: all fields",
            Frame::LoginRefused(LoginRefused {
                code: 203,
                retry_after_ms: 2_500,
                reason: "too many logins",
                resumable: true,
            }),
        ),
    ]
}

pub(crate) fn data() -> Vec<Case> {
    let reason = "r".repeat(256);
    vec![
        case("request: least", Frame::Request(Request::default())),
        case(
            "request: payload",
            Frame::Request(Request {
                business: 1,
                message_id: 1,
                payload: b"hello",
                ..Request::default()
            }),
        ),
        case(
            "request: all fields",
            Frame::Request(Request {
                business: u32::MAX,
                message_id: u64::MAX,
                deadline_ms: u32::MAX,
                trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                metadata: b"lang=de",
                priority: Priority::High,
                payload: &[0, 1, 2, 253, 254, 255],
            }),
        ),
        case(
            "request: longest metadata",
            Frame::Request(Request {
                trace: &reason[..64],
                metadata: &[0x33; 1024],
                ..Request::default()
            }),
        ),
        case(
            "send: all fields",
            Frame::Send(Send {
                business: 300,
                message_id: 128,
                deadline_ms: 5_000,
                trace: "t",
                metadata: b"m",
                priority: Priority::Low,
                payload: b"p",
            }),
        ),
        case("reply: least", Frame::Reply(Reply::default())),
        case(
            "reply: payload",
            Frame::Reply(Reply {
                message_id: 1,
                payload: b"hello",
                ..Reply::default()
            }),
        ),
        case(
            "reply: refused",
            Frame::Reply(Reply {
                message_id: 9,
                code: 301,
                retry_after_ms: 100,
                reason: &reason,
                ..Reply::default()
            }),
        ),
        case(
            "accepted: fine",
            Frame::Accepted(Accepted {
                message_id: 127,
                ..Accepted::default()
            }),
        ),
        case(
            "accepted: a payload from a later version",
            Frame::Accepted(Accepted {
                message_id: 1,
                payload: b"later",
                ..Accepted::default()
            }),
        ),
        case(
            "accepted: largest code",
            Frame::Accepted(Accepted {
                code: u16::MAX,
                ..Accepted::default()
            }),
        ),
        case("push: least", Frame::Push(Push::default())),
        case(
            "push: all fields",
            Frame::Push(Push {
                business: 7,
                sequence: 16_384,
                class: DeliveryClass::AtLeastOnce,
                message_id: &[0x77; 16],
                expires_unix_ms: 1_790_000_000_000,
                priority: Priority::High,
                payload: b"news",
            }),
        ),
        case("push-ack: zero", Frame::PushAck(PushAck::default())),
        case(
            "push-ack: largest",
            Frame::PushAck(PushAck { sequence: u64::MAX }),
        ),
        case(
            "group-push: least",
            Frame::GroupPush(GroupPush {
                group: b"g",
                group_epoch: 1,
                sequence: 1,
                ..GroupPush::default()
            }),
        ),
        case(
            "group-push: all fields",
            Frame::GroupPush(GroupPush {
                business: 7,
                group: &[0x67; 64],
                group_epoch: 1 << 40,
                sequence: 1 << 33,
                message_id: b"id",
                expires_unix_ms: 1,
                payload: b"to all",
            }),
        ),
        case(
            "join: least",
            Frame::Join(Join {
                group: b"g",
                ..Join::default()
            }),
        ),
        case(
            "join: with a position",
            Frame::Join(Join {
                business: 7,
                group: b"room",
                message_id: 3,
                group_epoch: 9,
                sequence: 70_000,
            }),
        ),
        case(
            "leave",
            Frame::Leave(Leave {
                business: 7,
                group: b"room",
                message_id: 4,
            }),
        ),
    ]
}

pub(crate) fn connection() -> Vec<Case> {
    let host = "h".repeat(253);
    let near = GoAwayEndpoint {
        cluster: "eu-1",
        transport: Transport::Tls,
        host: "gw-3.example",
        port: 443,
        server_name: "gw.example",
    };
    let far = GoAwayEndpoint {
        cluster: "",
        transport: Transport::Tcp,
        host: &host,
        port: u16::MAX,
        server_name: "",
    };
    vec![
        case("ping: empty", Frame::Ping(Ping::default())),
        case("ping: with a round trip", Frame::Ping(Ping { last_rtt_ms: 41 })),
        case("pong: empty", Frame::Pong(Pong::default())),
        case("pong: new interval", Frame::Pong(Pong { ping_interval_s: 240 })),
        case(
            "go-away: least",
            Frame::GoAway(GoAway {
                code: 404,
                ..GoAway::default()
            }),
        ),
        case(
            "go-away: all fields",
            Frame::GoAway(GoAway {
                code: 404,
                deadline_ms: 30_000,
                endpoints: Endpoints::new(&[near, far]),
                ticket: &[0x44; 96],
                delay_ms: 1_200,
            }),
        ),
        case(
            "go-away: most endpoints",
            Frame::GoAway(GoAway {
                code: 203,
                endpoints: Endpoints::new(&[near; 16]),
                ..GoAway::default()
            }),
        ),
        case(
            "close: client left",
            Frame::Close(Close::with_code(Code::ClientLeft)),
        ),
        case(
            "close: all fields",
            Frame::Close(Close {
                code: 403,
                retry_after_ms: 1,
                resumable: true,
                reason: "read faster",
            }),
        ),
        case(
            "close: unknown code",
            Frame::Close(Close {
                code: 499,
                ..Close::default()
            }),
        ),
        case("repeat", Frame::Repeat(Repeat)),
    ]
}
