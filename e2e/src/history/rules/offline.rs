//! Nobody is said to be offline who isn't.

use super::{Case, Rule};
use crate::history::record::{Device, Heard, Moment, Presence, Said, Span, Told};
use crate::history::timeline::{Attempt, Timeline};
use crate::history::verdict::Verdict;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    for push in &case.history.pushes {
        for &device in &push.devices {
            if push.said(device) == Some(Said::Offline) {
                answer(case, verdict, device, push.span, "a push", push.replica);
            }
        }
    }
    for kick in &case.history.kicks {
        if kick.answer == Some(Said::Offline) {
            answer(case, verdict, kick.device, kick.span, "a kick", kick.replica);
        }
    }
    for query in &case.history.queries {
        let answers = query.answers.iter().flatten();
        for (&device, _) in query
            .devices
            .iter()
            .zip(answers)
            .filter(|(_, said)| **said == Presence::Offline)
        {
            answer(case, verdict, device, query.span, "a question", query.replica);
        }
    }
    for heard in &case.history.heard {
        if let Told::Offline { .. } = heard.told
            && let Some(timeline) = case.timelines.get(&heard.device)
        {
            event(case, verdict, heard, timeline);
        }
    }
}

/// A replica said that a device is offline. It may be wrong for as long as news travel, but not about who was there all that time.
fn answer(case: &Case<'_>, verdict: &mut Verdict, device: Device, call: Span, what: &str, replica: usize) {
    let Some(timeline) = case.timelines.get(&device) else {
        return;
    };
    let span = Span::new(call.from.minus(case.limits.news()), call.to);
    let here = timeline
        .attempts
        .iter()
        .find(|attempt| attempt.had_session(span, case.limits));
    let Some(attempt) = here else {
        let doubted = timeline.attempts.iter().any(|attempt| {
            attempt.open_until() > call.to && attempt.login().is_some() && attempt.doubted(span)
        });
        if doubted {
            verdict.excused("offline_answer_while_the_session_is_in_doubt");
        }
        return;
    };
    let rule = if attempt.open_until() > call.to {
        Rule::FalseOffline
    } else {
        Rule::EarlyOffline
    };
    let text = format!(
        "{what} by replica {replica}, {} to {}, was answered offline; {}",
        call.from,
        call.to,
        told_of(attempt)
    );
    verdict.violated(rule, device, call.to, text);
}

/// A business was told that a session is offline. When that was decided isn't known, only that it was before it was told.
fn event(case: &Case<'_>, verdict: &mut Verdict, heard: &Heard, timeline: &Timeline<'_>) {
    let Some(attempt) = timeline.login_of(heard.session, heard.epoch) else {
        // Of a login that nobody saw: the rule of events.
        return;
    };
    // Whatever ended the session is seen by its client within this time, or the client's connection has outlived it.
    let back = case.limits.resume_window + case.limits.news() + case.limits.slack;
    let span = Span::new(heard.at.minus(back), heard.at);
    if attempt.doubted(span) {
        if attempt.open_until() > heard.at {
            verdict.excused("offline_event_while_the_session_is_in_doubt");
        }
        return;
    }
    if attempt.open_until() > heard.at {
        let text = format!("{:?}; {}", heard.told, told_of(attempt));
        return verdict.violated(Rule::FalseOffline, heard.device, heard.at, text);
    }
    if attempt.kept_until(case.limits) > heard.at {
        let text = format!("{:?}; {}", heard.told, told_of(attempt));
        verdict.violated(Rule::EarlyOffline, heard.device, heard.at, text);
    }
}

fn told_of(attempt: &Attempt<'_>) -> String {
    let end = attempt.seen.end.map_or_else(
        || "is still there".to_owned(),
        |end| format!("ended at {} ({:?})", end.from, end.how),
    );
    format!(
        "connection {} had logged in at {} and {end}",
        attempt.seen.number,
        attempt.login().map_or(Moment::NEVER, |login| login.at)
    )
}
