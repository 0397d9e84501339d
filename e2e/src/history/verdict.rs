//! What rules found in a history.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::health::Health;
use super::record::{Device, Heard, History, Moment};
use super::rules::{self, Rule};
use super::timeline;

/// Violations that are shown in full.
const SHOWN: usize = 5;

/// Something that can't have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What it breaks.
    pub rule: Rule,
    /// Whose; `None` if it isn't about one device.
    pub device: Option<Device>,
    /// When it showed.
    pub at: Moment,
    /// What was seen, and what it contradicts.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.at, self.rule)?;
        if let Some(device) = self.device {
            write!(f, "device {device}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// What the rules fill.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// In the order in which they were found.
    pub violations: Vec<Violation>,
    /// How often something was let pass, by why.
    pub excused: BTreeMap<&'static str, u64>,
    /// How often something could be judged, by what.
    pub judged: BTreeMap<&'static str, u64>,
    /// The longest time from a device's end until it was said to be online for the last time.
    pub longest_ghost: Duration,
    /// From a device's end until its business was told.
    pub longest_until_told: Duration,
    /// From a fault's end until its part was whole again.
    pub longest_recovery: Duration,
}

impl Verdict {
    /// Something breaks a rule.
    pub fn violated(&mut self, rule: Rule, device: impl Into<Option<Device>>, at: Moment, text: String) {
        let device = device.into();
        self.violations.push(Violation {
            rule,
            device,
            at,
            text,
        });
    }

    /// Something would break a rule, if it weren't for this.
    pub fn excused(&mut self, why: &'static str) {
        *self.excused.entry(why).or_default() += 1;
    }

    /// Something could be judged.
    pub fn judged(&mut self, what: &'static str) {
        *self.judged.entry(what).or_default() += 1;
    }

    /// How many violations of a rule there are.
    #[must_use]
    pub fn count(&self, rule: Rule) -> usize {
        self.violations
            .iter()
            .filter(|violation| violation.rule == rule)
            .count()
    }

    /// The first few violations of each rule.
    pub fn examples(&self) -> impl Iterator<Item = &Violation> {
        Rule::ALL.iter().flat_map(|rule| {
            self.violations
                .iter()
                .filter(|violation| violation.rule == *rule)
                .take(SHOWN)
        })
    }
}

/// Judges a history by all rules.
#[must_use]
pub fn judge(history: &History) -> Verdict {
    let health = Health::new(&history.faults, &history.limits);
    let timelines = timeline::of_all(history, &health);
    let mut heard: BTreeMap<Device, Vec<&Heard>> = BTreeMap::new();
    for event in &history.heard {
        heard.entry(event.device).or_default().push(event);
    }
    let case = rules::Case {
        history,
        limits: &history.limits,
        health: &health,
        timelines: &timelines,
        heard: &heard,
    };
    let mut verdict = Verdict::default();
    rules::judge(&case, &mut verdict);
    verdict
}
