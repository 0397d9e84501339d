//! What a run says: one JSON object for scripts, a table for people.

use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use crate::job::Failures;
use crate::statistics::readable;

/// The figures of one run, in the order in which people read them.
#[derive(Debug)]
pub(crate) struct Report {
    title: String,
    figures: Map<String, Value>,
    rows: Vec<[String; 2]>,
    remarks: Vec<String>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            figures: Map::new(),
            rows: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// A measured figure: its stable name, and what it is.
    pub(crate) fn figure(&mut self, name: &str, value: f64, what: &str) -> &mut Self {
        let value = readable(value);
        self.rows.push([what.to_owned(), grouped(value)]);
        self.figures.insert(name.to_owned(), value.into());
        self
    }

    /// A count: its stable name, and what it is.
    pub(crate) fn count(&mut self, name: &str, value: u64, what: &str) -> &mut Self {
        self.rows.push([what.to_owned(), grouped(value as f64)]);
        self.figures.insert(name.to_owned(), value.into());
        self
    }

    /// Something for scripts alone.
    pub(crate) fn detail(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }

    /// A sentence under the table, and among the JSON's `remarks`.
    pub(crate) fn remark(&mut self, sentence: impl Into<String>) -> &mut Self {
        self.remarks.push(sentence.into());
        self
    }

    /// Failures by kind, where there were any.
    pub(crate) fn failures(&mut self, what: &str, failures: &Failures) -> &mut Self {
        if !failures.is_empty() {
            let kinds: Vec<_> = failures
                .iter()
                .map(|(kind, count)| format!("{count} {kind}"))
                .collect();
            self.remark(format!("{what}: {}", kinds.join(", ")));
        }
        self
    }

    /// The JSON object.
    #[must_use]
    pub(crate) fn json(&self) -> Value {
        let mut figures = self.figures.clone();
        if !self.remarks.is_empty() {
            figures.insert("remarks".to_owned(), self.remarks.clone().into());
        }
        Value::Object(figures)
    }

    /// The table.
    #[must_use]
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(UTF8_HORIZONTAL_ONLY)
            .set_header([self.title.as_str(), ""]);
        for row in &self.rows {
            table.add_row(row);
        }
        if let Some(values) = table.column_mut(1) {
            values.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = table.to_string();
        for remark in &self.remarks {
            text.push('\n');
            text.push_str(remark);
        }
        text
    }
}

/// A number with its thousands grouped, and decimals only where it has some.
fn grouped(value: f64) -> String {
    let decimals = match value.abs() {
        whole if whole.fract() == 0.0 => 0,
        small if small < 1.0 => 4,
        _ => 2,
    };
    let text = format!("{:.decimals$}", value.abs());
    let (whole, decimals) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{out}{decimals}")
}

/// A progress bar on standard error, if that is a terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A run of so many steps.
    pub(crate) fn new(steps: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(steps);
        let style = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {msg}");
        bar.set_style(
            style
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> "),
        );
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(bar)
    }

    /// The next step begins.
    pub(crate) fn step(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
        self.0.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0.0), "0");
        assert_eq!(grouped(999.5), "999.50");
        assert_eq!(grouped(0.0913), "0.0913");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(grouped(-1_234.25), "-1,234.25");
    }

    #[test]
    fn scripts_and_people_get_the_same_figures() {
        let mut report = Report::new("echo");
        report
            .figure("p99_us", 1_234.567, "p99, µs")
            .count("connections", 1_000, "connections");
        report.detail("rounds", 5).remark("not comparable");
        report.failures("ours", &Failures::from([("closed".to_owned(), 2)]));
        let json = report.json();
        assert_eq!(json["p99_us"], 1_234.57);
        assert_eq!(json["connections"], 1_000);
        assert_eq!(json["remarks"][1], "ours: 2 closed");
        let table = report.table();
        for text in ["p99, µs", "1,234.57", "1,000", "not comparable"] {
            assert!(table.contains(text), "{table}");
        }
    }
}
