//! Every event has a cause, and says why rightly.

use std::collections::BTreeSet;

use imaccess_wire::Code;

use super::{Case, Rule};
use crate::history::record::{Ending, Heard, Moment, Session, Span, Told};
use crate::history::timeline::{Attempt, Timeline};
use crate::history::verdict::Verdict;

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    for (device, events) in case.heard {
        let Some(timeline) = case.timelines.get(device) else {
            for heard in events {
                let text = format!("{:?} of a device that never did anything", heard.told);
                verdict.violated(Rule::UnexplainedEvent, *device, heard.at, text);
            }
            continue;
        };
        let mut unseen = Unseen::of(case, timeline);
        for heard in events {
            match heard.told {
                Told::Online => online(verdict, timeline, &mut unseen, heard),
                Told::Offline { reason } => offline(case, verdict, timeline, &mut unseen, heard, reason),
                Told::SessionLost => lost(case, verdict, timeline, heard),
                Told::ResyncNeeded | Told::Nonsense => {
                    let text = format!("{:?}", heard.told);
                    verdict.violated(Rule::UnexplainedEvent, *device, heard.at, text);
                }
            }
        }
    }
}

/// Logins of a device that its client never learnt of. Each explains one session that no client knows.
struct Unseen {
    /// Since when each may have taken effect.
    since: Vec<Moment>,
    /// The same, of logins that a sidecar may have taken and died, so that the next one took them again: any number of sessions.
    repeated: Vec<Moment>,
    /// Explained already.
    sessions: BTreeSet<Session>,
}

impl Unseen {
    fn of(case: &Case<'_>, timeline: &Timeline<'_>) -> Self {
        let (mut since, mut repeated) = (Vec::new(), Vec::new());
        for attempt in &timeline.attempts {
            let Some(effect) = attempt.effect else { continue };
            if case.health.state_disturbed(attempt.seen.pod, effect) {
                repeated.push(effect.from);
            } else if attempt.login().is_none() {
                since.push(effect.from);
            }
        }
        Self {
            since,
            repeated,
            sessions: BTreeSet::new(),
        }
    }

    /// Whether one of them explains this session.
    fn explains(&mut self, session: Session, at: Moment) -> bool {
        if self.sessions.contains(&session) {
            return true;
        }
        let place = self.since.iter().position(|since| *since <= at);
        let explained = match place {
            Some(place) => {
                self.since.swap_remove(place);
                true
            }
            None => self.repeated.iter().any(|since| *since <= at),
        };
        if explained {
            self.sessions.insert(session);
        }
        explained
    }
}

fn online(verdict: &mut Verdict, timeline: &Timeline<'_>, unseen: &mut Unseen, heard: &Heard) {
    let login = timeline.attempts.iter().find(|attempt| {
        attempt
            .login()
            .is_some_and(|login| login.session == heard.session && login.epoch == heard.epoch)
    });
    match login {
        Some(attempt) if attempt.effect.is_some_and(|effect| effect.from <= heard.at) => {}
        Some(attempt) => {
            let text = format!(
                "online before the LOGIN of connection {} was sent",
                attempt.seen.number
            );
            verdict.violated(Rule::UnexplainedEvent, timeline.device, heard.at, text);
        }
        None if unseen.explains(heard.session, heard.at) => {
            verdict.excused("online_event_of_a_login_that_its_client_gave_up");
        }
        None => {
            let text = format!("online of session {:?}, epoch {}", heard.session, heard.epoch);
            verdict.violated(Rule::UnexplainedEvent, timeline.device, heard.at, text);
        }
    }
}

fn offline(
    case: &Case<'_>,
    verdict: &mut Verdict,
    timeline: &Timeline<'_>,
    unseen: &mut Unseen,
    heard: &Heard,
    reason: u16,
) {
    let Some(attempt) = timeline.login_of(heard.session, heard.epoch) else {
        if unseen.explains(heard.session, heard.at) {
            verdict.excused("offline_event_of_a_login_that_its_client_gave_up");
        } else {
            let text = format!(
                "offline ({reason}) of session {:?}, epoch {}",
                heard.session, heard.epoch
            );
            verdict.violated(Rule::UnexplainedEvent, timeline.device, heard.at, text);
        }
        return;
    };
    if let Err(why) = reason_holds(case, verdict, timeline, attempt, heard, reason) {
        let text = format!(
            "offline of session {:?}, epoch {}, because of {reason}: {why}",
            heard.session, heard.epoch
        );
        verdict.violated(Rule::UnexplainedEvent, timeline.device, heard.at, text);
    }
}

/// Whether a session may have ended for this reason.
fn reason_holds(
    case: &Case<'_>,
    verdict: &mut Verdict,
    timeline: &Timeline<'_>,
    attempt: &Attempt<'_>,
    heard: &Heard,
    reason: u16,
) -> Result<(), String> {
    let began = attempt.seen.login_sent.unwrap_or(attempt.seen.begun);
    let life = Span::new(began, heard.at);
    let left = timeline.attempts.iter().any(|other| {
        other.login().is_some_and(|login| login.session == heard.session)
            && other
                .seen
                .end
                .is_some_and(|end| end.how == Ending::Left && end.from <= heard.at)
    });
    match Code::from_u16(reason) {
        Some(Code::ClientLeft) if left => Ok(()),
        Some(Code::ClientLeft) => Err("no client of it has said goodbye".to_owned()),
        Some(Code::Kicked) if timeline.may_have_been_kicked(life, case.health, case.limits) => Ok(()),
        Some(Code::Kicked) => Err("nobody kicked it".to_owned()),
        Some(Code::InstanceLost) if case.health.may_be_dead(attempt.seen.pod, heard.at) => Ok(()),
        Some(Code::InstanceLost) => Err("its pod wasn't away for long enough".to_owned()),
        Some(code) if code.resumable() || code == Code::ResumeExpired => {
            let goodbye = attempt.seen.end.is_some_and(|end| end.how == Ending::Left);
            if !goodbye {
                return Ok(());
            }
            // A goodbye that a dying process had read is lost with it.
            if case.health.pod_disturbed(attempt.seen.pod, life) {
                verdict.excused("goodbye_lost_with_a_part");
                return Ok(());
            }
            Err("its client had said goodbye".to_owned())
        }
        _ => Err("no session is told to be over for that".to_owned()),
    }
}

/// A session's state is lost with the process that had it, and with nothing else.
fn lost(case: &Case<'_>, verdict: &mut Verdict, timeline: &Timeline<'_>, heard: &Heard) {
    let back = Span::new(heard.at.minus(case.limits.ghost()), heard.at);
    let pods: BTreeSet<usize> = timeline.attempts.iter().map(|attempt| attempt.seen.pod).collect();
    if !pods.iter().any(|pod| case.health.pod_disturbed(*pod, back)) {
        let text = format!("session {:?} is lost, and no part was away", heard.session);
        verdict.violated(Rule::UnexplainedEvent, timeline.device, heard.at, text);
    }
}
