//! Where pushes come to.

use std::collections::{HashMap, HashSet};

use super::{Case, Rule};
use crate::history::record::{Device, Moment, Push, Said, Sighting};
use crate::history::timeline::Timeline;
use crate::history::verdict::Verdict;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    let sent: HashMap<u64, &Push> = case.history.pushes.iter().map(|push| (push.id, push)).collect();
    let mut seen: HashSet<(u64, Device)> = HashSet::new();
    for sighting in &case.history.sightings {
        let Some(connection) = case.history.connections.get(sighting.connection as usize) else {
            continue;
        };
        let device = connection.device;
        let push = sighting.push.and_then(|id| sent.get(&id).copied());
        let Some(push) = push else {
            let text = format!(
                "connection {}: a push that nobody sent: {sighting:?}",
                sighting.connection
            );
            verdict.violated(Rule::WrongDevice, device, sighting.at, text);
            continue;
        };
        at_one(case, verdict, push, sighting, device);
        if !seen.insert((push.id, device)) {
            let text = format!(
                "push {} came again, on connection {}",
                push.id, sighting.connection
            );
            verdict.violated(Rule::Doubled, device, sighting.at, text);
        }
    }
}

/// One push at one connection.
fn at_one(case: &Case<'_>, verdict: &mut Verdict, push: &Push, sighting: &Sighting, device: Device) {
    let number = sighting.connection;
    if !push.devices.contains(&device) {
        let text = format!(
            "push {} for {:?} came on connection {number}",
            push.id, push.devices
        );
        return verdict.violated(Rule::WrongDevice, device, sighting.at, text);
    }
    if sighting.at < push.span.from {
        let text = format!(
            "push {} came on connection {number} before it was sent at {}",
            push.id, push.span.from
        );
        verdict.violated(Rule::WrongDevice, device, sighting.at, text);
    }
    match push.said(device) {
        Some(said @ (Said::Offline | Said::Refused | Said::Nonsense)) => {
            let text = format!(
                "push {} was answered {said:?} at {} and came on connection {number}",
                push.id, push.span.to
            );
            verdict.violated(Rule::SeenAfterRefusal, device, sighting.at, text);
        }
        // Nobody knew, and it came: that is what these answers mean.
        Some(Said::Retry | Said::Unknown) => verdict.excused("push_seen_though_not_known"),
        _ => {}
    }
    if let Some(timeline) = case.timelines.get(&device) {
        at_replaced(case, verdict, push, sighting, timeline);
    }
}

/// One push at a connection that a later login of its device has replaced.
fn at_replaced(
    case: &Case<'_>,
    verdict: &mut Verdict,
    push: &Push,
    sighting: &Sighting,
    timeline: &Timeline<'_>,
) {
    let number = sighting.connection;
    let mut attempts = timeline.attempts.iter();
    let this = attempts.find(|attempt| attempt.seen.number == number && attempt.login().is_some());
    let Some(this) = this else { return };
    // Whose login was there for that long was known of by then, if no fault kept it from being known.
    let before = push.span.from.minus(case.limits.news());
    let Some(later) = timeline.replaced_by(this, before, case.health, case.limits) else {
        let replaced = timeline.attempts.iter().any(|other| {
            let login = other.login().filter(|login| login.epoch > this.epoch());
            login.is_some_and(|login| login.at <= before)
        });
        if replaced {
            verdict.excused("push_at_a_connection_whose_replacement_may_not_have_been_known");
        }
        return;
    };
    let text = format!(
        "push {}, sent at {}, came on connection {number}, which connection {} had replaced at {}",
        push.id,
        push.span.from,
        later.seen.number,
        later.login().map_or(Moment::NEVER, |login| login.at),
    );
    verdict.violated(Rule::ReplacedConnection, timeline.device, sighting.at, text);
}
