//! Which gateway pod has which slot: the lowest free number, kept for the pod's life.

use std::collections::{BTreeMap, BTreeSet};

use imaccess_operator_api::gateway::ExposureType;
use imaccess_operator_api::names::SLOT_LABEL;
use k8s_openapi::api::core::v1::Pod;

use crate::cluster::is_terminating;
use crate::service::has_slots;

/// Slots by the pods' UIDs. No two pods have the same one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots(BTreeMap<String, u32>);

impl Slots {
    /// From the gateway pods that haven't ended, oldest first. A terminating pod keeps its slot until it is gone: clients of its address
    /// must not come to another pod while it drains.
    pub(crate) fn assign(pods: &[&Pod]) -> Slots {
        let mut slots = BTreeMap::new();
        let mut taken = BTreeSet::new();
        let terminating = pods.iter().filter(|pod| is_terminating(pod));
        let running = pods.iter().filter(|pod| !is_terminating(pod));
        let mut without = Vec::new();
        for pod in terminating.chain(running.clone()) {
            match labelled(pod) {
                Some(slot) if taken.insert(slot) => {
                    slots.insert(uid(pod), slot);
                }
                _ => without.push(uid(pod)),
            }
        }
        for pod in running.filter(|pod| without.contains(&uid(pod))) {
            // There are fewer pods than numbers.
            let free = (0..u32::MAX)
                .find(|slot| !taken.contains(slot))
                .unwrap_or(u32::MAX);
            taken.insert(free);
            slots.insert(uid(pod), free);
        }
        Slots(slots)
    }

    /// A pod's slot.
    pub(crate) fn of(&self, pod: &Pod) -> Option<u32> {
        self.0.get(&uid(pod)).copied()
    }

    /// How many slots have a Service: those that are wanted, and those that are in use.
    pub(crate) fn services(&self, exposure: ExposureType, replicas: i32) -> u32 {
        if !has_slots(exposure) {
            return 0;
        }
        let used = self
            .0
            .values()
            .max()
            .map_or(0, |highest| highest.saturating_add(1));
        used.max(u32::try_from(replicas).unwrap_or(0))
    }
}

fn labelled(pod: &Pod) -> Option<u32> {
    let text = pod.metadata.labels.as_ref()?.get(SLOT_LABEL)?;
    let slot: u32 = text.parse().ok()?;
    // Not `007`: the Service of slot 7 selects by `7`. And not a number out of all proportion, which somebody else wrote.
    (slot.to_string() == *text && slot < MOST).then_some(slot)
}

/// More slots than this are never in use: twice the replicas that a cluster may have.
const MOST: u32 = 4_000;

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str, slot: Option<&str>, terminating: bool) -> Pod {
        let labels = slot.map(|slot| json!({SLOT_LABEL: slot}));
        let deleted = terminating.then_some("2026-11-25T12:00:00Z");
        serde_json::from_value(json!({
            "metadata": {"name": uid, "uid": uid, "labels": labels, "deletionTimestamp": deleted},
        }))
        .unwrap()
    }

    fn assigned(pods: &[(&str, Option<&str>, bool)]) -> Vec<(String, u32)> {
        let pods: Vec<Pod> = pods
            .iter()
            .map(|(uid, slot, terminating)| pod(uid, *slot, *terminating))
            .collect();
        let slots = Slots::assign(&pods.iter().collect::<Vec<_>>());
        slots.0.into_iter().collect()
    }

    #[test]
    fn pods_take_the_lowest_free_slot_and_keep_it() {
        type Case = (
            &'static [(&'static str, Option<&'static str>, bool)],
            &'static [(&'static str, u32)],
        );
        let table: [Case; 8] = [
            (&[], &[]),
            (&[("a", None, false), ("b", None, false)], &[("a", 0), ("b", 1)]),
            (
                &[("a", Some("1"), false), ("b", None, false)],
                &[("a", 1), ("b", 0)],
            ),
            // The gap is filled, the others stay.
            (
                &[
                    ("a", Some("0"), false),
                    ("b", Some("2"), false),
                    ("c", None, false),
                ],
                &[("a", 0), ("b", 2), ("c", 1)],
            ),
            // One that drains keeps its slot, and gets none if it has none.
            (
                &[("a", Some("0"), true), ("b", None, false)],
                &[("a", 0), ("b", 1)],
            ),
            (&[("a", None, true), ("b", None, false)], &[("b", 0)]),
            // Two with one slot: the older keeps it.
            (
                &[("a", Some("0"), false), ("b", Some("0"), false)],
                &[("a", 0), ("b", 1)],
            ),
            // What is no slot is none.
            (
                &[
                    ("a", Some("x"), false),
                    ("b", Some("007"), false),
                    ("c", Some("99999"), false),
                ],
                &[("a", 0), ("b", 1), ("c", 2)],
            ),
        ];
        for (pods, expected) in table {
            let expected: Vec<(String, u32)> = expected
                .iter()
                .map(|(uid, slot)| ((*uid).to_owned(), *slot))
                .collect();
            assert_eq!(assigned(pods), expected, "{pods:?}");
        }
    }

    #[test]
    fn services_cover_what_is_wanted_and_what_is_used() {
        let pods = [pod("a", Some("4"), false)];
        let slots = Slots::assign(&pods.iter().collect::<Vec<_>>());
        assert_eq!(slots.services(ExposureType::NodePort, 2), 5);
        assert_eq!(slots.services(ExposureType::LoadBalancer, 7), 7);
        assert_eq!(slots.services(ExposureType::PodIP, 7), 0);
        assert_eq!(slots.services(ExposureType::HostPort, 7), 0);
    }
}
