//! Where pushes come to.

use std::collections::{HashMap, HashSet};

use super::{Case, Rule};
use crate::history::record::{Device, Moment, Push, Said, Sighting, Span};
use crate::history::timeline::{Attempt, Timeline};
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
    if let Some(timeline) = case.timelines.get(&device)
        && let Some(later) = replaced_before(timeline, number, push.span.from, case)
    {
        let was_told = Span::new(later.seen.login_sent.unwrap_or_default(), push.span.from);
        let here = case.history.connections[number as usize].pod;
        let hidden = case.health.pod_disturbed(later.seen.pod, was_told)
            || case.health.pod_disturbed(here, was_told)
            || case.health.routing_disturbed(was_told);
        if hidden {
            // Nobody could know of the later login: the pod that has it, or who listens to it, was away.
            return verdict.excused("push_at_a_replaced_connection_while_parts_were_away");
        }
        let text = format!(
            "push {}, sent at {}, came on connection {number}, which connection {} had replaced at {}",
            push.id,
            push.span.from,
            later.seen.number,
            later.login().map_or(Moment::NEVER, |login| login.at),
        );
        verdict.violated(Rule::ReplacedConnection, device, sighting.at, text);
    }
}

/// The login of the same device that had replaced a connection, as everybody could know by that moment.
fn replaced_before<'t, 'a>(
    timeline: &'t Timeline<'a>,
    number: u32,
    by: Moment,
    case: &Case<'_>,
) -> Option<&'t Attempt<'a>> {
    let this = timeline
        .attempts
        .iter()
        .find(|attempt| attempt.seen.number == number)?;
    timeline.attempts.iter().find(|other| {
        other.login().is_some_and(|login| {
            login.epoch > this.epoch() && login.at.plus(case.limits.news()) <= by && this.login().is_some()
        })
    })
}
