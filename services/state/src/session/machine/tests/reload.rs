//! Businesses that change under way.

use super::*;

pub(super) fn echo(change: impl FnOnce(&mut BusinessConfig)) -> BusinessConfig {
    let mut echo = BusinessConfig::new(1, "echo", "http://127.0.0.1:1");
    echo.events = true;
    echo.client_groups = true;
    change(&mut echo);
    echo
}

/// The ids of the requests that wait for a business's stream, taken by it.
pub(super) fn taken(world: &mut World, place: usize) -> Vec<u64> {
    if !world.machine.stream_is_ready(place, 0) {
        return Vec::new();
    }
    let batch = world.machine.take_stream(place, 0);
    batch.requests.iter().map(|request| request.id).collect()
}

fn reply(world: &mut World, place: usize, id: u64) {
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
    world.machine.business(place, 0, &batch, world.now);
}

/// The codes of the replies that wait for the gateway.
pub(super) fn answers(world: &mut World) -> Vec<u16> {
    let Some(unicast) = world.machine.link.take().unicast else {
        return Vec::new();
    };
    let mut at = 0;
    let codes = unicast.length.iter().map(|length| {
        let frame = &unicast.frames[at..at + *length as usize];
        at += *length as usize;
        Reply::decode(&frame[HEADER_LEN..]).unwrap().code
    });
    codes.collect()
}

fn online() -> World {
    let mut world = World::new();
    world.login(0);
    world.settle().unwrap();
    world
}

#[test]
fn a_business_that_is_removed_is_unknown_at_once_and_finishes() {
    let mut world = online();
    world.request(0, false);
    let ids = taken(&mut world, 0);
    assert_eq!(ids.len(), 1);
    assert!(world.machine.set_businesses(&[]).is_empty());
    assert!(world.machine.policy().businesses.is_empty());
    world.request(0, false);
    assert_eq!(answers(&mut world), [Code::BusinessUnknown as u16]);
    assert!(world.machine.take_done_places().is_empty());
    reply(&mut world, 0, ids[0]);
    assert_eq!(answers(&mut world), [Code::Ok as u16]);
    assert_eq!(
        (world.machine.take_done_places(), world.machine.take_done_places()),
        (vec![0], vec![])
    );
    // It is no business of its any more who leaves, and the connection's end is settled without it.
    world.close(0, Code::ClientLeft);
    while let Some(routes) = world.machine.take_routes() {
        world.machine.confirm(routes.upto, world.now);
    }
    assert!(world.machine.owed().is_nothing());
    // It comes back: another place.
    assert_eq!(world.machine.set_businesses(&[echo(|_| ())]), [1]);
}

#[test]
fn a_new_endpoint_is_asked_once_it_is_there_and_the_old_one_finishes() {
    let mut world = online();
    let moved = echo(|echo| echo.endpoint = "http://127.0.0.1:2".to_owned());
    assert_eq!(world.machine.set_businesses(std::slice::from_ref(&moved)), [1]);
    assert!(
        world.machine.set_businesses(&[moved]).is_empty(),
        "the same again changes nothing"
    );
    world.request(0, false);
    let before = taken(&mut world, 0);
    assert_eq!(before.len(), 1);
    // What it is to hear goes to the new place only.
    world.close(0, Code::ClientLeft);
    while let Some(routes) = world.machine.take_routes() {
        world.machine.confirm(routes.upto, world.now);
    }
    assert!(!world.machine.stream_is_ready(0, 0));
    world.login(1);
    world.machine.stream_up(1, 0);
    let events = world.machine.take_stream(1, 0).events;
    assert_eq!(events.len(), 2, "{events:?}");
    world.request(1, false);
    assert!(taken(&mut world, 0).is_empty());
    assert_eq!(taken(&mut world, 1).len(), 1);
    assert!(world.machine.take_done_places().is_empty());
    reply(&mut world, 0, before[0]);
    assert_eq!(world.machine.take_done_places(), [0]);
    assert_eq!(world.machine.places().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_replaced_one_that_hangs_is_done_with_after_its_timeouts() {
    let mut world = online();
    world.request(0, false);
    taken(&mut world, 0);
    world.machine.set_businesses(&[echo(|echo| echo.connections = 2)]);
    world.machine.stream_up(1, 0);
    world.advance(9_900);
    assert!(world.machine.take_done_places().is_empty());
    world.advance(200);
    assert_eq!(world.machine.take_done_places(), [0]);
    assert_eq!(world.machine.requests_in_flight(), 0);
}

#[test]
fn what_needs_no_other_stream_changes_in_place_and_others_are_not_touched() {
    let mut world = online();
    let changed = echo(|echo| {
        echo.queue_bytes = imaccess_common::config::ByteSize(99);
        echo.concurrency = 1;
        echo.name = "renamed".to_owned();
    });
    let other = BusinessConfig::new(2, "other", "http://127.0.0.1:3");
    assert_eq!(world.machine.set_businesses(&[other, changed]), [1]);
    let policy = world.machine.policy();
    let bounds: Vec<(u32, u32)> = policy
        .businesses
        .iter()
        .map(|it| (it.business, it.queue_bytes))
        .collect();
    assert_eq!(bounds, [(1, 99), (2, 65_536)]);
    world.request(0, false);
    world.request(0, false);
    assert_eq!(answers(&mut world), [Code::Busy as u16]);
    assert_eq!(taken(&mut world, 0).len(), 1);
}
