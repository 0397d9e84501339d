//! Pushes that were written are read, unless the connection ended first.

use std::collections::HashSet;

use super::{Case, Rule};
use crate::history::record::{Device, Push, Said};
use crate::history::timeline::{Attempt, Timeline};
use crate::history::verdict::Verdict;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    let seen: HashSet<(u64, Device)> = case
        .history
        .sightings
        .iter()
        .filter_map(|sighting| {
            let connection = case.history.connections.get(sighting.connection as usize)?;
            Some((sighting.push?, connection.device))
        })
        .collect();
    for push in &case.history.pushes {
        for &device in &push.devices {
            let written = matches!(push.said(device), Some(Said::Written | Said::Acknowledged));
            if written
                && !seen.contains(&(push.id, device))
                && let Some(timeline) = case.timelines.get(&device)
            {
                not_seen(case, verdict, push, timeline);
            }
        }
    }
}

/// A push was written and came nowhere. A kernel that has a push keeps it through the death of any of our processes, so that only the
/// connection's own end excuses it.
fn not_seen(case: &Case<'_>, verdict: &mut Verdict, push: &Push, timeline: &Timeline<'_>) {
    let read_by = push.span.to.plus(case.limits.slack);
    let could_have_it = |attempt: &&Attempt<'_>| {
        attempt
            .effect
            .is_some_and(|effect| effect.from <= push.span.to && attempt.over_at() >= push.span.from)
    };
    let candidates: Vec<&Attempt<'_>> = timeline.attempts.iter().filter(could_have_it).collect();
    if candidates.is_empty() {
        // Written to nobody: the rule of ghosts.
        return;
    }
    let ended = candidates.iter().any(|attempt| attempt.open_until() <= read_by);
    if ended {
        return verdict.excused("push_written_to_a_connection_that_ended");
    }
    let numbers: Vec<u32> = candidates.iter().map(|attempt| attempt.seen.number).collect();
    let text = format!(
        "push {} was answered written at {} and never came; connections {numbers:?} went on",
        push.id, push.span.to
    );
    verdict.violated(Rule::WrittenNotSeen, timeline.device, push.span.to, text);
}
