//! What is known of the gateways, and who is listed. Pure: time and results of scrapes in, candidates out.
//!
//! - A gateway that isn't among the targets any more is gone at once.
//! - One that can't be scraped leaves after `absence`, counted from the beginning of its last good scrape. It comes back
//!   with its next one.
//! - When more than half of the known gateways fail, it is the scraper that is ill: nobody leaves, the last
//!   picture stays.
//! - The same when the source of the readings is away.
//! - A draining one is not listed: its page says so, or it is known from elsewhere (a terminating pod).
//! - The list is never empty while a gateway is known: if nobody is left by these rules, draining ones are
//!   listed, and before anything has been scraped all are, unscored, those that are known to be draining last of all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use imaccess_common::clock::CoarseInstant;

use crate::rank::{Candidate, Load};
use crate::reading::{ReadMeans, Reading};
use crate::scores::{Standing, StandingFigures, State};
use crate::targets::GatewayTarget;
use crate::window::{Sample, Window};

/// Everything about every gateway.
#[derive(Debug)]
pub(crate) struct Picture {
    absence: Duration,
    window: Duration,
    /// Whether the source of the readings didn't answer in the latest round.
    source_away: bool,
    /// In the targets' order.
    gateways: Vec<Gateway>,
}

#[derive(Debug)]
struct Gateway {
    target: Arc<GatewayTarget>,
    window: Window,
    /// The last reading, and of when it is; none before the first.
    last: Option<(CoarseInstant, Reading)>,
    /// Whether the latest reading failed.
    failing: bool,
    /// Whether it has been absent too long.
    left: bool,
    /// Clients sent there since it is known.
    answers: u64,
}

/// How many gateways are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Census {
    /// Listed by the ordinary rules.
    pub(crate) listed: usize,
    /// Going away.
    pub(crate) draining: usize,
    /// Absent too long.
    pub(crate) left: usize,
    /// Never scraped.
    pub(crate) unseen: usize,
    /// Whether more than half fail.
    pub(crate) scraper_ill: bool,
}

impl Picture {
    /// A picture of nobody.
    pub(crate) fn new(window: Duration, absence: Duration) -> Picture {
        Picture {
            absence,
            window,
            source_away: false,
            gateways: Vec::new(),
        }
    }

    /// Takes the list of targets. Who stays keeps what is known of it, unless its page is elsewhere now.
    pub(crate) fn take_targets(&mut self, targets: &[Arc<GatewayTarget>]) {
        let mut known: HashMap<String, Gateway> = self
            .gateways
            .drain(..)
            .map(|gateway| (gateway.target.name.clone(), gateway))
            .collect();
        let window = self.window;
        self.gateways = targets
            .iter()
            .map(|target| match known.remove(&target.name) {
                Some(gateway) if gateway.target.metrics == target.metrics => Gateway {
                    target: Arc::clone(target),
                    ..gateway
                },
                _ => Gateway::new(Arc::clone(target), window),
            })
            .collect();
    }

    /// Takes what a round of readings, begun at `at`, brought: one or none, by target. Who isn't in it wasn't asked.
    pub(crate) fn take_round<R: Into<Reading>>(
        &mut self,
        at: CoarseInstant,
        round: impl IntoIterator<Item = (Arc<GatewayTarget>, Option<R>)>,
    ) {
        self.source_away = false;
        let mut results: HashMap<String, Option<R>> = round
            .into_iter()
            .map(|(target, reading)| (target.name.clone(), reading))
            .collect();
        for gateway in &mut self.gateways {
            // A target that came during the round wasn't asked.
            if let Some(result) = results.remove(&gateway.target.name) {
                gateway.take_result(at, result.map(R::into));
            }
        }
    }

    /// The source of the readings didn't answer: nobody failed.
    pub(crate) fn take_outage(&mut self) {
        self.source_away = true;
    }

    /// Counts clients that were sent to the gateway `name`.
    pub(crate) fn count_answers(&mut self, name: &str, answers: u64) {
        if let Some(gateway) = self
            .gateways
            .iter_mut()
            .find(|gateway| gateway.target.name == name)
        {
            gateway.answers += answers;
        }
    }

    /// The next moment at which somebody's absence gets too long, after `now`.
    pub(crate) fn next_departure(&self, now: CoarseInstant) -> Option<CoarseInstant> {
        let at_risk = self
            .gateways
            .iter()
            .filter(|gateway| gateway.failing && !gateway.left);
        at_risk
            .filter_map(|gateway| gateway.absent_at(self.absence))
            .filter(|at| *at > now)
            .min()
    }

    /// Decides who has left, and gives who is to be ranked; a candidate's index is [`Picture::target`]'s.
    pub(crate) fn candidates(&mut self, now: CoarseInstant) -> Vec<Candidate> {
        if !self.scraper_ill() {
            for gateway in &mut self.gateways {
                let too_long = gateway
                    .absent_at(self.absence)
                    .is_some_and(|absent| absent <= now);
                gateway.left |= gateway.failing && too_long;
            }
        }
        let listed = self.candidates_where(|gateway| gateway.is_listed());
        if !listed.is_empty() {
            return listed;
        }
        let draining = self.candidates_where(|gateway| gateway.is_draining() && !gateway.left);
        if !draining.is_empty() {
            return draining;
        }
        let staying = self.candidates_where(|gateway| !gateway.target.draining);
        if !staying.is_empty() {
            return staying;
        }
        self.candidates_where(|_| true)
    }

    /// How each gateway stands, in the targets' order.
    pub(crate) fn standings(&self) -> Vec<Standing> {
        self.gateways.iter().map(Gateway::standing).collect()
    }

    /// The target of a candidate.
    pub(crate) fn target(&self, index: usize) -> &Arc<GatewayTarget> {
        &self.gateways[index].target
    }

    /// How many are what.
    pub(crate) fn census(&self) -> Census {
        let count =
            |which: fn(&Gateway) -> bool| self.gateways.iter().filter(|gateway| which(gateway)).count();
        Census {
            listed: count(Gateway::is_listed),
            draining: count(|gateway| gateway.is_draining() && !gateway.left),
            left: count(|gateway| gateway.left),
            unseen: count(|gateway| gateway.last.is_none()),
            scraper_ill: self.scraper_ill(),
        }
    }

    /// Whether the source is away, or more than half of those ever read fail now. New ones don't count: they may not
    /// be up yet.
    fn scraper_ill(&self) -> bool {
        if self.source_away {
            return true;
        }
        let seen = self.gateways.iter().filter(|gateway| gateway.last.is_some());
        let (known, failing) = seen.fold((0, 0), |(known, failing), gateway| {
            (known + 1, failing + usize::from(gateway.failing))
        });
        failing * 2 > known
    }

    fn candidates_where(&self, which: impl Fn(&Gateway) -> bool) -> Vec<Candidate> {
        let chosen = self
            .gateways
            .iter()
            .enumerate()
            .filter(|(_, gateway)| which(gateway));
        chosen
            .map(|(index, gateway)| Candidate::new(index, &gateway.load()))
            .collect()
    }
}

impl Gateway {
    fn new(target: Arc<GatewayTarget>, window: Duration) -> Gateway {
        Gateway {
            target,
            window: Window::new(window),
            last: None,
            failing: false,
            left: false,
            answers: 0,
        }
    }

    fn take_result(&mut self, at: CoarseInstant, result: Option<Reading>) {
        self.failing = result.is_none();
        let Some(reading) = result else { return };
        self.left = false;
        let age = u64::try_from(reading.age.as_millis()).unwrap_or(u64::MAX);
        self.last = Some((CoarseInstant(at.0.saturating_sub(age)), reading));
        self.window.push(Sample {
            at,
            connections: reading.page.connections,
            sent_bytes: reading.page.sent_bytes,
            answers: self.answers,
        });
    }

    fn absent_at(&self, absence: Duration) -> Option<CoarseInstant> {
        self.last.map(|(at, _)| at.after(absence))
    }

    fn is_draining(&self) -> bool {
        self.last
            .is_some_and(|(_, reading)| reading.page.draining || self.target.draining)
    }

    fn is_listed(&self) -> bool {
        self.last.is_some() && !self.left && !self.is_draining()
    }

    fn standing(&self) -> Standing {
        let state = match self.last {
            None => State::Unseen,
            Some(_) if self.left => State::Left,
            Some(_) if self.is_draining() => State::Draining,
            Some(_) => State::Listed,
        };
        let figures = self.last.map(|_| {
            let load = self.load();
            let candidate = Candidate::new(0, &load);
            StandingFigures {
                dynamic: candidate.dynamic as f64 / 100.0,
                static_: candidate.remaining,
                connections: load.connections,
                connection_limit: load.limit,
                rate: load.rate,
                bandwidth: load.capacity,
            }
        });
        Standing {
            name: self.target.name.clone(),
            state,
            endpoints: self.target.endpoints.clone(),
            figures,
        }
    }

    /// Nothing at all for one that was never read.
    fn load(&self) -> Load {
        let (Some((_, reading)), Some(means)) = (self.last, self.window.means()) else {
            return Load {
                capacity: 0.0,
                rate: 0.0,
                limit: 0.0,
                connections: 0.0,
                outstanding: 0.0,
            };
        };
        let own = ReadMeans {
            connections: means.connections,
            rate: means.rate,
        };
        let ReadMeans { connections, rate } = reading.means.unwrap_or(own);
        // Had everyone sent there in the window come, and nobody left, there would be this many: what the mean
        // already shows of it is not outstanding.
        let expected = means.first_connections + (self.answers - means.first_answers) as f64;
        Load {
            capacity: reading.page.bandwidth,
            rate,
            limit: reading.page.connection_limit,
            connections,
            outstanding: (expected - connections).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests;
