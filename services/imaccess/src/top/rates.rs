//! From two rounds of readings to what is shown of the time between them. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::figures::{Business, Counters, Figures};

/// All pages at about one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Round {
    /// When, for whoever keeps it.
    pub(super) unix_ms: u64,
    /// By the pages' names.
    pub(super) pages: BTreeMap<String, Reading>,
    /// What ipconfig calls each gateway: `listed`, `draining`, `left`, `unseen`.
    pub(super) standings: BTreeMap<String, String>,
}

/// One page.
#[derive(Debug, Clone)]
pub(super) enum Reading {
    Read {
        /// Since the program began: rates are by when each page came, not by when all did.
        at: Duration,
        figures: Box<Figures>,
    },
    Failed(String),
}

/// What is shown. The names are relied upon by scripts: they only grow. A rate is null where there was no reading to compare with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct View {
    pub(super) unix_ms: u64,
    pub(super) gateways: Vec<GatewayView>,
    pub(super) businesses: Vec<BusinessView>,
    /// By close code, of all gateways.
    pub(super) closes_per_s: Counters,
    /// Devices pushed to, by outcome.
    pub(super) pushes_per_s: Counters,
    /// By result.
    pub(super) group_pushes_per_s: Counters,
    /// Devices with a session, as the routing replica that knows most of them says.
    pub(super) devices_online: Option<f64>,
    /// Pages that couldn't be read, and why.
    pub(super) unread: BTreeMap<String, String>,
}

/// One gateway.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct GatewayView {
    pub(super) name: String,
    /// What ipconfig calls it, or else what it says itself.
    pub(super) state: Option<String>,
    /// Remaining bandwidth in GB/s, by ipconfig.
    pub(super) score_dynamic: Option<f64>,
    /// Remaining connections, by ipconfig.
    pub(super) score_static: Option<f64>,
    pub(super) connections: Option<f64>,
    pub(super) connection_limit: Option<f64>,
    pub(super) sessions: Option<f64>,
    pub(super) in_bytes_per_s: Option<f64>,
    pub(super) out_bytes_per_s: Option<f64>,
    /// Frames to clients: replies, pushes, group deliveries, pongs.
    pub(super) frames_per_s: Option<f64>,
    /// Of these, group messages, one per member.
    pub(super) group_deliveries_per_s: Option<f64>,
}

/// One business, of all sidecars together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct BusinessView {
    pub(super) name: String,
    pub(super) requests_per_s: f64,
    /// Of them, those that were answered with another code than ok.
    pub(super) failures_per_s: Counters,
    /// Of the requests answered in the interval, in seconds; null if there were none.
    pub(super) p50_s: Option<f64>,
    pub(super) p99_s: Option<f64>,
    pub(super) in_flight: f64,
}

impl Round {
    /// Why no page could be read, if none could.
    pub(super) fn nothing_read(&self) -> Option<String> {
        let mut why = None;
        for (name, reading) in &self.pages {
            match reading {
                Reading::Read { .. } => return None,
                Reading::Failed(fault) => why = why.or_else(|| Some(format!("{name}: {fault}"))),
            }
        }
        Some(why.unwrap_or_else(|| "it has no pages".to_owned()))
    }

    fn read(&self, name: &str) -> Option<(Duration, &Figures)> {
        match self.pages.get(name)? {
            Reading::Read { at, figures } => Some((*at, figures)),
            Reading::Failed(_) => None,
        }
    }
}

/// Compares two rounds.
pub(super) fn between(before: &Round, now: &Round) -> View {
    let mut sums = Sums::default();
    let mut unread = BTreeMap::new();
    for (name, reading) in &now.pages {
        match reading {
            Reading::Failed(fault) => {
                unread.insert(name.clone(), fault.clone());
            }
            Reading::Read { at, figures } => {
                let earlier = before.read(name).and_then(|(earlier, figures)| {
                    let seconds = at.checked_sub(earlier)?.as_secs_f64();
                    (seconds > 0.0).then_some(Earlier { seconds, figures })
                });
                sums.gateways(name, figures, earlier);
                sums.businesses(figures, earlier);
                sums.pushes(figures, earlier);
            }
        }
    }
    for (name, standing) in &now.standings {
        sums.row(name).state = Some(standing.clone());
    }
    let businesses = sums.businesses.into_iter().map(|(name, sum)| sum.view(name));
    View {
        unix_ms: now.unix_ms,
        gateways: sums.gateways.into_values().collect(),
        businesses: businesses.collect(),
        closes_per_s: sums.closes,
        pushes_per_s: sums.pushes,
        group_pushes_per_s: sums.group_pushes,
        devices_online: sums.online,
        unread,
    }
}

/// What a page said in the round before.
#[derive(Clone, Copy)]
struct Earlier<'a> {
    seconds: f64,
    figures: &'a Figures,
}

/// What the pages of a round come to.
#[derive(Default)]
struct Sums<'a> {
    gateways: BTreeMap<&'a str, GatewayView>,
    businesses: BTreeMap<&'a str, BusinessSum>,
    closes: Counters,
    pushes: Counters,
    group_pushes: Counters,
    online: Option<f64>,
}

impl<'a> Sums<'a> {
    fn row(&mut self, gateway: &'a str) -> &mut GatewayView {
        let named = || GatewayView::named(gateway);
        self.gateways.entry(gateway).or_insert_with(named)
    }

    fn gateways(&mut self, page: &'a str, figures: &'a Figures, earlier: Option<Earlier<'_>>) {
        if let Some(gateway) = &figures.gateway {
            let row = self.row(page);
            row.state = gateway.draining.then(|| "draining".to_owned());
            row.connections = Some(gateway.connections);
            row.connection_limit = Some(gateway.connection_limit);
            row.sessions = Some(gateway.sessions);
            if let Some(Earlier { seconds, figures }) = earlier
                && let Some(was) = &figures.gateway
            {
                let rate = |was, is| Some(increase(was, is) / seconds);
                row.in_bytes_per_s = rate(was.received_bytes, gateway.received_bytes);
                row.out_bytes_per_s = rate(was.sent_bytes, gateway.sent_bytes);
                row.frames_per_s = rate(was.sent_frames, gateway.sent_frames);
                row.group_deliveries_per_s = rate(was.group_deliveries, gateway.group_deliveries);
                add_rates(&mut self.closes, &was.closed, &gateway.closed, seconds);
            }
        }
        for (gateway, score) in &figures.scores {
            let row = self.row(gateway);
            (row.score_dynamic, row.score_static) = (Some(score.dynamic), Some(score.fixed));
        }
    }

    fn businesses(&mut self, figures: &'a Figures, earlier: Option<Earlier<'_>>) {
        let nothing = Business::default();
        for (name, is) in &figures.businesses {
            let sum = self.businesses.entry(name).or_default();
            sum.in_flight += is.in_flight;
            let Some(Earlier { seconds, figures }) = earlier else {
                continue;
            };
            let was = figures.businesses.get(name).unwrap_or(&nothing);
            add_rates(&mut sum.answers, &was.answers, &is.answers, seconds);
            for (bound, count) in &is.within {
                let was = was.within.get(bound).copied().unwrap_or(0.0);
                *sum.within.entry(*bound).or_default() += increase(was, *count);
            }
        }
    }

    fn pushes(&mut self, is: &Figures, earlier: Option<Earlier<'_>>) {
        if let Some(Earlier {
            seconds,
            figures: was,
        }) = earlier
        {
            add_rates(&mut self.pushes, &was.pushes, &is.pushes, seconds);
            add_rates(
                &mut self.group_pushes,
                &was.group_pushes,
                &is.group_pushes,
                seconds,
            );
        }
        // Every routing replica knows all devices; one that has just begun doesn't yet.
        self.online = match (self.online, is.routes) {
            (Some(most), Some(routes)) => Some(most.max(routes)),
            (most, routes) => most.or(routes),
        };
    }
}

impl GatewayView {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: None,
            score_dynamic: None,
            score_static: None,
            connections: None,
            connection_limit: None,
            sessions: None,
            in_bytes_per_s: None,
            out_bytes_per_s: None,
            frames_per_s: None,
            group_deliveries_per_s: None,
        }
    }
}

/// A business over all pages.
#[derive(Default)]
struct BusinessSum {
    answers: Counters,
    within: BTreeMap<u64, f64>,
    in_flight: f64,
}

impl BusinessSum {
    fn view(self, name: &str) -> BusinessView {
        let buckets: Vec<(f64, f64)> = self
            .within
            .iter()
            .map(|(bound, count)| (f64::from_bits(*bound), *count))
            .collect();
        let failures = self
            .answers
            .iter()
            .filter(|(code, rate)| *code != "ok" && **rate > 0.0);
        BusinessView {
            name: name.to_owned(),
            requests_per_s: self.answers.values().sum(),
            failures_per_s: failures.map(|(code, rate)| (code.clone(), *rate)).collect(),
            p50_s: quantile(&buckets, 0.5),
            p99_s: quantile(&buckets, 0.99),
            in_flight: self.in_flight,
        }
    }
}

/// How much a counter has grown. One that is lower than before began again from 0 with a new process.
fn increase(was: f64, is: f64) -> f64 {
    if is >= was { is - was } else { is }
}

/// One that wasn't there before stood at 0: the page was read.
fn add_rates(sums: &mut Counters, was: &Counters, is: &Counters, seconds: f64) {
    for (key, value) in is {
        let grown = increase(was.get(key).copied().unwrap_or(0.0), *value);
        *sums.entry(key.clone()).or_default() += grown / seconds;
    }
}

/// The value below which the share `q` of what was counted lies: straight between its bucket's bounds, as Prometheus reckons. Buckets
/// are (upper bound, counted up to it), the last one's bound is infinite.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let total = buckets
        .last()
        .map(|(_, count)| *count)
        .filter(|total| *total > 0.0)?;
    let rank = q * total;
    let mut below = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= rank && count > below.1 {
            if bound.is_infinite() {
                // Beyond the last bound; more isn't known.
                return Some(below.0);
            }
            return Some(below.0 + (bound - below.0) * (rank - below.1) / (count - below.1));
        }
        below = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests;
