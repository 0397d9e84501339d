//! Random schedules around a machine that speaks link generation 2: gateways and sidecars are replaced in order and killed, and
//! businesses must still be told the truth, once, and no client wait for ever.

use std::collections::{BTreeMap, BTreeSet};

use imaccess_proto::v1::{EndedConnection, Quiesce, Takeover};
use imaccess_wire::frame::Join;
use imaccess_wire::header;
use imaccess_wire::{FrameType, Limits};

use super::*;

const DEVICES: usize = 5;
const WINDOW_MS: u64 = 30_000;

/// One connection, as the gateway knows it.
#[derive(Clone)]
struct Conn {
    device: usize,
    serial: u64,
    /// Empty: not logged in, or lost with the gateway before.
    ticket: Bytes,
    online: bool,
    forwarded: u32,
    login: Vec<u8>,
    groups: BTreeSet<Vec<u8>>,
}

/// One device's client, and what the business was told of it.
#[derive(Default)]
struct Client {
    handle: Option<u64>,
    ticket: Bytes,
    next_message: u64,
    waiting: BTreeSet<u64>,
    joined: bool,
    online: bool,
    /// When it lost its connection last.
    gone_at: u64,
    left: bool,
    /// It logs in for the first time, or has said goodbye: then a new session may be announced.
    begins: bool,
}

struct Gate {
    machine: Machine,
    now: Now,
    rng: fastrand::Rng,
    clients: Vec<Client>,
    /// By handle.
    conns: BTreeMap<u64, Conn>,
    ended: BTreeMap<u64, (Bytes, u32, u64)>,
    next_handle: u64,
    next_serial: u64,
    incarnation: u32,
    at_business: Vec<u64>,
    linked: bool,
    quiesced: Quiesce,
}

impl Gate {
    fn new(seed: u64) -> Self {
        let mut gate = Self {
            machine: fresh(),
            now: Now {
                micros: 1,
                unix_ms: 1_800_000_000_000,
            },
            rng: fastrand::Rng::with_seed(seed),
            clients: (0..DEVICES).map(|_| Client::default()).collect(),
            conns: BTreeMap::new(),
            ended: BTreeMap::new(),
            next_handle: 1,
            next_serial: 1_000,
            incarnation: 1,
            at_business: Vec::new(),
            linked: false,
            quiesced: Quiesce::Unspecified,
        };
        gate.machine.stream_up(0, 0);
        gate.link(Takeover::Unspecified);
        gate
    }

    /// A stream begins, with a snapshot in two chunks.
    fn link(&mut self, takeover: Takeover) {
        let hello = GatewayHello {
            instance: "pod".to_owned(),
            incarnation: self.incarnation,
            shard: 3,
            shards: 4,
            link_generation: 1,
            newest_generation: 2,
            takeover: takeover as i32,
        };
        self.machine.link_up(&hello, 2, self.now);
        self.linked = true;
        self.quiesced = Quiesce::Unspecified;
        let mut chunks = [SnapshotChunk::default(), SnapshotChunk::default()];
        let mut tickets = [Vec::new(), Vec::new()];
        for (at, (&handle, conn)) in self.conns.iter().filter(|(_, conn)| conn.online).enumerate() {
            let chunk = &mut chunks[at % 2];
            chunk.handle.push(handle);
            chunk.serial.push(conn.serial);
            chunk.ticket_length.push(conn.ticket.len() as u32);
            chunk.forwarded.push(conn.forwarded);
            tickets[at % 2].extend_from_slice(&conn.ticket);
            let groups = conn.groups.iter().map(|group| imaccess_proto::v1::SnapshotGroup {
                business: 1,
                group: group.clone().into(),
                member: vec![handle],
            });
            chunk.groups.extend(groups);
        }
        for (at, (&serial, (ticket, code, since))) in self.ended.iter().enumerate() {
            chunks[at % 2].ended.push(EndedConnection {
                serial,
                ticket: ticket.clone(),
                code: *code,
                age_ms: (self.now.unix_ms - since) as u32,
            });
        }
        if self.rng.bool() {
            self.answer();
        }
        let [first, mut last] = chunks;
        last.done = true;
        for (mut chunk, tickets) in [first, last].into_iter().zip(tickets) {
            chunk.tickets = tickets.into();
            self.machine.snapshot(&chunk, self.now);
            // Also to somebody whose row is in the next one.
            if self.rng.bool() {
                self.answer();
            }
        }
        // Whoever has no answer to its LOGIN is read again.
        let unanswered: Vec<(u64, Conn)> = self
            .conns
            .iter()
            .filter(|(_, conn)| !conn.online)
            .map(|(handle, conn)| (*handle, conn.clone()))
            .collect();
        for (handle, conn) in unanswered {
            self.attempt(handle, conn.serial, conn.login);
        }
    }

    fn attempt(&mut self, handle: u64, serial: u64, frame: Vec<u8>) {
        self.machine.login(LoginAttempt {
            handle,
            serial,
            frame: frame.into(),
            ..LoginAttempt::default()
        });
        while self.machine.run_logins(self.now) {}
    }

    fn login(&mut self, device: usize) {
        let client = &mut self.clients[device];
        let name = format!("device-{device}");
        let position = GroupPosition {
            business: 1,
            group: b"room",
            group_epoch: 0,
            sequence: 0,
        };
        let groups = if client.joined {
            std::slice::from_ref(&position)
        } else {
            &[]
        };
        let login = Login {
            device: &name,
            app: "app",
            token: if client.ticket.is_empty() {
                name.as_bytes()
            } else {
                b""
            },
            ticket: &client.ticket,
            groups: GroupPositions::new(groups),
            ..Login::default()
        };
        let mut frame = Vec::new();
        login.encode(&mut frame);
        let (handle, serial) = (self.next_handle, self.next_serial);
        self.next_handle += 1;
        self.next_serial += 1;
        client.handle = Some(handle);
        client.left = false;
        let conn = Conn {
            device,
            serial,
            ticket: Bytes::new(),
            online: false,
            forwarded: 0,
            login: frame.clone(),
            groups: BTreeSet::new(),
        };
        self.conns.insert(handle, conn);
        self.attempt(handle, serial, frame);
    }

    /// A connection is gone; state hears of it if it is there.
    fn end(&mut self, handle: u64, code: Code) {
        let Some(conn) = self.conns.remove(&handle) else {
            return;
        };
        if conn.online {
            self.ended
                .insert(conn.serial, (conn.ticket, code as u32, self.now.unix_ms));
        }
        let client = &mut self.clients[conn.device];
        if client.handle == Some(handle) {
            client.handle = None;
            client.gone_at = self.now.unix_ms;
        }
        if self.linked {
            let closed = ConnectionClosed {
                handle,
                code: code as u32,
            };
            self.machine.closed(&[closed], self.now);
        }
    }

    fn close(&mut self, device: usize, code: Code) {
        let Some(handle) = self.clients[device].handle else {
            return;
        };
        // One whose login isn't answered isn't a session's yet, in any gateway's book.
        if !self.conns.get(&handle).is_some_and(|conn| conn.online) {
            return;
        }
        self.end(handle, code);
        if code == Code::ClientLeft {
            let client = &mut self.clients[device];
            client.left = true;
            client.begins = true;
            client.ticket = Bytes::new();
            client.next_message = 0;
            client.waiting.clear();
            client.joined = false;
        }
    }

    fn forward(&mut self, handle: u64, frame: Vec<u8>, lost: bool) {
        let Some(conn) = self.conns.get_mut(&handle).filter(|conn| conn.online) else {
            return;
        };
        conn.forwarded = conn.forwarded.wrapping_add(1);
        if lost {
            return;
        }
        let frames = Frames {
            handle: vec![handle],
            length: vec![frame.len() as u32],
            frames: frame.into(),
        };
        self.machine.uplink(&frames, self.now);
    }

    fn request(&mut self, device: usize, lost: bool) {
        let client = &mut self.clients[device];
        let Some(handle) = client.handle else { return };
        if client.waiting.len() >= 8 || !self.conns.get(&handle).is_some_and(|conn| conn.online) {
            return;
        }
        client.next_message += 1;
        client.waiting.insert(client.next_message);
        let frame = request(client.next_message);
        self.forward(handle, frame, lost);
    }

    fn join(&mut self, device: usize) {
        let Some(handle) = self.clients[device].handle else {
            return;
        };
        if !self.conns.get(&handle).is_some_and(|conn| conn.online) {
            return;
        }
        self.clients[device].joined = true;
        let mut frame = Vec::new();
        Join {
            business: 1,
            group: b"room",
            ..Join::default()
        }
        .encode(&mut frame);
        self.forward(handle, frame, false);
    }

    /// REPEAT, or a retry for all that was in flight: the client sends everything again.
    fn repeat(&mut self) {
        for device in 0..DEVICES {
            let Some(handle) = self.clients[device].handle else {
                continue;
            };
            for message_id in self.clients[device].waiting.clone() {
                self.forward(handle, request(message_id), false);
            }
        }
    }

    /// All connections in the hands of another process: new handles, and some of the tickets are lost.
    fn adopt(&mut self) {
        self.incarnation += 1;
        let mut conns = BTreeMap::new();
        for (old, mut conn) in std::mem::take(&mut self.conns) {
            let handle = self.next_handle;
            self.next_handle += 1;
            if self.rng.bool() {
                conn.ticket = Bytes::new();
            }
            conn.groups.clear();
            if self.clients[conn.device].handle == Some(old) {
                self.clients[conn.device].handle = Some(handle);
            }
            conns.insert(handle, conn);
        }
        self.conns = conns;
    }

    fn kill_gateway(&mut self) {
        if self.rng.bool() {
            let device = self.rng.usize(..DEVICES);
            self.request(device, true);
        }
        // What state had said and the gateway hadn't read is lost.
        while !self.machine.link.is_empty() {
            let _ = self.machine.link.take();
        }
        self.machine.link_down();
        self.linked = false;
        if self.rng.bool() {
            let device = self.rng.usize(..DEVICES);
            self.close(device, Code::ConnectionLost);
        }
        if self.rng.bool() {
            self.answer();
        }
        // Its list of ended connections dies with it: state has to tell the next one.
        self.ended.clear();
        self.adopt();
        self.link(Takeover::Crashed);
        self.settle();
        self.repeat();
    }

    /// The stream breaks between two processes that live on: what was on it is lost.
    fn break_link(&mut self) {
        while !self.machine.link.is_empty() {
            let _ = self.machine.link.take();
        }
        self.machine.link_down();
        self.linked = false;
        if self.rng.bool() {
            let device = self.rng.usize(..DEVICES);
            self.close(device, Code::PingTimeout);
        }
        if self.rng.bool() {
            self.answer();
            let millis = self.rng.u64(..3_000);
            self.pass(millis);
        }
        self.link(Takeover::Unspecified);
        self.settle();
        self.repeat();
    }

    fn replace_gateway(&mut self) {
        self.machine.quiesce(Quiesce::Begin);
        self.read_all();
        assert_eq!(self.quiesced, Quiesce::Done, "state answers");
        if self.rng.bool() {
            self.answer();
            let device = self.rng.usize(..DEVICES);
            self.close(device, Code::ConnectionLost);
        }
        assert!(self.machine.link.is_empty(), "nothing after done");
        self.machine.quiesce(Quiesce::Done);
        self.machine.link_down();
        self.linked = false;
        if self.rng.bool() {
            self.answer();
        }
        self.adopt();
        self.link(Takeover::Planned);
    }

    fn kill_state(&mut self) {
        self.machine = fresh();
        self.at_business.clear();
        self.linked = false;
        if self.rng.bool() {
            let millis = self.rng.u64(..2_000);
            self.pass(millis);
        }
        self.machine.stream_up(0, 0);
        self.link(Takeover::Unspecified);
        self.settle();
        self.repeat();
    }

    fn replace_state(&mut self) {
        assert!(self.machine.begin_leaving());
        self.read_all();
        assert_eq!(self.quiesced, Quiesce::Begin);
        self.machine.quiesce(Quiesce::Done);
        assert!(self.machine.gateway_is_done());
        self.settle();
        while self.machine.requests_in_flight() > 0 && self.rng.bool() {
            self.answer();
        }
        self.machine.give_up_requests(self.now);
        assert!(!self.machine.work_in_flight() && !self.machine.events_in_flight());
        self.machine.say_done();
        self.read_all();
        assert_eq!(self.quiesced, Quiesce::Done);
        for client in self.clients.iter().filter(|client| client.handle.is_some()) {
            assert!(client.waiting.is_empty(), "everything is answered before it goes");
        }
        self.kill_state();
    }

    fn answer(&mut self) {
        if self.at_business.is_empty() {
            return;
        }
        let id = self.at_business.remove(0);
        let reply = BusinessReply {
            id,
            payload: Bytes::from_static(b"pong"),
            ..BusinessReply::default()
        };
        let batch = FromBusiness {
            replies: vec![reply],
            event_ack: 0,
            ..FromBusiness::default()
        };
        self.machine.business(0, 0, &batch, self.now);
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(50) {
            self.now.micros += 50_000;
            self.now.unix_ms += 50;
            self.machine.tick(self.now);
        }
    }

    /// Everyone does what is to be done, until nothing is.
    fn settle(&mut self) {
        loop {
            let mut idle = true;
            while let Some(routes) = self.machine.take_routes() {
                self.machine.confirm(routes.upto, self.now);
                idle = false;
            }
            idle &= !self.read_all();
            idle &= !self.business();
            if idle {
                return;
            }
        }
    }

    fn business(&mut self) -> bool {
        let mut busy = false;
        while self.machine.stream_is_ready(0, 0) {
            busy = true;
            let batch = self.machine.take_stream(0, 0);
            self.at_business
                .extend(batch.requests.iter().map(|request| request.id));
            for event in &batch.events {
                self.event(event.kind(), &event.device);
            }
            if let Some(last) = batch.events.last() {
                let ack = FromBusiness {
                    replies: vec![],
                    event_ack: last.sequence,
                    ..FromBusiness::default()
                };
                self.machine.business(0, 0, &ack, self.now);
            }
        }
        busy
    }

    fn event(&mut self, kind: EventKind, device: &str) {
        let device: usize = device.trim_start_matches("device-").parse().unwrap();
        let connected = self.clients[device]
            .handle
            .is_some_and(|handle| self.conns[&handle].online);
        let client = &mut self.clients[device];
        match kind {
            EventKind::Online => {
                assert!(
                    client.begins || !client.online,
                    "{device} is said to be online twice"
                );
                client.begins = false;
                client.online = true;
            }
            EventKind::Offline => {
                assert!(!connected, "{device} is connected and said to be offline");
                assert!(client.online, "{device} is said to be offline twice");
                let gone_for = self.now.unix_ms - client.gone_at;
                assert!(
                    client.left || gone_for + 100 >= WINDOW_MS,
                    "{device} may still resume, after {gone_for} ms"
                );
                client.online = false;
            }
            other => panic!("{other:?}"),
        }
    }

    /// Reads what state says; whether there was something.
    fn read_all(&mut self) -> bool {
        let mut some = false;
        while self.linked && !self.machine.link.is_empty() {
            some = true;
            let batch = self.machine.link.take();
            self.read(&batch);
        }
        some
    }

    fn read(&mut self, batch: &StateBatch) {
        assert_ne!(self.quiesced, Quiesce::Done, "nothing after done: {batch:?}");
        for row in &batch.sessions {
            if let Some(conn) = self.conns.get_mut(&row.handle) {
                assert!(!row.ticket.is_empty());
                conn.ticket = row.ticket.clone();
            }
        }
        for login in &batch.logins {
            let Some(conn) = self.conns.get_mut(&login.handle) else {
                continue;
            };
            assert!(login.accepted);
            conn.online = true;
            conn.ticket = login.ticket.clone();
            let client = &mut self.clients[conn.device];
            if client.handle == Some(login.handle) {
                client.ticket = login.ticket.clone();
            }
            let (device, handle) = (conn.device, login.handle);
            if self.clients[device].handle == Some(handle) {
                // Once online it repeats what it has no answer for.
                for message_id in self.clients[device].waiting.clone() {
                    self.forward(handle, request(message_id), false);
                }
            }
        }
        for change in &batch.memberships {
            if let Some(conn) = self.conns.get_mut(&change.handle) {
                if change.member {
                    conn.groups.insert(change.group.to_vec());
                } else {
                    conn.groups.remove(&change.group[..]);
                }
            }
        }
        if let Some(unicast) = &batch.unicast {
            let mut at = 0;
            for (handle, length) in unicast.handle.iter().zip(&unicast.length) {
                let frame = &unicast.frames[at..at + *length as usize];
                at += *length as usize;
                let split = header::split(frame, Limits::default()).unwrap().unwrap();
                if split.header.kind == Some(FrameType::Reply)
                    && let Some(conn) = self.conns.get(handle)
                    && self.clients[conn.device].handle == Some(*handle)
                {
                    let reply = Reply::decode(split.body()).unwrap();
                    self.clients[conn.device].waiting.remove(&reply.message_id);
                }
            }
        }
        for close in &batch.closes {
            if let Some(conn) = self.conns.get(&close.handle) {
                assert_ne!(
                    self.clients[conn.device].handle,
                    Some(close.handle),
                    "the device's own connection is closed with {}",
                    close.code
                );
            }
            self.end(close.handle, Code::from_u16(close.code as u16).unwrap());
        }
        for ended in &batch.ended {
            // One whose login wasn't answered before the crash isn't over, whatever state believes: it is sent again.
            if self.conns.values().any(|conn| conn.serial == ended.serial) {
                continue;
            }
            let since = self.now.unix_ms - u64::from(ended.age_ms);
            self.ended
                .insert(ended.serial, (ended.ticket.clone(), ended.code, since));
        }
        for serial in &batch.settled {
            let connected = |conn: &Conn| conn.serial == *serial && conn.online;
            assert!(
                !self.conns.values().any(connected),
                "settled while it is connected"
            );
            self.ended.remove(serial);
        }
        if batch.quiesce() != Quiesce::Unspecified {
            self.quiesced = batch.quiesce();
        }
    }

    /// What must hold whenever everyone has done what was to be done.
    fn check(&self) {
        for (device, client) in self.clients.iter().enumerate() {
            let Some(handle) = client.handle else { continue };
            let conn = &self.conns[&handle];
            assert!(conn.online, "{device} got no answer to its login");
            assert!(
                client.online,
                "{device} is connected and wasn't said to be online"
            );
            assert!(!conn.ticket.is_empty(), "the gateway got no ticket for {device}");
            if client.joined {
                assert!(!conn.groups.is_empty(), "{device} is in its group no more");
            }
        }
    }
}

fn fresh() -> Machine {
    machine(|settings| {
        settings.login_queue = 64;
        settings.token_checks_per_turn = 64;
        settings.max_in_flight = 64;
    })
}

fn request(message_id: u64) -> Vec<u8> {
    let mut frame = Vec::new();
    Request {
        business: 1,
        message_id,
        payload: b"ping",
        ..Request::default()
    }
    .encode(&mut frame);
    frame
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut gate = Gate::new(seed);
    for _ in 0..gate.rng.usize(10..80) {
        let device = gate.rng.usize(..DEVICES);
        match gate.rng.u8(..23) {
            0..=3 => gate.login(device),
            4 => gate.close(device, Code::ConnectionLost),
            5 => gate.close(device, Code::ClientLeft),
            6..=9 => gate.request(device, false),
            10 | 11 => gate.answer(),
            12 => gate.join(device),
            13 => {
                let millis = gate.rng.u64(..20_000);
                gate.pass(millis);
            }
            14 => gate.kill_gateway(),
            15 => {
                // Over a planned handover nobody repeats anything.
                gate.replace_gateway();
            }
            16 => gate.kill_state(),
            17 => gate.replace_state(),
            18 => {
                // It goes, and state dies before it has told anybody.
                gate.close(device, Code::ClientLeft);
                gate.kill_state();
            }
            19 => gate.break_link(),
            20 => {
                // Events are acknowledged, and the gateway doesn't hear that they are.
                gate.close(device, Code::ClientLeft);
                while let Some(routes) = gate.machine.take_routes() {
                    gate.machine.confirm(routes.upto, gate.now);
                }
                gate.business();
                if gate.rng.bool() {
                    gate.break_link();
                } else {
                    gate.kill_gateway();
                }
            }
            21 => {
                gate.login(device);
                gate.break_link();
            }
            _ => {
                gate.login(device);
                gate.kill_gateway();
            }
        }
        gate.settle();
        gate.check();
    }
    // Everybody gets an answer without repeating.
    while !gate.at_business.is_empty() {
        gate.answer();
    }
    gate.settle();
    for client in gate.clients.iter().filter(|client| client.handle.is_some()) {
        assert!(client.waiting.is_empty(), "no answer for {:?}", client.waiting);
    }
    for device in 0..DEVICES {
        gate.close(device, Code::ConnectionLost);
    }
    gate.pass(WINDOW_MS + 1_000);
    gate.settle();
    assert!(gate.clients.iter().all(|client| !client.online));
    assert_eq!(gate.machine.sessions(), 0);
    assert_eq!(
        gate.ended.len(),
        0,
        "everything is settled: {:?}",
        gate.ended.keys()
    );
    assert_eq!(gate.machine.requests_in_flight(), 0);
    assert!(gate.machine.groups.is_empty());
}

/// `IMACCESS_SEED` runs one.
#[test]
fn whatever_is_replaced_or_killed_nobody_is_lost() {
    if let Some(seed) = std::env::var("IMACCESS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        return run(seed);
    }
    let first = fastrand::u64(..1 << 40);
    let failed: Vec<u64> = (0..100)
        .chain(first..first + 300)
        .filter(|seed| std::panic::catch_unwind(|| run(*seed)).is_err())
        .take(5)
        .collect();
    assert!(failed.is_empty(), "failed with IMACCESS_SEED {failed:?}");
}
