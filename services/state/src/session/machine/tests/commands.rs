//! What businesses ask of sessions and groups, and broadcasts.

use imaccess_proto::v1::{
    BroadcastPush, DeviceFilter, GroupAction, GroupCommand, LostSession, LostSessions, Outcome,
    SessionAction, SessionCommand, Takeover, UnicastPush,
};
use imaccess_wire::frame::Close;

use super::*;

const GENERATION: u32 = 3;

fn hello(incarnation: u32) -> GatewayHello {
    GatewayHello {
        instance: "pod".to_owned(),
        incarnation,
        shard: 3,
        shards: 4,
        link_generation: GENERATION,
        takeover: Takeover::Unspecified as i32,
        ..GatewayHello::default()
    }
}

fn world() -> World {
    let mut world = World::new();
    world.machine.link_up(&hello(1), GENERATION, world.now);
    let done = SnapshotChunk {
        done: true,
        ..SnapshotChunk::default()
    };
    world.machine.snapshot(&done, world.now);
    world.machine.link.take();
    world
}

/// Logs a device in, without groups; the ticket of before, if there is one. Says its handle.
fn login(world: &mut World, at: usize, platform: &str, version: &str) -> u64 {
    let handle = world.next_handle;
    world.next_handle += 1;
    let name = format!("device-{at}");
    let ticket = world.devices[at].ticket.clone();
    let login = Login {
        device: &name,
        app: "app",
        token: name.as_bytes(),
        ticket: &ticket,
        platform,
        version,
        ..Login::default()
    };
    let mut frame = Vec::new();
    login.encode(&mut frame);
    world.machine.login(LoginAttempt {
        handle,
        serial: handle * 10,
        frame: frame.into(),
        ..LoginAttempt::default()
    });
    while world.machine.run_logins(world.now) {}
    let batch = world.machine.link.take();
    world.devices[at].ticket = batch.logins[0].ticket.clone();
    world.devices[at].connection = Some((handle, handle * 10));
    handle
}

fn lose(world: &mut World, at: usize) {
    world.close(at, Code::ConnectionLost);
}

/// A command as routing would send it for the session of a device.
fn command(world: &World, at: usize, action: SessionAction, group: &str) -> SessionCommand {
    let table = &world.machine.table;
    let key = table.by_device("app", &format!("device-{at}")).unwrap();
    let record = table.get(key).unwrap();
    SessionCommand {
        id: 77,
        locator: key.locator(3),
        serial: record.serial,
        epoch: record.epoch,
        action: action.into(),
        business: 1,
        group: Bytes::copy_from_slice(group.as_bytes()),
        reason: "spam".to_owned(),
    }
}

fn carry_out(world: &mut World, command: &SessionCommand) -> Outcome {
    world.machine.command(5, command);
    let routes = world.machine.routes.take();
    world.machine.confirm(routes.upto, world.now);
    let receipt = routes.receipts.last().unwrap();
    assert_eq!((receipt.follower, receipt.id), (5, 77));
    receipt.outcome
}

fn broadcast(filter: Option<DeviceFilter>) -> BroadcastPush {
    BroadcastPush {
        id: 9,
        business: 1,
        filter,
        payload: Bytes::from_static(b"news"),
        ..BroadcastPush::default()
    }
}

#[test]
fn a_kick_ends_the_session_with_its_words_and_one_event() {
    let mut world = world();
    let handle = login(&mut world, 0, "", "");
    world.machine.take_stream(0, 0);
    let kick = command(&world, 0, SessionAction::Kick, "");
    assert_eq!(carry_out(&mut world, &kick), Outcome::Done);
    let batch = world.machine.link.take();
    let close = Close::decode(&batch.closes[0].frame[HEADER_LEN..]).unwrap();
    assert_eq!(
        (batch.closes[0].handle, close.code, close.reason),
        (handle, Code::Kicked as u16, "spam")
    );
    assert!(!close.resumable);
    let events = world.machine.take_stream(0, 0).events;
    let told: Vec<_> = events.iter().map(|event| (event.kind(), event.reason)).collect();
    assert_eq!(told, [(EventKind::Offline, Code::Kicked as u32)]);
    assert_eq!(
        carry_out(&mut world, &kick),
        Outcome::Retry,
        "it isn't that session any more"
    );
}

#[test]
fn a_kick_that_a_gateway_has_not_heard_is_said_again_and_nobody_comes_back() {
    for incarnation in [1, 2] {
        let mut world = world();
        let handle = login(&mut world, 0, "", "");
        world.machine.take_stream(0, 0);
        let kick = command(&world, 0, SessionAction::Kick, "");
        assert_eq!(carry_out(&mut world, &kick), Outcome::Done);
        // What was on its way went with the stream.
        world.machine.link_down();
        world.machine.link_up(&hello(incarnation), GENERATION, world.now);
        let row = SnapshotChunk {
            handle: vec![handle + 1_000],
            serial: vec![handle * 10],
            ticket_length: vec![0],
            forwarded: vec![0],
            done: true,
            ..SnapshotChunk::default()
        };
        world.machine.snapshot(&row, world.now);
        let batch = world.machine.link.take();
        let close = Close::decode(&batch.closes[0].frame[HEADER_LEN..]).unwrap();
        assert_eq!(
            (batch.closes[0].handle, close.code, close.reason),
            (handle + 1_000, Code::Kicked as u16, "spam")
        );
        assert_eq!(world.machine.sessions(), 0);
        let events = world.machine.take_stream(0, 0).events;
        let kinds: Vec<_> = events.iter().map(|event| event.kind()).collect();
        assert_eq!(kinds, [EventKind::Offline], "once, and no other");
        // The business has heard of it before the gateway closes: what the gateway then notes is settled all the same.
        let heard = FromBusiness {
            event_ack: events.last().unwrap().sequence,
            ..FromBusiness::default()
        };
        world.machine.business(0, 0, &heard, world.now);
        world.machine.link.take();
        let closed = ConnectionClosed {
            handle: handle + 1_000,
            code: Code::Kicked as u32,
        };
        world.machine.closed(&[closed], world.now);
        assert_eq!(world.machine.link.take().settled, [handle * 10]);
    }
}

#[test]
fn a_session_without_a_connection_can_be_kicked_too() {
    let mut world = world();
    login(&mut world, 0, "", "");
    lose(&mut world, 0);
    let kick = command(&world, 0, SessionAction::Kick, "");
    assert_eq!(carry_out(&mut world, &kick), Outcome::Done);
    assert!(world.machine.link.take().closes.is_empty());
    assert_eq!(world.machine.sessions(), 0);
}

#[test]
fn a_command_for_another_login_is_not_carried_out() {
    let mut world = world();
    login(&mut world, 0, "", "");
    let before = command(&world, 0, SessionAction::Kick, "");
    lose(&mut world, 0);
    login(&mut world, 0, "", "");
    assert_eq!(carry_out(&mut world, &before), Outcome::Retry);
    assert_eq!(world.machine.sessions(), 1);
}

#[test]
fn a_membership_that_a_business_gave_outlives_the_connection() {
    let mut world = world();
    let handle = login(&mut world, 0, "", "");
    let join = command(&world, 0, SessionAction::Join, "vip");
    world.machine.command(5, &join);
    let routes = world.machine.routes.take();
    assert!(routes.groups[0].present && &routes.groups[0].group[..] == b"vip");
    let said = world.machine.link.take().memberships;
    assert_eq!(
        (said[0].handle, said[0].member, &said[0].group[..]),
        (handle, true, &b"vip"[..])
    );

    lose(&mut world, 0);
    let routes = world.machine.routes.take();
    assert!(!routes.groups[0].present, "nobody here can be reached by it now");
    // What is given meanwhile is kept as well.
    let join = command(&world, 0, SessionAction::Join, "late");
    world.machine.command(5, &join);
    assert!(world.machine.routes.take().groups.is_empty());

    let again = login(&mut world, 0, "", "");
    let routes = world.machine.routes.take();
    assert_eq!(routes.groups.iter().filter(|group| group.present).count(), 2);
    let key = world.machine.table.by_handle(again).unwrap();
    let names: Vec<_> = world
        .machine
        .table
        .get(key)
        .unwrap()
        .groups
        .as_slice()
        .iter()
        .collect();
    assert_eq!(names.len(), 2);

    let leave = command(&world, 0, SessionAction::Leave, "vip");
    assert_eq!(carry_out(&mut world, &leave), Outcome::Done);
    let said = world.machine.link.take().memberships;
    assert!(said.iter().any(|said| !said.member && &said.group[..] == b"vip"));
    world.close(0, Code::ClientLeft);
    world.settle().unwrap();
    assert!(world.machine.groups.is_empty(), "nothing is left of any");
}

#[test]
fn what_the_client_asked_for_is_not_kept() {
    let mut world = world();
    let handle = login(&mut world, 0, "", "");
    let key = world.machine.table.by_handle(handle).unwrap();
    world.machine.enter_group(key, 1, b"room", false);
    lose(&mut world, 0);
    assert!(world.machine.groups.is_empty());
}

#[test]
fn given_memberships_follow_a_session_that_goes_on_elsewhere() {
    let mut world = world();
    login(&mut world, 0, "", "");
    let join = command(&world, 0, SessionAction::Join, "vip");
    carry_out(&mut world, &join);
    let key = world.machine.table.by_device("app", "device-0").unwrap();
    let record = world.machine.table.get(key).unwrap();
    let outranked = Outranked {
        app: "app".to_owned(),
        device: "device-0".to_owned(),
        epoch: record.epoch,
        locator: key.locator(3),
        winner_epoch: record.epoch + 1,
        winner_session: Bytes::copy_from_slice(&record.id),
        ..Outranked::default()
    };
    world.machine.outranked(&outranked, u64::MAX, world.now);
    let routes = world.machine.routes.take();
    let moved = &routes.moved_groups[0];
    assert_eq!((moved.device.as_str(), moved.groups.len()), ("device-0", 1));
    assert_eq!(&moved.groups[0].group[..], b"vip");
    assert_eq!((world.machine.sessions(), world.machine.groups.len()), (0, 0));
}

#[test]
fn there_is_a_limit_and_an_unknown_business_has_no_groups() {
    let mut world = world();
    login(&mut world, 0, "", "");
    for number in 0..imaccess_wire::limits::MAX_LOGIN_GROUPS {
        let join = command(&world, 0, SessionAction::Join, &format!("g{number}"));
        assert_eq!(carry_out(&mut world, &join), Outcome::Done);
    }
    let join = command(&world, 0, SessionAction::Join, "one more");
    assert_eq!(carry_out(&mut world, &join), Outcome::Refused);
    let join = command(&world, 0, SessionAction::Join, "g0");
    assert_eq!(carry_out(&mut world, &join), Outcome::Done, "it is in there");
    let other = SessionCommand { business: 99, ..join };
    assert_eq!(carry_out(&mut world, &other), Outcome::Refused);
}

fn group_command(action: GroupAction, limit: u32) -> GroupCommand {
    GroupCommand {
        id: 8,
        action: action.into(),
        business: 1,
        group: Bytes::from_static(b"vip"),
        limit,
    }
}

#[test]
fn members_are_listed_and_the_group_destroyed() {
    let mut world = world();
    for at in 0..4 {
        login(&mut world, at, "", "");
        let join = command(&world, at, SessionAction::Join, "vip");
        carry_out(&mut world, &join);
    }
    lose(&mut world, 3);
    world.machine.routes.take();
    let list = |world: &mut World, limit| {
        world
            .machine
            .group_command(5, &group_command(GroupAction::List, limit));
        world.machine.routes.take().answers.remove(0)
    };
    let all = list(&mut world, 10);
    let mut names: Vec<_> = all.members.iter().map(|member| member.device.as_str()).collect();
    names.sort_unstable();
    assert_eq!((all.follower, all.id, all.count, all.partial), (5, 8, 3, false));
    assert_eq!(names, ["device-0", "device-1", "device-2"]);
    assert_eq!(list(&mut world, 2).members.len(), 2);
    assert_eq!(list(&mut world, 0).members.len(), 0);

    world.machine.link.take();
    world
        .machine
        .group_command(5, &group_command(GroupAction::Destroy, 0));
    assert!(!world.machine.run_destroying(false), "the link has no room");
    while world.machine.run_destroying(true) {}
    let routes = world.machine.routes.take();
    // The one without a connection had its membership kept.
    assert_eq!((routes.answers[0].count, routes.answers[0].partial), (4, false));
    assert!(routes.groups.iter().any(|group| !group.present));
    let said = world.machine.link.take().memberships;
    assert!(said.len() == 3 && said.iter().all(|said| !said.member));
    assert!(world.machine.groups.is_empty());
    world
        .machine
        .group_command(5, &group_command(GroupAction::Destroy, 0));
    assert_eq!(world.machine.routes.take().answers[0].count, 0);
}

#[test]
fn a_group_isnt_said_to_be_destroyed_while_the_gateway_is_away() {
    let mut world = world();
    login(&mut world, 0, "", "");
    let join = command(&world, 0, SessionAction::Join, "vip");
    carry_out(&mut world, &join);
    world
        .machine
        .group_command(5, &group_command(GroupAction::Destroy, 0));
    world.machine.link_down();
    world.machine.run_destroying(false);
    let answer = world.machine.routes.take().answers.remove(0);
    assert_eq!((answer.count, answer.partial), (0, true));
}

#[test]
fn a_broadcast_is_one_message_for_all_whom_the_filter_lets_through() {
    let mut world = world();
    let handles = [
        login(&mut world, 0, "ios", "1.9"),
        login(&mut world, 1, "android", "1.10"),
        login(&mut world, 2, "android", "0.9"),
        login(&mut world, 3, "", ""),
    ];
    let mut send = |filter| {
        world.machine.broadcast(5, &broadcast(filter), true, world.now);
        let answer = world.machine.routes.take().answers.remove(0);
        (world.machine.link.take().multicasts, answer)
    };
    let (sent, answer) = send(None);
    assert_eq!((sent.len(), answer.count, answer.unknown), (1, 4, 0));
    assert_eq!(sent[0].handle, handles);
    let (sent, answer) = send(Some(DeviceFilter {
        platforms: vec!["android".to_owned()],
        version_from: "1.0".to_owned(),
        ..DeviceFilter::default()
    }));
    assert_eq!(sent[0].handle, [handles[1]]);
    assert_eq!((answer.count, answer.unknown), (1, 1));
    let (sent, answer) = send(Some(DeviceFilter {
        app: "another".to_owned(),
        ..DeviceFilter::default()
    }));
    assert_eq!((sent.len(), answer.count), (0, 0));

    lose(&mut world, 0);
    world.machine.broadcast(5, &broadcast(None), true, world.now);
    assert_eq!(
        world.machine.link.take().multicasts[0].handle.len(),
        3,
        "nobody without a connection"
    );
}

#[test]
fn a_new_state_knows_platforms_and_versions_from_the_gateway() {
    let mut world = world();
    let handle = login(&mut world, 0, "ios", "2.1");
    world.machine = machine(|_| ());
    world.machine.link_up(&hello(1), GENERATION, world.now);
    let ticket = world.devices[0].ticket.clone();
    let chunk = SnapshotChunk {
        handle: vec![handle],
        serial: vec![handle * 10],
        ticket_length: vec![ticket.len() as u32],
        tickets: ticket,
        attributes: vec![1],
        attribute_table: vec![Bytes::from_static(b"ios\x002.1")],
        done: true,
        ..SnapshotChunk::default()
    };
    world.machine.snapshot(&chunk, world.now);
    world.machine.link.take();
    let ios = DeviceFilter {
        platforms: vec!["ios".to_owned()],
        version_to: "2.1".to_owned(),
        ..DeviceFilter::default()
    };
    world.machine.broadcast(5, &broadcast(Some(ios)), true, world.now);
    assert_eq!(world.machine.link.take().multicasts[0].handle, [handle]);
}

#[test]
fn a_broadcast_waits_for_a_gateway_that_is_being_replaced_and_an_older_one_gets_pushes() {
    let mut world = world();
    let handle = login(&mut world, 0, "", "");
    world.machine.link_down();
    world.machine.broadcast(5, &broadcast(None), true, world.now);
    assert!(world.machine.routes.take().answers.is_empty());
    world.machine.link_up(&hello(2), 2, world.now);
    let chunk = SnapshotChunk {
        handle: vec![handle],
        serial: vec![handle * 10],
        ticket_length: vec![0],
        done: true,
        ..SnapshotChunk::default()
    };
    world.machine.snapshot(&chunk, world.now);
    world.machine.link.take();
    world.machine.release_held(64 * 1024, world.now);
    assert_eq!(world.machine.routes.take().answers[0].count, 1);
    let batch = world.machine.link.take();
    assert!(batch.multicasts.is_empty());
    assert_eq!(batch.unicast.unwrap().handle, [handle]);
}

#[test]
fn a_broadcast_that_finds_no_room_is_said_to_be_missed() {
    let mut world = world();
    login(&mut world, 0, "", "");
    world.machine.broadcast(5, &broadcast(None), false, world.now);
    let answer = world.machine.routes.take().answers.remove(0);
    assert!(answer.partial && answer.count == 0);
}

#[test]
fn a_snapshot_lists_every_session_that_isnt_over() {
    let mut world = world();
    for at in 0..4 {
        login(&mut world, at, "", "");
    }
    lose(&mut world, 1);
    world.close(2, Code::ClientLeft);
    world.machine.take_stream(0, 0);
    assert!(!world.machine.stream_is_ready(0, 0));
    let ask = FromBusiness {
        resync: true,
        ..FromBusiness::default()
    };
    world.machine.business(0, 0, &ask, world.now);
    let mut rows = Vec::new();
    while world.machine.stream_is_ready(0, 0) {
        let batch = world.machine.take_stream(0, 0);
        rows.extend(
            batch
                .snapshot
                .into_iter()
                .map(|row| (row.device, row.sequence, row.kind)),
        );
        if batch.snapshot_done {
            break;
        }
    }
    rows.sort();
    let expected = [0, 1, 3].map(|at| (format!("device-{at}"), 0, EventKind::Online as i32));
    assert_eq!(rows, expected);
    assert!(!world.machine.stream_is_ready(0, 0), "said once");
}

#[test]
fn what_another_instance_lost_is_told_once_and_not_of_who_is_here() {
    let mut world = world();
    let handle = login(&mut world, 0, "", "");
    world.machine.take_stream(0, 0);
    let key = world.machine.table.by_handle(handle).unwrap();
    let epoch = world.machine.table.get(key).unwrap().epoch;
    let lost = |device: &str, epoch| LostSession {
        app: "app".to_owned(),
        device: device.to_owned(),
        session: Bytes::from(vec![9; 16]),
        epoch,
    };
    let sessions = LostSessions {
        id: 4,
        instance: "other".to_owned(),
        sessions: vec![lost("device-0", epoch), lost("device-9", 5), lost("device-9", 5)],
    };
    world.machine.lost_elsewhere(1, &sessions, world.now);
    world.machine.lost_elsewhere(2, &sessions, world.now);
    let answers = world.machine.routes.take().answers;
    let said: Vec<_> = answers
        .iter()
        .map(|answer| (answer.follower, answer.count))
        .collect();
    assert_eq!(said, [(1, 1), (2, 0)]);
    let events = world.machine.take_stream(0, 0).events;
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.device.as_str(), event.kind(), event.reason, event.epoch))
        .collect();
    assert_eq!(
        told,
        [("device-9", EventKind::Offline, Code::InstanceLost as u32, 5)]
    );
}

#[test]
fn pushes_that_find_no_room_wait_in_order_and_not_for_long() {
    let mut world = world();
    login(&mut world, 0, "", "");
    let meant = command(&world, 0, SessionAction::Kick, "");
    let push = |id| UnicastPush {
        id,
        locator: meant.locator,
        serial: meant.serial,
        epoch: meant.epoch,
        business: 1,
        payload: vec![0; 1_000].into(),
        ..UnicastPush::default()
    };
    let outcomes = |world: &mut World| -> Vec<(u64, Outcome)> {
        let receipts = world.machine.routes.take().receipts;
        receipts
            .iter()
            .map(|receipt| (receipt.id, receipt.outcome))
            .collect()
    };
    world.machine.routes.take();
    const ROOM: usize = 2_500;
    for id in 1..=5 {
        world.machine.push(7, push(id), ROOM, world.now);
    }
    let sent = world.machine.link.take().unicast.unwrap();
    assert_eq!(sent.handle.len(), 3, "the third found a little room");
    world.machine.release_pushes(ROOM, world.now);
    assert_eq!(world.machine.link.take().unicast.unwrap().handle.len(), 2);
    assert!(
        outcomes(&mut world).is_empty(),
        "the gateway hasn't said what became of them"
    );

    for id in 6..=9 {
        world.machine.push(7, push(id), 0, world.now);
    }
    world.now.micros += 2_100_000;
    world.machine.release_pushes(ROOM, world.now);
    let retry = |ids: [u64; 4]| ids.map(|id| (id, Outcome::Retry)).to_vec();
    assert_eq!(outcomes(&mut world), retry([6, 7, 8, 9]));

    for id in 10..=13 {
        world.machine.push(7, push(id), 0, world.now);
    }
    world.machine.quiesce(imaccess_proto::v1::Quiesce::Begin);
    world.machine.link_down();
    outcomes(&mut world);
    world.machine.release_pushes(0, world.now);
    assert_eq!(outcomes(&mut world), retry([10, 11, 12, 13]));
}
