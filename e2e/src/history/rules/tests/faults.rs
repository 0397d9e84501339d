//! What faults excuse, and what they don't.

use super::*;

fn closed(code: Code, resumable: bool) -> Ending {
    let code = code as u16;
    Ending::Closed { code, resumable }
}

#[test]
fn a_part_is_whole_soon_after_its_fault() {
    let (mut good, ..) = two();
    good.fault(Part::State(0), FaultKind::Kill, 20_000, 29_900);
    good.fault(Part::Gateway(1), FaultKind::Pause, 20_000, 34_000);
    assert_eq!(good.breaks(), BTreeSet::new());
    let mut slow = Script(good.0.clone());
    slow.fault(Part::State(0), FaultKind::Kill, 60_000, 71_000);
    assert_eq!(slow.breaks(), only(Rule::SlowRecovery));
    // Another one that is at fault may be what it waits for, but not for ever.
    slow.fault(Part::State(1), FaultKind::Pause, 55_000, 65_000);
    assert_eq!(slow.breaks(), BTreeSet::new());
    slow.0.faults[2].settled = at(76_000);
    assert_eq!(slow.breaks(), only(Rule::SlowRecovery));
}

#[test]
fn most_faults_end_nobodys_connection() {
    let end = |how: Ending, fault: Part, kind: FaultKind, to: u64| {
        let (mut script, one, _) = two();
        script.ends(one, 25_200, how);
        script.told(28_300, LOST, 1, 1, 100);
        script.fault(fault, kind, 20_100, to);
        script.breaks()
    };
    let (gateway, state) = (Part::Gateway(0), Part::State(0));
    let state_lost = closed(Code::StateLost, true);
    let none = BTreeSet::new();
    // Away for longer than it is waited for.
    assert_eq!(end(state_lost, state, FaultKind::Pause, 26_000), none);
    assert_eq!(end(Ending::Lost, state, FaultKind::Pause, 26_000), none);
    assert_eq!(end(Ending::Lost, gateway, FaultKind::Pause, 26_000), none);
    // In the middle of a frame.
    assert_eq!(end(Ending::Lost, gateway, FaultKind::Kill, 23_300), none);
    let torn = closed(Code::GatewayLost, true);
    assert_eq!(end(torn, gateway, FaultKind::Kill, 23_300), none);
    let wrong = only(Rule::UnexplainedClose);
    assert_eq!(end(state_lost, state, FaultKind::Kill, 24_000), wrong);
    assert_eq!(end(state_lost, gateway, FaultKind::Pause, 26_000), wrong);
    assert_eq!(end(Ending::Lost, state, FaultKind::Kill, 24_000), wrong);
    assert_eq!(end(Ending::Lost, gateway, FaultKind::Pause, 24_000), wrong);
    assert_eq!(end(torn, state, FaultKind::Kill, 24_000), wrong);
    // Before anybody could take it for away.
    let (mut early, one, _) = two();
    early.ends(one, 21_000, state_lost);
    early.told(24_100, LOST, 1, 1, 100);
    early.fault(state, FaultKind::Pause, 20_000, 26_000);
    assert_eq!(early.breaks(), wrong);
}

#[test]
fn a_kill_of_a_gateway_tears_few_connections() {
    let lost = |count: u32| {
        let mut script = Script::new();
        for device in 0..40 {
            let of = u8::try_from(device).unwrap();
            let one = script.online(device, 10_000 + u64::from(device), of, 100 + u64::from(device));
            if device < count {
                script.ends(one, 20_100, Ending::Lost);
            }
        }
        for device in 0..count {
            let of = u8::try_from(device).unwrap();
            script.told(23_200, LOST, device, of, 100 + u64::from(device));
        }
        script.fault(Part::Gateway(0), FaultKind::Kill, 20_000, 20_400);
        script
    };
    assert_eq!(lost(4).breaks(), BTreeSet::new());
    assert_eq!(lost(5).breaks(), only(Rule::UnexplainedClose));
    let mut all = lost(40);
    assert_eq!(all.breaks(), only(Rule::UnexplainedClose));
    // Its state was away as well: nobody held them.
    all.fault(Part::State(0), FaultKind::Kill, 20_000, 20_300);
    assert_eq!(all.breaks(), BTreeSet::new());
}

#[test]
fn ghosts_end_however_many_faults_there_are() {
    let (mut script, one, _) = two();
    script.ends(one, 20_000, Ending::Cut);
    script.told(59_900, LOST, 1, 1, 100);
    for second in (19..59).step_by(4) {
        script.fault(
            Part::State(0),
            FaultKind::Pause,
            second * 1_000,
            second * 1_000 + 3_900,
        );
    }
    script.asked(1, 44_000, Presence::Online);
    assert_eq!(script.breaks(), BTreeSet::new());
    script.asked(1, 49_500, Presence::Online);
    assert_eq!(script.breaks(), only(Rule::Ghost));
}

#[test]
fn a_login_that_was_given_up_explains_what_its_pod_tells_of_it_soon() {
    let (mut good, ..) = two();
    good.fault(Part::State(0), FaultKind::Kill, 14_100, 14_300);
    let vain = good.connects(1, 14_000);
    good.ends(vain, 14_500, Ending::Cut);
    good.told(15_000, Told::Online, 1, 7, 700);
    good.told(15_100, Told::Online, 1, 8, 800);
    assert_eq!(good.breaks(), BTreeSet::new());
    let mut late = Script(good.0.clone());
    late.told(60_000, Told::Online, 1, 9, 900);
    assert_eq!(late.breaks(), only(Rule::UnexplainedEvent));
    let mut elsewhere = Script(good.0.clone());
    elsewhere.0.streams[0] = "local-gateway-1/0.0".to_owned();
    assert_eq!(elsewhere.breaks(), only(Rule::UnexplainedEvent));
    elsewhere.0.streams[0] = "local-gateway-0/0.0".to_owned();
    assert_eq!(elsewhere.breaks(), BTreeSet::new());
}

#[test]
fn an_instance_is_lost_to_those_who_were_there() {
    let reason = Code::InstanceLost as u16;
    let (mut late, one, _) = two();
    late.ends(one, 50_000, Ending::Cut);
    late.told(53_100, Told::Offline { reason }, 1, 1, 100);
    late.fault(Part::State(0), FaultKind::Pause, 20_000, 31_000);
    assert_eq!(late.breaks(), only(Rule::UnexplainedEvent));
    late.0.faults[0].from = at(45_000);
    late.0.faults[0].until = at(52_900);
    late.0.faults[0].settled = at(53_000);
    assert_eq!(late.breaks(), BTreeSet::new());
}

#[test]
fn a_goodbye_is_lost_with_a_part_that_had_it() {
    let (mut script, one, _) = two();
    script.ends(one, 60_000, Ending::Left);
    script.told(64_000, LOST, 1, 1, 100);
    script.fault(Part::Gateway(0), FaultKind::Kill, 20_000, 20_500);
    assert_eq!(script.breaks(), only(Rule::UnexplainedEvent));
    script.fault(Part::Gateway(0), FaultKind::Kill, 60_100, 60_500);
    assert_eq!(script.breaks(), BTreeSet::new());
}

#[test]
fn who_stands_still_forgets_nothing() {
    let (mut untold, ..) = two();
    untold.0.heard.pop();
    untold.fault(Part::State(0), FaultKind::Pause, 10_001, 10_900);
    assert_eq!(untold.breaks(), only(Rule::OnlineNotTold));
    untold.0.faults[0].kind = FaultKind::Kill;
    assert_eq!(untold.breaks(), BTreeSet::new());

    let (mut kicked, ..) = two();
    kicked.kicked(1, 20_000, Said::Done);
    kicked.fault(Part::State(0), FaultKind::Pause, 20_001, 20_900);
    assert_eq!(kicked.breaks(), only(Rule::Kicked));
    kicked.0.faults[0].kind = FaultKind::Kill;
    assert_eq!(kicked.breaks(), BTreeSet::new());
}

/// A session that was cut at second 20 and resumed at another pod.
fn moved() -> (Script, u32) {
    let (mut script, one, _) = two();
    script.ends(one, 20_000, Ending::Cut);
    let next = script.connects(1, 20_500);
    let connection = &mut script.0.connections[next as usize];
    connection.pod = 1;
    connection.login = Some(Login {
        at: at(20_520),
        session: session(1),
        epoch: 200,
        resumed: true,
    });
    assert_eq!(script.breaks(), BTreeSet::new());
    (script, next)
}

#[test]
fn a_session_that_has_gone_on_elsewhere_is_not_offline() {
    let (mut good, next) = moved();
    good.told(23_100, LOST, 1, 1, 100);
    assert_eq!(good.breaks(), only(Rule::FalseOffline));
    let mut ended = Script(good.0.clone());
    ended.ends(next, 22_500, Ending::Cut);
    ended.told(25_600, LOST, 1, 1, 200);
    assert_eq!(ended.breaks(), only(Rule::EarlyOffline));
    // Nobody could tell its first pod in time.
    for part in [Part::Routing(0), Part::State(1), Part::State(0)] {
        let mut hidden = Script(good.0.clone());
        hidden.fault(part, FaultKind::Pause, 20_400, 23_050);
        assert_eq!(hidden.breaks(), BTreeSet::new(), "{part}");
    }
    // It came when the session was as good as over.
    let late = &mut good.0.connections[next as usize];
    late.begun = at(21_480);
    late.login_sent = Some(at(21_485));
    if let Some(login) = &mut late.login {
        login.at = at(21_500);
    }
    assert_eq!(good.breaks(), BTreeSet::new());
}
