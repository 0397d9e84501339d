//! Who is online, who isn't, and why connections end.

use std::time::Duration;

use super::*;

#[test]
fn a_connected_device_is_not_offline() {
    let (mut good, ..) = two();
    // News are on their way for a while.
    good.asked(1, 10_500, Presence::Offline);
    good.asked(3, 20_000, Presence::Offline);
    assert_eq!(good.breaks(), BTreeSet::new());
    let mut by_question = Script(good.0.clone());
    by_question.asked(1, 20_000, Presence::Offline);
    assert_eq!(by_question.breaks(), only(Rule::FalseOffline));
    let mut by_push = Script(good.0.clone());
    by_push.push(1, 20_000, Said::Offline);
    assert_eq!(by_push.breaks(), only(Rule::FalseOffline));
    let mut by_event = Script(good.0.clone());
    by_event.told(40_000, LOST, 1, 1, 100);
    assert_eq!(by_event.breaks(), only(Rule::FalseOffline));
    // No fault of a part excuses it, but the loss of a pod.
    by_event.fault(Part::State(0), FaultKind::Kill, 35_000, 37_000);
    assert_eq!(by_event.breaks(), only(Rule::FalseOffline));
    by_event.fault(Part::Gateway(0), FaultKind::Kill, 35_100, 37_000);
    assert_eq!(by_event.breaks(), BTreeSet::new());
}

#[test]
fn a_session_that_may_be_resumed_is_not_offline() {
    let (mut good, one, _) = two();
    good.ends(one, 20_000, Ending::Cut);
    good.told(23_100, LOST, 1, 1, 100);
    good.asked(1, 23_200, Presence::Offline);
    assert_eq!(good.breaks(), BTreeSet::new());
    let mut bad = Script(good.0.clone());
    bad.asked(1, 20_100, Presence::Offline);
    assert_eq!(bad.breaks(), only(Rule::EarlyOffline));
    let mut bad = Script(good.0.clone());
    bad.0.heard.last_mut().unwrap().at = at(20_500);
    assert_eq!(bad.breaks(), only(Rule::EarlyOffline));
}

#[test]
fn nobody_is_online_for_ever() {
    let (mut good, one, _) = two();
    good.ends(one, 20_000, Ending::Cut);
    good.told(23_100, LOST, 1, 1, 100);
    good.asked(1, 22_500, Presence::Online);
    assert_eq!(good.breaks(), BTreeSet::new());
    let mut bad = Script(good.0.clone());
    bad.asked(1, 26_100, Presence::Online);
    assert_eq!(bad.breaks(), only(Rule::Ghost));
    let mut bad = Script(good.0.clone());
    bad.push(1, 23_500, Said::Written);
    assert_eq!(bad.breaks(), only(Rule::Ghost));
    let mut bad = Script(good.0.clone());
    bad.asked(9, 23_500, Presence::Online);
    assert_eq!(bad.breaks(), only(Rule::Ghost));
    // A pod that was away couldn't notice; but not for ever.
    let mut excused = Script(good.0.clone());
    excused.0.heard.last_mut().unwrap().at = at(28_300);
    excused.asked(1, 27_500, Presence::Online);
    excused.fault(Part::Gateway(0), FaultKind::Pause, 19_900, 25_000);
    assert_eq!(excused.breaks(), BTreeSet::new());
    excused.0.faults[0].settled = at(60_000);
    excused.asked(1, 33_000, Presence::Online);
    let both = BTreeSet::from([Rule::Ghost, Rule::SlowRecovery]);
    assert_eq!(excused.breaks(), both);
}

#[test]
fn a_kick_that_is_done_ends_the_session() {
    let kicked = Code::Kicked as u16;
    let close = Ending::Closed {
        code: kicked,
        resumable: false,
    };
    let (mut goes_on, one, _) = two();
    goes_on.kicked(1, 20_000, Said::Done);
    assert_eq!(goes_on.breaks(), only(Rule::Kicked));
    let mut good = Script(goes_on.0.clone());
    good.ends(one, 20_010, close);
    good.told(20_020, Told::Offline { reason: kicked }, 1, 1, 100);
    assert_eq!(good.breaks(), BTreeSet::new());
    let mut otherwise = Script(good.0.clone());
    otherwise.0.heard.last_mut().unwrap().told = LOST;
    otherwise.0.heard.last_mut().unwrap().at = at(23_500);
    assert_eq!(otherwise.breaks(), only(Rule::Kicked));
    let mut nobody = Script(good.0.clone());
    nobody.0.kicks.clear();
    let both = BTreeSet::from([Rule::UnexplainedEvent, Rule::UnexplainedClose]);
    assert_eq!(nobody.breaks(), both);
    let mut wrong = Script(good.0.clone());
    wrong.kicked(1, 60_000, Said::Done);
    assert_eq!(wrong.breaks(), only(Rule::Kicked), "there was no session");
}

#[test]
fn connections_end_for_a_reason() {
    let (mut lost, one, _) = two();
    lost.ends(one, 20_000, Ending::Lost);
    lost.told(23_100, LOST, 1, 1, 100);
    assert_eq!(lost.breaks(), only(Rule::UnexplainedClose));
    lost.fault(Part::Gateway(0), FaultKind::Kill, 19_900, 20_400);
    assert_eq!(lost.breaks(), BTreeSet::new());
    let bad = [
        (Code::StateLost, true),
        (Code::PingTimeout, true),
        (Code::Superseded, false),
        (Code::Malformed, false),
    ];
    for (code, resumable) in bad {
        let (mut closed, one, _) = two();
        let code = code as u16;
        closed.ends(one, 20_000, Ending::Closed { code, resumable });
        closed.told(23_100, LOST, 1, 1, 100);
        assert_eq!(closed.breaks(), only(Rule::UnexplainedClose), "{code}");
    }
}

#[test]
fn figures_say_how_long_ghosts_lived() {
    let (mut script, one, _) = two();
    script.ends(one, 20_000, Ending::Cut);
    script.told(23_102, LOST, 1, 1, 100);
    script.asked(1, 22_502, Presence::Online);
    let verdict = script.verdict();
    assert_eq!(verdict.longest_ghost, Duration::from_millis(2_500));
    assert_eq!(verdict.longest_until_told, Duration::from_millis(3_100));
}
