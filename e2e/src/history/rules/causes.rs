//! Every event has a cause, and says why rightly.

use std::collections::{BTreeMap, BTreeSet};

use imaccess_wire::Code;

use super::{Case, Rule};
use crate::history::health::Count;
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
                Told::Online => online(case, verdict, timeline, &mut unseen, heard),
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

/// Logins of a device that explain sessions of which no client knows.
struct Unseen {
    logins: Vec<Vain>,
    /// Explained already, and by what.
    sessions: BTreeMap<Session, Vain>,
}

/// One of them.
#[derive(Clone, Copy)]
struct Vain {
    pod: usize,
    /// From when it may have taken effect until its session must be over and told.
    life: Span,
    /// A sidecar may have taken it and died, so that the next one took it again, or its gateway died before it had the answer, and the next
    /// gateway asked again: any number of sessions. Otherwise it is one that its
    /// client gave up, which explains one.
    repeated: bool,
}

impl Vain {
    /// Whether an event may be about its session: it comes from the pod that was asked for it, or tells that this pod is lost.
    fn explains(&self, case: &Case<'_>, heard: &Heard) -> bool {
        let reason = Code::InstanceLost as u16;
        if heard.told == (Told::Offline { reason }) {
            return case.health.may_be_told_lost(self.pod, self.life, heard.at);
        }
        let in_time = self.life.from <= heard.at && heard.at <= self.life.to;
        in_time && case.teller(heard) == Some(self.pod)
    }
}

impl Unseen {
    fn of(case: &Case<'_>, timeline: &Timeline<'_>) -> Self {
        let logins = timeline.attempts.iter().filter_map(|attempt| {
            let effect = attempt.effect?;
            let pod = attempt.seen.pod;
            let repeated = case.health.pod_disturbed(pod, effect);
            (repeated || attempt.login().is_none()).then(|| Vain {
                pod,
                life: Span::new(effect.from, told_by(case, pod, effect.to)),
                repeated,
            })
        });
        Self {
            logins: logins.collect(),
            sessions: BTreeMap::new(),
        }
    }

    /// Whether one of them explains what is told.
    fn explains(&mut self, case: &Case<'_>, heard: &Heard) -> bool {
        let before = self.sessions.get(&heard.session);
        if before.is_some_and(|login| login.explains(case, heard)) {
            return true;
        }
        let logins = self.logins.iter().enumerate();
        let fitting = logins.filter(|(_, login)| login.explains(case, heard));
        // First those that explain one; of these the one that can explain others for the shortest time.
        let Some((place, &login)) = fitting.min_by_key(|(_, login)| (login.repeated, login.life.to)) else {
            return false;
        };
        if !login.repeated {
            self.logins.swap_remove(place);
        }
        self.sessions.insert(heard.session, login);
        true
    }
}

/// By when it is told that a session is over whose connection ended at a moment, whatever the faults were.
fn told_by(case: &Case<'_>, pod: usize, ended: Moment) -> Moment {
    let window = case.limits.resume_window;
    let over = case.health.after(pod, ended, window, Count::Whole);
    case.health.confirmed_after(over).plus(case.limits.news())
}

fn online(
    case: &Case<'_>,
    verdict: &mut Verdict,
    timeline: &Timeline<'_>,
    unseen: &mut Unseen,
    heard: &Heard,
) {
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
        None if unseen.explains(case, heard) => {
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
        if unseen.explains(case, heard) {
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
        Some(Code::InstanceLost) => {
            let pod = attempt.seen.pod;
            let there = Span::new(began, told_by(case, pod, attempt.over_at()));
            if case.health.may_be_told_lost(pod, there, heard.at) {
                Ok(())
            } else {
                Err("its pod wasn't away for long enough while it was there, or long ago".to_owned())
            }
        }
        Some(code) if code.resumable() || code == Code::ResumeExpired => {
            let Some(end) = attempt.seen.end.filter(|end| end.how == Ending::Left) else {
                return Ok(());
            };
            // A goodbye that a dying process had read is lost with it; one that nobody has lost is passed on at once.
            let goodbye = Span::new(end.from, end.at.plus(case.limits.slack));
            if case.health.pod_disturbed(attempt.seen.pod, goodbye) {
                verdict.excused("goodbye_lost_with_a_part");
                return Ok(());
            }
            // The session had gone on over a connection that nobody knows of.
            if heard.epoch > attempt.epoch() && timeline.may_have_logged_in_unseen(life) {
                verdict.excused("offline_event_of_a_resume_that_its_client_gave_up");
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
