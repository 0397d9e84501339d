//! Upgrades under a played `up`, with scripts as binaries and a played gateway's admin pages.

use std::time::Duration;

use super::testing::Stage;
use super::*;
use crate::up::testing::{PlayedUp, wait_for};

/// Longer than what goes well takes on a busy machine, where the test waits for success; short where it waits for a failure.
fn patience(lease_ms: u64, verify_ms: u64) -> Patience {
    Patience {
        lease: Duration::from_millis(lease_ms),
        lease_back: Duration::from_millis(50),
        verify: Duration::from_millis(verify_ms),
    }
}

const LONG: u64 = 60_000;

/// For a program that ends at once, and whose pages are never there.
fn crash(first: &str) -> String {
    format!("{first}; echo \"$1 crashing\" >> ${{0%/*}}/started; exit 3")
}

/// A cluster whose gateway runs from `old`, which writes down that it has started.
async fn running(stage: &Stage, old: &Path) -> PlayedUp {
    let up = PlayedUp::start(stage.path(), old, [stage.gateway, stage.state]);
    wait_for("both can be asked to end", || async {
        let there = |name| stage.path().join(name).exists();
        (there("gateway.pid") && there("state.pid")).then_some(())
    })
    .await;
    up
}

async fn upgrade(stage: &Stage, up: &PlayedUp, kind: Kind, binary: &Path, patience: Patience) -> Outcome {
    let parts = up.control().list().await.unwrap();
    let target = plan::targets(&parts, kind, None).unwrap().remove(0);
    let place = Place::Up(UpPlace {
        control: up.control(),
        directory: stage.path().to_owned(),
        part: target.name.clone(),
        neighbour: target.neighbour.clone(),
    });
    Upgrade::new(target, place, binary, patience).unwrap().run().await
}

#[tokio::test]
async fn a_gateway_is_replaced_once_its_lease_is_given() {
    let stage = Stage::new().await;
    let (old, new) = (stage.binary("old", 1), stage.binary("new", 1));
    let up = running(&stage, &old).await;
    stage.set(|script| script.refusals = 2);
    let outcome = upgrade(&stage, &up, Kind::Gateway, &new, patience(LONG, LONG)).await;
    assert_eq!(outcome.error, None);
    assert_eq!((outcome.before, outcome.after), (Some(10), Some(10)));
    assert_eq!((outcome.adopted, outcome.closed), (Some(10), Some(0)));
    assert_eq!((outcome.from, outcome.to), (Some(old), new.clone()));
    assert!(outcome.stopped_ms.unwrap() <= outcome.ready_ms.unwrap());
    assert!(!outcome.rolled_back);
    assert_eq!(stage.asked("gateway POST /handover"), 3);
    assert_eq!(stage.gateways(), ["old", "new"]);
    assert_eq!(stage.asked_to_end(), "gateway old\n");
    assert_eq!(up.gateway().await.binary, new);
    up.end().await;
}

#[tokio::test]
async fn nothing_is_touched_when_it_cant_go_well() {
    type Change = fn(&mut testing::Script);
    let table: [(&str, u32, Change, &str); 4] = [
        ("strange", 7, |_| {}, "link (generations 7 and 1)"),
        ("new", 1, |script| script.custody = false, "custody is off"),
        (
            "new",
            1,
            |script| script.refusals = u32::MAX,
            "custody is not complete",
        ),
        ("none", 1, |_| {}, "can't be started"),
    ];
    for (name, link, change, expected) in table {
        let stage = Stage::new().await;
        let old = stage.binary("old", 1);
        let new = match name {
            "none" => stage.path().join("none"),
            _ => stage.binary(name, link),
        };
        let up = running(&stage, &old).await;
        let before = up.gateway().await;
        stage.set(change);
        let outcome = upgrade(&stage, &up, Kind::Gateway, &new, patience(100, LONG)).await;
        let error = outcome.error.unwrap();
        assert!(
            error.contains(expected) && error.starts_with("nothing was touched"),
            "{error}"
        );
        assert!(!outcome.rolled_back && outcome.stopped_ms.is_none());
        let after = up.gateway().await;
        assert_eq!((after.pid, after.binary), (before.pid, old));
        up.end().await;
    }
}

#[tokio::test]
async fn a_binary_that_dies_makes_room_for_the_old_one() {
    let stage = Stage::new().await;
    let old = stage.binary("old", 1);
    let new = stage.program("crashing", 1, &crash("echo no such key >&2"));
    let up = running(&stage, &old).await;
    let outcome = upgrade(&stage, &up, Kind::Gateway, &new, patience(LONG, LONG)).await;
    let error = outcome.error.unwrap();
    for part in [
        "exit status: 3",
        "no such key",
        "old is back, with 10 connections (10 before)",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(outcome.rolled_back);
    assert_eq!(up.gateway().await.binary, old);
    // It was given no second lease: it never had anything to hand over.
    assert_eq!(stage.asked("gateway POST /handover"), 1);
    up.end().await;
}

#[tokio::test]
async fn one_that_doesnt_get_ready_hands_back_or_is_killed() {
    for (lease_back, ended) in [(true, "gateway old\ngateway unready\n"), (false, "gateway old\n")] {
        let stage = Stage::new().await;
        let (old, new) = (stage.binary("old", 1), stage.binary("unready", 1));
        let up = running(&stage, &old).await;
        stage.set(|script| script.lease_back = lease_back);
        let outcome = upgrade(&stage, &up, Kind::Gateway, &new, patience(LONG, 1_000)).await;
        let error = outcome.error.unwrap();
        assert!(
            error.contains("it isn't ready: no  link") && error.contains("old is back"),
            "{error}"
        );
        assert!(outcome.rolled_back);
        assert_eq!(stage.gateways().last().unwrap(), "old");
        assert_eq!(stage.asked_to_end(), ended, "lease back: {lease_back}");
        up.end().await;
    }
}

#[tokio::test]
async fn a_takeover_that_lost_something_is_undone_and_one_that_clients_left_isnt() {
    for (name, closed, left, expected) in [
        ("unplanned", 0, 0, Some("as after a crash")),
        ("new", 2, 1, Some("1 connections were closed")),
        ("new", 2, 2, None),
    ] {
        let stage = Stage::new().await;
        let (old, new) = (stage.binary("old", 1), stage.binary(name, 1));
        let up = running(&stage, &old).await;
        stage.set(|script| (script.closed, script.left) = (closed, left));
        let outcome = upgrade(&stage, &up, Kind::Gateway, &new, patience(LONG, LONG)).await;
        assert_eq!(outcome.closed, Some(closed));
        assert_eq!(outcome.rolled_back, expected.is_some(), "{:?}", outcome.error);
        match expected {
            Some(expected) => assert!(outcome.error.unwrap().contains(expected)),
            None => assert_eq!(outcome.error, None),
        }
        up.end().await;
    }
}

#[tokio::test]
async fn when_the_old_one_doesnt_come_back_either_the_state_of_things_is_said() {
    let stage = Stage::new().await;
    // Starts only once; in the other part it has started before.
    let once = "mkdir \"$0-$1-once\" || { echo gateway crashing-old >> ${0%/*}/started; exit 4; }";
    let old = stage.program("old", 1, once);
    let new = stage.program("crashing", 1, &crash(":"));
    let up = running(&stage, &old).await;
    let outcome = upgrade(&stage, &up, Kind::Gateway, &new, patience(LONG, LONG)).await;
    let error = outcome.error.unwrap();
    for part in [
        "exit status: 3",
        "Going back failed too",
        "exit status: 4",
        "Now: ",
        "start a gateway before",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(!outcome.rolled_back);
    up.end().await;
}

#[tokio::test]
async fn a_sidecar_needs_no_lease_but_a_whole_gateway() {
    let stage = Stage::new().await;
    let (old, new) = (stage.binary("old", 1), stage.binary("new", 1));
    let up = running(&stage, &old).await;
    stage.set(|script| script.complete = false);
    let outcome = upgrade(&stage, &up, Kind::Sidecar, &new, patience(100, LONG)).await;
    let error = outcome.error.unwrap();
    assert!(
        error.contains("nothing was touched") && error.contains("custody isn't complete"),
        "{error}"
    );
    stage.set(|script| script.complete = true);
    let outcome = upgrade(&stage, &up, Kind::Sidecar, &new, patience(LONG, LONG)).await;
    assert_eq!(outcome.error, None);
    assert_eq!((outcome.before, outcome.after), (Some(10), Some(10)));
    assert_eq!((outcome.adopted, outcome.closed), (None, None));
    assert_eq!(stage.asked("gateway POST"), 0);
    assert_eq!(stage.asked_to_end(), "state old\n");
    let parts = up.control().list().await.unwrap();
    assert_eq!(parts[1].binary, new);
    up.end().await;
}

#[tokio::test]
async fn without_an_up_the_way_out_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let fault = Control::in_directory(directory.path()).list().await.unwrap_err();
    let fault = format!("{fault:#}");
    assert!(fault.contains("--dir") && fault.contains("--config"), "{fault}");
}
