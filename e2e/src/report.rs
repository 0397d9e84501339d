//! What a scenario measured, and the limits that it is held to.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use serde_json::{Value, json};

/// How big a scenario is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As a test: seconds, complete, and without limits on speed, which a busy machine would fail.
    Small,
    /// As promised: every limit counts.
    Full,
}

impl Size {
    /// One of two values.
    pub fn pick<T>(self, small: T, full: T) -> T {
        match self {
            Self::Small => small,
            Self::Full => full,
        }
    }
}

/// The result of one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub name: String,
    /// Whether every limit was held.
    pub passed: bool,
    /// The seed that repeats it.
    pub seed: u64,
    /// What was measured.
    pub figures: BTreeMap<String, Value>,
    /// What was promised, by the figure's name.
    pub limits: BTreeMap<String, Limit>,
    #[serde(skip)]
    size: Size,
}

/// One promise.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    /// Such as `≤ 320`.
    pub limit: String,
    /// What was measured.
    pub value: f64,
    /// Whether it was held; absent where it isn't judged (a speed, in a small run).
    pub held: Option<bool>,
}

impl Report {
    /// An empty report.
    #[must_use]
    pub fn new(name: &str, size: Size, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            passed: true,
            seed,
            figures: BTreeMap::new(),
            limits: BTreeMap::new(),
            size,
        }
    }

    /// Notes a figure.
    pub fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// A limit on speed, memory or CPU: judged in a full run only.
    pub fn at_most(&mut self, name: &str, value: f64, bound: f64) {
        let judged = self.size == Size::Full;
        self.limit(
            name,
            format!("≤ {bound}"),
            value,
            judged.then_some(value <= bound),
        );
    }

    /// As [`Report::at_most`], from below.
    pub fn at_least(&mut self, name: &str, value: f64, bound: f64) {
        let judged = self.size == Size::Full;
        self.limit(
            name,
            format!("≥ {bound}"),
            value,
            judged.then_some(value >= bound),
        );
    }

    /// A limit on what must be right at every size, such as nothing lost.
    pub fn exactly(&mut self, name: &str, value: f64, bound: f64) {
        self.limit(
            name,
            format!("= {bound}"),
            value,
            Some((value - bound).abs() < f64::EPSILON),
        );
    }

    /// As [`Report::at_most`], but for what even a busy machine must do: judged at every size.
    pub fn always_at_most(&mut self, name: &str, value: f64, bound: f64) {
        self.limit(name, format!("≤ {bound}"), value, Some(value <= bound));
    }

    fn limit(&mut self, name: &str, limit: String, value: f64, held: Option<bool>) {
        // A figure that is not a number holds no limit.
        let held = if value.is_nan() { Some(false) } else { held };
        self.passed &= held != Some(false);
        self.figures
            .entry(name.to_owned())
            .or_insert_with(|| json!(value));
        self.limits.insert(name.to_owned(), Limit { limit, value, held });
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "{}: {} (seed {})\n",
            self.name,
            if self.passed { "passed" } else { "FAILED" },
            self.seed
        );
        for (name, value) in &self.figures {
            let shown = value
                .as_f64()
                .map_or_else(|| value.to_string(), |number| format!("{number:.3}"));
            let limit = self.limits.get(name).map_or_else(String::new, |limit| {
                let verdict = match limit.held {
                    Some(true) => "held",
                    Some(false) => "NOT HELD",
                    None => "not judged at this size",
                };
                format!("{}  {verdict}", limit.limit)
            });
            let line = format!("  {name:<44} {shown:>16}  {limit}");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speed_is_judged_in_a_full_run_only() {
        for (size, passed) in [(Size::Small, true), (Size::Full, false)] {
            let mut report = Report::new("x", size, 1);
            report.at_most("p99_us", 20.0, 10.0);
            assert_eq!(report.passed, passed);
        }
    }

    #[test]
    fn completeness_is_judged_at_every_size() {
        let mut report = Report::new("x", Size::Small, 1);
        report.exactly("lost", 1.0, 0.0);
        assert!(!report.passed && report.table().contains("NOT HELD"));
    }
}
