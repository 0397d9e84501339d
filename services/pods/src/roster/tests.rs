use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::pod::Phase;

fn object(name: &str, uid: &str, ip: Option<&str>, phase: &str) -> v1::Pod {
    let conditions =
        json!([{ "type": "Ready", "status": if phase == "Running" { "True" } else { "False" } }]);
    let object = json!({
        "metadata": {
            "name": name, "uid": uid, "resourceVersion": "1",
            "labels": { "app": "x" },
            "annotations": { "imaccess.io/endpoints": "[]", "elsewhere/long": "text" },
        },
        "spec": { "nodeName": "n1", "containers": [] },
        "status": { "phase": phase, "podIP": ip, "hostIP": "192.0.2.1", "conditions": conditions },
    });
    serde_json::from_value(object).unwrap()
}

fn running(name: &str) -> v1::Pod {
    object(name, &format!("uid-{name}"), Some("10.0.0.1"), "Running")
}

fn terminating(mut object: v1::Pod) -> v1::Pod {
    let now = json!("2026-01-01T00:00:00Z");
    object.metadata.deletion_timestamp = Some(serde_json::from_value(now).unwrap());
    object
}

fn names(pods: &Pods) -> String {
    pods.iter()
        .map(|pod| pod.name.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A roster that knows these.
fn listed(objects: &[v1::Pod]) -> Roster {
    let mut roster = Roster::default();
    list(&mut roster, objects);
    roster
}

fn list(roster: &mut Roster, objects: &[v1::Pod]) -> Option<Pods> {
    assert_eq!(roster.take(Event::Init), None);
    for object in objects {
        assert_eq!(roster.take(Event::InitApply(object.clone())), None);
    }
    roster.take(Event::InitDone)
}

#[test]
fn nothing_is_known_before_the_first_complete_list() {
    let mut roster = Roster::default();
    assert_eq!(roster.take(Event::Apply(running("a"))), None);
    assert_eq!(roster.take(Event::Delete(running("a"))), None);
    let pods = list(&mut roster, &[running("b"), running("a")]).unwrap();
    assert_eq!(names(&pods), "a b");
    let first = pods.iter().next().unwrap();
    let expected = Pod {
        name: "a".to_owned(),
        uid: "uid-a".to_owned(),
        ip: "10.0.0.1".parse().unwrap(),
        node: "n1".to_owned(),
        host_ip: Some("192.0.2.1".parse().unwrap()),
        labels: BTreeMap::from([("app".to_owned(), "x".to_owned())]),
        annotations: BTreeMap::from([("imaccess.io/endpoints".to_owned(), "[]".to_owned())]),
        ready: true,
        terminating: false,
        phase: Phase::Running,
    };
    assert_eq!(*first, expected);
    // An empty list is a list, too.
    assert!(list(&mut Roster::default(), &[]).unwrap().is_empty());
}

#[test]
fn changes_are_told_and_repetitions_are_not() {
    let mut roster = listed(&[running("a")]);
    assert_eq!(roster.take(Event::Apply(running("a"))), None);
    let pods = roster.take(Event::Apply(running("b"))).unwrap();
    assert_eq!(names(&pods), "a b");
    let pods = roster.take(Event::Apply(terminating(running("a")))).unwrap();
    assert!(pods.iter().next().unwrap().terminating);
    assert_eq!(
        names(&pods),
        "a b",
        "a terminating pod still has its sessions: it stays until it is gone"
    );
    assert_eq!(names(&roster.take(Event::Delete(running("a"))).unwrap()), "b");
    assert_eq!(roster.take(Event::Delete(running("a"))), None);
    assert_eq!(list(&mut roster, &[running("b")]), None, "the same again");
}

#[test]
fn a_list_replaces_what_was_known_when_it_is_complete() {
    let mut roster = listed(&[running("a"), running("b")]);
    assert_eq!(roster.take(Event::Init), None);
    assert_eq!(roster.take(Event::InitApply(running("c"))), None);
    // It broke off; the next one begins anew.
    let pods = list(&mut roster, &[running("b")]).unwrap();
    assert_eq!(names(&pods), "b");
}

#[test]
fn ended_pods_are_no_gateways() {
    for phase in ["Failed", "Succeeded"] {
        let mut roster = listed(&[running("a"), object("z", "uid-z", Some("10.0.0.9"), phase)]);
        let ended = object("a", "uid-a", Some("10.0.0.1"), phase);
        assert!(roster.take(Event::Apply(ended)).unwrap().is_empty(), "{phase}");
    }
    let mut roster = listed(&[object("a", "uid-a", Some("10.0.0.1"), "Mystery")]);
    let pods = list(&mut roster, &[running("a")]).unwrap();
    assert_eq!(
        names(&pods),
        "a",
        "a phase that isn't known is no end, and its change is a change"
    );
}

#[test]
fn pods_without_an_address_wait_and_a_lost_address_is_kept() {
    let bare = |phase| object("a", "uid-a", None, phase);
    let mut roster = listed(&[bare("Pending")]);
    assert_eq!(roster.take(Event::Apply(bare("Pending"))), None);
    let pods = roster.take(Event::Apply(running("a"))).unwrap();
    assert_eq!(names(&pods), "a");
    let kept = roster.take(Event::Apply(terminating(bare("Running")))).unwrap();
    let pod = kept.iter().next().unwrap();
    assert!(pod.terminating && !pod.ready && pod.ip.to_string() == "10.0.0.1");
    assert_eq!(list(&mut roster, &[terminating(bare("Running"))]), None);
    // Another pod of the same name isn't it.
    let other = object("a", "other", None, "Pending");
    assert!(roster.take(Event::Apply(other)).unwrap().is_empty());
    // Nor is an address that is none.
    assert_eq!(
        roster.take(Event::Apply(object("a", "other", Some("x"), "Running"))),
        None
    );
}

#[test]
fn a_late_end_of_an_older_pod_does_not_hit_its_successor() {
    let mut roster = listed(&[object("a", "new", Some("10.0.0.2"), "Running")]);
    let old = || object("a", "old", Some("10.0.0.1"), "Failed");
    assert_eq!(roster.take(Event::Delete(old())), None);
    assert_eq!(roster.take(Event::Apply(old())), None);
    let replaced = object("a", "newer", Some("10.0.0.3"), "Running");
    let pods = roster.take(Event::Apply(replaced)).unwrap();
    assert_eq!(pods.iter().next().unwrap().uid, "newer");
}

proptest! {
    #[test]
    fn watching_comes_to_the_same_as_listing(
        changes in prop::collection::vec((0..5_usize, 0..4_u8), 0..40),
    ) {
        let mut watching = listed(&[]);
        let mut now: BTreeMap<usize, v1::Pod> = BTreeMap::new();
        let mut last = Pods::default();
        for (which, what) in changes {
            let name = format!("p{which}");
            let event = match what {
                0 => Event::Delete(running(&name)),
                1 => Event::Apply(running(&name)),
                2 => Event::Apply(terminating(running(&name))),
                _ => Event::Apply(object(&name, &format!("uid-{name}"), Some("10.0.0.1"), "Failed")),
            };
            match &event {
                Event::Apply(object) => now.insert(which, object.clone()),
                _ => now.remove(&which),
            };
            if let Some(pods) = watching.take(event) {
                prop_assert_ne!(&pods, &last);
                last = pods;
            }
        }
        let objects: Vec<_> = now.into_values().collect();
        let fresh = list(&mut Roster::default(), &objects).unwrap();
        prop_assert_eq!(&fresh, &last);
        prop_assert_eq!(list(&mut watching, &objects), None);
    }
}
