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
    let gone = match look(case, device, call, window) {
        Look::Gone(gone) => gone,
        Look::There => return verdict.judged("online_answers_for_devices_with_a_connection"),
        Look::Unseen => return verdict.excused("online_answer_while_a_login_that_was_given_up_may_be_there"),
    };
    verdict.judged("online_answers_for_devices_without_a_connection");
    let ghost = call.from.since(gone.last_end);
    verdict.longest_ghost = verdict.longest_ghost.max(ghost);
    if call.from > gone.by {
        let text = format!(
            "{what}, called at {}; its last connection had ended at {}, which should have been known by {}",
            call.from, gone.last_end, gone.by
        );
        verdict.violated(Rule::Ghost, device, call.to, text);
    } else if call.from > gone.without_faults {
        verdict.excused("online_answer_for_a_device_that_is_gone_after_a_fault");
    }
}

/// What a device had when it was said to be online.
enum Look {
    /// A connection, or an attempt that may have become one.
    There,
    /// Perhaps the connection of a login that its client had given up.
    Unseen,
    /// Nothing.
    Gone(Gone),
}

/// Since when a device has had no connection.
#[derive(Default)]
struct Gone {
    last_end: Moment,
    /// By when that should have been known, as the faults were.
    by: Moment,
    /// And if there had been none.
    without_faults: Moment,
}

/// What a device had at the time of a call.
fn look(case: &Case<'_>, device: Device, call: Span, window: Duration) -> Look {
    let never = Timeline {
        device,
        attempts: Vec::new(),
        kicks: Vec::new(),
    };
    let timeline = case.timelines.get(&device).unwrap_or(&never);
    let limits = case.limits;
    // However many faults follow each other: each of them lets a moment pass in which what is over is noticed.
    let most = limits.ghost() * 2;
    let mut gone = Gone::default();
    for attempt in &timeline.attempts {
        let Some(effect) = attempt.effect.filter(|effect| effect.from <= call.to) else {
            continue;
        };
        let over = attempt.over_at();
        if over >= call.from {
            return Look::There;
        }
        // A login that its client gave up may have come later; its connection is gone all the same.
        if attempt.login().is_none() && effect.to >= call.from {
            return Look::Unseen;
        }
        let since = over.max(effect.to);
        let noticed = case
            .health
            .after(attempt.seen.pod, since, window, Count::UntilDead)
            .min(since.plus(most));
        gone.last_end = gone.last_end.max(over);
        gone.by = gone.by.max(noticed.plus(limits.news()));
        gone.without_faults = gone.without_faults.max(since.plus(window + limits.news()));
    }
    Look::Gone(gone)
}
