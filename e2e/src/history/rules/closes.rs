//! A connection that ends by others' doing has a cause.

use std::collections::BTreeSet;

use imaccess_wire::Code;

use super::{Case, Rule};
use crate::history::record::{End, Ending, Fault, FaultKind, Part, Span};
use crate::history::timeline::{Attempt, Timeline};
use crate::history::verdict::Verdict;

/// Connections that the kill of a gateway may end, beside one of so many that were there. 0.5 % is what is promised of many kills; chance may
/// have more of one, and what was closing just then counts as well.
const TORN: usize = 2;
/// See [`TORN`].
const TORN_OF: usize = 20;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    few_are_torn(case, verdict);
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
    let by_fault = if attempt.login().is_some() {
        fault_ends_it(case, attempt.seen.pod, end)
    } else {
        fault_keeps_out(case, attempt.seen.pod, end)
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

/// A part that was away just now may be what is felt.
fn just_now(case: &Case<'_>, end: End) -> Span {
    Span::new(end.at.minus(case.limits.slack), end.at)
}

/// Whether a fault is why somebody isn't let in: any of its pod may be.
fn fault_keeps_out(case: &Case<'_>, pod: usize, end: End) -> Result<(), &'static str> {
    if case.health.pod_disturbed(pod, just_now(case, end)) {
        Ok(())
    } else {
        Err("no part of its pod was away")
    }
}

/// Whether a fault ends the connection of somebody who is logged in. Most end nobody's: whoever of gateway and state is there holds all
/// connections, for as long as it waits for the other one. Only a gateway that is killed may have been in the middle of a frame.
fn fault_ends_it(case: &Case<'_>, pod: usize, end: End) -> Result<(), &'static str> {
    let health = case.health;
    if health.lost(pod, just_now(case, end)) {
        return Ok(());
    }
    let code = match end.how {
        Ending::Closed { code, .. } => Code::from_u16(code),
        _ => None,
    };
    let state_away = away_for_long(case, pod, end, |part| matches!(part, Part::State(_)));
    if code == Some(Code::StateLost) {
        return state_away
            .then_some(())
            .ok_or("its state wasn't away for long enough");
    }
    let gateway_away = away_for_long(case, pod, end, |part| matches!(part, Part::Gateway(_)));
    // A session that state has ended, and whose connection the next gateway has found.
    let found = code == Some(Code::SessionLost) && health.gateway_disturbed(pod, just_now(case, end));
    let torn = kills(case, pod).any(|kill| felt(case, &kill).meets(Span::new(end.at, end.at)));
    if state_away || gateway_away || found || torn {
        Ok(())
    } else {
        Err("its gateway wasn't killed, and no part of its pod was away for long enough")
    }
}

/// Whether one of a pod's parts was away for as long as the other one waits for it, by the end of a connection.
fn away_for_long(case: &Case<'_>, pod: usize, end: End, of: fn(Part) -> bool) -> bool {
    let limits = case.limits;
    let absences = case.health.absences(pod, of);
    absences.into_iter().any(|away| {
        let waited = away.from.plus(limits.dead_man);
        // Parts count in ticks, each by its own clock.
        waited <= away.to && waited <= end.at.plus(limits.lag) && end.at <= away.to.plus(limits.slack)
    })
}

fn kills(case: &Case<'_>, pod: usize) -> impl Iterator<Item = Fault> {
    let faults = case.health.of_pod(pod).iter().copied();
    faults.filter(|fault| matches!(fault.part, Part::Gateway(_)) && fault.kind == FaultKind::Kill)
}

/// When what a fault has done may be seen.
fn felt(case: &Case<'_>, fault: &Fault) -> Span {
    Span::new(fault.from, fault.settled.plus(case.limits.slack))
}

/// Each kill of a gateway loses few connections: those that it had in the middle of a frame.
fn few_are_torn(case: &Case<'_>, verdict: &mut Verdict) {
    let pods: BTreeSet<usize> = case.history.connections.iter().map(|one| one.pod).collect();
    for pod in pods {
        for kill in kills(case, pod) {
            let for_long = kill.from.plus(case.limits.dead_man) <= kill.settled;
            if for_long || case.health.lost(pod, felt(case, &kill)) {
                verdict.excused("connections_lost_with_their_pod");
                continue;
            }
            let open = case.history.connections.iter().filter(|one| {
                let began = one.login.is_some_and(|login| login.at <= kill.from);
                one.pod == pod && began && one.end.is_none_or(|end| end.at >= kill.from)
            });
            let ends: Vec<Option<End>> = open.map(|one| one.end).collect();
            let torn = |end: &&End| is_torn(end.how) && felt(case, &kill).meets(Span::new(end.at, end.at));
            let (there, lost) = (ends.len(), ends.iter().flatten().filter(torn).count());
            verdict.judged("gateway_kills");
            let most = TORN + there / TORN_OF;
            if lost > most {
                let text = format!(
                    "{} was killed at {}, and lost {lost} of {there} connections, not {most} at most",
                    kill.part, kill.from
                );
                verdict.violated(Rule::UnexplainedClose, None, kill.settled, text);
            }
        }
    }
}

fn is_torn(how: Ending) -> bool {
    match how {
        Ending::Lost => true,
        Ending::Closed { code, .. } => {
            matches!(Code::from_u16(code), Some(Code::GatewayLost | Code::SessionLost))
        }
        _ => false,
    }
}
