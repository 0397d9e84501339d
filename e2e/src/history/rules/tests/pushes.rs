//! Where pushes come to.

use imaccess_wire::Code;

use super::*;

#[test]
fn a_push_comes_to_its_device_once() {
    let (mut good, one, other) = two();
    let id = good.push(1, 20_000, Said::Written);
    good.seen(id, one, 20_003);
    assert_eq!(good.breaks(), BTreeSet::new());

    let mut elsewhere = Script(good.0.clone());
    elsewhere.0.sightings[0].connection = other;
    assert!(elsewhere.breaks().contains(&Rule::WrongDevice));
    let mut twice = Script(good.0.clone());
    twice.seen(id, one, 20_004);
    assert_eq!(twice.breaks(), only(Rule::Doubled));
    let mut early = Script(good.0.clone());
    early.0.sightings[0].at = at(19_999);
    assert_eq!(early.breaks(), only(Rule::WrongDevice));
    let mut forged = Script(good.0.clone());
    forged.0.sightings.push(Sighting {
        push: None,
        connection: one,
        at: at(20_100),
    });
    assert_eq!(forged.breaks(), only(Rule::WrongDevice));
}

#[test]
fn what_was_said_of_a_push_holds() {
    let (mut good, one, _) = two();
    let known = good.push(1, 20_000, Said::Retry);
    good.seen(known, one, 20_003);
    good.push(1, 20_000, Said::Refused);
    assert_eq!(good.breaks(), BTreeSet::new());
    assert_eq!(good.verdict().excused["push_seen_though_not_known"], 1);
    let mut bad = Script(good.0.clone());
    bad.seen(2, one, 20_003);
    assert_eq!(bad.breaks(), only(Rule::SeenAfterRefusal));
}

#[test]
fn a_push_that_was_written_comes_or_the_connection_ends() {
    let (mut good, one, _) = two();
    good.push(1, 20_000, Said::Written);
    assert_eq!(good.breaks(), only(Rule::WrittenNotSeen));
    good.ends(one, 20_500, Ending::Left);
    good.told(20_510, LEFT, 1, 1, 100);
    assert_eq!(good.breaks(), BTreeSet::new());
}

#[test]
fn a_replaced_connection_gets_nothing_more() {
    let mut good = Script::new();
    let old = good.online(1, 10_000, 1, 100);
    let new = good.online(1, 30_000, 2, 200);
    let code = Code::Superseded as u16;
    let resumable = false;
    good.ends(old, 34_000, Ending::Closed { code, resumable });
    // On its way when the other login came.
    let id = good.push(1, 30_500, Said::Written);
    good.seen(id, old, 30_600);
    assert_eq!(good.breaks(), BTreeSet::new());

    let mut bad = Script(good.0.clone());
    let id = bad.push(1, 33_500, Said::Written);
    bad.seen(id, old, 33_600);
    assert_eq!(bad.breaks(), only(Rule::ReplacedConnection));
    // Who should have known was away.
    bad.fault(Part::Routing(0), FaultKind::Kill, 29_000, 33_400);
    assert_eq!(bad.breaks(), BTreeSet::new());

    // But not if that was long before, or afterwards.
    let mut long_known = Script(good.0.clone());
    long_known.0.connections[old as usize].end = None;
    long_known.fault(Part::Routing(0), FaultKind::Kill, 20_000, 20_400);
    long_known.fault(Part::Routing(0), FaultKind::Pause, 50_000, 50_300);
    long_known.fault(Part::State(0), FaultKind::Kill, 70_000, 70_300);
    let id = long_known.push(1, 100_000, Said::Written);
    long_known.seen(id, old, 100_003);
    assert_eq!(long_known.breaks(), only(Rule::ReplacedConnection));
    // Who had replaced it was gone again before anybody could know.
    long_known.0.connections[new as usize].end = Some(End {
        from: at(30_400),
        at: at(30_402),
        how: Ending::Left,
    });
    assert!(!long_known.breaks().contains(&Rule::ReplacedConnection));

    let mut unreplaced = Script(good.0.clone());
    unreplaced.0.connections[new as usize].login = None;
    unreplaced.0.connections[new as usize].login_sent = None;
    unreplaced.ends(new, 30_100, Ending::NotTaken);
    unreplaced.fault(Part::Gateway(0), FaultKind::Kill, 30_000, 30_050);
    assert!(unreplaced.breaks().contains(&Rule::UnexplainedClose));
}
