//! Each rule with a history that may have been and one that can't have been, in one place beside each other.

use std::collections::BTreeSet;
use std::time::Duration;

use imaccess_wire::Code;

use super::Rule;
use crate::history::limits::Limits;
use crate::history::record::{
    Connection, Device, End, Ending, Fault, FaultKind, Heard, History, Kick, Login, Moment, Part, Presence,
    Push, Query, Said, Session, Sighting, Span, Told,
};
use crate::history::verdict::{Verdict, judge};

const LOST: Told = Told::Offline {
    reason: Code::ConnectionLost as u16,
};
const LEFT: Told = Told::Offline {
    reason: Code::ClientLeft as u16,
};

/// A history being written. Times are milliseconds.
struct Script(History);

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000)
}

fn session(number: u8) -> Session {
    Session([number; 16])
}

impl Script {
    fn new() -> Self {
        Self(History {
            limits: Limits::default(),
            streams: vec!["pod-0.0".to_owned()],
            end: at(1_000_000),
            ..History::default()
        })
    }

    /// A device logs in: its session and epoch are told.
    fn online(&mut self, device: Device, login: u64, of: u8, epoch: u64) -> u32 {
        let number = self.connects(device, login - 20);
        self.0.connections[number as usize].login = Some(Login {
            at: at(login),
            session: session(of),
            epoch,
            resumed: false,
        });
        self.told(login + 5, Told::Online, device, of, epoch);
        number
    }

    /// A device connects and sends its LOGIN.
    fn connects(&mut self, device: Device, begun: u64) -> u32 {
        let number = u32::try_from(self.0.connections.len()).unwrap();
        self.0.connections.push(Connection {
            number,
            device,
            pod: 0,
            begun: at(begun),
            login_sent: Some(at(begun + 5)),
            presented: None,
            login: None,
            end: None,
        });
        number
    }

    fn ends(&mut self, number: u32, ms: u64, how: Ending) {
        self.0.connections[number as usize].end = Some(End {
            from: at(ms),
            at: at(ms + 2),
            how,
        });
    }

    fn push(&mut self, device: Device, ms: u64, said: Said) -> u64 {
        let id = self.0.pushes.len() as u64 + 1;
        self.0.pushes.push(Push {
            id,
            replica: 0,
            devices: vec![device],
            span: Span::new(at(ms), at(ms + 5)),
            answers: Some(vec![said]),
        });
        id
    }

    fn seen(&mut self, push: u64, connection: u32, ms: u64) {
        self.0.sightings.push(Sighting {
            push: Some(push),
            connection,
            at: at(ms),
        });
    }

    fn asked(&mut self, device: Device, ms: u64, said: Presence) {
        self.0.queries.push(Query {
            replica: 0,
            devices: vec![device],
            span: Span::new(at(ms), at(ms + 5)),
            answers: Some(vec![said]),
        });
    }

    fn kicked(&mut self, device: Device, ms: u64, said: Said) {
        self.0.kicks.push(Kick {
            replica: 0,
            device,
            span: Span::new(at(ms), at(ms + 5)),
            answer: Some(said),
        });
    }

    fn told(&mut self, ms: u64, told: Told, device: Device, of: u8, epoch: u64) {
        let sequence = self.0.heard.iter().filter(|heard| heard.stream == 0).count() as u64 + 1;
        self.0.heard.push(Heard {
            at: at(ms),
            stream: 0,
            sequence,
            told,
            device,
            session: session(of),
            epoch,
        });
    }

    fn fault(&mut self, part: Part, kind: FaultKind, from: u64, settled: u64) {
        self.0.faults.push(Fault {
            part,
            kind,
            from: at(from),
            until: at(settled - 10),
            settled: at(settled),
        });
    }

    fn verdict(&self) -> Verdict {
        judge(&self.0)
    }

    /// What it breaks.
    fn breaks(&self) -> BTreeSet<Rule> {
        let violations = self.verdict().violations;
        violations.into_iter().map(|violation| violation.rule).collect()
    }
}

fn only(rule: Rule) -> BTreeSet<Rule> {
    BTreeSet::from([rule])
}

/// Two devices that are online since second 10 and stay.
fn two() -> (Script, u32, u32) {
    let mut script = Script::new();
    let one = script.online(1, 10_000, 1, 100);
    let other = script.online(2, 10_000, 2, 101);
    assert_eq!(script.breaks(), BTreeSet::new());
    (script, one, other)
}

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

    let mut unreplaced = Script(good.0.clone());
    unreplaced.0.connections[new as usize].login = None;
    unreplaced.0.connections[new as usize].login_sent = None;
    unreplaced.ends(new, 30_100, Ending::NotTaken);
    unreplaced.fault(Part::Gateway(0), FaultKind::Kill, 30_000, 30_050);
    assert!(unreplaced.breaks().contains(&Rule::UnexplainedClose));
}

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
    assert_eq!(excused.breaks(), only(Rule::Ghost));
}

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
    let mut never_left = Script(good.0.clone());
    never_left.ends(one, 20_000, Ending::Cut);
    never_left.told(24_000, LEFT, 1, 1, 100);
    assert_eq!(never_left.breaks(), only(Rule::UnexplainedEvent));
}

#[test]
fn the_sessions_of_a_lost_instance_are_told_by_others() {
    let reason = Code::InstanceLost as u16;
    let (mut script, one, _) = two();
    script.ends(one, 20_500, Ending::Lost);
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
    // On a later stream of the same dialler it may come again, and nobody else may say it.
    again.0.heard.last_mut().unwrap().stream = 1;
    again.0.heard.last_mut().unwrap().sequence = 1;
    again.0.streams.push("pod-0.0".to_owned());
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
