//! What one device may have been at any moment: when it had a session for certain, and when that may be doubted.
//!
//! A client knows of its own connection from LOGIN_OK until it ends. But a login that it gave up may still be carried out, a kick that
//! nobody waited for may still land, and a pod whose two halves are away forgets what it had: these are *doubts*. A connection that is still
//! there after a doubt is certain again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::health::{Count, Health};
use super::limits::Limits;
use super::record::{Connection, Device, History, Kick, Login, Moment, Said, Session, Span};

/// One attempt of a device, and what is known of it.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// As it was seen.
    pub seen: &'a Connection,
    /// In it the login took effect, or may have; `None`: never.
    pub effect: Option<Span>,
    /// When its session may have been ended, or replaced, without its client having seen it.
    pub doubts: Vec<Span>,
    /// From when on another login with a higher epoch, whose client knows of it, may have replaced it.
    pub replaced_since: Option<Moment>,
}

/// All attempts of one device, in the order in which they were begun.
#[derive(Clone, Debug)]
pub struct Timeline<'a> {
    /// Whose.
    pub device: Device,
    /// All of them.
    pub attempts: Vec<Attempt<'a>>,
    /// That were meant for it.
    pub kicks: Vec<&'a Kick>,
}

/// The timelines of all devices.
#[must_use]
pub fn of_all<'a>(history: &'a History, health: &Health<'_>) -> BTreeMap<Device, Timeline<'a>> {
    let mut by_device: BTreeMap<Device, (Vec<&Connection>, Vec<&Kick>)> = BTreeMap::new();
    for connection in &history.connections {
        by_device.entry(connection.device).or_default().0.push(connection);
    }
    for kick in &history.kicks {
        by_device.entry(kick.device).or_default().1.push(kick);
    }
    by_device
        .into_iter()
        .map(|(device, (mut connections, kicks))| {
            connections.sort_by_key(|connection| connection.begun);
            let timeline = Timeline::of(device, &connections, kicks, &history.limits, health);
            (device, timeline)
        })
        .collect()
}

impl<'a> Timeline<'a> {
    fn of(
        device: Device,
        connections: &[&'a Connection],
        kicks: Vec<&'a Kick>,
        limits: &Limits,
        health: &Health<'_>,
    ) -> Self {
        let mut attempts: Vec<Attempt<'a>> = connections
            .iter()
            .map(|seen| Attempt {
                seen,
                effect: effect(seen, limits, health),
                doubts: Vec::new(),
                replaced_since: None,
            })
            .collect();
        for index in 0..attempts.len() {
            if attempts[index].seen.login.is_some() {
                let doubts = doubts(&attempts, index, &kicks, limits, health);
                attempts[index].doubts = doubts;
                attempts[index].replaced_since = later(&attempts, index)
                    .filter_map(|other| Some(other.effect?.from))
                    .min();
            }
        }
        Self {
            device,
            attempts,
            kicks,
        }
    }

    /// The login of a session with the highest epoch up to this one.
    #[must_use]
    pub fn login_of(&self, session: Session, up_to: u64) -> Option<&Attempt<'a>> {
        let of_session = self.attempts.iter().filter(|attempt| {
            attempt
                .login()
                .is_some_and(|login| login.session == session && login.epoch <= up_to)
        });
        of_session.max_by_key(|attempt| attempt.epoch())
    }

    /// The login with the highest epoch of all that was begun before this moment.
    #[must_use]
    pub fn latest_login(&self, before: Moment) -> Option<&Attempt<'a>> {
        let logged_in = self
            .attempts
            .iter()
            .filter(|attempt| attempt.login().is_some() && attempt.seen.begun < before);
        logged_in.max_by_key(|attempt| attempt.epoch())
    }

    /// A login that had replaced a connection's for all to know before a moment: it came soon enough, lasted until its news had reached the
    /// pod of the one before, and its own pod didn't lose it.
    #[must_use]
    pub fn replaced_by(
        &self,
        one: &Attempt<'_>,
        before: Moment,
        health: &Health<'_>,
        limits: &Limits,
    ) -> Option<&Attempt<'a>> {
        self.attempts.iter().find(|other| {
            let Some(login) = other.login().filter(|login| login.epoch > one.epoch()) else {
                return false;
            };
            let known = health.known_by(other.seen.pod, login.at, one.seen.pod);
            // Who comes and goes at once may be forgotten before anybody was told.
            let lasted = other.kept_until(limits) >= known.max(login.at.plus(limits.lag));
            let sent = other.seen.login_sent.unwrap_or(other.seen.begun);
            let lost = health.lost(other.seen.pod, Span::new(sent, known.plus(limits.slack)));
            known <= before && lasted && !lost
        })
    }

    /// Whether a login whose outcome its client never learnt may have taken effect in the span.
    #[must_use]
    pub fn may_have_logged_in_unseen(&self, span: Span) -> bool {
        let unseen = self.attempts.iter().filter(|attempt| attempt.login().is_none());
        unseen
            .filter_map(|attempt| attempt.effect)
            .any(|effect| effect.meets(span))
    }

    /// Whether a kick may have hit what the device had in the span.
    #[must_use]
    pub fn may_have_been_kicked(&self, span: Span, health: &Health<'_>, limits: &Limits) -> bool {
        let mut landings = self.kicks.iter().filter_map(|kick| landing(kick, health, limits));
        landings.any(|landing| landing.meets(span))
    }
}

impl Attempt<'_> {
    /// What LOGIN_OK said.
    #[must_use]
    pub fn login(&self) -> Option<&Login> {
        self.seen.login.as_ref()
    }

    /// The login's epoch; 0 if it isn't known.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.login().map_or(0, |login| login.epoch)
    }

    /// Until then its client did nothing to end it and saw nothing of an end.
    #[must_use]
    pub fn open_until(&self) -> Moment {
        self.seen.end.map_or(Moment::NEVER, |end| end.from)
    }

    /// From then on it was over.
    #[must_use]
    pub fn over_at(&self) -> Moment {
        self.seen.end.map_or(Moment::NEVER, |end| end.at)
    }

    /// Until then its session was to be kept: a lost one for the resume window, less what the two sides may disagree by.
    #[must_use]
    pub fn kept_until(&self, limits: &Limits) -> Moment {
        match self.seen.end {
            None => Moment::NEVER,
            Some(end) if end.how.resumable() => {
                end.from.plus(limits.resume_window.saturating_sub(limits.lag))
            }
            Some(end) => end.from,
        }
    }

    /// Whether its session was there for certain, throughout the span.
    #[must_use]
    pub fn had_session(&self, span: Span, limits: &Limits) -> bool {
        let began = self.login().is_some_and(|login| login.at <= span.from);
        began && self.kept_until(limits) > span.to && !self.doubted(span)
    }

    /// Whether something may have ended its session in the span.
    #[must_use]
    pub fn doubted(&self, span: Span) -> bool {
        self.replaced_since.is_some_and(|since| since <= span.to) || self.doubted_otherwise(span)
    }

    /// The same, but for a later login that its client knows of.
    #[must_use]
    pub fn doubted_otherwise(&self, span: Span) -> bool {
        self.doubts.iter().any(|doubt| doubt.meets(span))
    }
}

/// The logins with a higher epoch than one's.
fn later<'t, 'a>(attempts: &'t [Attempt<'a>], index: usize) -> impl Iterator<Item = &'t Attempt<'a>> {
    let epoch = attempts[index].epoch();
    attempts.iter().filter(move |other| other.epoch() > epoch)
}

/// When an attempt's login took effect.
fn effect(seen: &Connection, limits: &Limits, health: &Health<'_>) -> Option<Span> {
    let sent = seen.login_sent?;
    let by = match (&seen.login, &seen.end) {
        (Some(login), _) => login.at,
        // A refusal may come from a gateway whose state has taken the login and died.
        (None, Some(end)) => carried_out_by(seen.pod, end.at, limits, health),
        (None, None) => Moment::NEVER,
    };
    Some(Span::new(sent, by))
}

/// By when a pod has done what waited for it.
fn carried_out_by(pod: usize, at: Moment, limits: &Limits, health: &Health<'_>) -> Moment {
    health
        .after(pod, at, Duration::ZERO, Count::Whole)
        .plus(limits.slack)
}

/// When a kick may have landed; `None`: never.
#[must_use]
pub fn landing(kick: &Kick, health: &Health<'_>, limits: &Limits) -> Option<Span> {
    let to = match kick.answer {
        Some(Said::Offline) => return None,
        Some(Said::Done) => kick.span.to,
        // A replica or a sidecar may have it still.
        _ => health
            .routing_after(kick.span.to)
            .plus(limits.news())
            .plus(limits.dead_after),
    };
    Some(Span::new(kick.span.from, to))
}

/// What may have ended the session of one attempt.
fn doubts(
    attempts: &[Attempt<'_>],
    index: usize,
    kicks: &[&Kick],
    limits: &Limits,
    health: &Health<'_>,
) -> Vec<Span> {
    let one = &attempts[index];
    let pod = one.seen.pod;
    let mut doubts = Vec::new();
    // By when its client has seen what was done to the session at a moment.
    let seen_by = |moment: Moment| {
        let told = health.routing_after(moment).plus(limits.news());
        health
            .after(pod, told, Duration::ZERO, Count::Whole)
            .plus(limits.slack)
    };
    let others = attempts.iter().enumerate().filter(|(other, _)| *other != index);
    for (_, other) in others {
        let Some(effect) = other.effect else { continue };
        if other.login().is_none() && one.effect.is_some_and(|own| effect.to >= own.from) {
            doubts.push(Span::new(effect.from, seen_by(effect.to)));
        }
    }
    // What was over before the login hasn't touched it.
    let since = one.effect.map_or(one.seen.begun, |effect| effect.from);
    let landings = kicks.iter().filter_map(|kick| landing(kick, health, limits));
    for landing in landings.filter(|landing| landing.to >= since) {
        doubts.push(Span::new(landing.from, seen_by(landing.to)));
    }
    for lost in health.losses(pod).iter().filter(|lost| lost.to >= since) {
        doubts.push(Span::new(lost.from, lost.to.plus(limits.slack)));
    }
    doubts
}
