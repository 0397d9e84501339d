//! A device that is gone for good is told as offline, in time.

use super::{Case, Rule};
use crate::history::health::Count;
use crate::history::record::{Moment, Span, Told};
use crate::history::timeline::{Attempt, Timeline};
use crate::history::verdict::Verdict;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    for timeline in case.timelines.values() {
        for (index, attempt) in timeline.attempts.iter().enumerate() {
            if attempt.login().is_some() {
                after(case, verdict, timeline, index, attempt);
            }
        }
    }
}

/// A session whose connection ended: if no later attempt of its device began before it had to be over, that was told.
fn after(case: &Case<'_>, verdict: &mut Verdict, timeline: &Timeline<'_>, index: usize, one: &Attempt<'_>) {
    let over = one.over_at();
    if over == Moment::NEVER {
        return;
    }
    let limits = case.limits;
    let by = case
        .health
        .after(one.seen.pod, over, limits.resume_window, Count::Whole);
    let by = case.health.confirmed_after(by).plus(limits.news());
    // Another attempt, before or after it, that may be there until then changes what is to be told.
    let until_then = Span::new(one.seen.login_sent.unwrap_or_default(), by);
    let others = timeline.attempts.iter().enumerate();
    let later = others.filter(|(other, attempt)| {
        let later = attempt.login().is_none_or(|login| login.epoch > one.epoch());
        *other != index && later && attempt.effect.is_some_and(|effect| effect.meets(until_then))
    });
    let (mut known, mut unseen) = (false, false);
    for (_, attempt) in later {
        known |= attempt.login().is_some();
        unseen |= attempt.login().is_none();
    }
    if known {
        return verdict.excused("end_of_a_session_whose_device_came_back");
    }
    if unseen {
        return verdict.excused("end_of_a_session_beside_a_login_that_was_given_up");
    }
    if by > case.history.end {
        return verdict.excused("end_of_a_session_that_is_told_after_the_history");
    }
    verdict.judged("ends_of_sessions");
    let told = case.heard_of(timeline.device).iter().find(|heard| {
        matches!(heard.told, Told::Offline { .. })
            && heard.epoch >= one.epoch()
            && heard.at >= one.login().map_or(Moment(0), |login| login.at)
    });
    match told {
        Some(told) if told.at <= by => {
            verdict.longest_until_told = verdict.longest_until_told.max(told.at.since(over));
        }
        _ if case.health.lost(one.seen.pod, until_then) => {
            verdict.excused("offline_not_told_because_the_pod_was_lost");
        }
        told => {
            let when = told.map_or_else(|| "never".to_owned(), |told| format!("at {}", told.at));
            let text = format!(
                "connection {} ended at {over}, and that its session is over was told {when}, not by {by}",
                one.seen.number
            );
            verdict.violated(Rule::NotTold, timeline.device, by, text);
        }
    }
}
