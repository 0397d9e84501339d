//! Any frame, owned, for properties.

use imaccess_wire::Frame;
use imaccess_wire::field::varint_len;
use imaccess_wire::frame::{
    Accepted, Close, DeliveryClass, Endpoints, GoAway, GoAwayEndpoint, GroupPosition, GroupPositions,
    GroupPush, Join, Leave, Login, LoginOk, LoginRefused, NetworkType, Ping, Pong, Priority, Push, PushAck,
    Repeat, Reply, Request, Send, Transport,
};
use proptest::prelude::*;

/// Numbers, texts and bytes from which the frame of one type is made. A frame takes what it needs of them: this
/// way all types share one strategy, and what is left over costs nothing.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    kind: u8,
    numbers: [u64; 4],
    small: [u32; 5],
    code: u16,
    choice: u8,
    flag: bool,
    text: [String; 5],
    bytes: [Vec<u8>; 3],
    groups: Vec<(u32, Vec<u8>, u64, u64)>,
    endpoints: Vec<(String, u8, String, u16)>,
    payload: Vec<u8>,
}

/// A string of at most `max` bytes: any characters, cut where one ends.
fn text(max: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 0..=max).prop_map(move |characters| {
        let mut text: String = characters.into_iter().collect();
        text.truncate(
            (0..=max)
                .rev()
                .find(|&len| text.is_char_boundary(len))
                .unwrap_or(0),
        );
        text
    })
}

/// Numbers of all lengths, small ones as often as big ones.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0u32..64).prop_map(|(value, shift)| value >> shift)
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=max)
}

pub(crate) fn owned() -> impl Strategy<Value = Owned> {
    let group = (
        any::<u32>(),
        prop::collection::vec(any::<u8>(), 1..=64),
        number(),
        number(),
    );
    let endpoint = (text(40), 0u8..6, text(253), any::<u16>());
    (
        1u8..=17,
        [number(), number(), number(), number()],
        any::<[u32; 5]>(),
        any::<(u16, u8, bool)>(),
        (text(36), text(12), text(16), text(32), text(256)),
        (bytes(96), bytes(16), bytes(1024)),
        prop::collection::vec(group, 0..20),
        prop::collection::vec(endpoint, 0..16),
        bytes(3_000),
    )
        .prop_map(
            |(kind, numbers, small, (code, choice, flag), text, bytes, groups, endpoints, payload)| Owned {
                kind,
                numbers,
                small,
                code,
                choice,
                flag,
                text: text.into(),
                bytes: bytes.into(),
                groups,
                endpoints,
                payload,
            },
        )
}

fn transport(number: u8) -> Transport {
    Transport::from_number(number.into())
}

impl Owned {
    fn priority(&self) -> Priority {
        [Priority::Normal, Priority::High, Priority::Low][usize::from(self.choice % 3)]
    }

    /// A group id: never empty.
    fn group(&self) -> &[u8] {
        self.groups.first().map_or(b"g", |group| &group.1)
    }

    /// Length of the fixed fields.
    pub(crate) fn fixed_len(&self) -> usize {
        let [a, b, ..] = self.numbers.map(varint_len);
        let business = varint_len(self.small[0].into());
        let group = 1 + self.group().len();
        let code = varint_len(self.code.into());
        let long = |len: usize| varint_len(len as u64) + len;
        match self.kind {
            1 => 1 + self.device().len() + 1 + self.app().len() + long(self.bytes[2].len()),
            2 => 16 + a,
            4 | 5 | 17 => 0,
            6 | 8 | 10 => business + a,
            7 | 9 => a + code,
            11 => a,
            12 => business + group + a + b,
            13 | 14 => business + group + a,
            _ => code,
        }
    }

    fn device(&self) -> &str {
        if self.text[0].is_empty() {
            "d"
        } else {
            &self.text[0]
        }
    }

    fn app(&self) -> &str {
        if self.text[1].is_empty() {
            "a"
        } else {
            &self.text[1]
        }
    }

    /// The frame itself, which borrows.
    pub(crate) fn with<R>(&self, run: impl FnOnce(&Frame<'_>) -> R) -> R {
        let [a, b, c, d] = self.numbers;
        let [s, t, u, v, w] = self.small;
        let [_, _, platform, version, reason] = &self.text;
        let [ticket, install, long] = &self.bytes;
        let groups: Vec<_> = self.groups.iter().map(position).collect();
        let endpoints: Vec<_> = self.endpoints.iter().map(endpoint).collect();
        let (code, payload, group) = (self.code, &self.payload[..], self.group());
        let frame = match self.kind {
            1 => Frame::Login(Login {
                device: self.device(),
                app: self.app(),
                token: long,
                ticket,
                install,
                platform,
                version,
                last_push: a,
                groups: GroupPositions::new(&groups),
                features: b,
                network: [NetworkType::Unknown, NetworkType::Cellular2g][usize::from(self.flag)],
                carrier: version,
                transport: transport(self.choice),
            }),
            2 => Frame::LoginOk(LoginOk {
                session: u128::from(b).to_be_bytes(),
                epoch: a,
                ticket,
                resume_window_s: s,
                ping_interval_s: t,
                max_body: u,
                max_in_flight: v,
                features: c,
                resumed: self.flag,
                server_unix_ms: d,
            }),
            3 => Frame::LoginRefused(LoginRefused {
                code,
                retry_after_ms: s,
                reason,
                resumable: self.flag,
            }),
            4 => Frame::Ping(Ping { last_rtt_ms: s }),
            5 => Frame::Pong(Pong { ping_interval_s: s }),
            6 => Frame::Request(Request {
                business: s,
                message_id: a,
                deadline_ms: t,
                trace: version,
                metadata: long,
                priority: self.priority(),
                payload,
            }),
            7 => Frame::Reply(Reply {
                message_id: a,
                code,
                retry_after_ms: w,
                reason,
                payload,
            }),
            8 => Frame::Send(Send {
                business: s,
                message_id: a,
                deadline_ms: t,
                trace: version,
                metadata: long,
                priority: self.priority(),
                payload,
            }),
            9 => Frame::Accepted(Accepted {
                message_id: a,
                code,
                retry_after_ms: w,
                reason,
                payload,
            }),
            10 => Frame::Push(Push {
                business: s,
                sequence: a,
                class: [DeliveryClass::AtMostOnce, DeliveryClass::AtLeastOnce][usize::from(self.flag)],
                message_id: install,
                expires_unix_ms: b,
                priority: self.priority(),
                payload,
            }),
            11 => Frame::PushAck(PushAck { sequence: a }),
            12 => Frame::GroupPush(GroupPush {
                business: s,
                group,
                group_epoch: a,
                sequence: b,
                message_id: install,
                expires_unix_ms: c,
                payload,
            }),
            13 => Frame::Join(Join {
                business: s,
                group,
                message_id: a,
                group_epoch: b,
                sequence: c,
            }),
            14 => Frame::Leave(Leave {
                business: s,
                group,
                message_id: a,
            }),
            15 => Frame::GoAway(GoAway {
                code,
                deadline_ms: s,
                endpoints: Endpoints::new(&endpoints),
                ticket,
                delay_ms: t,
            }),
            17 => Frame::Repeat(Repeat),
            _ => Frame::Close(Close {
                code,
                retry_after_ms: s,
                resumable: self.flag,
                reason,
            }),
        };
        run(&frame)
    }
}

fn position((business, group, group_epoch, sequence): &(u32, Vec<u8>, u64, u64)) -> GroupPosition<'_> {
    GroupPosition {
        business: *business,
        group,
        group_epoch: *group_epoch,
        sequence: *sequence,
    }
}

fn endpoint((cluster, number, host, port): &(String, u8, String, u16)) -> GoAwayEndpoint<'_> {
    GoAwayEndpoint {
        cluster,
        transport: transport(*number),
        host,
        port: *port,
        server_name: cluster,
    }
}
