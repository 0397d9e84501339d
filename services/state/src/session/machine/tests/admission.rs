//! Which stream is asked, and what isn't asked at all.

use imaccess_common::business::Protocol;
use imaccess_wire::frame::Send;

use super::reload::{answers, echo, taken};
use super::*;

/// A world whose business is at place 1, with streams of which none is up.
fn world(change: impl FnOnce(&mut BusinessConfig)) -> World {
    let mut world = World::new();
    world.login(0);
    world.login(1);
    world.settle().unwrap();
    let changed = echo(|echo| {
        echo.endpoint = "http://127.0.0.1:2".to_owned();
        change(echo);
    });
    assert_eq!(world.machine.set_businesses(&[changed]), [1]);
    world
}

fn up(world: &mut World, streams: usize) {
    for stream in 0..streams {
        world.machine.stream_up(1, stream);
    }
}

fn taken_by(world: &mut World, stream: usize) -> Vec<u64> {
    world
        .machine
        .take_stream(1, stream)
        .requests
        .iter()
        .map(|request| request.id)
        .collect()
}

fn reply(world: &mut World, stream: usize, id: u64) {
    let batch = FromBusiness {
        replies: vec![BusinessReply {
            id,
            ..BusinessReply::default()
        }],
        ..FromBusiness::default()
    };
    world.machine.business(1, stream, &batch, world.now);
}

fn ask(world: &mut World, device: usize, deadline_ms: u32) {
    world.devices[device].next_message += 1;
    let mut frame = Vec::new();
    Request {
        business: 1,
        message_id: world.devices[device].next_message,
        deadline_ms,
        ..Request::default()
    }
    .encode(&mut frame);
    uplink(world, device, frame);
}

fn send(world: &mut World, device: usize) {
    world.devices[device].next_message += 1;
    let mut frame = Vec::new();
    Send {
        business: 1,
        message_id: world.devices[device].next_message,
        ..Send::default()
    }
    .encode(&mut frame);
    uplink(world, device, frame);
}

fn uplink(world: &mut World, device: usize, frame: Vec<u8>) {
    let frames = Frames {
        handle: vec![world.devices[device].connection.unwrap().0],
        length: vec![frame.len() as u32],
        frames: frame.into(),
    };
    world.machine.uplink(&frames, world.now);
}

/// How often messages were answered busy for this reason.
fn busy(world: &World, why: &str) -> u64 {
    world
        .machine
        .shared
        .metrics
        .busy
        .with_label_values(&["echo", why])
        .get()
}

fn circuits(world: &World) -> (i64, u64) {
    let metrics = &world.machine.shared.metrics;
    (
        metrics.circuit_open.with_label_values(&["echo"]).get(),
        metrics.circuit_opened.with_label_values(&["echo"]).get(),
    )
}

#[test]
fn the_stream_with_the_fewest_requests_in_flight_is_asked() {
    let mut world = world(|echo| echo.connections = 3);
    up(&mut world, 3);
    for _ in 0..6 {
        ask(&mut world, 0, 0);
    }
    let [first, slow, last] = [0, 1, 2].map(|stream| taken_by(&mut world, stream));
    assert_eq!([first.len(), slow.len(), last.len()], [2, 2, 2], "in turn");
    for (stream, ids) in [(0, first), (2, last)] {
        for id in ids {
            reply(&mut world, stream, id);
        }
    }
    for _ in 0..4 {
        ask(&mut world, 1, 0);
    }
    let counts = [0, 1, 2].map(|stream| taken_by(&mut world, stream).len());
    assert_eq!(counts, [2, 0, 2], "the slow one has two already");
    // One that breaks has nothing in flight, also when it comes back.
    world.machine.stream_down(1, 1, world.now);
    ask(&mut world, 0, 0);
    assert_eq!(taken_by(&mut world, 1).len(), 0);
    up(&mut world, 3);
    ask(&mut world, 0, 0);
    assert_eq!(taken_by(&mut world, 1).len(), 1);
}

#[test]
fn one_that_hangs_is_given_up_and_probed_and_asked_again() {
    let mut world = world(|_| ());
    up(&mut world, 1);
    for _ in 0..8 {
        ask(&mut world, 0, 0);
    }
    let hanging = taken(&mut world, 1);
    assert_eq!(hanging.len(), 8);
    world.advance(10_100);
    assert_eq!(answers(&mut world), [Code::DeadlineExceeded as u16; 8]);
    assert_eq!(circuits(&world), (1, 1));
    ask(&mut world, 0, 0);
    send(&mut world, 0);
    assert!(taken(&mut world, 1).is_empty());
    let unavailable = Code::BusinessUnavailable as u16;
    assert_eq!(answers(&mut world)[0], unavailable);
    // The pause is over: one passes, and a send.
    world.advance(650);
    ask(&mut world, 0, 0);
    ask(&mut world, 1, 0);
    send(&mut world, 0);
    assert_eq!(answers(&mut world)[0], unavailable);
    let probe = taken(&mut world, 1);
    assert_eq!((probe.len(), probe[1]), (2, 0));
    // It hangs as well: twice the pause.
    world.advance(10_100);
    assert_eq!(answers(&mut world), [Code::DeadlineExceeded as u16]);
    world.advance(900);
    ask(&mut world, 0, 0);
    assert_eq!(answers(&mut world), [unavailable]);
    world.advance(400);
    ask(&mut world, 0, 0);
    let probe = taken(&mut world, 1);
    assert_eq!(probe.len(), 1);
    assert_eq!(circuits(&world), (1, 1));
    reply(&mut world, 0, probe[0]);
    assert_eq!(answers(&mut world), [0]);
    assert_eq!(circuits(&world), (0, 1));
    ask(&mut world, 0, 0);
    ask(&mut world, 1, 0);
    assert_eq!(taken(&mut world, 1).len(), 2);
}

#[test]
fn answers_between_timeouts_and_impatient_clients_shut_nothing() {
    let mut world = world(|_| ());
    up(&mut world, 1);
    for _ in 0..20 {
        ask(&mut world, 0, 50);
        taken(&mut world, 1);
        world.advance(200);
    }
    assert_eq!(answers(&mut world).len(), 20);
    assert_eq!(circuits(&world), (0, 0));
    for round in 0..20 {
        ask(&mut world, 0, 0);
        let late = taken(&mut world, 1);
        world.advance(10_100);
        if round % 3 == 0 {
            // Too late for its client, but it shows that somebody is there.
            reply(&mut world, 0, late[0]);
        }
    }
    assert_eq!(circuits(&world), (0, 0));
    let late = &world.machine.businesses[1].metrics.late;
    assert_eq!(late.get(), 7);
}

#[test]
fn other_streams_go_on_where_one_hangs() {
    let mut world = world(|echo| echo.connections = 2);
    up(&mut world, 2);
    for _ in 0..16 {
        ask(&mut world, 0, 0);
        ask(&mut world, 1, 0);
        for id in taken_by(&mut world, 1) {
            reply(&mut world, 1, id);
        }
        taken_by(&mut world, 0);
        world.advance(5_000);
    }
    assert_eq!(circuits(&world).0, 1);
    answers(&mut world);
    world.advance(10_100);
    answers(&mut world);
    // The first may be the probe.
    for _ in 0..5 {
        ask(&mut world, 0, 0);
    }
    assert!(taken_by(&mut world, 0).len() <= 1);
    assert!(taken_by(&mut world, 1).len() >= 4);
    assert!(answers(&mut world).is_empty());
    // Whoever is removed counts nowhere any more.
    world.machine.set_businesses(&[]);
    world.advance(11_000);
    assert!(world.machine.take_done_places().contains(&1));
    assert_eq!(circuits(&world).0, 0);
}

#[test]
fn calls_that_fail_count_and_their_clients_are_told() {
    let mut world = world(|echo| echo.protocol = Protocol::Http);
    world.machine.stream_up(1, 1);
    for _ in 0..6 {
        ask(&mut world, 0, 0);
    }
    let failed = |id, code: Code| BusinessReply {
        id,
        code: code as u32,
        ..BusinessReply::default()
    };
    let ids = taken_by(&mut world, 1);
    let mut replies: Vec<_> = ids.iter().map(|id| failed(*id, Code::BusinessFailed)).collect();
    replies.push(failed(0, Code::Retry));
    // Nobody waits for this one, who knows what it is.
    replies.push(failed(u64::MAX, Code::Retry));
    world.machine.calls_failed(1, 1, &replies, world.now);
    assert_eq!(answers(&mut world), [Code::BusinessFailed as u16; 6]);
    assert_eq!(circuits(&world), (0, 0), "seven");
    ask(&mut world, 0, 0);
    let id = taken_by(&mut world, 1)[0];
    world
        .machine
        .calls_failed(1, 1, &[failed(id, Code::Retry)], world.now);
    assert_eq!(answers(&mut world), [Code::Retry as u16]);
    assert_eq!(circuits(&world), (1, 1));
    // A new name, the same count.
    let renamed = world.machine.business_at(1).clone();
    world.machine.set_businesses(&[BusinessConfig {
        name: "renamed".to_owned(),
        ..renamed
    }]);
    assert_eq!(circuits(&world).0, 0);
    // A send that succeeds is as good as an answer.
    reply(&mut world, 1, 0);
    assert_eq!(world.machine.businesses[1].metrics.circuit_open.get(), 0);
    assert_eq!(world.machine.businesses[1].metrics.late.get(), 0);
}

#[test]
fn calls_are_told_how_long_is_left_and_none_is_made_for_nobody() {
    let mut world = world(|echo| echo.protocol = Protocol::GrpcUnary);
    world.machine.stream_up(1, 1);
    ask(&mut world, 0, 1_000);
    ask(&mut world, 0, 8_000);
    send(&mut world, 0);
    world.advance(3_000);
    let requests = world.machine.take_stream(1, 1).requests;
    assert_eq!(requests.len(), 2);
    assert!(
        (4_900..=5_000).contains(&requests[0].deadline_ms),
        "{}",
        requests[0].deadline_ms
    );
    assert_eq!((requests[1].id, requests[1].deadline_ms), (0, 0));
}

#[test]
fn events_of_a_business_that_is_asked_by_calls_have_a_stream_of_their_own() {
    let mut world = world(|echo| echo.protocol = Protocol::Http);
    world.machine.stream_up(1, 0);
    assert!(!world.machine.awaits_no_business());
    // Until there is a stream for requests they go to the place before.
    ask(&mut world, 0, 0);
    assert_eq!(taken(&mut world, 0).len(), 1);
    world.login(2);
    assert!(world.machine.stream_is_ready(1, 0));
    let told = world.machine.take_stream(1, 0);
    assert_eq!((told.events.len(), told.requests.len()), (1, 0));
    world.machine.stream_away(1, 0);
    assert!(
        !world.machine.awaits_no_business(),
        "the stream for requests is still tried"
    );
    world.machine.stream_away(1, 1);
    assert!(world.machine.awaits_no_business(), "it holds nobody up");
    world.machine.stream_up(1, 1);
    assert!(world.machine.awaits_no_business());
    world.machine.stream_down(1, 1, world.now);
    assert!(
        !world.machine.awaits_no_business(),
        "it may only have been restarted"
    );
    world.machine.stream_up(1, 1);
    ask(&mut world, 0, 0);
    assert!(!world.machine.stream_is_ready(1, 0));
    assert_eq!(taken_by(&mut world, 1).len(), 1);
    let acknowledged = FromBusiness {
        event_ack: 1,
        ..FromBusiness::default()
    };
    world.machine.business(1, 0, &acknowledged, world.now);
    assert!(world.machine.businesses[1].events.is_empty());
}

#[test]
fn what_is_above_the_rate_is_busy_and_says_for_how_long() {
    // Four shards: ten a second for this one.
    let mut world = world(|echo| echo.request_rate = 40);
    up(&mut world, 1);
    let asked = |world: &mut World| {
        ask(world, 0, 0);
        for id in taken(world, 1) {
            reply(world, 0, id);
        }
        answers(world)[0]
    };
    for _ in 0..10 {
        assert_eq!(asked(&mut world), 0);
    }
    assert_eq!(asked(&mut world), Code::Busy as u16);
    assert_eq!(busy(&world, "rate"), 1);
    ask(&mut world, 0, 0);
    let unicast = world.machine.link.take().unicast.unwrap();
    let refused = Reply::decode(&unicast.frames[HEADER_LEN..]).unwrap();
    assert!((199..=300).contains(&refused.retry_after_ms), "{refused:?}");
    send(&mut world, 0);
    assert_eq!(busy(&world, "rate"), 3);
    world.machine.link.take();
    world.advance(100);
    assert_eq!(asked(&mut world), 0);
    assert_eq!(asked(&mut world), Code::Busy as u16);
    // Changed on the spot, and other reasons are told apart.
    let free = BusinessConfig {
        request_rate: 0,
        concurrency: 2,
        ..world.machine.business_at(1).clone()
    };
    assert!(world.machine.set_businesses(&[free]).is_empty());
    for _ in 0..3 {
        ask(&mut world, 0, 0);
    }
    assert_eq!(answers(&mut world), [Code::Busy as u16]);
    assert_eq!((busy(&world, "rate"), busy(&world, "concurrency")), (4, 1));
}
