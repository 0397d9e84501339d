//! What businesses are told.

use super::*;

#[test]
fn the_end_of_a_session_is_told_in_time() {
    let (mut silent, one, _) = two();
    silent.ends(one, 20_000, Ending::Cut);
    assert_eq!(silent.breaks(), only(Rule::NotTold));
    let mut late = Script(silent.0.clone());
    late.told(26_500, LOST, 1, 1, 100);
    assert_eq!(late.breaks(), only(Rule::NotTold));
    // A sidecar that was away tells it when it is back; one that waits for a replica, when it is sure.
    late.fault(Part::State(0), FaultKind::Kill, 21_000, 23_000);
    assert_eq!(late.breaks(), BTreeSet::new());
    let mut waits = Script(silent.0.clone());
    waits.told(26_500, LOST, 1, 1, 100);
    waits.fault(Part::Routing(1), FaultKind::Pause, 21_000, 26_400);
    assert_eq!(waits.breaks(), BTreeSet::new());
    // The device came back: there is nothing to tell.
    let mut back = Script(silent.0.clone());
    back.online(1, 22_000, 3, 300);
    assert_eq!(back.breaks(), BTreeSet::new());
    // Nobody knows of it any more.
    silent.fault(Part::State(0), FaultKind::Kill, 20_500, 23_000);
    silent.fault(Part::Gateway(0), FaultKind::Kill, 20_500, 23_000);
    assert_eq!(silent.breaks(), BTreeSet::new());
}

#[test]
fn events_have_causes() {
    let (good, one, _) = two();
    let mut nobody = Script(good.0.clone());
    nobody.told(15_000, Told::Online, 1, 7, 700);
    assert_eq!(nobody.breaks(), only(Rule::UnexplainedEvent));
    // A login that its client gave up explains one session, not two.
    let vain = nobody.connects(1, 14_000);
    nobody.ends(vain, 14_500, Ending::Cut);
    assert_eq!(nobody.breaks(), BTreeSet::new());
    nobody.told(15_000, Told::Online, 1, 8, 800);
    assert_eq!(nobody.breaks(), only(Rule::UnexplainedEvent));

    let mut resync = Script(good.0.clone());
    resync.told(15_000, Told::ResyncNeeded, 1, 1, 100);
    assert_eq!(resync.breaks(), only(Rule::UnexplainedEvent));
    let mut lost = Script(good.0.clone());
    lost.told(15_000, Told::SessionLost, 1, 1, 100);
    assert_eq!(lost.breaks(), only(Rule::UnexplainedEvent));
    lost.fault(Part::State(0), FaultKind::Kill, 14_000, 14_900);
    assert_eq!(lost.breaks(), BTreeSet::new());

    let mut left = Script(good.0.clone());
    left.ends(one, 20_000, Ending::Left);
    left.told(24_000, LOST, 1, 1, 100);
    assert_eq!(left.breaks(), only(Rule::UnexplainedEvent));
    left.fault(Part::Gateway(0), FaultKind::Kill, 20_000, 20_500);
    assert_eq!(left.breaks(), BTreeSet::new());
    let mut never_left = good;
    never_left.ends(one, 20_000, Ending::Cut);
    never_left.told(24_000, LEFT, 1, 1, 100);
    assert_eq!(never_left.breaks(), only(Rule::UnexplainedEvent));
}

#[test]
fn the_sessions_of_a_lost_instance_are_told_by_others() {
    let reason = Code::InstanceLost as u16;
    let (mut script, one, _) = two();
    script.ends(one, 25_100, Ending::Lost);
    script.told(30_000, Told::Offline { reason }, 1, 1, 100);
    assert!(script.breaks().contains(&Rule::UnexplainedEvent));
    script.fault(Part::State(0), FaultKind::Pause, 20_000, 31_000);
    assert_eq!(script.breaks(), BTreeSet::new());
    // By another replica's choice, and by itself when it is back.
    for (stream, told) in [(1, Told::Offline { reason }), (2, LOST)] {
        script.told(31_000, told, 1, 1, 100);
        script.0.heard.last_mut().unwrap().stream = stream;
        script.0.heard.last_mut().unwrap().sequence = 1;
        script.0.streams.push(format!("pod-{stream}.0"));
    }
    assert_eq!(script.breaks(), BTreeSet::new());
}

#[test]
fn events_come_once_and_in_order() {
    let (mut good, one, _) = two();
    good.ends(one, 20_000, Ending::Left);
    good.told(20_010, LEFT, 1, 1, 100);
    assert_eq!(good.breaks(), BTreeSet::new());
    let mut again = Script(good.0.clone());
    again.told(20_020, LEFT, 1, 1, 100);
    assert_eq!(again.breaks(), only(Rule::RepeatedEvent));
    // On a later stream of the same dialler it may come again, if the one before broke; and nobody else may say it.
    again.0.heard.last_mut().unwrap().stream = 1;
    again.0.heard.last_mut().unwrap().sequence = 1;
    again.0.streams.push("pod-0.0".to_owned());
    assert_eq!(again.breaks(), only(Rule::RepeatedEvent));
    again.fault(Part::State(1), FaultKind::Kill, 20_000, 20_015);
    assert_eq!(again.breaks(), only(Rule::RepeatedEvent), "another's");
    again.fault(Part::State(0), FaultKind::Kill, 20_000, 20_015);
    assert_eq!(again.breaks(), BTreeSet::new());
    again.0.streams[1] = "pod-1.0".to_owned();
    assert_eq!(again.breaks(), only(Rule::RepeatedEvent));
    let mut twice = Script(good.0.clone());
    twice.told(20_020, LEFT, 1, 1, 150);
    assert_eq!(twice.breaks(), only(Rule::RepeatedEvent));
    let mut gap = Script(good.0.clone());
    gap.0.heard.last_mut().unwrap().sequence = 9;
    assert_eq!(gap.breaks(), only(Rule::EventOrder));
    let mut back = Script(good.0.clone());
    back.online(1, 30_000, 3, 50);
    assert_eq!(back.breaks(), only(Rule::EventOrder));
}

#[test]
fn the_beginning_of_a_session_is_told() {
    let (mut good, ..) = two();
    good.0.heard.pop();
    assert_eq!(good.breaks(), only(Rule::OnlineNotTold));
    good.fault(Part::State(0), FaultKind::Kill, 10_001, 10_900);
    assert_eq!(good.breaks(), BTreeSet::new());
}
