//! The form of what a business is told: order, repetitions, and that nothing is missing at the beginning.

use std::collections::{BTreeMap, HashMap};

use imaccess_wire::Code;

use super::{Case, Rule};
use crate::history::record::{Device, Heard, Moment, Session, Span, Told};
use crate::history::verdict::Verdict;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    streams_count(case, verdict);
    for (&device, heard) in case.heard {
        in_order(case, verdict, device, heard);
        told_once(case, verdict, device, heard);
        ends_alternate(case, verdict, device, heard);
    }
    beginnings_told(case, verdict);
}

/// Whether two events say the same; why a session is over may be known worse by who tells it again.
fn kind(told: Told) -> u8 {
    match told {
        Told::Online => 1,
        Told::Offline { .. } => 2,
        Told::SessionLost => 3,
        Told::ResyncNeeded => 4,
        Told::Nonsense => 0,
    }
}

/// Events are numbered from 1 on each stream.
fn streams_count(case: &Case<'_>, verdict: &mut Verdict) {
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for heard in &case.history.heard {
        let expected = next.entry(heard.stream).or_insert(1);
        if heard.sequence != *expected {
            let text = format!(
                "stream {} of {}: number {} where {expected} was due",
                heard.stream,
                case.dialler(heard),
                heard.sequence
            );
            verdict.violated(Rule::EventOrder, heard.device, heard.at, text);
        }
        *expected = heard.sequence + 1;
    }
}

/// What is told: kind, session, epoch.
type Event = (u8, Session, u64);

/// One dialler tells of a device in the order of epochs; what it tells again, it told before.
fn in_order(case: &Case<'_>, verdict: &mut Verdict, device: Device, events: &[&Heard]) {
    let mut told: HashMap<&str, (u64, Vec<Event>)> = HashMap::new();
    for heard in events {
        let (highest, before) = told.entry(case.dialler(heard)).or_default();
        let event = (kind(heard.told), heard.session, heard.epoch);
        if heard.epoch < *highest && !before.contains(&event) {
            let text = format!(
                "{} told {:?} of epoch {} after one of epoch {highest}",
                case.dialler(heard),
                heard.told,
                heard.epoch
            );
            verdict.violated(Rule::EventOrder, device, heard.at, text);
        }
        *highest = (*highest).max(heard.epoch);
        before.push(event);
    }
}

/// The same again comes from the same dialler, on a later stream: the one before broke, by a fault of that sidecar, before all knew that it
/// was acknowledged. But the sessions of a lost instance are told by whoever the replicas choose, each for itself, and by the instance when
/// it comes back after all.
fn told_once(case: &Case<'_>, verdict: &mut Verdict, device: Device, events: &[&Heard]) {
    let mut first: HashMap<Event, &Heard> = HashMap::new();
    for &heard in events {
        let event = (kind(heard.told), heard.session, heard.epoch);
        let Some(before) = first.insert(event, heard) else {
            continue;
        };
        let later = heard.stream > before.stream && case.dialler(heard) == case.dialler(before);
        let meanwhile = Span::new(before.at, heard.at);
        let broke = case
            .teller(heard)
            .is_some_and(|pod| case.health.state_disturbed(pod, meanwhile));
        if later && broke {
            verdict.excused("event_told_again_on_a_later_stream");
        } else if heard.stream != before.stream && (is_of_lost_instance(heard) || is_of_lost_instance(before))
        {
            verdict.excused("end_told_again_for_a_lost_instance");
        } else {
            let text = format!(
                "{:?} of session {:?}, epoch {}, by {} at {}, and again by {}",
                heard.told,
                heard.session,
                heard.epoch,
                case.dialler(before),
                before.at,
                case.dialler(heard)
            );
            verdict.violated(Rule::RepeatedEvent, device, heard.at, text);
        }
    }
}

fn is_of_lost_instance(heard: &Heard) -> bool {
    let reason = Code::InstanceLost as u16;
    heard.told == Told::Offline { reason }
}

/// A session is over once for each time that it went on: between two ends there is a login.
fn ends_alternate(case: &Case<'_>, verdict: &mut Verdict, device: Device, events: &[&Heard]) {
    let mut ends: BTreeMap<Session, BTreeMap<u64, &Heard>> = BTreeMap::new();
    let offline = |heard: &&Heard| matches!(heard.told, Told::Offline { .. });
    for heard in events.iter().copied().filter(offline) {
        ends.entry(heard.session).or_default().insert(heard.epoch, heard);
    }
    for (session, by_epoch) in ends {
        let mut last = None;
        for (epoch, heard) in by_epoch {
            let Some(before) = last.replace(epoch) else {
                continue;
            };
            let between = case.timelines.get(&device).is_some_and(|timeline| {
                let mut logins = timeline.attempts.iter().filter_map(|attempt| attempt.login());
                logins.any(|login| login.session == session && login.epoch > before && login.epoch <= epoch)
                    || timeline.may_have_logged_in_unseen(Span::new(Moment(0), heard.at))
            });
            if !between {
                let text = format!(
                    "session {session:?} is over at epoch {before}, and again at {epoch}, and nobody logged in meanwhile"
                );
                verdict.violated(Rule::RepeatedEvent, device, heard.at, text);
            }
        }
    }
}

/// Each new session is told, unless its sidecar died before the business had acknowledged it.
fn beginnings_told(case: &Case<'_>, verdict: &mut Verdict) {
    for timeline in case.timelines.values() {
        let heard = case.heard_of(timeline.device);
        for attempt in &timeline.attempts {
            let Some(login) = attempt.login().filter(|login| !login.resumed) else {
                continue;
            };
            let sent = attempt.seen.login_sent.unwrap_or(attempt.seen.begun);
            // A login that is taken again, because its gateway or its link was replaced before the answer, goes on with the session of the first
            // time, which was told.
            let told = heard.iter().any(|event| {
                let taken_before = sent <= event.at && event.epoch < login.epoch;
                let same = event.session == login.session && (event.epoch == login.epoch || taken_before);
                event.told == Told::Online && same
            });
            let by = login.at.plus(case.limits.news());
            if told || by > case.history.end {
                continue;
            }
            let begin = Span::new(sent, by);
            if case.health.state_killed(attempt.seen.pod, begin) {
                verdict.excused("online_not_told_because_its_state_died");
                continue;
            }
            let text = format!(
                "connection {} logged in at {} with a new session, and no business was told",
                attempt.seen.number, login.at
            );
            verdict.violated(Rule::OnlineNotTold, timeline.device, by, text);
        }
    }
}
