//! Handovers step by step, where a schedule can't see the figures.

use imaccess_proto::v1::{EndedConnection, GroupPush, Outcome, Quiesce, Receipts, Takeover, UnicastPush};

use super::*;

fn hello(incarnation: u32, shard: u32, shards: u32, takeover: Takeover) -> GatewayHello {
    GatewayHello {
        instance: "pod".to_owned(),
        incarnation,
        shard,
        shards,
        link_generation: 1,
        newest_generation: 2,
        takeover: takeover as i32,
    }
}

fn rows(rows: &[(u64, u64, u32)]) -> SnapshotChunk {
    SnapshotChunk {
        handle: rows.iter().map(|row| row.0).collect(),
        serial: rows.iter().map(|row| row.1).collect(),
        ticket_length: vec![0; rows.len()],
        forwarded: rows.iter().map(|row| row.2).collect(),
        done: true,
        ..SnapshotChunk::default()
    }
}

fn world() -> World {
    let mut world = World::new();
    world
        .machine
        .link_up(&hello(1, 3, 4, Takeover::Unspecified), 2, world.now);
    world.machine.snapshot(&rows(&[]), world.now);
    world
}

fn group_push(sequence: u64, expires_ms: u64, len: usize) -> GroupPush {
    GroupPush {
        business: 1,
        group: Bytes::from_static(b"room"),
        sequence,
        expires_ms,
        payload: vec![0; len].into(),
        ..GroupPush::default()
    }
}

fn sequences(machine: &mut Machine, now: Now) -> Vec<u64> {
    let mut sequences = Vec::new();
    loop {
        machine.release_held(64 * 1024, now);
        if machine.link.is_empty() {
            return sequences;
        }
        sequences.extend(machine.link.take().groups.iter().map(|group| group.sequence));
    }
}

#[test]
fn group_pushes_wait_for_the_next_gateway_in_order_and_not_for_ever() {
    let mut world = world();
    world.login(0);
    world.settle().unwrap();
    let now = world.now;
    world.machine.group_push(&group_push(1, 0, 10), true, now);
    world.machine.quiesce(Quiesce::Begin);
    world.machine.group_push(&group_push(2, 0, 10), true, now);
    world
        .machine
        .group_push(&group_push(3, now.unix_ms + 1_000, 10), true, now);
    let batch = world.machine.link.take();
    assert_eq!((batch.groups.len(), batch.quiesce()), (1, Quiesce::Done));
    world.machine.quiesce(Quiesce::Done);
    world.machine.link_down();
    world.machine.group_push(&group_push(4, 0, 10), true, now);
    world.advance(2_000);
    let now = world.now;
    world.machine.link_up(&hello(2, 3, 4, Takeover::Planned), 2, now);
    world.machine.group_push(&group_push(5, 0, 10), true, now);
    world.machine.snapshot(&rows(&[(101, 10, 0)]), now);
    world.machine.group_push(&group_push(6, 0, 10), true, now);
    assert_eq!(
        sequences(&mut world.machine, now),
        [2, 4, 5, 6],
        "3 has expired, the rest is in order"
    );
    world.machine.group_push(&group_push(7, 0, 10), true, now);
    assert_eq!(sequences(&mut world.machine, now), [7]);

    // Too much at once: the oldest go. Too long: all go.
    world.machine.link_down();
    for sequence in 100..400 {
        world
            .machine
            .group_push(&group_push(sequence, 0, 60_000), true, now);
    }
    world.machine.link_up(&hello(3, 3, 4, Takeover::Crashed), 2, now);
    world.machine.snapshot(&rows(&[(201, 10, 0)]), now);
    let sent = sequences(&mut world.machine, now);
    assert!((100..150).contains(&sent.len()), "{}", sent.len());
    assert_eq!(sent.last(), Some(&399));
    world.machine.link_down();
    world.machine.group_push(&group_push(500, 0, 10), true, now);
    world.advance(11_000);
    let now = world.now;
    world.machine.group_push(&group_push(501, 0, 10), true, now);
    world.machine.link_up(&hello(4, 3, 4, Takeover::Crashed), 2, now);
    world.machine.snapshot(&rows(&[(301, 10, 0)]), now);
    assert_eq!(sequences(&mut world.machine, now), [] as [u64; 0]);
}

#[test]
fn a_push_without_a_receipt_is_unknown_and_one_after_begin_is_for_later() {
    let mut world = world();
    world.login(0);
    let announced = world.machine.take_routes().unwrap().announcements[0].clone();
    let push = |id| UnicastPush {
        id,
        locator: announced.locator,
        serial: announced.serial,
        epoch: announced.epoch,
        business: 1,
        payload: Bytes::from_static(b"news"),
        ..UnicastPush::default()
    };
    for id in 1..=3 {
        world.machine.push(9, push(id), 64 * 1024, world.now);
    }
    world.machine.quiesce(Quiesce::Begin);
    world.machine.push(9, push(4), 64 * 1024, world.now);
    let receipt = world.machine.link.take().unicast.unwrap().receipt;
    world.machine.receipts(&Receipts {
        id: vec![receipt[receipt.len() - 3]],
        outcome: vec![Outcome::Written as u8].into(),
    });
    world.machine.quiesce(Quiesce::Done);
    world.machine.link_down();
    let receipts = world.machine.take_routes().unwrap().receipts;
    let mut outcomes: Vec<_> = receipts.iter().map(|it| (it.id, it.outcome)).collect();
    outcomes.sort_unstable_by_key(|(id, _)| *id);
    assert_eq!(
        outcomes,
        [
            (1, Outcome::Written),
            (2, Outcome::Unknown),
            (3, Outcome::Unknown),
            (4, Outcome::Retry)
        ]
    );
}

#[test]
fn what_a_killed_gateway_had_read_is_counted_once() {
    let mut world = world();
    world.login(0);
    world.login(1);
    world.settle().unwrap();
    world.request(0, false);
    world.request(0, false);
    world.machine.link_down();
    let lost = |world: &World| world.machine.shared.metrics.frames_lost.get();
    world
        .machine
        .link_up(&hello(2, 3, 4, Takeover::Crashed), 2, world.now);
    // Two of five came; of the other connection all that were sent, and one count is behind, which says nothing.
    world
        .machine
        .snapshot(&rows(&[(11, 10, 5), (12, 20, u32::MAX)]), world.now);
    assert_eq!(lost(&world), 3);
    let batch = world.machine.link.take();
    let named: Vec<u64> = batch.sessions.iter().map(|row| row.handle).collect();
    assert_eq!(named, [11, 12]);
    assert_eq!(batch.memberships.len(), 2, "and they are in their groups");
    assert!(batch.closes.is_empty());
    assert!(
        world.machine.take_routes().is_none(),
        "nothing that routing knows has changed"
    );
    world.machine.link_down();
    world
        .machine
        .link_up(&hello(3, 3, 4, Takeover::Crashed), 2, world.now);
    world
        .machine
        .snapshot(&rows(&[(13, 10, 5), (14, 99, 0)]), world.now);
    assert_eq!(lost(&world), 3);
    let closes = world.machine.link.take().closes;
    assert_eq!(
        (closes.len(), closes[0].handle, closes[0].code),
        (1, 14, Code::SessionLost as u32),
        "nobody knows it"
    );
}

#[test]
fn the_sessions_of_a_shard_that_is_gone_go_on_with_another_worker() {
    let mut world = world();
    // Worker 3 of 4 goes; worker 1 of 2 has its connections.
    for device in 0..3 {
        world.login(device);
    }
    world.settle().unwrap();
    world.request(0, false);
    world.close(1, Code::ConnectionLost);
    world.settle().unwrap();
    world.advance(10_000);
    world.settle().unwrap();
    let mut heir = machine(|settings| settings.worker = 1);
    heir.link_up(&hello(1, 1, 4, Takeover::Unspecified), 2, world.now);
    heir.snapshot(&rows(&[]), world.now);
    heir.link_down();
    heir.link_up(&hello(2, 1, 2, Takeover::Crashed), 2, world.now);
    let mut chunk = rows(&[(11, 10, 1), (12, 77, 0)]);
    chunk.ended.push(EndedConnection {
        serial: 30,
        code: Code::ConnectionLost as u32,
        age_ms: 500,
        ..EndedConnection::default()
    });
    heir.snapshot(&chunk, world.now);
    assert!(heir.link.is_empty(), "nothing is judged before they have come");
    assert!(!heir.link_is_live());

    let transfer = world.machine.export(1, 2, 0, world.now);
    assert_eq!(world.machine.sessions(), 0);
    assert!(world.machine.is_restored() && world.machine.groups.is_empty());
    assert_eq!(transfer.sessions.len(), 3);
    heir.import(transfer, world.now);
    assert!(heir.link_is_live());
    let batch = heir.link.take();
    let named: Vec<u64> = batch.sessions.iter().map(|row| row.handle).collect();
    assert_eq!(named, [11]);
    assert_eq!((batch.closes.len(), batch.closes[0].handle), (1, 12));
    assert_eq!(batch.settled, [77]);
    assert_eq!(batch.memberships[0].handle, 11);
    let unicast = batch.unicast.unwrap();
    let reply = Reply::decode(&unicast.frames[HEADER_LEN..]).unwrap();
    assert_eq!(
        (unicast.handle[0], reply.message_id, reply.code),
        (11, 1, Code::Retry as u16)
    );
    let routes = heir.take_routes().unwrap();
    assert_eq!(routes.announcements.len(), 3, "all have another locator");
    heir.confirm(routes.upto, world.now);
    assert_eq!(heir.phases(), [("online", 1), ("suspended", 2), ("leaving", 0)]);

    // What is left of each window: 20 s of one that was suspended there, 29.5 of one that ended since.
    let mut now = world.now;
    let mut after = |machine: &mut Machine, millis: u64| {
        now.micros += millis * 1_000;
        now.unix_ms += millis;
        machine.tick(now);
        if let Some(routes) = machine.take_routes() {
            machine.confirm(routes.upto, now);
        }
        machine.phases()[1].1
    };
    assert_eq!(after(&mut heir, 19_900), 2);
    assert_eq!(after(&mut heir, 200), 1);
    assert_eq!(after(&mut heir, 9_300), 1);
    assert_eq!(after(&mut heir, 200), 0);
    assert!(heir.link.is_empty(), "the business hasn't heard of it");
    heir.stream_up(0, 0);
    let told = heir.take_stream(0, 0).events;
    assert_eq!(told.len(), 2);
    let ack = FromBusiness {
        replies: vec![],
        event_ack: 2,
        ..FromBusiness::default()
    };
    heir.business(0, 0, &ack, now);
    assert_eq!(heir.link.take().settled, [20, 30]);
}
