//! Nobody is said to be online who is gone.

use std::time::Duration;

use super::{Case, Rule};
use crate::history::health::Count;
use crate::history::record::{Device, Moment, Presence, Said, Span};
use crate::history::timeline::Timeline;
use crate::history::verdict::Verdict;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    for push in &case.history.pushes {
        for &device in &push.devices {
            if let Some(said @ (Said::Written | Said::Acknowledged | Said::Queued)) = push.said(device) {
                // Who writes has the connection in its hands: it isn't kept beyond its end.
                let what = format!("push {} was answered {said:?}", push.id);
                answer(case, verdict, device, push.span, &what, Duration::ZERO);
            }
        }
    }
    for query in &case.history.queries {
        let answers = query.answers.iter().flatten();
        for (&device, _) in query
            .devices
            .iter()
            .zip(answers)
            .filter(|(_, said)| **said == Presence::Online)
        {
            let what = format!("replica {} said online", query.replica);
            answer(
                case,
                verdict,
                device,
                query.span,
                &what,
                case.limits.resume_window,
            );
        }
    }
}

/// A device was said to have a connection, or (`window`) a session that may be resumed.
fn answer(case: &Case<'_>, verdict: &mut Verdict, device: Device, call: Span, what: &str, window: Duration) {
    let Some((last_end, by)) = gone(case, device, call, window) else {
        return;
    };
    let ghost = call.from.since(last_end);
    verdict.longest_ghost = verdict.longest_ghost.max(ghost);
    if call.from > by {
        let text = format!(
            "{what}, called at {}; its last connection had ended at {last_end}, which should have been known by {by}",
            call.from
        );
        verdict.violated(Rule::Ghost, device, call.to, text);
    }
}

/// When the last connection of a device had ended before a call, and by when that should have been known; `None` if one was there, or
/// may have been.
fn gone(case: &Case<'_>, device: Device, call: Span, window: Duration) -> Option<(Moment, Moment)> {
    let never = Timeline {
        device,
        attempts: Vec::new(),
        kicks: Vec::new(),
    };
    let timeline = case.timelines.get(&device).unwrap_or(&never);
    let (mut last_end, mut by) = (Moment(0), Moment(0));
    for attempt in &timeline.attempts {
        let Some(effect) = attempt.effect.filter(|effect| effect.from <= call.to) else {
            continue;
        };
        // A login that its client gave up may have come later; its connection is gone all the same.
        let over = attempt.over_at();
        let unseen = attempt.login().is_none() && effect.to >= call.from;
        if over >= call.from || unseen {
            return None;
        }
        let noticed = case
            .health
            .after(attempt.seen.pod, over.max(effect.to), window, Count::UntilDead);
        last_end = last_end.max(over);
        by = by.max(noticed.plus(case.limits.news()));
    }
    Some((last_end, by))
}
