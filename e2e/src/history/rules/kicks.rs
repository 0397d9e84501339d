//! A kick that is done ends the session.

use std::time::Duration;

use imaccess_wire::Code;

use super::{Case, Rule};
use crate::history::health::Count;
use crate::history::record::{Ending, Kick, Moment, Said, Span, Told};
use crate::history::timeline::{Attempt, Timeline};
use crate::history::verdict::Verdict;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    for kick in &case.history.kicks {
        match kick.answer {
            Some(Said::Done) => {
                if let Some(timeline) = case.timelines.get(&kick.device) {
                    done(case, verdict, kick, timeline);
                } else {
                    let text = "a kick was done to a device that never did anything".to_owned();
                    verdict.violated(Rule::Kicked, kick.device, kick.span.to, text);
                }
            }
            // What may have happened is in the timeline's doubts.
            Some(Said::Offline | Said::Retry | Said::Unknown) | None => {}
            Some(other) => {
                let text = format!("a kick was answered {other:?}");
                verdict.violated(Rule::Kicked, kick.device, kick.span.to, text);
            }
        }
    }
}

fn done(case: &Case<'_>, verdict: &mut Verdict, kick: &Kick, timeline: &Timeline<'_>) {
    let limits = case.limits;
    let hit = |attempt: &&Attempt<'_>| {
        // Also a session that was waiting to be resumed.
        let until = match attempt.seen.end {
            None => Moment::NEVER,
            Some(end) => case
                .health
                .after(attempt.seen.pod, end.at, limits.resume_window, Count::Whole)
                .plus(limits.news()),
        };
        let began = attempt.effect.is_some_and(|effect| effect.from <= kick.span.to);
        // One that a later login had replaced for all to know isn't meant.
        let replaced = timeline
            .attempts
            .iter()
            .filter_map(|other| other.login())
            .any(|login| login.epoch > attempt.epoch() && login.at.plus(limits.news()) <= kick.span.from);
        began && until >= kick.span.from && !(replaced && attempt.login().is_some())
    };
    let candidates: Vec<&Attempt<'_>> = timeline.attempts.iter().filter(hit).collect();
    if candidates.is_empty() {
        let text = format!("done at {}, and there was no session", kick.span.to);
        return verdict.violated(Rule::Kicked, kick.device, kick.span.to, text);
    }
    // Which of several it hit isn't known: then only that it hit one is judged.
    let [one] = candidates[..] else {
        return verdict.excused("kick_that_may_have_hit_one_of_several");
    };
    let by = case
        .health
        .after(one.seen.pod, kick.span.to, Duration::ZERO, Count::Whole)
        .plus(case.limits.news());
    let meanwhile = Span::new(kick.span.from, by);
    if case.health.state_killed(one.seen.pod, meanwhile) {
        // The sidecar that had done it died, and with it what it was still to say.
        return verdict.excused("kick_done_by_a_state_that_died");
    }
    if one.over_at() > by {
        let text = format!(
            "connection {} is kicked since {}, and goes on",
            one.seen.number, kick.span.to
        );
        return verdict.violated(Rule::Kicked, kick.device, by, text);
    }
    let Some(login) = one.login() else { return };
    // The connection may have ended otherwise meanwhile; what its business hears is the session's end.
    let reasons: Vec<u16> = case
        .heard_of(kick.device)
        .iter()
        .filter(|heard| heard.session == login.session && heard.epoch >= login.epoch)
        .filter_map(|heard| match heard.told {
            Told::Offline { reason } => Some(reason),
            _ => None,
        })
        .collect();
    let said = one
        .seen
        .end
        .is_some_and(|end| matches!(end.how, Ending::Closed { code, .. } if code == Code::Kicked as u16));
    // What its business hears waits for every replica's word; who logs in again before is online, and that is what is told.
    let told_by = case.health.confirmed_after(by).plus(case.limits.news());
    let back = timeline.attempts.iter().any(|other| {
        let later = other.login().is_none_or(|login| login.epoch > one.epoch());
        let meets = other
            .effect
            .is_some_and(|effect| effect.meets(Span::new(kick.span.from, told_by)));
        later && meets && other.seen.number != one.seen.number
    });
    if back && reasons.is_empty() {
        return verdict.excused("kick_not_told_because_the_device_came_back_first");
    }
    if reasons.is_empty() && told_by <= case.history.end && !case.health.lost(one.seen.pod, meanwhile) {
        let text = format!("session {:?} is kicked, and no business was told", login.session);
        verdict.violated(Rule::Kicked, kick.device, by, text);
    }
    if said && !reasons.is_empty() && !reasons.contains(&(Code::Kicked as u16)) {
        let text = format!(
            "session {:?}: its client was told that it is kicked, its business {reasons:?}",
            login.session
        );
        verdict.violated(Rule::Kicked, kick.device, by, text);
    }
}
