//! Changes of what is called, answered and seen at connections.

use fastrand::Rng;
use imaccess_wire::Code;

use super::super::super::record::{
    Connection, Ending, History, Kick, Moment, Presence, Push, Query, Said, Sighting, Span,
};
use super::super::ms;
use super::{any, gone_for, lasting, within};

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

pub(super) fn to_another_device(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn from_nobody(history: &mut History, random: &mut Rng) -> bool {
    let Some(place) = a_sighting(history, random) else {
        return false;
    };
    history.sightings[place].push = random.bool().then_some(u64::MAX);
    true
}

pub(super) fn twice(history: &mut History, random: &mut Rng) -> bool {
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
pub(super) fn to_the_old_connection(history: &mut History, random: &mut Rng) -> bool {
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
            // Of one that is gone at once nobody has to have heard.
            let login = next.login?.at;
            let lasted = next
                .end
                .is_none_or(|end| end.from > login.plus(history.limits.lag));
            lasted.then_some((one.number, one.device, login))
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

pub(super) fn refused_and_seen(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn written_and_not_seen(history: &mut History, random: &mut Rng) -> bool {
    let after = history.limits.slack + ms(200);
    let Some(one) = any(random, lasting(history, after + ms(100))) else {
        return false;
    };
    add_push(history, one.device, within(&one, ms(50)), Said::Written);
    true
}

pub(super) fn offline_while_connected(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn offline_before_the_window(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn online_when_gone(history: &mut History, random: &mut Rng) -> bool {
    let time = history.limits.resume_window + history.limits.news() + ms(200);
    let Some((one, gone)) = any(random, gone_for(history, time)) else {
        return false;
    };
    add_question(history, one.device, gone.minus(ms(50)), Presence::Online);
    true
}

pub(super) fn written_when_gone(history: &mut History, random: &mut Rng) -> bool {
    let time = history.limits.news() + ms(200);
    let Some((one, gone)) = any(random, gone_for(history, time)) else {
        return false;
    };
    add_push(history, one.device, gone.minus(ms(50)), Said::Written);
    true
}

pub(super) fn kicked_and_there(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn replaced_by_nothing(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn lost_without_a_fault(history: &mut History, random: &mut Rng) -> bool {
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

pub(super) fn whole_late(history: &mut History, random: &mut Rng) -> bool {
    let places = (0..history.faults.len()).collect();
    let Some(place) = any(random, places) else {
        return false;
    };
    history.faults[place].settled = history.end;
    true
}
