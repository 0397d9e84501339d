//! `imaccess bench`, run and read.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::command;
use crate::report::Report;

/// Figures of one run.
#[derive(Clone, Debug)]
pub struct Figures(Map<String, Value>);

impl Figures {
    /// Runs `imaccess bench <arguments> --json`.
    ///
    /// # Errors
    /// When it fails, doesn't end in time, or prints no object.
    pub async fn measure(arguments: &[&str], deadline: Duration) -> Result<Self> {
        let all: Vec<&str> = ["bench"]
            .iter()
            .chain(arguments)
            .chain(&["--json"])
            .copied()
            .collect();
        // The bench starts its own parts: no cluster is given to it.
        let printed = command::output_of(None, &all, deadline).await?;
        let object = printed
            .lines()
            .rev()
            .find(|line| line.starts_with('{'))
            .unwrap_or(&printed);
        let figures =
            serde_json::from_str(object).with_context(|| format!("bench printed no object: {printed}"))?;
        Ok(Self(figures))
    }

    /// A number by its stable name.
    ///
    /// # Errors
    /// When there is none.
    pub fn number(&self, name: &str) -> Result<f64> {
        let value = self
            .0
            .get(name)
            .with_context(|| format!("bench gave no {name}; it gave {:?}", self.names()))?;
        value
            .as_f64()
            .with_context(|| format!("{name} is {value}, which is no number"))
    }

    /// Copies all figures, with a prefix, into a report.
    pub fn note(&self, prefix: &str, report: &mut Report) {
        for (name, value) in &self.0 {
            report.figure(&format!("{prefix}{name}"), value.clone());
        }
    }

    fn names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}
