//! A connection that ends by others' doing has a cause.

use imaccess_wire::Code;

use super::{Case, Rule};
use crate::history::record::{End, Ending, Span};
use crate::history::timeline::{Attempt, Timeline};
use crate::history::verdict::Verdict;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    for timeline in case.timelines.values() {
        for (index, attempt) in timeline.attempts.iter().enumerate() {
            if let Some(end) = attempt.seen.end
                && let Err(why) = has_cause(case, timeline, index, attempt, end)
            {
                let text = format!("connection {} ended {:?}: {why}", attempt.seen.number, end.how);
                verdict.violated(Rule::UnexplainedClose, timeline.device, end.at, text);
            }
        }
    }
}

fn has_cause(
    case: &Case<'_>,
    timeline: &Timeline<'_>,
    index: usize,
    attempt: &Attempt<'_>,
    end: End,
) -> Result<(), &'static str> {
    let life = Span::new(attempt.seen.begun, end.at);
    // A part that was away just now may be what is felt.
    let just_now = Span::new(end.at.minus(case.limits.slack), end.at);
    let disturbed = case.health.pod_disturbed(attempt.seen.pod, just_now);
    let by_fault = if disturbed {
        Ok(())
    } else {
        Err("no part of its pod was away")
    };
    let code = match end.how {
        Ending::Left | Ending::Cut => return Ok(()),
        Ending::Lost | Ending::NotTaken => return by_fault,
        Ending::Closed { code, .. } | Ending::Refused { code } => code,
    };
    match Code::from_u16(code) {
        Some(Code::Superseded | Code::Moved) => {
            let replaced = timeline.attempts.iter().enumerate().any(|(other, by)| {
                let later = by.login().is_none_or(|login| login.epoch > attempt.epoch());
                other != index && later && by.effect.is_some_and(|effect| effect.meets(life))
            });
            if replaced {
                Ok(())
            } else {
                Err("its device didn't log in again")
            }
        }
        Some(Code::Kicked) => {
            if timeline.may_have_been_kicked(life, case.health, case.limits) {
                Ok(())
            } else {
                Err("nobody kicked it")
            }
        }
        Some(
            Code::StateLost
            | Code::SessionLost
            | Code::GatewayLost
            | Code::LoginUnavailable
            | Code::LoginTimeout
            | Code::Overloaded,
        ) => by_fault,
        _ => Err("no fault of a part ends connections with this code"),
    }
}
