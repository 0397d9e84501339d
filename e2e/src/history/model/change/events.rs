//! Changes of what businesses are told.

use std::time::Duration;

use fastrand::Rng;
use imaccess_wire::Code;

use super::super::super::record::{Connection, Ending, FaultKind, Heard, History, Moment, Session, Told};
use super::super::{DEVICES, ms};
use super::{any, gone_for, lasting, within};

pub(super) fn told_offline_while_connected(history: &mut History, random: &mut Rng) -> bool {
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

/// Its first pod doesn't know, or doesn't care, that it was resumed at another one, and tells that it is over.
pub(super) fn told_offline_after_it_went_on(history: &mut History, random: &mut Rng) -> bool {
    let limits = history.limits;
    let went_on = history.connections.iter().filter_map(|one| {
        let (before, cut) = (one.login?, one.end.filter(|end| end.how == Ending::Cut)?);
        let next = history
            .connections
            .iter()
            .find(|next| next.device == one.device && next.begun >= cut.at)?;
        let login = next.login.filter(|login| login.session == before.session)?;
        let told = cut.at.plus(limits.resume_window + ms(50));
        let in_time = login.at.plus(limits.slack) <= cut.from.plus(limits.resume_window);
        let there = next.end.is_none_or(|end| end.from > told.plus(ms(100)));
        // A kick's outcome isn't seen at once.
        let kicked = history.kicks.iter().any(|kick| {
            let felt = kick.span.to.plus(Duration::from_secs(20));
            kick.device == one.device && kick.span.from <= told && felt >= cut.from
        });
        (in_time && there && !kicked).then_some((one.device, before, told))
    });
    let calm = history.faults.is_empty();
    let Some((device, before, at)) = any(random, went_on.collect()).filter(|_| calm) else {
        return false;
    };
    let stream = u32::try_from(history.streams.len()).unwrap();
    history.streams.push("somebody".to_owned());
    history.heard.push(Heard {
        at,
        stream,
        sequence: 1,
        told: Told::Offline {
            reason: Code::ConnectionLost as u16,
        },
        device,
        session: before.session,
        epoch: before.epoch,
    });
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

pub(super) fn end_not_told(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn end_told_late(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn nobodys_session(history: &mut History, random: &mut Rng) -> bool {
    let device = random.u32(..DEVICES);
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

pub(super) fn another_reason(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn event_again(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn swapped_events(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn beginning_not_told(history: &mut History, random: &mut Rng) -> bool {
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
