//! The pod's end, in virtual time: whoever moved yields no event, whoever is gone exactly one, and nobody is waited for longer.

use imaccess_proto::v1::RouteAnnouncement;

use super::*;

/// A device is online, routing has confirmed it, and its business knows.
fn one_online() -> (World, RouteAnnouncement) {
    let mut world = World::new();
    world.login(0);
    let routes = world.machine.take_routes().unwrap();
    world.machine.confirm(routes.upto, world.now);
    world.settle().unwrap();
    assert!(world.devices[0].online);
    (world, routes.announcements[0].clone())
}

fn gateway_ends(world: &mut World) {
    world.machine.link_down();
    assert!(world.machine.link_is_down());
    world.machine.begin_ending(world.now);
}

/// Routing confirms everything, the business acknowledges everything; how many devices it was told to be offline.
fn told_offline(world: &mut World) -> usize {
    while let Some(routes) = world.machine.take_routes() {
        world.machine.confirm(routes.upto, world.now);
    }
    let mut offline = 0;
    while world.machine.stream_is_ready(0, 0) {
        let batch = world.machine.take_stream(0, 0);
        offline += batch
            .events
            .iter()
            .filter(|event| event.kind() == EventKind::Offline)
            .count();
        let Some(last) = batch.events.last() else { continue };
        let acknowledged = FromBusiness {
            replies: vec![],
            event_ack: last.sequence,
            ..FromBusiness::default()
        };
        world.machine.business(0, 0, &acknowledged, world.now);
    }
    offline
}

#[test]
fn who_moved_is_nothing_to_wait_for_and_no_event() {
    let (mut world, announced) = one_online();
    // It said that it moved, and its gateway closed; routing hears of its new connection a moment later.
    world.close(0, Code::ConnectionLost);
    gateway_ends(&mut world);
    assert_eq!(world.machine.owed().sessions, 1);
    world.advance(100);
    assert_eq!(told_offline(&mut world), 0);
    let outranked = Outranked {
        app: announced.app,
        device: announced.device,
        session: announced.session.clone(),
        epoch: announced.epoch,
        locator: announced.locator,
        winner_epoch: announced.epoch + 1,
        winner_session: announced.session,
    };
    world.machine.outranked(&outranked, 0, world.now);
    assert!(world.machine.owed().is_nothing());
    world.advance(60_000);
    assert_eq!(told_offline(&mut world), 0);
}

#[test]
fn who_left_during_the_drain_is_one_event() {
    let (mut world, _) = one_online();
    world.close(0, Code::ClientLeft);
    gateway_ends(&mut world);
    assert_eq!(world.machine.owed().sessions, 1);
    assert_eq!(told_offline(&mut world), 1);
    assert!(world.machine.owed().is_nothing());
}

#[test]
fn who_never_comes_back_is_one_event_after_its_window() {
    let (mut world, _) = one_online();
    // The gateway's last word was lost: nothing but its absence says that the connection is gone.
    gateway_ends(&mut world);
    world.advance(29_900);
    assert_eq!((told_offline(&mut world), world.machine.owed().sessions), (0, 1));
    world.advance(200);
    assert_eq!(told_offline(&mut world), 1);
    assert!(world.machine.owed().is_nothing());
}

#[test]
fn a_business_that_is_away_is_owed_its_event() {
    let (mut world, _) = one_online();
    world.machine.stream_down(0, 0, world.now);
    world.close(0, Code::ClientLeft);
    gateway_ends(&mut world);
    assert_eq!(told_offline(&mut world), 0);
    let owed = Owed {
        sessions: 0,
        events: 1,
    };
    assert_eq!(world.machine.owed(), owed);
    world.advance(34_000);
    assert_eq!(world.machine.owed(), owed);
    world.machine.stream_up(0, 0);
    assert_eq!(told_offline(&mut world), 1);
    assert!(world.machine.owed().is_nothing());
}

#[test]
fn without_a_routing_replica_the_end_is_owed() {
    let (mut world, _) = one_online();
    world.close(0, Code::ClientLeft);
    gateway_ends(&mut world);
    assert!(world.machine.take_routes().is_some());
    world.advance(34_000);
    assert_eq!(world.machine.owed().sessions, 1);
}
