//! Any number of devices, in calls of as many as the push API takes, with progress on standard error.
//!
//! The first call says whether the push API is there and takes such calls at all: it fails at once. A later one that can't be
//! answered now is repeated for a while, so that what is done already wasn't in vain.
//!
//! Devices that a call answers with "try again" are in a later one. Where that is because more is sent than some part takes at once,
//! as with long messages for many, calls become as short as goes through, so that little is sent in vain.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::outcome::{Verdict, Worded};
use super::results::{Cut, Results, Row, rows};
use crate::exit;

/// Most devices of one call, by push.proto.
pub(crate) const CALL: usize = 10_000;
/// How long a later call is repeated.
const AGAIN: Duration = Duration::from_secs(30);
/// Before the first repetition; doubled to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// Fewest devices of a call that is short because few of the one before went through.
const FEWEST: usize = 16;

/// Makes the calls one after the other: `call` gets the devices and the call's number, and answers with an outcome for each. Devices
/// of which it says "try again" are tried again for as long as any goes through, and for `patience` after that.
///
/// # Errors
/// The first call's. What a later one's was is in the results.
pub(crate) async fn in_calls<A>(
    devices: &[String],
    patience: Duration,
    mut call: impl AsyncFnMut(Vec<String>, usize) -> anyhow::Result<A>,
) -> anyhow::Result<Results>
where
    A: IntoIterator<IntoIter: ExactSizeIterator<Item = (Worded, Option<String>)>>,
{
    let progress = Progress::new(devices.len());
    let mut rows_of: Vec<Option<Row>> = devices.iter().map(|_| None).collect();
    let mut left: VecDeque<usize> = (0..devices.len()).collect();
    let mut pace = Pace::new(patience);
    let mut cut = None;
    let mut number = 0;
    while !left.is_empty() {
        let chunk: Vec<usize> = left.drain(..pace.size.min(left.len())).collect();
        let names: Vec<String> = chunk.iter().map(|&device| devices[device].clone()).collect();
        let answered = match repeated(&names, number, &mut call).await {
            Err(error) if number == 0 => return Err(error),
            answered => answered,
        };
        let answered = match answered {
            Ok(answered) => answered,
            Err(error) => {
                // What was heard of them before isn't what holds now.
                chunk.iter().for_each(|&device| rows_of[device] = None);
                let silent = rows_of.iter().filter(|row| row.is_none()).count();
                let unanswered = chunk.len();
                let unsent = silent - unanswered;
                cut = Some(Cut {
                    error,
                    unanswered,
                    unsent,
                });
                break;
            }
        };
        let mut again = Vec::new();
        for (&device, row) in chunk.iter().zip(answered) {
            if row.outcome.verdict == Verdict::Retry {
                again.push(device);
            }
            rows_of[device] = Some(row);
        }
        let through = chunk.len() - again.len();
        progress.advance(through);
        match pace.after(through, again.len()) {
            Next::Pause(pause) => {
                left.extend(again);
                tokio::time::sleep(pause).await;
            }
            // Who was tried keeps what was heard of them.
            Next::GiveUp => {
                let before = left.len();
                left.retain(|&device| rows_of[device].is_none());
                progress.advance(again.len() + before - left.len());
            }
            Next::GoOn => {}
        }
        number += 1;
    }
    let rows = rows_of.into_iter().flatten().collect();
    Ok(Results { rows, cut })
}

/// One call; one that isn't the first is repeated for a while.
async fn repeated<A>(
    names: &[String],
    number: usize,
    call: &mut impl AsyncFnMut(Vec<String>, usize) -> anyhow::Result<A>,
) -> anyhow::Result<Vec<Row>>
where
    A: IntoIterator<IntoIter: ExactSizeIterator<Item = (Worded, Option<String>)>>,
{
    let deadline = Instant::now() + AGAIN;
    let mut pause = PAUSE.0;
    loop {
        match call(names.to_vec(), number).await {
            Ok(answers) => return rows(names, answers.into_iter()),
            Err(error) if number > 0 && exit::is_retry(&error) && Instant::now() + pause < deadline => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            Err(error) => return Err(error),
        }
    }
}

/// What follows a call.
enum Next {
    /// All went through.
    GoOn,
    /// Those that didn't are tried again after this.
    Pause(Duration),
    /// None has gone through for too long: nobody is tried again.
    GiveUp,
}

/// How long calls are, and when those are tried again that didn't go through.
struct Pace {
    size: usize,
    pause: Duration,
    patience: Duration,
    /// When one went through last.
    since: Instant,
}

impl Pace {
    fn new(patience: Duration) -> Self {
        Self {
            size: CALL,
            pause: PAUSE.0,
            patience,
            since: Instant::now(),
        }
    }

    /// After a call of which so many went through, and so many are to be tried again.
    fn after(&mut self, through: usize, again: usize) -> Next {
        let now = Instant::now();
        if through > 0 {
            (self.since, self.pause) = (now, PAUSE.0);
        } else {
            self.pause = (self.pause * 2).min(PAUSE.1);
        }
        if again == 0 {
            self.size = (self.size * 2).min(CALL);
            Next::GoOn
        } else if now + self.pause > self.since + self.patience {
            self.size = CALL;
            Next::GiveUp
        } else {
            self.size = (through * 2).clamp(FEWEST, CALL);
            Next::Pause(self.pause)
        }
    }
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
        let results = in_calls(&devices(2 * CALL + 5), Duration::ZERO, async |devices, number| {
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
        let first = in_calls(&devices(3), Duration::ZERO, async |_, _| {
            calls += 1;
            away::<Vec<_>>()
        })
        .await;
        assert!(first.is_err_and(|error| exit::is_retry(&error)));
        assert_eq!(calls, 1);

        for (lasting, tries) in [(true, 2..100), (false, 1..2)] {
            let mut calls = 0;
            let results = in_calls(&devices(3 * CALL), Duration::ZERO, async |devices, number| {
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

    /// A part that takes at most `ROOM` devices of a call, as one does of long messages.
    #[tokio::test(start_paused = true)]
    async fn who_is_to_be_tried_again_is_and_little_is_sent_in_vain() {
        const ROOM: usize = 160;
        let all = devices(CALL);
        let mut sent = 0;
        let results = in_calls(&all, Duration::from_secs(5), async |devices, _| {
            sent += devices.len();
            let outcome = |place| match place < ROOM {
                true => Outcome::Written,
                false => Outcome::Retry,
            };
            Ok((0..devices.len())
                .map(|place| (of_push(outcome(place)), None))
                .collect::<Vec<_>>())
        })
        .await
        .unwrap();
        let names: Vec<&String> = results.rows.iter().map(|row| &row.device).collect();
        assert!(
            names.iter().eq(&all.iter().collect::<Vec<_>>()),
            "the order of the devices"
        );
        assert!(
            results
                .rows
                .iter()
                .all(|row| row.outcome == of_push(Outcome::Written))
        );
        // The first call, and at most twice what went through in each that followed.
        assert!(sent <= CALL + 2 * CALL, "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_never_reached_is_given_up_and_one_who_is_tried_again_in_a_call_that_fails_is_unanswered()
    {
        let started = Instant::now();
        let never = |devices: &[String]| {
            devices
                .iter()
                .map(|_| (of_push(Outcome::Retry), None))
                .collect::<Vec<_>>()
        };
        let patience = Duration::from_secs(5);
        let results = in_calls(&devices(40), patience, async |devices, _| Ok(never(&devices)))
            .await
            .unwrap();
        assert!(results.rows.len() == 40 && results.cut.is_none());
        assert!(started.elapsed() <= patience);

        let results = in_calls(&devices(40), patience, async |devices, number| match number {
            0 => Ok(never(&devices)),
            _ => away(),
        })
        .await
        .unwrap();
        let cut = results.cut.unwrap();
        assert_eq!(
            (results.rows.len(), cut.unanswered, cut.unsent),
            (40 - FEWEST, FEWEST, 0)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn where_none_is_reached_the_others_are_tried_once_in_calls_as_long_as_they_may_be() {
        // Without patience, and with some: until it is over calls are short, and then they aren't.
        for (patience, most) in [(0, 3), (5, 12)] {
            let mut made = Vec::new();
            let patience = Duration::from_secs(patience);
            let results = in_calls(&devices(3 * CALL), patience, async |devices, _| {
                made.push(devices.len());
                Ok(devices
                    .iter()
                    .map(|_| (of_push(Outcome::Retry), None))
                    .collect::<Vec<_>>())
            })
            .await
            .unwrap();
            assert_eq!(results.rows.len(), 3 * CALL);
            assert!(made.len() <= most, "{made:?}");
            assert_eq!(made.iter().sum::<usize>(), 3 * CALL, "{made:?}");
        }
    }
}
