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
        // It was there for some of the time, or all of it by several connections in turn.
        let there = |attempt: &&Attempt<'_>| {
            let began = attempt.login().is_some_and(|login| login.at <= span.to);
            began && attempt.kept_until(case.limits) > span.from
        };
        let mut there = timeline.attempts.iter().filter(there).peekable();
        if there.peek().is_none() {
            verdict.judged("offline_answers_for_devices_without_a_session");
        } else if there.any(|attempt| attempt.open_until() > call.to && attempt.doubted(span)) {
            verdict.excused("offline_answer_while_the_session_is_in_doubt");
        } else {
            verdict.excused("offline_answer_shortly_after_a_login_or_an_end");
        }
        return;
    };
    verdict.judged("offline_answers_for_devices_with_a_session");
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
    if attempt.doubted_otherwise(span) {
        return verdict.excused("offline_event_while_the_session_is_in_doubt");
    }
    if attempt.doubted(span) {
        return gone_on(case, verdict, heard, timeline, attempt);
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

/// A business was told that a session is offline, of whose device a later login is known. Where that came before the session was over, as the
/// session's own pod could know, there is nothing to be told of it: it goes on elsewhere, or another one has its place.
fn gone_on(
    case: &Case<'_>,
    verdict: &mut Verdict,
    heard: &Heard,
    timeline: &Timeline<'_>,
    attempt: &Attempt<'_>,
) {
    let limits = case.limits;
    let (resumable, over) = match attempt.seen.end {
        None => (true, Moment::NEVER),
        Some(end) => (end.how.resumable(), end.from.plus(limits.resume_window)),
    };
    // What its client ended itself may have been told before its pod heard of the other; and of what is told of a resume that its client
    // gave up, the end isn't known.
    let certain = resumable && heard.epoch == attempt.epoch();
    // News on a busy machine may be late.
    let in_time = over.min(heard.at).minus(limits.slack);
    let later = timeline.replaced_by(attempt, in_time, case.health, limits);
    let Some(later) = later.filter(|_| certain) else {
        return verdict.excused("offline_event_after_the_device_had_come_back");
    };
    let rule = if later.open_until() > heard.at {
        Rule::FalseOffline
    } else {
        Rule::EarlyOffline
    };
    let text = format!(
        "{:?} of epoch {}; {}, and connection {} had logged in at {} already",
        heard.told,
        heard.epoch,
        told_of(attempt),
        later.seen.number,
        later.login().map_or(Moment::NEVER, |login| login.at)
    );
    verdict.violated(rule, heard.device, heard.at, text);
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
