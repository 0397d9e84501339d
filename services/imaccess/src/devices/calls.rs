//! Any number of devices, in calls of as many as the push API takes, with progress on standard error.
//!
//! The first call says whether the push API is there and takes such calls at all: it fails at once. A later one that can't be
//! answered now is repeated for a while, so that what is done already wasn't in vain.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::outcome::Worded;
use super::results::{Cut, Results, rows};
use crate::exit;

/// Most devices of one call, by push.proto.
pub(crate) const CALL: usize = 10_000;
/// How long a later call is repeated.
const AGAIN: Duration = Duration::from_secs(30);
/// Before the first repetition; doubled to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// Makes the calls one after the other: `call` gets the devices and the call's number, and answers with an outcome for each.
///
/// # Errors
/// The first call's. What a later one's was is in the results.
pub(crate) async fn in_calls<A>(
    devices: &[String],
    mut call: impl AsyncFnMut(Vec<String>, usize) -> anyhow::Result<A>,
) -> anyhow::Result<Results>
where
    A: IntoIterator<IntoIter: ExactSizeIterator<Item = (Worded, Option<String>)>>,
{
    let mut results = Results::default();
    let progress = Progress::new(devices.len());
    for (number, chunk) in devices.chunks(CALL).enumerate() {
        let deadline = Instant::now() + AGAIN;
        let mut pause = PAUSE.0;
        let answered = loop {
            match call(chunk.to_vec(), number).await {
                Ok(answers) => break rows(chunk, answers.into_iter()),
                Err(error) if number > 0 && exit::is_retry(&error) && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
                Err(error) => break Err(error),
            }
        };
        match answered {
            Ok(answered) => results.rows.extend(answered),
            Err(error) if number == 0 => return Err(error),
            Err(error) => {
                results.cut = Some(Cut {
                    error,
                    unanswered: chunk.len(),
                    unsent: devices.len() - results.rows.len() - chunk.len(),
                });
                return Ok(results);
            }
        }
        progress.advance(chunk.len());
    }
    Ok(results)
}

/// How far it is: a bar at a terminal; a line for each tenth elsewhere, when there are many.
struct Progress {
    bar: ProgressBar,
    lines: bool,
    /// In tenths, what was said last.
    said: std::cell::Cell<u64>,
}

impl Progress {
    fn new(devices: usize) -> Self {
        let many = devices > CALL;
        let terminal = std::io::stderr().is_terminal();
        let bar = if many && terminal {
            let bar = ProgressBar::new(devices as u64);
            let style = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos} of {len} devices");
            bar.set_style(
                style
                    .unwrap_or_else(|_| ProgressStyle::default_bar())
                    .progress_chars("=> "),
            );
            bar
        } else {
            ProgressBar::hidden()
        };
        bar.set_length(devices as u64);
        Self {
            bar,
            lines: many && !terminal,
            said: std::cell::Cell::new(0),
        }
    }

    fn advance(&self, devices: usize) {
        self.bar.inc(devices as u64);
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let tenth = done * 10 / all.max(1);
        if self.lines && tenth > self.said.replace(tenth) {
            eprintln!("{done} of {all} devices");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use imaccess_proto::v1::Outcome;

    use super::super::outcome::of_push;
    use super::*;
    use crate::exit::{FAILED, RETRY, WithStatus};

    fn devices(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("d-{number}")).collect()
    }

    fn written(devices: &[String]) -> Vec<(Worded, Option<String>)> {
        devices
            .iter()
            .map(|_| (of_push(Outcome::Written), None))
            .collect()
    }

    fn away<T>() -> anyhow::Result<T> {
        Err(anyhow!("away")).or_exit(RETRY)
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_as_long_as_they_may_be_and_a_later_one_is_repeated() {
        let (mut made, mut failures) = (Vec::new(), 3);
        let results = in_calls(&devices(2 * CALL + 5), async |devices, number| {
            made.push((number, devices.len()));
            if number == 1 && failures > 0 {
                failures -= 1;
                return away();
            }
            Ok(written(&devices))
        })
        .await
        .unwrap();
        let repeated = (1, CALL);
        assert_eq!(made, [(0, CALL), repeated, repeated, repeated, repeated, (2, 5)]);
        assert_eq!(results.rows.len(), 2 * CALL + 5);
        assert!(results.cut.is_none());
        assert_eq!(results.rows[2 * CALL + 4].device, format!("d-{}", 2 * CALL + 4));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_call_fails_at_once_and_a_later_one_keeps_what_was_done() {
        let mut calls = 0;
        let first = in_calls(&devices(3), async |_, _| {
            calls += 1;
            away::<Vec<_>>()
        })
        .await;
        assert!(first.is_err_and(|error| exit::is_retry(&error)));
        assert_eq!(calls, 1);

        for (lasting, tries) in [(true, 2..100), (false, 1..2)] {
            let mut calls = 0;
            let results = in_calls(&devices(3 * CALL), async |devices, number| {
                if number == 0 {
                    return Ok(written(&devices));
                }
                calls += 1;
                if lasting {
                    away()
                } else {
                    Err(anyhow!("wrong")).or_exit(FAILED)
                }
            })
            .await
            .unwrap();
            assert!(tries.contains(&calls), "{calls}");
            let cut = results.cut.unwrap();
            assert_eq!(
                (results.rows.len(), cut.unanswered, cut.unsent),
                (CALL, CALL, CALL)
            );
        }
    }
}
