//! Changes in one place that make of a history one that can't have been.

use std::time::Duration;

use fastrand::Rng;
use imaccess_wire::Code;

use super::super::record::{
    Connection, Ending, FaultKind, Heard, History, Kick, Moment, Part, Presence, Push, Query, Said, Session,
    Sighting, Span, Told,
};
use super::super::rules::Rule;
use super::ms;

/// One of them.
pub(super) struct Change {
    pub(super) name: &'static str,
    /// What it breaks at least.
    pub(super) rule: Rule,
    /// Whether the history had a place for it.
    pub(super) make: fn(&mut History, &mut Rng) -> bool,
}

/// All of them.
pub(super) const CHANGES: &[Change] = &[
    Change {
        name: "a push comes to another device",
        rule: Rule::WrongDevice,
        make: to_another_device,
    },
    Change {
        name: "a push comes that nobody sent",
        rule: Rule::WrongDevice,
        make: from_nobody,
    },
    Change {
        name: "a push comes twice",
        rule: Rule::Doubled,
        make: twice,
    },
    Change {
        name: "a push comes to a connection that was replaced",
        rule: Rule::ReplacedConnection,
        make: to_the_old_connection,
    },
    Change {
        name: "a push that came was answered offline",
        rule: Rule::SeenAfterRefusal,
        make: refused_and_seen,
    },
    Change {
        name: "a push that was written doesn't come",
        rule: Rule::WrittenNotSeen,
        make: written_and_not_seen,
    },
    Change {
        name: "a connected device is said to be offline",
        rule: Rule::FalseOffline,
        make: offline_while_connected,
    },
    Change {
        name: "a device is told as offline while it is connected",
        rule: Rule::FalseOffline,
        make: told_offline_while_connected,
    },
    Change {
        name: "a device that may resume is said to be offline",
        rule: Rule::EarlyOffline,
        make: offline_before_the_window,
    },
    Change {
        name: "a device that is gone is said to be online",
        rule: Rule::Ghost,
        make: online_when_gone,
    },
    Change {
        name: "a push to a device that is gone is written",
        rule: Rule::Ghost,
        make: written_when_gone,
    },
    Change {
        name: "the end of a session isn't told",
        rule: Rule::NotTold,
        make: end_not_told,
    },
    Change {
        name: "the end of a session is told late",
        rule: Rule::NotTold,
        make: end_told_late,
    },
    Change {
        name: "a session begins that nobody began",
        rule: Rule::UnexplainedEvent,
        make: nobodys_session,
    },
    Change {
        name: "a session is said to be over because its client left, and it hadn't",
        rule: Rule::UnexplainedEvent,
        make: another_reason,
    },
    Change {
        name: "an event comes twice on one stream",
        rule: Rule::RepeatedEvent,
        make: event_again,
    },
    Change {
        name: "two events change places",
        rule: Rule::EventOrder,
        make: swapped_events,
    },
    Change {
        name: "the beginning of a session isn't told",
        rule: Rule::OnlineNotTold,
        make: beginning_not_told,
    },
    Change {
        name: "a kick is done and the connection goes on",
        rule: Rule::Kicked,
        make: kicked_and_there,
    },
    Change {
        name: "a connection is closed as replaced, and nothing replaced it",
        rule: Rule::UnexplainedClose,
        make: replaced_by_nothing,
    },
    Change {
        name: "a connection is lost while all parts run",
        rule: Rule::UnexplainedClose,
        make: lost_without_a_fault,
    },
];

/// Any one of these.
fn any<T>(random: &mut Rng, list: Vec<T>) -> Option<T> {
    let place = (!list.is_empty()).then(|| random.usize(..list.len()))?;
    list.into_iter().nth(place)
}

/// Connections that lasted for so long after their login, at pods that never were at fault, of devices that never tried in vain and of
/// which no other connection was there at that time.
fn lasting(history: &History, time: Duration) -> Vec<Connection> {
    let faulty = |pod: usize| {
        history
            .faults
            .iter()
            .any(|fault| fault.part == Part::Gateway(pod) || fault.part == Part::State(pod))
    };
    let simple = |one: &&Connection| {
        let of_device = || {
            history
                .connections
                .iter()
                .filter(|other| other.device == one.device)
        };
        let login = one.login.map_or(Moment::NEVER, |login| login.at);
        let end = one.end.map_or(Moment(0), |end| end.from);
        let alone = of_device().all(|other| {
            let over = other.end.map_or(Moment::NEVER, |end| end.at);
            other.number == one.number || over < one.begun || other.begun > end
        });
        let sure = of_device().all(|other| !faulty(other.pod));
        alone && sure && login.plus(time) < end
    };
    history.connections.iter().filter(simple).cloned().collect()
}

/// A moment of a connection's life, so long after its login.
fn within(one: &Connection, time: Duration) -> Moment {
    one.login.map_or(one.begun, |login| login.at).plus(time)
}

fn add_push(history: &mut History, device: u32, at: Moment, said: Said) -> u64 {
    let id = history.pushes.len() as u64 + 1;
    history.pushes.push(Push {
        id,
        replica: 0,
        devices: vec![device],
        span: Span::new(at, at.plus(ms(5))),
        answers: Some(vec![said]),
    });
    id
}

fn add_question(history: &mut History, device: u32, at: Moment, said: Presence) {
    history.queries.push(Query {
        replica: 0,
        devices: vec![device],
        span: Span::new(at, at.plus(ms(5))),
        answers: Some(vec![said]),
    });
}

/// A place among the sightings.
fn a_sighting(history: &History, random: &mut Rng) -> Option<usize> {
    any(random, (0..history.sightings.len()).collect())
}

fn to_another_device(history: &mut History, random: &mut Rng) -> bool {
    let Some(place) = a_sighting(history, random) else {
        return false;
    };
    let from = history.sightings[place].connection as usize;
    let device = history.connections[from].device;
    let others = history.connections.iter().filter(|one| one.device != device);
    let Some(to) = any(random, others.map(|one| one.number).collect()) else {
        return false;
    };
    history.sightings[place].connection = to;
    true
}

fn from_nobody(history: &mut History, random: &mut Rng) -> bool {
    let Some(place) = a_sighting(history, random) else {
        return false;
    };
    history.sightings[place].push = random.bool().then_some(u64::MAX);
    true
}

fn twice(history: &mut History, random: &mut Rng) -> bool {
    let Some(place) = a_sighting(history, random) else {
        return false;
    };
    let seen = history.sightings[place];
    history.sightings.push(Sighting {
        at: seen.at.plus(ms(random.u64(1..500))),
        ..seen
    });
    true
}

/// Its client kept the old connection, and a push to its new one comes there.
fn to_the_old_connection(history: &mut History, random: &mut Rng) -> bool {
    let news = history.limits.news();
    let calm = history.faults.is_empty();
    let moved: Vec<(u32, u32, Moment)> = history
        .connections
        .iter()
        .filter(|one| {
            let code = one.end.map(|end| end.how);
            matches!(code, Some(Ending::Closed { code, .. }) if code != Code::Kicked as u16)
        })
        .filter_map(|one| {
            let end = one.end?.from;
            let next = history
                .connections
                .iter()
                .find(|next| next.device == one.device && next.begun < end && next.number > one.number)?;
            Some((one.number, one.device, next.login?.at))
        })
        .collect();
    let Some((number, device, at)) = any(random, moved).filter(|_| calm) else {
        return false;
    };
    let at = at.plus(news).plus(ms(100));
    let id = add_push(history, device, at, Said::Retry);
    history.sightings.push(Sighting {
        push: Some(id),
        connection: number,
        at: at.plus(ms(3)),
    });
    true
}

fn refused_and_seen(history: &mut History, random: &mut Rng) -> bool {
    let Some(place) = a_sighting(history, random) else {
        return false;
    };
    let id = history.sightings[place].push;
    let push = history.pushes.iter_mut().find(|push| Some(push.id) == id);
    let said = if random.bool() {
        Said::Offline
    } else {
        Said::Refused
    };
    push.is_some_and(|push| {
        push.answers = Some(vec![said]);
        true
    })
}

fn written_and_not_seen(history: &mut History, random: &mut Rng) -> bool {
    let after = history.limits.slack + ms(200);
    let Some(one) = any(random, lasting(history, after + ms(100))) else {
        return false;
    };
    add_push(history, one.device, within(&one, ms(50)), Said::Written);
    true
}

fn offline_while_connected(history: &mut History, random: &mut Rng) -> bool {
    let after = history.limits.news() + ms(100);
    let Some(one) = any(random, lasting(history, after + ms(100))) else {
        return false;
    };
    if random.bool() {
        add_push(history, one.device, within(&one, after), Said::Offline);
    } else {
        add_question(history, one.device, within(&one, after), Presence::Offline);
    }
    true
}

fn told_offline_while_connected(history: &mut History, random: &mut Rng) -> bool {
    let after = history.limits.resume_window + history.limits.news() + history.limits.slack + ms(100);
    let Some(one) = any(random, lasting(history, after + ms(100))) else {
        return false;
    };
    let Some(login) = one.login else { return false };
    let stream = u32::try_from(history.streams.len()).unwrap();
    history.streams.push("somebody".to_owned());
    history.heard.push(Heard {
        at: within(&one, after),
        stream,
        sequence: 1,
        told: Told::Offline {
            reason: Code::ConnectionLost as u16,
        },
        device: one.device,
        session: login.session,
        epoch: login.epoch,
    });
    true
}

fn offline_before_the_window(history: &mut History, random: &mut Rng) -> bool {
    let cut = |one: &Connection| one.end.is_some_and(|end| end.how == Ending::Cut);
    let mut kept = lasting(history, history.limits.news() + ms(500));
    kept.retain(cut);
    let Some(one) = any(random, kept) else {
        return false;
    };
    let at = one.end.map_or(one.begun, |end| end.at).plus(ms(20));
    add_question(history, one.device, at, Presence::Offline);
    true
}

/// Devices that were gone for so long before they came again, or for good, with the moment.
fn gone_for(history: &History, time: Duration) -> Vec<(Connection, Moment)> {
    let ends = lasting(history, Duration::ZERO).into_iter();
    ends.filter_map(|one| {
        let gone = one.end?.at.plus(time);
        let back = history
            .connections
            .iter()
            .any(|other| other.device == one.device && other.number > one.number && other.begun <= gone);
        (!back).then_some((one, gone))
    })
    .collect()
}

fn online_when_gone(history: &mut History, random: &mut Rng) -> bool {
    let time = history.limits.resume_window + history.limits.news() + ms(200);
    let Some((one, gone)) = any(random, gone_for(history, time)) else {
        return false;
    };
    add_question(history, one.device, gone.minus(ms(50)), Presence::Online);
    true
}

fn written_when_gone(history: &mut History, random: &mut Rng) -> bool {
    let time = history.limits.news() + ms(200);
    let Some((one, gone)) = any(random, gone_for(history, time)) else {
        return false;
    };
    add_push(history, one.device, gone.minus(ms(50)), Said::Written);
    true
}

/// The places of the events that tell the ends of sessions whose devices stayed away for long enough afterwards.
fn ends(history: &History) -> Vec<usize> {
    let time = history.limits.resume_window + history.limits.news() + Duration::from_secs(3);
    let gone = gone_for(history, time);
    let of_those = |heard: &Heard| {
        let same = |one: &Connection| {
            one.login
                .is_some_and(|login| login.session == heard.session && login.epoch == heard.epoch)
        };
        matches!(heard.told, Told::Offline { .. }) && gone.iter().any(|(one, _)| same(one))
    };
    let places = history.heard.iter().enumerate();
    places
        .filter(|(_, heard)| of_those(heard))
        .map(|(place, _)| place)
        .collect()
}

fn end_not_told(history: &mut History, random: &mut Rng) -> bool {
    let Some(place) = any(random, ends(history)) else {
        return false;
    };
    let gone = history.heard.remove(place);
    // Nor later ones of the device: they would tell that it is offline as well.
    history
        .heard
        .retain(|heard| heard.device != gone.device || heard.epoch < gone.epoch);
    true
}

fn end_told_late(history: &mut History, random: &mut Rng) -> bool {
    let Some(place) = any(random, ends(history)) else {
        return false;
    };
    let late = history.limits.ghost() + Duration::from_secs(10);
    let heard = history.heard[place];
    history
        .heard
        .retain(|other| other.device != heard.device || other.epoch <= heard.epoch);
    if let Some(told) = history.heard.iter_mut().find(|other| **other == heard) {
        told.at = told.at.plus(late);
    }
    true
}

fn nobodys_session(history: &mut History, random: &mut Rng) -> bool {
    let device = random.u32(..super::DEVICES);
    let in_vain = history
        .connections
        .iter()
        .any(|one| one.device == device && one.login.is_none() && one.login_sent.is_some());
    let restarted = history.faults.iter().any(|fault| fault.kind == FaultKind::Kill);
    let paused = !history.faults.is_empty();
    if in_vain || restarted || paused {
        return false;
    }
    let stream = u32::try_from(history.streams.len()).unwrap();
    history.streams.push("somebody".to_owned());
    history.heard.push(Heard {
        at: Moment(0).plus(Duration::from_secs(60)),
        stream,
        sequence: 1,
        told: Told::Online,
        device,
        session: Session([7; 16]),
        epoch: 1,
    });
    true
}

fn another_reason(history: &mut History, random: &mut Rng) -> bool {
    let lost = Told::Offline {
        reason: Code::ConnectionLost as u16,
    };
    let places = (0..history.heard.len()).filter(|place| {
        let heard = &history.heard[*place];
        let left = history.connections.iter().any(|one| {
            one.login.is_some_and(|login| login.session == heard.session)
                && one.end.is_some_and(|end| end.how == Ending::Left)
        });
        let known = history.connections.iter().any(|one| {
            one.login
                .is_some_and(|login| login.session == heard.session && login.epoch <= heard.epoch)
        });
        heard.told == lost && known && !left
    });
    let Some(place) = any(random, places.collect()) else {
        return false;
    };
    let code = any(random, vec![Code::ClientLeft, Code::Superseded, Code::Ok]);
    history.heard[place].told = Told::Offline {
        reason: code.unwrap_or(Code::Ok) as u16,
    };
    true
}

fn event_again(history: &mut History, random: &mut Rng) -> bool {
    let Some(place) = any(random, (0..history.heard.len()).collect()) else {
        return false;
    };
    let heard = history.heard[place];
    let last = history.heard.iter().filter(|other| other.stream == heard.stream);
    let sequence = last.map(|other| other.sequence).max().unwrap_or_default() + 1;
    history.heard.push(Heard {
        at: history.end,
        sequence,
        ..heard
    });
    true
}

fn swapped_events(history: &mut History, random: &mut Rng) -> bool {
    let places = (1..history.heard.len()).filter(|place| {
        let (before, after) = (&history.heard[place - 1], &history.heard[*place]);
        before.stream == after.stream
    });
    let Some(place) = any(random, places.collect()) else {
        return false;
    };
    history.heard.swap(place - 1, place);
    true
}

fn beginning_not_told(history: &mut History, random: &mut Rng) -> bool {
    let new: Vec<(Session, u64)> = lasting(history, ms(1))
        .iter()
        .filter_map(|one| one.login.filter(|login| !login.resumed))
        .map(|login| (login.session, login.epoch))
        .collect();
    let Some((session, epoch)) = any(random, new) else {
        return false;
    };
    history
        .heard
        .retain(|heard| heard.told != Told::Online || heard.session != session || heard.epoch != epoch);
    true
}

fn kicked_and_there(history: &mut History, random: &mut Rng) -> bool {
    let time = history.limits.news() + ms(500);
    let mut there = lasting(history, time);
    // Kicked by somebody else already, or with an earlier session that might be the one.
    there.retain(|one| {
        let back = one.begun.minus(history.limits.ghost() + history.limits.news());
        let before = history.connections.iter().any(|other| {
            other.device == one.device
                && other.number < one.number
                && other.end.is_some_and(|end| end.at >= back)
        });
        !before
    });
    let Some(one) = any(random, there) else {
        return false;
    };
    let at = within(&one, ms(20));
    history.kicks.push(Kick {
        replica: 0,
        device: one.device,
        span: Span::new(at, at.plus(ms(5))),
        answer: Some(Said::Done),
    });
    true
}

fn change_end(history: &mut History, random: &mut Rng, how: Ending) -> bool {
    let mut cut = lasting(history, ms(1));
    cut.retain(|one| one.end.is_some_and(|end| end.how == Ending::Cut));
    let Some(one) = any(random, cut) else { return false };
    if let Some(end) = &mut history.connections[one.number as usize].end {
        end.how = how;
    }
    true
}

fn replaced_by_nothing(history: &mut History, random: &mut Rng) -> bool {
    let code = if random.bool() {
        Code::Superseded
    } else {
        Code::Kicked
    };
    let kicked = !history.kicks.is_empty();
    let code = if kicked { Code::Superseded } else { code } as u16;
    change_end(
        history,
        random,
        Ending::Closed {
            code,
            resumable: false,
        },
    )
}

fn lost_without_a_fault(history: &mut History, random: &mut Rng) -> bool {
    let code = Code::StateLost as u16;
    let how = if random.bool() {
        Ending::Lost
    } else {
        Ending::Closed {
            code,
            resumable: true,
        }
    };
    change_end(history, random, how)
}
