//! A client, its application, a model of everything behind the socket, and the wire between them, in virtual
//! time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use imaccess_wire::client::{Continuity, State};
use imaccess_wire::frame::{
    Accepted, Close, DeliveryClass, GroupPush, LoginOk, LoginRefused, Pong, Push, Reply, Request,
};
use imaccess_wire::{
    ClientEvent, ClientSession, Code, Frame, FrameBuffer, Limits, LoginParameters, ProtocolError,
};

/// One way, in milliseconds.
pub(crate) const DELAY: u64 = 20;
pub(crate) const PING_INTERVAL_S: u32 = 30;
pub(crate) const GROUP: &[u8] = b"room";
const GROUP_EPOCH: u64 = 9;

/// What the cluster knows of the one device.
#[derive(Default)]
pub(crate) struct Server {
    connected: bool,
    online: bool,
    input: FrameBuffer,
    /// Counts the sessions; 0: there is none to go on with.
    pub(crate) session: u64,
    sessions: u64,
    next_push: u64,
    unacknowledged: VecDeque<(u64, u64)>,
    answers: BTreeMap<u64, Vec<u8>>,
    highest_id: u64,
    pub(crate) lost_pushes: BTreeSet<u64>,
    group_sequence: u64,
    member: bool,
    pub(crate) last_heard: u64,
    pub(crate) pings: Vec<u64>,
    /// Takes everything in, and what it says doesn't arrive.
    pub(crate) mute: bool,
    /// Bytes of this connection didn't arrive, so no later ones will: a stream has no holes.
    broken: bool,
    /// Refuses logins with this.
    pub(crate) refusal: Option<Code>,
}

/// What the application has seen.
#[derive(Default)]
pub(crate) struct Application {
    pub(crate) waiting: BTreeMap<u64, Vec<u8>>,
    pub(crate) answered: u64,
    pub(crate) pushes: Vec<u64>,
    last_sequence: u64,
    group_last: Option<u64>,
    pub(crate) gaps: u64,
    pub(crate) logins: Vec<bool>,
    pub(crate) losses: u64,
    pub(crate) closed: Option<u16>,
    join: u64,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) client: ClientSession,
    pub(crate) server: Server,
    pub(crate) app: Application,
    /// Bytes on their way, with the time of their arrival.
    up: VecDeque<(u64, Vec<u8>)>,
    down: VecDeque<(u64, Vec<u8>)>,
    pushed: u64,
    /// How many bytes a read returns at most.
    pub(crate) read_size: usize,
}

impl World {
    pub(crate) fn new(read_size: usize) -> Self {
        Self {
            read_size,
            ..Self::default()
        }
    }

    pub(crate) fn connect(&mut self) {
        let mut out = Vec::new();
        let parameters = LoginParameters {
            device: "d",
            app: "a",
            ping_jitter: 0.5,
            ..LoginParameters::default()
        };
        self.client
            .start(self.now, &parameters, &mut out)
            .expect("within the limits");
        self.server.connected = true;
        self.server.broken = false;
        self.server.input.clear();
        self.server.last_heard = self.now;
        self.send_up(out);
    }

    /// The connection breaks; what was on its way is lost.
    pub(crate) fn cut(&mut self) {
        self.up.clear();
        self.down.clear();
        self.server.connected = false;
        self.server.online = false;
        self.client.connection_lost(self.now);
    }

    pub(crate) fn run_for(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            let arrivals = [self.up.front(), self.down.front()]
                .into_iter()
                .flatten()
                .map(|(at, _)| *at);
            let next = arrivals.chain(self.client.next_deadline()).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    fn step(&mut self) {
        while self.up.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, bytes) = self.up.pop_front().expect("looked at");
            let mut back = Vec::new();
            self.server.read(self.now, &bytes, &mut back);
            self.send_down(back);
        }
        while self.down.front().is_some_and(|(at, _)| *at <= self.now) {
            let (_, bytes) = self.down.pop_front().expect("looked at");
            for piece in bytes.chunks(self.read_size) {
                self.read(piece);
            }
        }
        let (mut out, app, now) = (Vec::new(), &mut self.app, self.now);
        if self.client.next_deadline().is_some_and(|at| at <= now) {
            self.client
                .handle_timeout(now, &mut out, &mut |event| app.on_event(&event));
            assert!(
                self.client.next_deadline().is_none_or(|at| at > now),
                "a deadline that stays due"
            );
        }
        self.send_up(out);
        if !self.client.is_connected() && self.server.connected {
            self.cut();
        }
    }

    fn read(&mut self, piece: &[u8]) {
        let (mut out, app) = (Vec::new(), &mut self.app);
        let before = app.logins.len();
        self.client
            .handle_bytes(self.now, piece, &mut out, &mut |event| app.on_event(&event))
            .expect("the model keeps to the protocol");
        if self.app.logins.len() > before {
            self.repeat(&mut out);
        }
        self.send_up(out);
    }

    /// After a login: everything without an answer again, lowest number first.
    fn repeat(&mut self, out: &mut Vec<u8>) {
        for (&message_id, payload) in &self.app.waiting {
            let request = Request {
                business: 1,
                message_id,
                payload,
                ..Request::default()
            };
            assert_eq!(self.client.request(request, out), Ok(message_id));
        }
        if self.app.join != 0 {
            assert_eq!(
                self.client.join(1, GROUP, out),
                Ok(self.app.join),
                "the same number again"
            );
        }
    }

    pub(crate) fn request(&mut self) {
        let payload = format!("request {}", self.app.waiting.len()).into_bytes();
        let mut out = Vec::new();
        let request = Request {
            business: 1,
            payload: &payload,
            ..Request::default()
        };
        if let Ok(id) = self.client.request(request, &mut out) {
            assert!(
                self.app.waiting.insert(id, payload).is_none(),
                "number {id} is used twice"
            );
            self.send_up(out);
        } else {
            assert!(!self.client.is_online() && out.is_empty());
        }
    }

    pub(crate) fn join(&mut self) {
        let mut out = Vec::new();
        if let Ok(id) = self.client.join(1, GROUP, &mut out) {
            self.app.join = id;
        }
        self.send_up(out);
    }

    pub(crate) fn push(&mut self) {
        self.pushed += 1;
        let mut out = Vec::new();
        self.server.push(self.pushed, &mut out);
        self.send_down(out);
    }

    pub(crate) fn group_push(&mut self, lost: bool) {
        self.server.group_sequence += 1;
        if self.server.online && self.server.member && !lost {
            let mut out = Vec::new();
            let sequence = self.server.group_sequence;
            GroupPush {
                business: 1,
                group: GROUP,
                group_epoch: GROUP_EPOCH,
                sequence,
                ..GroupPush::default()
            }
            .encode(&mut out);
            self.send_down(out);
        }
    }

    /// The application has handled everything that it was given.
    pub(crate) fn acknowledge(&mut self) {
        let mut out = Vec::new();
        self.client.push_ack(self.app.last_sequence, &mut out);
        self.send_up(out);
    }

    pub(crate) fn close_by_server(&mut self, code: Code) {
        let mut out = Vec::new();
        if self.server.connected {
            Close::with_code(code).encode(&mut out);
            self.send_down(out);
        }
    }

    /// Every push was handed out once, or was lost with its session.
    pub(crate) fn check_pushes(&self) {
        let handed_out: BTreeSet<_> = self.app.pushes.iter().copied().collect();
        assert_eq!(
            handed_out.len(),
            self.app.pushes.len(),
            "a push was handed out twice"
        );
        for push in 1..=self.pushed {
            let lost = self.server.lost_pushes.contains(&push);
            assert!(handed_out.contains(&push) || lost, "push {push} is missing");
        }
    }

    fn send_up(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() && self.server.connected {
            self.up.push_back((self.now + DELAY, bytes));
        }
    }

    fn send_down(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() && self.server.connected {
            self.server.broken |= self.server.mute;
            if !self.server.broken {
                self.down.push_back((self.now + DELAY, bytes));
            }
        }
    }
}

impl Application {
    fn on_event(&mut self, event: &ClientEvent<'_>) {
        match event {
            ClientEvent::LoggedIn(ok) => {
                self.logins.push(ok.resumed);
                if !ok.resumed {
                    self.last_sequence = 0;
                }
            }
            ClientEvent::Reply(reply) => {
                if let Some(payload) = self.waiting.remove(&reply.message_id) {
                    assert_eq!(payload, reply.payload);
                    self.answered += 1;
                }
            }
            ClientEvent::Accepted(accepted) if accepted.message_id == self.join => self.join = 0,
            ClientEvent::Push(push) => {
                assert!(push.sequence > self.last_sequence, "pushes come in order, once");
                self.last_sequence = push.sequence;
                self.pushes
                    .push(u64::from_be_bytes(push.payload.try_into().expect("eight bytes")));
            }
            ClientEvent::GroupPush { push, continuity } => {
                let expected = match self.group_last {
                    None => Continuity::First,
                    Some(last) if push.sequence == last + 1 => Continuity::Next,
                    Some(last) => Continuity::Gap {
                        missing: push.sequence - last - 1,
                    },
                };
                assert_eq!(*continuity, expected);
                self.gaps += u64::from(matches!(continuity, Continuity::Gap { .. }));
                self.group_last = Some(push.sequence);
            }
            ClientEvent::Lost(_) => self.losses += 1,
            ClientEvent::Closed(close) => self.closed = Some(close.code),
            ClientEvent::LoginRefused(refused) => self.closed = Some(refused.code),
            _ => {}
        }
    }
}

impl Server {
    fn read(&mut self, now: u64, bytes: &[u8], out: &mut Vec<u8>) {
        self.last_heard = now;
        let mut input = std::mem::take(&mut self.input);
        input
            .feed(bytes, Limits::default(), |split| {
                let frame = Frame::decode(&split)?.expect("a client sends what is known");
                self.on_frame(now, &frame, out);
                Ok::<(), ProtocolError>(())
            })
            .expect("a client keeps to the protocol");
        self.input = input;
    }

    fn on_frame(&mut self, now: u64, frame: &Frame<'_>, out: &mut Vec<u8>) {
        assert_eq!(
            self.online,
            !matches!(frame, Frame::Login(_)),
            "login first, and once: {frame:?}"
        );
        match frame {
            Frame::Login(login) => {
                if let Some(code) = self.refusal {
                    LoginRefused {
                        code: code as u16,
                        retry_after_ms: 500,
                        ..LoginRefused::default()
                    }
                    .encode(out);
                    return;
                }
                let resumed = self.session != 0 && login.ticket == self.session.to_be_bytes();
                if !resumed {
                    self.forget();
                    self.sessions += 1;
                    self.session = self.sessions;
                }
                self.online = true;
                self.member = login.groups.iter().any(|position| position.group == GROUP);
                LoginOk {
                    session: u128::from(self.session).to_be_bytes(),
                    ticket: &self.session.to_be_bytes(),
                    ping_interval_s: PING_INTERVAL_S,
                    resumed,
                    ..LoginOk::default()
                }
                .encode(out);
                self.unacknowledged
                    .retain(|(sequence, _)| *sequence > login.last_push);
                for &(sequence, push) in &self.unacknowledged {
                    numbered(sequence, push, out);
                }
            }
            Frame::Ping(_) => {
                self.pings.push(now);
                Pong::default().encode(out);
            }
            Frame::Request(request) => {
                let id = request.message_id;
                let known = self.answers.entry(id).or_insert_with(|| {
                    assert!(id > self.highest_id || self.sessions > 1, "numbers rise");
                    request.payload.to_vec()
                });
                assert_eq!(known, request.payload, "a number stands for one request");
                self.highest_id = self.highest_id.max(id);
                Reply {
                    message_id: id,
                    payload: known,
                    ..Reply::default()
                }
                .encode(out);
            }
            Frame::PushAck(ack) => self
                .unacknowledged
                .retain(|(sequence, _)| *sequence > ack.sequence),
            Frame::Join(join) => {
                self.member = true;
                Accepted {
                    message_id: join.message_id,
                    ..Accepted::default()
                }
                .encode(out);
            }
            other => panic!("not part of this play: {other:?}"),
        }
    }

    fn push(&mut self, push: u64, out: &mut Vec<u8>) {
        if self.session == 0 {
            self.lost_pushes.insert(push);
            return;
        }
        self.next_push += 1;
        self.unacknowledged.push_back((self.next_push, push));
        if self.online {
            numbered(self.next_push, push, out);
        }
    }

    /// The session is lost with all that it was owed.
    pub(crate) fn forget(&mut self) {
        self.lost_pushes
            .extend(self.unacknowledged.drain(..).map(|(_, push)| push));
        self.answers.clear();
        self.next_push = 0;
        self.session = 0;
    }
}

fn numbered(sequence: u64, push: u64, out: &mut Vec<u8>) {
    let class = DeliveryClass::AtLeastOnce;
    Push {
        business: 1,
        sequence,
        class,
        payload: &push.to_be_bytes(),
        ..Push::default()
    }
    .encode(out);
}

impl World {
    pub(crate) fn state(&self) -> State {
        self.client.state()
    }
}
