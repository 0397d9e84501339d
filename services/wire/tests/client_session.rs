//! [`imaccess_wire::ClientSession`] against a model of everything behind the socket, in virtual time.

#[path = "client_session/world.rs"]
mod world;

use imaccess_wire::Code;
use imaccess_wire::client::State;
use proptest::prelude::*;

use world::{DELAY, PING_INTERVAL_S, World};

#[derive(Clone, Copy, Debug)]
enum Act {
    Wait(u16),
    Request,
    Push,
    Acknowledge,
    GroupPush { lost: bool },
    Cut,
    Connect,
    Mute(bool),
    ForgetSession,
    CloseResumable,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0u16..40_000).prop_map(Act::Wait),
        6 => (0u16..60).prop_map(Act::Wait),
        6 => Just(Act::Request),
        6 => Just(Act::Push),
        3 => Just(Act::Acknowledge),
        3 => any::<bool>().prop_map(|lost| Act::GroupPush { lost }),
        3 => Just(Act::Cut),
        4 => Just(Act::Connect),
        1 => any::<bool>().prop_map(Act::Mute),
        1 => Just(Act::ForgetSession),
        1 => Just(Act::CloseResumable),
    ]
}

proptest! {
    /// Whatever happens on the way: every request is answered in the end, every push is handed out once or was
    /// lost with its session, every gap is told (the model checks that as it goes).
    #[test]
    fn nothing_is_lost_or_doubled(acts in prop::collection::vec(act(), 1..120), read_size in 1usize..200) {
        let mut world = World::new(read_size);
        world.connect();
        world.run_for(3 * DELAY);
        world.join();
        for act in acts {
            match act {
                Act::Wait(ms) => world.run_for(ms.into()),
                Act::Request => world.request(),
                Act::Push => world.push(),
                Act::Acknowledge => world.acknowledge(),
                Act::GroupPush { lost } => world.group_push(lost),
                Act::Cut => world.cut(),
                Act::Connect if world.client.is_connected() => {}
                Act::Connect => world.connect(),
                Act::Mute(mute) => world.server.mute = mute,
                // It is lost together with the instance that held it, and the connection with both.
                Act::ForgetSession => { world.cut(); world.server.forget(); }
                Act::CloseResumable => world.close_by_server(Code::Draining),
            }
            prop_assert_ne!(world.state(), State::Closed);
        }
        world.server.mute = false;
        world.cut();
        world.connect();
        world.run_for(10 * DELAY);
        prop_assert_eq!(world.state(), State::Online);
        prop_assert!(world.app.waiting.is_empty(), "unanswered: {:?}", world.app.waiting);
        world.check_pushes();
    }

    /// An idle client is never silent for 2.5 intervals, and its pings keep their phase.
    #[test]
    fn pings_keep_an_idle_connection(minutes in 1u64..200) {
        let mut world = World::new(64);
        world.connect();
        world.run_for(minutes * 60_000);
        prop_assert_eq!(world.state(), State::Online);
        let interval = u64::from(PING_INTERVAL_S) * 1000;
        // Online after one round trip; the first ping after half an interval; then it travels.
        let first = 2 * DELAY + interval / 2 + DELAY;
        let expected: Vec<_> = (0..).map(|n| first + n * interval).take_while(|at| *at <= world.now).collect();
        prop_assert_eq!(&world.server.pings, &expected);
    }
}

#[test]
fn a_mute_gateway_is_left_after_an_unanswered_ping() {
    let mut world = World::new(64);
    world.connect();
    world.run_for(3 * DELAY);
    world.server.mute = true;
    // The ping is due after half an interval, its answer is overdue ten seconds later.
    world.run_for(15_000 + 10_000 - 2 * DELAY);
    assert_eq!((world.state(), world.app.losses), (State::Online, 0));
    world.run_for(2 * DELAY);
    assert_eq!((world.state(), world.app.losses), (State::Suspended, 1));
    world.server.mute = false;
    world.connect();
    world.run_for(3 * DELAY);
    assert_eq!(world.app.logins, [false, true]);
}

#[test]
fn a_login_without_an_answer_is_given_up() {
    let mut world = World::new(64);
    world.server.mute = true;
    world.connect();
    world.run_for(9_999);
    assert_eq!(world.state(), State::Authenticating);
    world.run_for(1);
    assert_eq!((world.state(), world.app.losses), (State::Connecting, 1));
}

#[test]
fn a_refusal_for_now_keeps_the_session_and_one_for_good_ends_it() {
    let mut world = World::new(64);
    world.connect();
    world.run_for(3 * DELAY);
    world.cut();
    world.server.refusal = Some(Code::Overloaded);
    world.connect();
    world.run_for(3 * DELAY);
    assert_eq!((world.state(), world.app.closed), (State::Suspended, Some(203)));
    world.server.refusal = Some(Code::TokenExpired);
    world.connect();
    world.run_for(3 * DELAY);
    assert_eq!((world.state(), world.app.closed), (State::Closed, Some(201)));
    assert!(world.client.ticket().is_empty());
    world.server.refusal = None;
    world.connect();
    world.run_for(3 * DELAY);
    assert_eq!(
        (world.state(), &world.app.logins[..]),
        (State::Online, &[false, false][..])
    );
}

#[test]
fn a_final_close_ends_the_session() {
    for (code, state) in [
        (Code::Superseded, State::Closed),
        (Code::Kicked, State::Closed),
        (Code::SlowConsumer, State::Suspended),
    ] {
        let mut world = World::new(64);
        world.connect();
        world.run_for(3 * DELAY);
        world.close_by_server(code);
        world.run_for(DELAY);
        assert_eq!((world.state(), world.app.closed), (state, Some(code as u16)));
        assert_eq!(world.client.next_deadline(), None);
    }
}

#[test]
fn pushes_of_a_gap_come_after_the_resume_and_not_twice() {
    let mut world = World::new(64);
    world.connect();
    world.run_for(3 * DELAY);
    world.push();
    world.push();
    world.run_for(DELAY);
    // Handed out but not acknowledged: the server sends both again, and the client drops them.
    world.cut();
    world.push();
    world.connect();
    world.run_for(3 * DELAY);
    assert_eq!(
        (&world.app.pushes[..], &world.app.logins[..]),
        (&[1, 2, 3][..], &[false, true][..])
    );
    world.acknowledge();
    world.run_for(DELAY);
    world.check_pushes();
}

#[test]
fn lost_group_pushes_are_told() {
    let mut world = World::new(64);
    world.connect();
    world.run_for(3 * DELAY);
    world.join();
    world.run_for(2 * DELAY);
    for lost in [false, true, true, false, false] {
        world.group_push(lost);
    }
    world.run_for(DELAY);
    assert_eq!(world.app.gaps, 1);
    world.cut();
    world.group_push(false);
    world.connect();
    world.run_for(3 * DELAY);
    world.group_push(false);
    world.run_for(DELAY);
    assert_eq!(world.app.gaps, 2);
}
