//! What became of many devices: a line each when they are few, counts and who is missing when they are many.

use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::{Value, json};

use super::outcome::{Verdict, Worded};
use crate::columns;
use crate::exit::{FAILED, RETRY};
use crate::terminal::{self, on_one_line};

/// Most devices that people are shown one by one.
const LINES: usize = 20;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) device: String,
    pub(crate) outcome: Worded,
    /// The gateway that it is connected to, if that was asked.
    pub(crate) gateway: Option<String>,
}

/// All of them, in the order in which they were given.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(super) rows: Vec<Row>,
    /// What ended it before the last call.
    pub(super) cut: Option<Cut>,
}

/// A call failed after others had gone well.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) error: anyhow::Error,
    /// Devices of the call that failed.
    pub(super) unanswered: usize,
    /// Devices of the calls that were never made.
    pub(super) unsent: usize,
}

impl Results {
    /// Prints them, and says how it went: by the worst that became of a device.
    pub(crate) fn finish(self, json: bool) -> anyhow::Result<ExitCode> {
        if json {
            terminal::line(&self.json().to_string());
        } else {
            self.text().iter().for_each(|line| terminal::line(line));
        }
        let status = self.status();
        match self.cut {
            None => Ok(status),
            Some(cut) => Err(cut.error.context(format!(
                "{} devices were in the call that failed and may have been reached; {} were not sent",
                cut.unanswered, cut.unsent
            ))),
        }
    }

    /// One that wasn't reached is a failure; else one that isn't known says try again.
    fn status(&self) -> ExitCode {
        match self.rows.iter().map(|row| row.outcome.verdict).max() {
            Some(Verdict::Failed) => FAILED.into(),
            Some(Verdict::Retry) => RETRY.into(),
            Some(Verdict::Fine) | None => ExitCode::SUCCESS,
        }
    }

    /// How many of each outcome, the wanted ones first.
    fn counts(&self) -> Vec<(Worded, usize)> {
        let mut counts: Vec<(Worded, usize)> = Vec::new();
        for row in &self.rows {
            match counts.iter_mut().find(|(outcome, _)| *outcome == row.outcome) {
                Some((_, count)) => *count += 1,
                None => counts.push((row.outcome, 1)),
            }
        }
        counts.sort_by_key(|(outcome, _)| (outcome.verdict, outcome.word));
        counts
    }

    /// For people.
    fn text(&self) -> Vec<String> {
        if self.rows.len() <= LINES {
            return self.rows.iter().map(Row::line).collect();
        }
        let mut table = vec![vec!["OUTCOME".to_owned(), " DEVICES".to_owned()]];
        for (outcome, count) in self.counts() {
            table.push(vec![outcome.word.to_owned(), columns::grouped(count as u64)]);
        }
        let mut lines = columns::lines(&table);
        let named: Vec<&Row> = self.rows.iter().filter(|row| row.outcome.named).collect();
        if !named.is_empty() {
            lines.push(String::new());
        }
        lines.extend(named.iter().take(LINES).map(|row| row.line()));
        if let Some(more @ 1..) = named.len().checked_sub(LINES) {
            lines.push(format!("… and {} more", columns::grouped(more as u64)));
        }
        lines
    }

    /// For scripts, complete.
    fn json(&self) -> Value {
        let counts: serde_json::Map<String, Value> = self
            .counts()
            .into_iter()
            .map(|(outcome, count)| (outcome.word.to_owned(), count.into()))
            .collect();
        let device = |row: &Row| {
            let mut device = json!({"device": row.device, "outcome": row.outcome.word});
            if let Some(gateway) = &row.gateway {
                device["gateway"] = gateway.as_str().into();
            }
            device
        };
        let mut all = json!({
            "outcomes": counts,
            "devices": self.rows.iter().map(device).collect::<Vec<_>>(),
        });
        if let Some(cut) = &self.cut {
            all["unanswered"] = cut.unanswered.into();
            all["unsent"] = cut.unsent.into();
            all["error"] = format!("{:#}", cut.error).into();
        }
        all
    }
}

impl Row {
    fn line(&self) -> String {
        let on = self.gateway.as_ref().map_or_else(String::new, |gateway| {
            format!(" on {}", on_one_line(gateway.as_bytes()))
        });
        format!(
            "{}: {}{on}",
            on_one_line(self.device.as_bytes()),
            self.outcome.text
        )
    }
}

/// Pairs the devices of a call with its answers.
pub(super) fn rows(
    devices: &[String],
    answers: impl ExactSizeIterator<Item = (Worded, Option<String>)>,
) -> anyhow::Result<Vec<Row>> {
    if answers.len() != devices.len() {
        let (answers, devices) = (answers.len(), devices.len());
        return Err(anyhow!(
            "the push API gave {answers} answers for {devices} devices"
        ));
    }
    let row = |(device, (outcome, gateway)): (&String, _)| Row {
        device: device.clone(),
        outcome,
        gateway,
    };
    Ok(devices.iter().zip(answers).map(row).collect())
}

#[cfg(test)]
mod tests {
    use imaccess_proto::v1::{Outcome, PresenceStatus};

    use super::super::outcome::{of_presence, of_push};
    use super::*;

    fn results(outcomes: &[(Outcome, usize)]) -> Results {
        let mut rows = Vec::new();
        for (outcome, count) in outcomes {
            for _ in 0..*count {
                rows.push(Row {
                    device: format!("d-{}", rows.len()),
                    outcome: of_push(*outcome),
                    gateway: None,
                });
            }
        }
        Results { rows, cut: None }
    }

    #[test]
    fn the_status_tells_the_worst_outcome() {
        use Outcome::{Acknowledged, Offline, Queued, Refused, Retry, Written};
        let status = |outcomes: &[Outcome]| {
            let counted: Vec<_> = outcomes.iter().map(|outcome| (*outcome, 1)).collect();
            results(&counted).status()
        };
        assert_eq!(status(&[Written, Queued, Acknowledged]), ExitCode::SUCCESS);
        assert_eq!(status(&[Written, Retry]), RETRY.into());
        assert_eq!(status(&[Retry, Offline]), FAILED.into());
        assert_eq!(status(&[Refused]), FAILED.into());
    }

    #[test]
    fn a_few_devices_have_a_line_each() {
        let few = results(&[(Outcome::Written, 1), (Outcome::Refused, 1)]);
        assert_eq!(few.text(), ["d-0: written", "d-1: refused: its queue is full"]);
        let online = Results {
            rows: vec![Row {
                device: "a\n".to_owned(),
                outcome: of_presence(PresenceStatus::Online),
                gateway: Some("gateway-0".to_owned()),
            }],
            cut: None,
        };
        assert_eq!(online.text(), ["a\\n: online on gateway-0"]);
        assert_eq!(
            online.json()["devices"][0],
            json!({"device": "a\n", "outcome": "online", "gateway": "gateway-0"})
        );
    }

    #[test]
    fn many_devices_are_counted_and_who_is_missing_is_named() {
        let many = results(&[
            (Outcome::Written, 9_970),
            (Outcome::Offline, 25),
            (Outcome::Retry, 5),
        ]);
        let text = many.text();
        let head = [
            "OUTCOME  DEVICES",
            "written    9,970",
            "retry          5",
            "offline       25",
            "",
        ];
        assert_eq!(text[..5], head);
        assert_eq!(text[5], "d-9970: offline");
        assert_eq!(text.len(), 5 + LINES + 1);
        assert_eq!(text.last().unwrap(), "… and 10 more");
        let json = many.json();
        assert_eq!(
            json["outcomes"],
            json!({"written": 9_970, "offline": 25, "retry": 5})
        );
        assert_eq!(json["devices"].as_array().unwrap().len(), 10_000);
        let all_fine = results(&[(Outcome::Written, LINES + 1)]).text();
        assert_eq!(all_fine, ["OUTCOME  DEVICES", "written       21"]);
    }

    #[test]
    fn what_was_not_sent_is_said_and_what_was_is_shown() {
        let mut cut = results(&[(Outcome::Written, 2)]);
        cut.cut = Some(Cut {
            error: anyhow!("gone"),
            unanswered: 3,
            unsent: 4,
        });
        let json = cut.json();
        assert_eq!((&json["unanswered"], &json["unsent"]), (&3.into(), &4.into()));
        assert_eq!(json["error"], "gone");
        let said = format!("{:#}", cut.finish(true).unwrap_err());
        assert!(
            said.starts_with("3 devices") && said.ends_with("4 were not sent: gone"),
            "{said}"
        );
    }

    #[test]
    fn an_answer_of_another_length_is_no_answer() {
        let devices = ["a".to_owned(), "b".to_owned()];
        let one = [(of_push(Outcome::Written), None)];
        let fault = rows(&devices, one.into_iter()).unwrap_err().to_string();
        assert!(fault.contains("1 answers for 2 devices"), "{fault}");
    }
}
