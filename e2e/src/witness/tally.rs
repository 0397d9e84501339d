//! What the whole load saw, added up.

use std::collections::BTreeMap;
use std::time::Duration;

use imaccess_wire::Code;

use super::book::{LOST, Seen};
use crate::report::Report;

/// What the clients of one kind saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests, repetitions left out.
    pub sent: u64,
    /// Repetitions after a retryable code, or on a new connection.
    pub retries: u64,
    /// Requests that nothing answered within 20 s of an attempt.
    pub lost: u64,
    /// Requests of an SDK client that were answered `retry` (or the like) until nobody waited for them any more.
    pub told_retry: u64,
    /// Answers after that.
    pub late: u64,
    /// Second answers.
    pub doubled: u64,
    /// Replies and pushes of others.
    pub foreign: u64,
    /// Replies and pushes with broken content, and connections that ended within a frame.
    pub torn: u64,
    /// Bytes that are no frame, or none that a gateway may send.
    pub forged: u64,
    /// Final answers by code.
    pub answers: BTreeMap<String, u64>,
    /// How connections ended that nobody here wanted to end.
    pub ended: BTreeMap<String, u64>,
    /// Logins that were refused or not answered, after a connection had been lost.
    pub login_failures: BTreeMap<String, u64>,
    /// Sessions that went on.
    pub resumed: u64,
    /// Sessions that didn't: a new one began.
    pub not_resumed: u64,
    /// Pings and their answers.
    pub pings: u64,
    /// Of them.
    pub pongs: u64,
    /// Group pushes that came.
    pub group_pushes: u64,
    /// Those that didn't, by numbering stream and number: at how many clients.
    pub missed: BTreeMap<(u64, u64), u64>,
    /// Pushes to devices that came.
    pub device_pushes: u64,
    /// Pushes that came twice.
    pub repeated_pushes: u64,
    /// Examples of what was wrong, for people.
    pub examples: Vec<String>,
    samples: Vec<Sample>,
}

/// One request: when its last byte was due, and how long its final answer took.
#[derive(Clone, Copy, Debug)]
struct Sample {
    due: Duration,
    took: Duration,
    /// Its gateway, by the place in the list; nothing if the client chose one itself.
    gateway: Option<usize>,
}

/// A time that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// From then.
    pub from: Duration,
    /// Until then.
    pub to: Duration,
    /// Only at this gateway, by its place in the list: the others' requests would hide what happened here.
    pub gateway: Option<usize>,
}

impl From<(Duration, Duration)> for Window {
    fn from((from, to): (Duration, Duration)) -> Self {
        Self {
            from,
            to,
            gateway: None,
        }
    }
}

impl Window {
    fn has(&self, sample: &Sample) -> bool {
        let elsewhere = match (self.gateway, sample.gateway) {
            (Some(wanted), Some(gateway)) => wanted != gateway,
            _ => false,
        };
        !elsewhere && sample.due <= self.to && sample.due.saturating_add(sample.took) >= self.from
    }
}

/// Examples kept: enough to see a pattern.
const EXAMPLES: usize = 8;

/// Latencies of the requests that were under way in a time.
#[derive(Clone, Debug, Default)]
pub struct Stall(Vec<Duration>);

impl Stall {
    /// Of these latencies.
    #[must_use]
    pub fn of(latencies: impl IntoIterator<Item = Duration>) -> Self {
        let mut took: Vec<Duration> = latencies.into_iter().collect();
        took.sort_unstable();
        Self(took)
    }

    /// The latency that this share stayed within, in milliseconds.
    #[must_use]
    pub fn quantile_ms(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0
            .get(rank.clamp(1, self.0.len().max(1)) - 1)
            .map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }

    /// How many requests.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl Tally {
    /// Adds what one read brought, from this gateway, if it is known which.
    pub fn add(&mut self, seen: &Seen, gateway: Option<usize>) {
        for (due, took, code) in &seen.answers {
            *self.answers.entry(code_name(*code)).or_default() += 1;
            self.samples.push(Sample {
                due: *due,
                took: *took,
                gateway,
            });
        }
        self.doubled += seen.doubled;
        self.late += seen.late;
        self.foreign += seen.foreign;
        self.torn += seen.torn;
        self.group_pushes += seen.group_pushes;
        for place in &seen.missed {
            *self.missed.entry(*place).or_default() += 1;
        }
        self.device_pushes += seen.device_pushes;
        self.repeated_pushes += seen.repeated_pushes;
        self.pongs += seen.pongs;
        if let Some(why) = &seen.forged {
            self.forged += 1;
            self.example(why.clone());
        }
    }

    /// A final answer that took this long.
    pub fn answered(&mut self, due: Duration, took: Duration, code: u16) {
        *self.answers.entry(code_name(code)).or_default() += 1;
        self.sample(due, took);
    }

    /// A request that was due then is lost.
    pub fn lost(&mut self, due: Duration, what: String) {
        self.lost += 1;
        self.sample(due, LOST);
        self.example(what);
    }

    /// A request that was due then was answered `retry` to the end.
    pub fn told_retry(&mut self, due: Duration, what: String) {
        self.told_retry += 1;
        self.sample(due, LOST);
        self.example(what);
    }

    fn sample(&mut self, due: Duration, took: Duration) {
        let gateway = None;
        self.samples.push(Sample { due, took, gateway });
    }

    /// Something to look at.
    pub fn example(&mut self, what: String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(what);
        }
    }

    /// Latencies of all requests under way in one of these times, sorted.
    #[must_use]
    pub fn stall<W: Copy + Into<Window>>(&self, windows: &[W]) -> Stall {
        let windows: Vec<Window> = windows.iter().map(|window| (*window).into()).collect();
        let within = |sample: &&Sample| windows.iter().any(|window| window.has(sample));
        Stall::of(self.samples.iter().filter(within).map(|one| one.took))
    }

    /// Latencies of all requests.
    #[must_use]
    pub fn all(&self) -> Stall {
        self.stall(&[(Duration::ZERO, Duration::MAX)])
    }

    /// The slowest requests: when due and how long, in seconds, for whoever looks for why.
    #[must_use]
    pub fn slowest(&self, most: usize) -> Vec<(f64, f64)> {
        let mut all = self.samples.clone();
        all.sort_unstable_by_key(|sample| std::cmp::Reverse(sample.took));
        let seconds = |sample: &Sample| (sample.due.as_secs_f64(), sample.took.as_secs_f64());
        all.iter().take(most).map(seconds).collect()
    }

    /// Final answers with other codes than `ok`.
    #[must_use]
    pub fn not_ok(&self) -> u64 {
        let others = self.answers.iter().filter(|(name, _)| *name != Code::Ok.name());
        others.map(|(_, count)| count).sum()
    }

    /// Connections that ended, however.
    #[must_use]
    pub fn closed(&self) -> u64 {
        self.ended.values().sum()
    }

    /// Of them, those that ended without a close code.
    #[must_use]
    pub fn wordless(&self) -> u64 {
        let wordless = self.ended.iter().filter(|(how, _)| !how.starts_with("close "));
        wordless.map(|(_, count)| count).sum()
    }

    /// Notes everything, with a prefix.
    pub fn note(&self, prefix: &str, report: &mut Report) {
        let counts = [
            ("requests", self.sent),
            ("retries", self.retries),
            ("lost", self.lost),
            ("told_retry", self.told_retry),
            ("late", self.late),
            ("doubled", self.doubled),
            ("foreign", self.foreign),
            ("torn", self.torn),
            ("forged", self.forged),
            ("resumed", self.resumed),
            ("not_resumed", self.not_resumed),
            ("pings", self.pings),
            ("pongs", self.pongs),
            ("group_pushes", self.group_pushes),
            ("group_pushes_missed", self.missed.values().sum()),
            ("device_pushes", self.device_pushes),
            ("repeated_pushes", self.repeated_pushes),
        ];
        for (name, count) in counts {
            report.figure(&format!("{prefix}_{name}"), count);
        }
        let maps = [
            ("answer", &self.answers),
            ("ended", &self.ended),
            ("login_failure", &self.login_failures),
        ];
        for (name, map) in maps {
            for (what, count) in map {
                report.figure(&format!("{prefix}_{name}_{}", what.replace(' ', "_")), *count);
            }
        }
        if !self.examples.is_empty() {
            report.figure(&format!("{prefix}_examples"), self.examples.clone());
        }
    }
}

/// A code's name, or its number.
#[must_use]
pub fn code_name(code: u16) -> String {
    Code::from_u16(code).map_or_else(|| code.to_string(), |code| code.name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_stall_is_of_requests_under_way_in_its_window() {
        let mut tally = Tally::default();
        for (due, took) in [(0, 5), (90, 20), (150, 3), (199, 100), (201, 1)] {
            tally.answered(ms(due), ms(took), 0);
        }
        tally.lost(ms(160), "a request".to_owned());
        let stall = tally.stall(&[(ms(100), ms(200))]);
        assert_eq!(stall.count(), 4);
        assert!((stall.quantile_ms(0.5) - 20.0).abs() < 1e-9);
        assert!((stall.quantile_ms(1.0) - 20_000.0).abs() < 1e-9);
        assert!(Stall::default().quantile_ms(1.0).is_nan());
        assert_eq!(tally.all().count(), 6);
        assert_eq!(tally.slowest(2), [(0.16, 20.0), (0.199, 0.1)]);
    }

    #[test]
    fn a_stall_at_one_gateway_leaves_out_the_others() {
        let mut tally = Tally::default();
        for (gateway, took) in [(Some(0), 5), (Some(1), 80), (None, 7)] {
            let seen = Seen {
                answers: vec![(ms(100), ms(took), 0)],
                ..Seen::default()
            };
            tally.add(&seen, gateway);
        }
        let window = |gateway| Window {
            from: ms(90),
            to: ms(110),
            gateway,
        };
        let longest = |gateway| tally.stall(&[window(gateway)]).quantile_ms(1.0);
        assert!(
            (longest(Some(0)) - 7.0).abs() < 1e-9,
            "whose gateway isn't known counts everywhere"
        );
        assert!((longest(Some(1)) - 80.0).abs() < 1e-9);
        assert_eq!(tally.stall(&[window(None)]).count(), 3);
    }

    #[test]
    fn ends_without_a_code_are_told_apart() {
        let mut tally = Tally::default();
        tally.ended.insert("close draining".to_owned(), 3);
        tally.ended.insert("silent".to_owned(), 2);
        assert_eq!((tally.closed(), tally.wordless()), (5, 2));
        tally.answered(ms(1), ms(1), Code::AlreadyAnswered as u16);
        tally.answered(ms(1), ms(1), 0);
        assert_eq!(tally.not_ok(), 1);
    }
}
