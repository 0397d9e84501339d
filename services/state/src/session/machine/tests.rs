//! A machine and everyone around it, in virtual time: random schedules of logins, losses, requests, replies, breaks
//! and restarts, checked against what must hold whatever happens.

mod admission;
mod commands;
mod ending;
mod handover;
mod reload;
mod schedules;

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use imaccess_common::identity::Epoch;
use imaccess_common::token::{Claims, TokenError};
use imaccess_proto::v1::{
    BusinessReply, ConnectionClosed, EventKind, Frames, FromBusiness, GatewayHello, LoginAttempt, Outranked,
    SnapshotChunk, StateBatch,
};
use imaccess_wire::Code;
use imaccess_wire::frame::{GroupPosition, GroupPositions, Login, LoginOk, Reply, Request};
use imaccess_wire::header::HEADER_LEN;
use prometheus::Registry;
use proptest::prelude::*;

use super::*;

/// A token is the device's name.
struct Names;

impl TokenVerifier for Names {
    fn verify(&self, token: &[u8], _now_unix_s: u64) -> Result<Claims, TokenError> {
        let device = String::from_utf8(token.to_vec()).map_err(|_| TokenError::Malformed)?;
        if device.is_empty() {
            Err(TokenError::Malformed)
        } else {
            Ok(Claims {
                device,
                app: "app".to_owned(),
            })
        }
    }
}

fn machine(change: impl FnOnce(&mut Settings)) -> Machine {
    let mut business = BusinessConfig::new(1, "echo", "http://127.0.0.1:1");
    business.events = true;
    business.client_groups = true;
    let mut settings = Settings {
        worker: 3,
        ping_interval: Duration::from_secs(60),
        resume_window: Duration::from_secs(30),
        ticket_lifetime: Duration::from_secs(1_000_000),
        max_in_flight: 8,
        login_queue: 4,
        token_checks_per_turn: 2,
        reply_cache_bytes: 4_096,
        event_backlog_bytes: 1 << 20,
        businesses: vec![business],
    };
    change(&mut settings);
    let shared = Shared {
        tickets: Arc::new(TicketKeys::new("test", vec![(1, [7; 32])])),
        tokens: Arc::new(Names),
        epochs: Arc::new(EpochClock::new()),
        metrics: Metrics::register(&Registry::new()),
    };
    Machine::new(settings, shared)
}

/// What one device's client and socket know.
#[derive(Default)]
struct Device {
    /// Address and serial of its connection.
    connection: Option<(u64, u64)>,
    ticket: Bytes,
    next_message: u64,
    /// Requests without an answer, since the last interruption.
    waiting: BTreeMap<u64, ()>,
    /// What the business was told last.
    online: bool,
    told_epoch: u64,
}

struct World {
    machine: Machine,
    now: Now,
    devices: Vec<Device>,
    owners: HashMap<u64, usize>,
    next_handle: u64,
    /// Requests that the business has and hasn't answered.
    at_business: Vec<u64>,
    incarnation: u32,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            machine: machine(|_| ()),
            now: Now {
                micros: 1,
                unix_ms: 1_800_000_000_000,
            },
            devices: (0..4).map(|_| Device::default()).collect(),
            owners: HashMap::new(),
            next_handle: 1,
            at_business: Vec::new(),
            incarnation: 1,
        };
        world.machine.stream_up(0, 0);
        world.relink();
        world
    }

    /// The link breaks and comes back, with a snapshot of who is connected.
    fn relink(&mut self) {
        self.machine.link_down();
        let hello = GatewayHello {
            instance: "pod".to_owned(),
            incarnation: self.incarnation,
            shard: 3,
            shards: 4,
            link_generation: 1,
            ..GatewayHello::default()
        };
        self.machine.link_up(&hello, 1, self.now);
        let mut chunk = SnapshotChunk {
            done: true,
            ..SnapshotChunk::default()
        };
        let mut tickets = Vec::new();
        for device in &mut self.devices {
            device.waiting.clear();
            if let Some((handle, serial)) = device.connection {
                chunk.handle.push(handle);
                chunk.serial.push(serial);
                chunk.ticket_length.push(device.ticket.len() as u32);
                tickets.extend_from_slice(&device.ticket);
            }
        }
        chunk.tickets = tickets.into();
        self.machine.snapshot(&chunk, self.now);
    }

    fn login(&mut self, at: usize) {
        let resume = !self.devices[at].ticket.is_empty();
        let handle = self.next_handle;
        self.next_handle += 1;
        self.owners.insert(handle, at);
        let name = format!("device-{at}");
        let position = GroupPosition {
            business: 1,
            group: b"room",
            group_epoch: 0,
            sequence: 0,
        };
        let login = Login {
            device: &name,
            app: "app",
            token: if resume { b"" } else { name.as_bytes() },
            ticket: &self.devices[at].ticket,
            groups: GroupPositions::new(std::slice::from_ref(&position)),
            ..Login::default()
        };
        let mut frame = Vec::new();
        login.encode(&mut frame);
        self.devices[at].waiting.clear();
        self.machine.login(LoginAttempt {
            handle,
            serial: handle * 10,
            frame: frame.into(),
            ..LoginAttempt::default()
        });
        while self.machine.run_logins(self.now) {}
        self.devices[at].connection = Some((handle, handle * 10));
    }

    fn close(&mut self, at: usize, code: Code) {
        if let Some((handle, _)) = self.devices[at].connection.take() {
            self.devices[at].waiting.clear();
            self.machine.closed(
                &[ConnectionClosed {
                    handle,
                    code: code as u32,
                }],
                self.now,
            );
            if code == Code::ClientLeft {
                self.devices[at].ticket = Bytes::new();
                self.devices[at].next_message = 0;
            }
        }
    }

    fn request(&mut self, at: usize, again: bool) {
        let Some((handle, _)) = self.devices[at].connection else {
            return;
        };
        if !again {
            self.devices[at].next_message += 1;
        }
        let message_id = self.devices[at].next_message;
        if message_id == 0 {
            return;
        }
        let mut frame = Vec::new();
        Request {
            business: 1,
            message_id,
            payload: b"ping",
            ..Request::default()
        }
        .encode(&mut frame);
        self.devices[at].waiting.insert(message_id, ());
        let frames = Frames {
            handle: vec![handle],
            length: vec![frame.len() as u32],
            frames: frame.into(),
        };
        self.machine.uplink(&frames, self.now);
    }

    fn answer_oldest(&mut self) {
        if !self.at_business.is_empty() {
            let id = self.at_business.remove(0);
            let reply = BusinessReply {
                id,
                payload: Bytes::from_static(b"pong"),
                ..BusinessReply::default()
            };
            self.machine.business(
                0,
                0,
                &FromBusiness {
                    replies: vec![reply],
                    event_ack: 0,
                    ..FromBusiness::default()
                },
                self.now,
            );
        }
    }

    /// Takes all outputs, plays the receivers, and checks what they must never see.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        while let Some(routes) = self.machine.take_routes() {
            self.machine.confirm(routes.upto, self.now);
        }
        let batch = self.machine.link.take();
        self.read_link(batch)?;
        while self.machine.stream_is_ready(0, 0) {
            let batch = self.machine.take_stream(0, 0);
            self.at_business
                .extend(batch.requests.iter().map(|request| request.id));
            for event in &batch.events {
                let at: usize = event.device.trim_start_matches("device-").parse().unwrap();
                let device = &mut self.devices[at];
                prop_assert!(
                    event.epoch >= device.told_epoch,
                    "events of a device are in order"
                );
                device.told_epoch = event.epoch;
                match event.kind() {
                    EventKind::Online => device.online = true,
                    EventKind::Offline => {
                        prop_assert!(
                            device.connection.is_none(),
                            "{at} is connected and said to be offline"
                        );
                        device.online = false;
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            if let Some(last) = batch.events.last() {
                self.machine.business(
                    0,
                    0,
                    &FromBusiness {
                        replies: vec![],
                        event_ack: last.sequence,
                        ..FromBusiness::default()
                    },
                    self.now,
                );
            }
        }
        for (at, device) in self.devices.iter().enumerate() {
            if device.connection.is_some() {
                prop_assert!(device.online, "{at} is connected and wasn't said to be online");
            }
        }
        Ok(())
    }

    fn read_link(&mut self, batch: StateBatch) -> Result<(), TestCaseError> {
        for login in &batch.logins {
            let at = self.owners[&login.handle];
            prop_assert!(login.accepted);
            let ok = LoginOk::decode(&login.frame[HEADER_LEN..]).unwrap();
            prop_assert_eq!(ok.ticket, &login.ticket[..]);
            self.devices[at].ticket = login.ticket.clone();
        }
        for close in &batch.closes {
            let current = self.devices[self.owners[&close.handle]].connection;
            prop_assert!(
                current.is_none_or(|(handle, _)| handle != close.handle),
                "{close:?}"
            );
        }
        let Some(unicast) = batch.unicast else {
            return Ok(());
        };
        let mut at = 0;
        for (handle, length) in unicast.handle.iter().zip(&unicast.length) {
            let frame = &unicast.frames[at..at + *length as usize];
            at += *length as usize;
            let reply = Reply::decode(&frame[HEADER_LEN..]).unwrap();
            let device = &mut self.devices[self.owners[handle]];
            prop_assert!(
                device.connection.is_some_and(|(current, _)| current == *handle),
                "a reply went astray"
            );
            device.waiting.remove(&reply.message_id);
        }
        Ok(())
    }

    fn advance(&mut self, millis: u64) {
        // In ticks, as the worker does.
        for _ in 0..millis.div_ceil(50) {
            self.now.micros += 50_000;
            self.now.unix_ms += 50;
            self.machine.tick(self.now);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_everyone_is_told_the_truth(
        steps in prop::collection::vec((0u8..12, 0usize..4, 0u64..20_000), 1..80),
    ) {
        let mut world = World::new();
        for (step, device, millis) in steps {
            match step {
                0 | 1 => world.login(device),
                2 => world.close(device, Code::ConnectionLost),
                3..=5 => world.request(device, false),
                6 => world.request(device, true),
                7 => world.answer_oldest(),
                8 => world.advance(millis),
                9 => {
                    world.machine.stream_down(0, 0, world.now);
                    world.at_business.clear();
                    world.machine.stream_up(0, 0);
                }
                10 => {
                    world.incarnation += u32::from(millis % 2 == 0);
                    world.relink();
                }
                _ => world.close(device, Code::ClientLeft),
            }
            world.settle()?;
        }
        // Nobody waits for ever, and nothing is left when all have gone.
        world.advance(11_000);
        world.settle()?;
        for device in &world.devices {
            prop_assert!(device.waiting.is_empty(), "no answer for {:?}", device.waiting);
        }
        for device in 0..4 {
            world.close(device, Code::ConnectionLost);
        }
        world.advance(31_000);
        world.settle()?;
        prop_assert!(world.devices.iter().all(|device| !device.online));
        prop_assert_eq!(world.machine.sessions(), 0);
        prop_assert_eq!(world.machine.requests_in_flight(), 0);
        prop_assert!(world.machine.groups.is_empty());
        prop_assert_eq!(world.machine.businesses[0].in_flight, 0);
    }
}

#[test]
fn logins_beyond_the_queue_are_refused_and_a_turn_checks_few() {
    let mut machine = machine(|_| ());
    let now = Now {
        micros: 0,
        unix_ms: 1,
    };
    machine.link_up(&GatewayHello::default(), 1, now);
    for handle in 1..=6 {
        let name = format!("device-{handle}");
        let mut frame = Vec::new();
        Login {
            device: &name,
            app: "app",
            token: name.as_bytes(),
            ..Login::default()
        }
        .encode(&mut frame);
        machine.login(LoginAttempt {
            handle,
            serial: 1,
            frame: frame.into(),
            ..LoginAttempt::default()
        });
    }
    let refused: Vec<u64> = machine
        .link
        .take()
        .logins
        .iter()
        .map(|login| login.handle)
        .collect();
    assert_eq!(refused, [5, 6]);
    assert!(machine.run_logins(now), "two of four are left");
    assert_eq!(machine.link.take().logins.len(), 2);
    assert!(!machine.run_logins(now));
    assert_eq!(machine.sessions(), 4);
}

#[test]
fn a_session_that_was_heard_of_goes_and_a_fresh_one_stamps_itself_higher() {
    let mut world = World::new();
    world.login(0);
    let announced = world.machine.take_routes().unwrap();
    let first = announced.announcements[0].clone();
    let lost = |epoch, winner_epoch| Outranked {
        app: first.app.clone(),
        device: first.device.clone(),
        session: first.session.clone(),
        epoch,
        locator: first.locator,
        winner_epoch,
        winner_session: Bytes::new(),
    };
    world
        .machine
        .outranked(&lost(first.epoch, first.epoch + 500), 0, world.now);
    let again = world.machine.take_routes().unwrap();
    assert!(again.announcements[0].epoch > first.epoch + 500);
    // What is said of an older epoch says nothing of this one.
    world
        .machine
        .outranked(&lost(first.epoch, first.epoch + 900), 0, world.now);
    assert!(world.machine.take_routes().is_none());
    // Heard by one replica, and confirmed by none, for another is silent: what comes after it is the later login.
    let epoch = again.announcements[0].epoch;
    world
        .machine
        .outranked(&lost(epoch, epoch), again.upto, world.now);
    assert_eq!(world.machine.sessions(), 0);
    assert_eq!(world.machine.link.take().closes[0].code, Code::Superseded as u32);
}

#[test]
fn what_the_custodian_found_gone_is_suspended_while_there_is_no_link() {
    let mut world = World::new();
    for device in 0..3 {
        world.login(device);
    }
    let serial = world.devices[1].connection.unwrap().1;
    let some = Gone::Serials(vec![serial, 77].into());
    world.machine.connections_gone(&some, world.now);
    let online = |world: &World| world.machine.phases()[0].1;
    assert_eq!(online(&world), 3, "the gateway is there and knows better");
    world.machine.link_down();
    world.machine.connections_gone(&some, world.now);
    assert_eq!(online(&world), 2);
    world.machine.connections_gone(&Gone::All, world.now);
    assert_eq!(online(&world), 0);
    assert_eq!(world.machine.phases()[1].1, 3, "they may be resumed");
    world.machine.connections_gone(&Gone::All, world.now);
    assert_eq!(world.machine.phases()[1].1, 3);
}

#[test]
fn of_two_logins_that_nobody_heard_of_for_long_the_clocks_say_which_is_later() {
    let mut world = World::new();
    world.login(0);
    let first = world.machine.take_routes().unwrap().announcements[0].clone();
    world.advance(2_000);
    let lost = |winner_ms: u64| Outranked {
        device: first.device.clone(),
        app: first.app.clone(),
        session: first.session.clone(),
        epoch: first.epoch,
        locator: first.locator,
        winner_epoch: winner_ms << Epoch::COUNTER_BITS,
        winner_session: Bytes::from_static(&[9; 16]),
    };
    // A clock that is ahead proves nothing.
    let ahead = lost(world.now.unix_ms + 5);
    world.machine.outranked(&ahead, 0, world.now);
    assert_eq!(world.machine.sessions(), 1);
    let again = world.machine.take_routes().unwrap().announcements[0].clone();
    assert!(again.epoch > ahead.winner_epoch);

    let mut world = World::new();
    world.login(0);
    assert_eq!(
        world.machine.take_routes().unwrap().announcements[0].epoch,
        first.epoch
    );
    world.advance(2_000);
    let since = lost(world.now.unix_ms - 5);
    world.machine.outranked(&since, 0, world.now);
    assert_eq!(world.machine.sessions(), 0);
    assert_eq!(world.machine.link.take().closes[0].code, Code::Superseded as u32);
}

#[test]
fn a_restored_session_never_claims_to_be_the_later_login() {
    let mut world = World::new();
    world.login(0);
    let ticket = world.machine.link.take().logins[0].ticket.clone();
    world.devices[0].ticket = ticket;
    world.machine = machine(|_| ());
    world.relink();
    let routes = world.machine.take_routes().unwrap();
    let restored = &routes.announcements[0];
    let lost = Outranked {
        app: restored.app.clone(),
        device: restored.device.clone(),
        session: restored.session.clone(),
        epoch: restored.epoch,
        locator: restored.locator,
        winner_epoch: restored.epoch + 1,
        winner_session: restored.session.clone(),
    };
    world.machine.outranked(&lost, 0, world.now);
    assert_eq!(world.machine.link.take().closes[0].code, Code::Moved as u32);
}

#[test]
fn what_was_answered_without_a_link_is_said_when_it_is_back() {
    let mut world = World::new();
    world.login(0);
    world.settle().unwrap();
    world.request(0, false);
    world.request(0, false);
    world.settle().unwrap();
    world.machine.link_down();
    world.answer_oldest();
    world.machine.stream_down(0, 0, world.now);
    world.relink();
    let unicast = world.machine.link.take().unicast.unwrap();
    let first = unicast.length[0] as usize;
    let reply = Reply::decode(&unicast.frames[HEADER_LEN..first]).unwrap();
    assert_eq!(
        (reply.message_id, reply.code, reply.payload),
        (1, 0, &b"pong"[..])
    );
    let reply = Reply::decode(&unicast.frames[first + HEADER_LEN..]).unwrap();
    assert_eq!((reply.message_id, reply.code), (2, Code::Retry as u16));
}
