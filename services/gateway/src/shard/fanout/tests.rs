//! Slices, and a property over random pushes, joins and leaves.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn frame(group: &'static [u8], text: &str) -> FanoutFrame {
    FanoutFrame {
        business: 1,
        receivers: Receivers::Group(Bytes::from_static(group)),
        frame: Bytes::copy_from_slice(text.as_bytes()),
        priority: Priority::Normal,
        expires_ms: 0,
    }
}

/// For the group a.
fn with(text: &str, priority: Priority) -> FanoutFrame {
    FanoutFrame {
        priority,
        ..frame(b"a", text)
    }
}

/// Writes one slice: who got which bytes.
fn step(fanout: &mut Fanout, groups: &mut Groups, most: usize) -> Option<(Vec<u32>, String)> {
    let (sweep, range) = fanout.slice(groups, 10, most, &mut 0)?;
    let members = range
        .clone()
        .filter_map(|index| sweep.receiver(index, groups, |_| 0))
        .collect();
    let run = String::from_utf8(sweep.run.to_vec()).unwrap();
    fanout.resume(sweep, &range);
    Some((members, run))
}

#[test]
fn frames_get_on_where_the_sweep_stands_and_off_after_a_round() {
    let mut groups = Groups::default();
    (0..4).for_each(|slot| groups.join(slot, 1, b"a"));
    let mut fanout = Fanout::default();
    assert!(fanout.push(frame(b"a", "1"), 1000));
    assert_eq!(
        step(&mut fanout, &mut groups, 2),
        Some((vec![0, 1], "1".to_owned()))
    );
    assert!(fanout.push(frame(b"a", "2"), 1000));
    assert_eq!(
        step(&mut fanout, &mut groups, 9),
        Some((vec![2, 3], "12".to_owned()))
    );
    assert_eq!(
        step(&mut fanout, &mut groups, 9),
        Some((vec![0, 1], "2".to_owned()))
    );
    assert_eq!(step(&mut fanout, &mut groups, 9), None);
    assert!(fanout.is_idle());
    assert_eq!(fanout.waiting_bytes(), 0);
}

#[test]
fn groups_take_turns_and_frames_for_nobody_fall_out() {
    let mut groups = Groups::default();
    (0..3).for_each(|slot| groups.join(slot, 1, b"a"));
    groups.join(7, 1, b"b");
    let mut fanout = Fanout::default();
    for frame in [
        frame(b"nobody", "0"),
        frame(b"a", "1"),
        frame(b"b", "2"),
        frame(b"a", "3"),
    ] {
        assert!(fanout.push(frame, 1000));
    }
    let slices: Vec<_> = std::iter::from_fn(|| step(&mut fanout, &mut groups, 2)).collect();
    let expected = [
        (vec![0, 1], "1"),
        (vec![2], "1"),
        (vec![7], "2"),
        (vec![0, 1], "3"),
        (vec![2], "3"),
    ];
    assert_eq!(slices, expected.map(|(members, run)| (members, run.to_owned())));
}

#[test]
fn the_queue_is_bounded_and_expired_frames_fall_out() {
    let mut groups = Groups::default();
    groups.join(0, 1, b"a");
    let mut fanout = Fanout::default();
    assert!(fanout.push(
        FanoutFrame {
            expires_ms: 10,
            ..frame(b"a", "old")
        },
        5
    ));
    assert!(!fanout.push(frame(b"a", "new"), 5));
    let mut expired = 0;
    assert!(fanout.slice(&mut groups, 10, 2, &mut expired).is_none());
    assert_eq!((expired, fanout.waiting_bytes()), (1, 0));
}

#[test]
fn a_group_that_emptied_and_whose_place_was_taken_gets_nothing_of_the_old_sweep() {
    let mut groups = Groups::default();
    (0..4).for_each(|slot| groups.join(slot, 1, b"a"));
    let mut fanout = Fanout::default();
    fanout.push(frame(b"a", "1"), 1000);
    step(&mut fanout, &mut groups, 2);
    (0..4).for_each(|slot| groups.leave_all(slot));
    groups.join(2, 1, b"other");
    assert_eq!(step(&mut fanout, &mut groups, 2), None);
}

#[derive(Clone, Debug)]
enum Step {
    Push(bool),
    Join(u32),
    Leave(u32),
    Write(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any::<bool>().prop_map(Step::Push),
        1 => (0u32..12).prop_map(Step::Join),
        1 => (0u32..12).prop_map(Step::Leave),
        4 => (1usize..6).prop_map(Step::Write),
    ];
    proptest::collection::vec(step, 0..200)
}

proptest! {
    /// Whoever is a member from a frame's arrival until all is written gets it exactly once, and everybody gets
    /// what they get in order.
    #[test]
    fn members_get_every_frame_once_and_in_order(steps in steps()) {
        const NAMES: [&[u8]; 2] = [b"a", b"b"];
        let mut groups = Groups::default();
        let mut fanout = Fanout::default();
        // Per slot and group: frames due for certain, and frames got.
        let mut due: HashMap<(u32, usize), Vec<u8>> = HashMap::new();
        let mut got: HashMap<(u32, usize), Vec<u8>> = HashMap::new();
        let mut next = [0u8; 2];
        let mut write = |fanout: &mut Fanout, groups: &mut Groups, most: usize| {
            let Some((sweep, range)) = fanout.slice(groups, 0, most, &mut 0) else { return false };
            let Of::Group { id, .. } = &sweep.of else { unreachable!("only groups here") };
            let which = NAMES.iter().position(|name| id == *name).unwrap();
            for slot in range.clone().filter_map(|index| sweep.receiver(index, groups, |_| 0)) {
                got.entry((slot, which)).or_default().extend_from_slice(&sweep.run);
            }
            fanout.resume(sweep, &range);
            true
        };
        for step in steps {
            match step {
                Step::Push(second) => {
                    let which = usize::from(second);
                    next[which] += 1;
                    let text = Bytes::copy_from_slice(&[next[which]]);
                    fanout.push(FanoutFrame { frame: text, ..frame(NAMES[which], "") }, 1 << 20);
                    if let Some(held) = groups.hold(1, NAMES[which]) {
                        for slot in (0..held.places).filter_map(|place| groups.member_at(held.group, place)) {
                            due.entry((slot, which)).or_default().push(next[which]);
                        }
                        groups.release(held);
                    }
                }
                Step::Join(slot) => NAMES.iter().for_each(|name| groups.join(slot, 1, name)),
                Step::Leave(slot) => {
                    groups.leave_all(slot);
                    // What was on its way may or may not have come.
                    (0..2).for_each(|which| { due.remove(&(slot, which)); });
                }
                Step::Write(most) => { write(&mut fanout, &mut groups, most); }
            }
        }
        while write(&mut fanout, &mut groups, 3) {}
        for (key, due) in due {
            let got = got.get(&key).cloned().unwrap_or_default();
            for text in due {
                prop_assert_eq!(got.iter().filter(|other| **other == text).count(), 1, "{:?}", key);
            }
        }
        for got in got.values() {
            prop_assert!(got.is_sorted_by(|one, other| one < other), "{:?}", got);
        }
    }
}

fn broadcast(handles: &[u64], text: &str, priority: Priority) -> FanoutFrame {
    FanoutFrame {
        receivers: Receivers::Connections(handles.into()),
        priority,
        ..frame(b"", text)
    }
}

#[test]
fn a_broadcast_reaches_the_connections_that_were_meant() {
    let mut groups = Groups::default();
    let mut fanout = Fanout::default();
    let handle = |slot, generation| Handle::new(0, slot, generation).bits();
    let handles = [handle(4, 0), handle(5, 1), handle(6, 0)];
    assert!(fanout.push(broadcast(&handles, "all", Priority::Normal), 1000));
    assert!(fanout.push(broadcast(&[], "none", Priority::Normal), 1000));
    // Slot 5 was given to another connection since generation 1.
    let generation = |slot| if slot == 5 { 2 } else { 0 };
    let mut got = Vec::new();
    while let Some((sweep, range)) = fanout.slice(&mut groups, 0, 2, &mut 0) {
        assert_eq!(&sweep.run[..], b"all");
        got.extend(
            range
                .clone()
                .filter_map(|index| sweep.receiver(index, &groups, generation)),
        );
        fanout.resume(sweep, &range);
    }
    assert_eq!(got, [4, 6]);
    assert!(fanout.is_idle());
    assert_eq!(fanout.waiting_bytes(), 0);
}

#[test]
fn the_higher_priority_goes_first_also_within_a_sweep_of_the_lower() {
    let mut groups = Groups::default();
    (0..4).for_each(|slot| groups.join(slot, 1, b"a"));
    let mut fanout = Fanout::default();
    assert!(fanout.push(with("low", Priority::Low), 1000));
    assert_eq!(
        step(&mut fanout, &mut groups, 2),
        Some((vec![0, 1], "low".to_owned()))
    );
    assert!(fanout.push(with("high", Priority::High), 1000));
    assert!(fanout.push(with("normal", Priority::Normal), 1000));
    let slices: Vec<_> = std::iter::from_fn(|| step(&mut fanout, &mut groups, 4)).collect();
    let expected = [
        (vec![0, 1, 2, 3], "high"),
        (vec![0, 1, 2, 3], "normal"),
        (vec![2, 3], "low"),
    ];
    assert_eq!(slices, expected.map(|(members, run)| (members, run.to_owned())));
    assert!(fanout.is_idle());
}

#[test]
fn one_priority_leaves_the_others_their_room() {
    let mut fanout = Fanout::default();
    assert!(fanout.push(broadcast(&[1, 2, 3], "12345", Priority::Low), 10));
    assert!(!fanout.push(broadcast(&[1], "1", Priority::Low), 10));
    assert!(fanout.push(broadcast(&[1], "1", Priority::High), 10));
}

#[test]
fn sweeps_know_where_they_stand_when_the_places_of_many_are_closed() {
    let mut groups = Groups::default();
    (0..12).for_each(|slot| groups.join(slot, 1, b"a"));
    let mut fanout = Fanout::default();
    assert!(fanout.push(with("low", Priority::Low), 1000));
    assert_eq!(
        step(&mut fanout, &mut groups, 5),
        Some(((0..5).collect(), "low".to_owned()))
    );
    assert!(fanout.push(with("high", Priority::High), 1000));
    assert_eq!(
        step(&mut fanout, &mut groups, 9),
        Some(((0..9).collect(), "high".to_owned()))
    );
    // The low one gets on here, in the middle of the group.
    assert!(fanout.push(with("next", Priority::Low), 1000));
    // Before, at and behind where the sweeps stand.
    [1, 2, 5, 6, 9, 11]
        .into_iter()
        .for_each(|slot| groups.leave(slot, 1, b"a"));
    let slices: Vec<_> = std::iter::from_fn(|| step(&mut fanout, &mut groups, 2)).collect();
    let expected = [
        (vec![10], "high"),
        (vec![7, 8], "lownext"),
        (vec![10], "lownext"),
        (vec![0, 3], "next"),
        (vec![4], "next"),
    ];
    assert_eq!(slices, expected.map(|(members, run)| (members, run.to_owned())));
    let held = groups.hold(1, b"a").expect("it has members");
    assert_eq!(held.places, 6, "no place is vacant");
}
