use std::collections::BTreeSet;

use imaccess_proto::v1::Transport;
use proptest::prelude::*;

use super::*;

const OURS: Span = Span::new(1, 2);

fn at(seconds: u64) -> CoarseInstant {
    CoarseInstant(seconds * 1_000)
}

fn store() -> Store<u32> {
    Store::new(Duration::from_secs(10), Duration::from_secs(90), at(0))
}

fn shard(incarnation: u32, shard: u32, shards: u32) -> Newcomer<'static> {
    Newcomer {
        speaks: Span::new(1, 1),
        instance: "pod-1",
        incarnation,
        role: Role::Shard { shard, shards },
    }
}

fn taker(incarnation: u32) -> Newcomer<'static> {
    Newcomer {
        role: Role::Taker,
        ..shard(incarnation, 0, 1)
    }
}

fn let_in(store: &mut Store<u32>, newcomer: &Newcomer<'_>) -> u32 {
    assert_eq!(store.check(newcomer, OURS), Ok(1));
    let (number, strangers) = store.admit(newcomer);
    assert!(strangers.is_empty());
    number
}

fn socket(id: u64) -> Held {
    Held {
        id,
        kind: HeldKind::Socket.into(),
        transport: Transport::Tcp.into(),
        ..Held::default()
    }
}

fn listener(id: u64) -> Held {
    Held {
        id,
        kind: HeldKind::Listener.into(),
        transport: Transport::Tcp.into(),
        address: "127.0.0.1:7000".to_owned(),
        ..Held::default()
    }
}

#[test]
fn what_is_deposited_is_held_replaced_and_released_once() {
    let mut store = store();
    let number = let_in(&mut store, &shard(1, 0, 1));
    let sealed = Held {
        transport: Transport::Tls.into(),
        transport_state: vec![9; 256].into(),
        ..socket(2)
    };
    assert_eq!(store.deposit(number, socket(1), 10), None);
    assert_eq!(store.deposit(number, sealed.clone(), 20), None);
    assert_eq!(store.deposit(number, listener(3), 30), None);
    assert_eq!((store.sockets(), store.listeners()), (2, 1));
    assert_eq!(store.get(2), Some((sealed, &20)));
    assert_eq!(store.get(3), Some((listener(3), &30)));
    assert_eq!(store.ids()[0], 3);

    // A duplicate takes the old one's place, and its kind and state go too.
    assert_eq!(store.deposit(number, socket(2), 21), Some(20));
    assert_eq!(store.get(2), Some((socket(2), &21)));
    assert_eq!(store.deposit(number, listener(2), 22), Some(21));
    assert_eq!((store.sockets(), store.listeners()), (1, 2));
    assert_eq!(store.release(2), Some(22));
    assert_eq!(store.release(2), None);
    assert_eq!(store.get(2), None);
}

#[test]
fn a_record_that_cannot_be_kept_is_named() {
    assert_eq!(validate(&socket(1)), Ok(()));
    let unknown = Held {
        kind: 77,
        ..socket(1)
    };
    let long = Held {
        transport_state: vec![0; 257].into(),
        ..socket(1)
    };
    let address = Held {
        address: "x".repeat(81),
        ..listener(1)
    };
    for bad in [socket(0), unknown, long, address] {
        assert!(validate(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn generations_incarnations_and_shards_are_checked() {
    let mut store = store();
    let strange = Newcomer {
        speaks: Span::new(9, 9),
        ..shard(1, 0, 1)
    };
    let refusal = store.check(&strange, OURS).unwrap_err();
    assert_eq!(refusal.label(), "generation");
    let text = refusal.to_string();
    assert!(
        text.contains("generation 9") && text.contains("1-2") && text.contains("imaccess compat"),
        "{text}"
    );
    let both = Newcomer {
        speaks: Span::new(2, 5),
        ..shard(1, 0, 1)
    };
    assert_eq!(store.check(&both, OURS), Ok(2));

    let_in(&mut store, &taker(5));
    for newcomer in [shard(4, 0, 1), taker(4)] {
        let refusal = store.check(&newcomer, OURS).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::Fenced {
                incarnation: 4,
                highest: 5
            }
        );
    }
    assert_eq!(store.check(&taker(5), OURS), Ok(1));
    for (number, of) in [(2, 2), (0, 0), (0, 257)] {
        let refusal = store.check(&shard(6, number, of), OURS).unwrap_err();
        assert_eq!(refusal.label(), "shard");
    }
}

#[test]
fn a_later_incarnation_ends_the_connections_of_the_earlier() {
    let mut store = store();
    let zero = let_in(&mut store, &shard(1, 0, 2));
    let one = let_in(&mut store, &shard(1, 1, 2));
    assert_eq!(store.ended_by(&shard(1, 1, 2)), [one]);
    assert_eq!(store.ended_by(&taker(1)), [] as [u32; 0]);
    assert_eq!(store.ended_by(&taker(2)), [zero, one]);
    store.deposit(zero, socket(1), 10);
    let_in(&mut store, &taker(2));
    assert!(!store.is_current(zero) && !store.is_current(one));
    // Too late: it is handed back, and what is held stays.
    assert_eq!(store.deposit(zero, socket(2), 20), Some(20));
    assert_eq!(store.sockets(), 1);
    // The end of an ended connection is no absence.
    assert!(!store.leave(zero, at(5)));
    assert!(store.gateway_is_here());
}

#[test]
fn what_no_shard_has_is_an_orphan_once_all_are_complete() {
    let mut store = store();
    let old = let_in(&mut store, &shard(1, 0, 1));
    for id in 1..=4 {
        store.deposit(old, socket(id), id as u32 * 10);
    }
    store.deposit(old, listener(5), 50);
    store.deposit(old, listener(6), 60);
    assert_eq!(store.complete(old), [] as [u32; 0]);
    assert!(store.is_complete());

    // Two shards now. Each has a socket; one listener is adopted.
    let zero = let_in(&mut store, &shard(2, 0, 2));
    store.deposit(zero, socket(1), 11);
    assert_eq!(store.complete(zero), [] as [u32; 0]);
    assert!(!store.is_complete());
    let one = let_in(&mut store, &shard(2, 1, 2));
    store.deposit(one, socket(2), 21);
    store.deposit(one, listener(5), 51);
    let mut orphans = store.complete(one);
    orphans.sort_unstable();
    assert_eq!(orphans, [30, 40, 60]);
    assert_eq!((store.sockets(), store.listeners()), (2, 1));

    // A shard's connection broke, and meanwhile it closed what it had. (Its release was lost.)
    let again = let_in(&mut store, &shard(2, 1, 2));
    assert!(!store.is_complete());
    store.deposit(again, listener(5), 52);
    assert_eq!(store.complete(again), [21]);
    // What comes later is nobody's orphan.
    store.deposit(zero, socket(7), 70);
    assert_eq!(store.complete(zero), [] as [u32; 0]);
    assert_eq!(store.ids().len(), 3);
}

#[test]
fn another_instance_gets_nothing_of_the_one_before() {
    let mut store = store();
    let old = let_in(&mut store, &shard(7, 0, 1));
    store.deposit(old, socket(1), 10);
    store.deposit(old, listener(2), 20);
    let other = Newcomer {
        instance: "pod-2",
        ..taker(1)
    };
    assert_eq!(store.check(&other, OURS), Ok(1));
    assert_eq!(store.ended_by(&other), [old]);
    let (_, mut strangers) = store.admit(&other);
    strangers.sort_unstable();
    assert_eq!(strangers, [10, 20]);
    assert_eq!((store.sockets(), store.listeners()), (0, 0));
    // It counts its own incarnations.
    assert_eq!(
        store.check(
            &Newcomer {
                incarnation: 2,
                ..other
            },
            OURS
        ),
        Ok(1)
    );
}

#[test]
fn without_a_gateway_listeners_end_first_and_sockets_later_and_once() {
    let mut store = store();
    // Nobody was ever here, so nobody is missed.
    let due = store.due(at(1_000));
    assert!(due.listeners.is_empty() && due.sockets.is_none());

    let number = let_in(&mut store, &shard(1, 0, 1));
    store.deposit(number, socket(1), 10);
    store.deposit(number, listener(2), 20);
    assert_eq!(store.away(at(2_000)), Duration::ZERO);
    assert!(store.due(at(2_000)).sockets.is_none());

    assert!(store.leave(number, at(2_000)));
    assert_eq!(store.away(at(2_009)), Duration::from_secs(9));
    assert!(store.due(at(2_009)).listeners.is_empty());
    assert_eq!(store.due(at(2_010)).listeners, [20]);
    // It comes back in time for the sockets, and goes again: the time begins anew.
    let number = let_in(&mut store, &taker(2));
    assert!(store.leave(number, at(2_089)));
    assert!(store.due(at(2_178)).sockets.is_none());
    assert_eq!(store.due(at(2_179)).sockets, Some(vec![10]));
    assert!(store.due(at(9_999)).sockets.is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Shard(u32, u32),
    Taker(u32),
    Leave(usize),
    Deposit(usize, u64, bool),
    Release(u64),
    Complete(usize),
    Due(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1u32..4, 0u32..2).prop_map(|(incarnation, shard)| Step::Shard(incarnation, shard)),
        1 => (1u32..4).prop_map(Step::Taker),
        1 => any::<usize>().prop_map(Step::Leave),
        6 => (any::<usize>(), 1u64..12, any::<bool>()).prop_map(|(who, id, socket)| Step::Deposit(who, id, socket)),
        2 => (1u64..12).prop_map(Step::Release),
        3 => any::<usize>().prop_map(Step::Complete),
        1 => (0u64..60).prop_map(Step::Due),
    ]
}

proptest! {
    /// Every descriptor is either held or was handed back, once; and what a connection that is let in deposited last is
    /// handed back only for a release, a later deposit, or because it left.
    #[test]
    fn no_descriptor_is_lost_or_closed_under_a_shard(steps in proptest::collection::vec(step(), 0..120)) {
        let mut store = store();
        let (mut now, mut next) = (0, 0u32);
        let mut connections: Vec<u32> = Vec::new();
        let mut back: Vec<u32> = Vec::new();
        for step in steps {
            let pick = |who: usize| connections.get(who % connections.len().max(1)).copied().unwrap_or(0);
            match step {
                Step::Shard(incarnation, number) => {
                    let newcomer = shard(incarnation, number, 2);
                    if store.check(&newcomer, OURS).is_ok() {
                        connections.push(store.admit(&newcomer).0);
                    }
                }
                Step::Taker(incarnation) => {
                    if store.check(&taker(incarnation), OURS).is_ok() {
                        connections.push(store.admit(&taker(incarnation)).0);
                    }
                }
                Step::Leave(who) => {
                    store.leave(pick(who), at(now));
                }
                Step::Deposit(who, id, is_socket) => {
                    let held = if is_socket { socket(id) } else { listener(id) };
                    back.extend(store.deposit(pick(who), held, next));
                    next += 1;
                }
                Step::Release(id) => back.extend(store.release(id)),
                Step::Complete(who) => {
                    let kept: BTreeSet<u32> = store
                        .sockets
                        .values()
                        .filter(|socket| store.is_current(socket.depositor))
                        .map(|socket| socket.descriptor)
                        .collect();
                    let orphans = store.complete(pick(who));
                    prop_assert!(orphans.iter().all(|orphan| !kept.contains(orphan)));
                    back.extend(orphans);
                }
                Step::Due(seconds) => {
                    now += seconds;
                    let due = store.due(at(now));
                    let here = store.gateway_is_here();
                    prop_assert!(!here || (due.listeners.is_empty() && due.sockets.is_none()));
                    back.extend(due.listeners);
                    back.extend(due.sockets.into_iter().flatten());
                }
            }
            prop_assert_eq!(store.ids().len(), store.sockets() + store.listeners());
        }
        back.extend(store.ids().iter().map(|id| *store.get(*id).unwrap().1));
        back.sort_unstable();
        prop_assert_eq!(back, (0..next).collect::<Vec<_>>());
    }
}

/// Each held socket has one in the gateway, of 250 bytes: what is kept here must not be noticed beside it.
#[test]
fn a_held_socket_takes_few_bytes() {
    assert_eq!(size_of::<(u64, Socket<std::os::fd::OwnedFd>)>(), 24);
    let mut store = Store::new(Duration::from_secs(10), Duration::from_secs(90), at(0));
    let (number, _) = store.admit(&shard(1, 0, 1));
    for id in 1..=10_000 {
        store.deposit(number, socket(id), 0u32);
    }
    let bytes = store.sockets.allocation_size() + store.transport_states.allocation_size();
    println!(
        "{} bytes per held socket, of 10,000",
        bytes as f64 / store.sockets() as f64
    );
    assert!(bytes <= 10_000 * 48, "{bytes}");
    // At most, just after the table has grown.
    for id in 10_001..=14_337 {
        store.deposit(number, socket(id), 0u32);
    }
    println!(
        "{} bytes at most",
        store.sockets.allocation_size() as f64 / store.sockets() as f64
    );
    for id in 100..=14_337 {
        store.release(id);
    }
    store.tidy();
    assert!(store.sockets.allocation_size() < 32 * 1_024);
}

#[test]
fn a_gateway_that_is_linked_is_not_away_though_it_deposits_nothing() {
    let mut store = store();
    let number = let_in(&mut store, &shard(1, 0, 1));
    store.deposit(number, socket(1), 10);
    assert!(store.leave(number, at(2_000)));
    for now in [2_005, 2_050, 2_500] {
        store.seen(1, at(now));
        assert!(store.due(at(now)).listeners.is_empty() && store.due(at(now)).sockets.is_none());
    }
    // A later one that does without custody.
    store.seen(2, at(2_550));
    store.seen(0, at(2_560));
    assert!(store.due(at(2_589)).sockets.is_none());
    assert_eq!(store.due(at(2_590)).sockets, Some(vec![10]));
}

#[test]
fn what_a_gateway_that_hangs_has_is_ended_but_its_listeners() {
    let mut store = store();
    store.seen(0, at(0));
    let number = let_in(&mut store, &shard(1, 0, 1));
    store.deposit(number, socket(1), 10);
    store.deposit(number, listener(2), 20);
    store.seen(1, at(100));
    // Its links broke, and it went on to deposit.
    store.seen(0, at(101));
    store.seen(0, at(189));
    assert!(store.due(at(190)).sockets.is_none());
    store.heard();
    store.seen(0, at(191));
    assert!(store.due(at(280)).sockets.is_none());
    let due = store.due(at(281));
    assert_eq!((due.sockets, due.listeners.len()), (Some(vec![10]), 0));
    // Once. Then it goes on, with new connections.
    store.seen(0, at(400));
    assert!(store.due(at(500)).sockets.is_none());
    store.heard();
    store.deposit(number, socket(3), 30);
    store.seen(1, at(501));
    assert!(store.due(at(900)).sockets.is_none());
    store.seen(0, at(901));
    assert_eq!(store.due(at(991)).sockets, Some(vec![30]));
    // One that hangs and is killed is away from then on.
    assert!(store.leave(number, at(1_000)));
    store.seen(0, at(1_001));
    assert_eq!(store.due(at(1_010)).listeners, [20]);
}

#[test]
fn the_time_in_which_the_custodian_stood_still_is_held_against_no_gateway() {
    let mut store = store();
    let number = let_in(&mut store, &shard(1, 0, 1));
    store.deposit(number, socket(1), 10);
    store.deposit(number, listener(2), 20);
    // It hangs since 100, as it seems; then this process stands still until 400.
    for second in [100, 105, 400] {
        store.look_at_clock(at(second));
        store.seen(0, at(second));
    }
    assert!(store.due(at(484)).sockets.is_none());
    store.heard();
    // It goes at 404, and this process stands still until 1,000.
    store.look_at_clock(at(404));
    assert!(store.leave(number, at(404)));
    store.look_at_clock(at(1_000));
    assert!(store.due(at(1_009)).listeners.is_empty());
    store.look_at_clock(at(1_004));
    let due = store.due(at(1_010));
    assert_eq!((due.listeners.len(), due.sockets.is_none()), (1, true));
}
