//! Steps in order, each timed, with a table at the end and one plain closing line.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Tests counted in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// What became of a step.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The step as a whole is one check, which passed.
    Passed,
    /// The step ran tests that are counted one by one; a failed one fails the step.
    Counted(Tally),
    /// Nothing was checked, and this is why. Shown in the table, so that it can't be overlooked.
    Skipped(String),
}

/// One line of the table.
struct Row {
    name: &'static str,
    took: Duration,
    note: String,
}

/// Runs steps until one fails.
#[derive(Default)]
pub(crate) struct Steps {
    rows: Vec<Row>,
    tally: Tally,
    details: Vec<(String, Duration)>,
}

impl Steps {
    /// Runs one step; false means that it failed and nothing more should run.
    pub(crate) fn run(
        &mut self,
        name: &'static str,
        step: impl FnOnce(&mut Self) -> Result<Verdict>,
    ) -> bool {
        println!("\n=== {name}");
        let start = Instant::now();
        let (good, note) = match step(self) {
            Ok(Verdict::Passed) => {
                self.tally.passed += 1;
                (true, "ok".to_owned())
            }
            Ok(Verdict::Counted(tally)) => {
                self.tally.passed += tally.passed;
                self.tally.failed += tally.failed;
                (
                    tally.failed == 0,
                    format!("{} passed, {} failed", tally.passed, tally.failed),
                )
            }
            Ok(Verdict::Skipped(why)) => (true, format!("skipped: {why}")),
            Err(error) => {
                self.tally.failed += 1;
                (false, format!("FAILED: {error:#}"))
            }
        };
        println!("=== {name}: {note} ({:.1} s)", start.elapsed().as_secs_f64());
        self.rows.push(Row {
            name,
            took: start.elapsed(),
            note,
        });
        good
    }

    /// Notes how long a part of the present step took, for the table below the steps.
    pub(crate) fn detail(&mut self, name: String, took: Duration) {
        self.details.push((name, took));
    }

    /// Prints the tables and the closing line; true if nothing failed.
    pub(crate) fn close(mut self) -> bool {
        let total: Duration = self.rows.iter().map(|row| row.took).sum();
        println!("\n{:<12} {:>9}  result", "step", "seconds");
        for row in &self.rows {
            // The reason of a failure may have several lines (a list of findings); the table keeps the first.
            let note = row.note.lines().next().unwrap_or_default();
            println!("{:<12} {:>9.1}  {note}", row.name, row.took.as_secs_f64());
        }
        println!("{:<12} {:>9.1}", "total", total.as_secs_f64());
        self.details.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        self.details
            .retain(|(_, took)| *took >= Duration::from_millis(500));
        if !self.details.is_empty() {
            println!("\n{:<34} {:>7}", "test binary (≥ 0.5 s)", "seconds");
            for (name, took) in &self.details {
                println!("{name:<34} {:>7.1}", took.as_secs_f64());
            }
        }
        println!("\n{} passed, {} failed", self.tally.passed, self.tally.failed);
        self.tally.failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_own_steps_as_one_and_tests_one_by_one() {
        let mut steps = Steps::default();
        assert!(steps.run("own", |_| Ok(Verdict::Passed)));
        assert!(steps.run("skipped", |_| Ok(Verdict::Skipped("no tool".into()))));
        assert!(steps.run("tests", |_| Ok(Verdict::Counted(Tally { passed: 7, failed: 0 }))));
        assert_eq!(steps.tally, Tally { passed: 8, failed: 0 });
        assert!(!steps.run("bad", |_| Err(anyhow::anyhow!("broken"))));
        assert_eq!(steps.tally, Tally { passed: 8, failed: 1 });
        assert!(!steps.close());
    }
}
