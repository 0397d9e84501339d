//! Joins and leaves, with and without sweeps under way, against plain sets.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Step {
    Join(u32, u8),
    Leave(u32, u8),
    LeaveAll(u32),
    Hold(u8),
    Release(usize),
    CloseUp(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u32..20, 0u8..6).prop_map(|(slot, group)| Step::Join(slot, group)),
        2 => (0u32..20, 0u8..6).prop_map(|(slot, group)| Step::Leave(slot, group)),
        1 => (0u32..20).prop_map(Step::LeaveAll),
        1 => (0u8..6).prop_map(Step::Hold),
        1 => any::<usize>().prop_map(Step::Release),
        1 => (0u8..6).prop_map(Step::CloseUp),
    ]
}

/// A group's list as a sweep sees it.
fn places(groups: &Groups, held: &Held) -> Vec<Option<u32>> {
    (0..held.places)
        .map(|place| groups.member_at(held.group, place))
        .collect()
}

/// Everybody in a group, as the snapshot finds them.
fn members(groups: &Groups, id: u8) -> Option<BTreeSet<u32>> {
    let group = *groups.by_key.get(&KeyRef {
        business: 1,
        id: &[id],
    })?;
    let (_, _, list, _) = groups.next_from(group)?;
    Some(list.iter().copied().filter(|slot| *slot != VACANT).collect())
}

proptest! {
    /// Against a map from group to set of slots. Who stays in a group that is held keeps the place that they had, and once nobody
    /// holds it no place is vacant.
    #[test]
    fn behaves_like_sets(steps in proptest::collection::vec(step(), 0..300)) {
        let mut groups = Groups::default();
        let mut model: BTreeMap<u8, BTreeSet<u32>> = BTreeMap::new();
        // What is held, and who stood where: nobody comes back to a place that they left.
        let mut sweeps: Vec<(u8, Held, Vec<Option<u32>>)> = Vec::new();
        let left = |sweeps: &mut Vec<(u8, Held, Vec<Option<u32>>)>, slot: u32, of: Option<u8>| {
            let theirs = sweeps.iter_mut().filter(|(group, _, _)| of.is_none_or(|of| of == *group));
            theirs.flat_map(|(_, _, places)| places.iter_mut()).filter(|place| **place == Some(slot)).for_each(|place| *place = None);
        };
        for step in steps {
            match step {
                Step::Join(slot, group) => {
                    groups.join(slot, 1, &[group]);
                    model.entry(group).or_default().insert(slot);
                }
                Step::Leave(slot, group) => {
                    groups.leave(slot, 1, &[group]);
                    model.entry(group).or_default().remove(&slot);
                    left(&mut sweeps, slot, Some(group));
                }
                Step::LeaveAll(slot) => {
                    groups.leave_all(slot);
                    model.values_mut().for_each(|members| { members.remove(&slot); });
                    left(&mut sweeps, slot, None);
                }
                Step::Hold(group) => if let Some(held) = groups.hold(1, &[group]) {
                    let places = places(&groups, &held);
                    sweeps.push((group, held, places));
                },
                Step::CloseUp(id) => {
                    let Some(group) = groups.by_key.get(&KeyRef { business: 1, id: &[id] }).copied() else { continue };
                    let vacant = groups.close_up(group);
                    for (_, held, places) in sweeps.iter_mut().filter(|(_, held, _)| held.group == group && groups.is_current(held)) {
                        held.places = Held::now(&vacant, held.places);
                        places.retain(Option::is_some);
                    }
                    prop_assert!(!groups.is_sparse(group));
                }
                Step::Release(which) => if !sweeps.is_empty() {
                    let (_, held, _) = sweeps.swap_remove(which % sweeps.len());
                    groups.release(held);
                },
            }
            model.retain(|_, members| !members.is_empty());
            prop_assert_eq!(groups.len(), model.len());
            for (group, expected) in &model {
                prop_assert_eq!(members(&groups, *group), Some(expected.clone()));
            }
            for (_, held, expected) in &sweeps {
                if groups.is_current(held) {
                    prop_assert_eq!(&places(&groups, held), expected);
                } else {
                    prop_assert!(expected.iter().all(Option::is_none));
                }
            }
        }
        for (_, held, _) in sweeps {
            groups.release(held);
        }
        for group in (0..groups.groups.slots()).filter_map(|index| groups.groups.get(index)) {
            prop_assert_eq!((group.holders, group.vacant), (0, 0));
            prop_assert!(!group.members.contains(&VACANT));
        }
        for slot in 0..20 {
            for membership in groups.rows.of(slot) {
                prop_assert_eq!(groups.member_at(membership.group, membership.position as usize), Some(slot));
            }
        }
    }
}

#[test]
fn a_member_fits_its_budget() {
    // With 4 in the group's list a member costs 12 bytes, and an eighth of that for room to grow.
    assert_eq!(size_of::<Membership>(), 8);
    let mut groups = Groups::default();
    const MEMBERS: u32 = 15_000;
    (0..MEMBERS).for_each(|slot| groups.join(slot, 1, b"room"));
    // A sweep goes round the list itself.
    let held = groups.hold(1, b"room").unwrap();
    let list = groups.groups.get(held.group).unwrap().members.capacity() * size_of::<u32>();
    let rows = groups.rows.rows.capacity() * size_of::<Membership>();
    let each = (list + rows) as f64 / f64::from(MEMBERS);
    assert!(each <= 13.5, "{each} bytes per member");
}
