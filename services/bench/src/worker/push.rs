//! Pushes at a fixed pace through the push API, and what this worker's connections receive of them.
//!
//! The sockets are read by this thread, which also keeps the schedule: a call is given to the pushing thread when it is
//! due, however late that is and whatever became of the calls before. Latencies are counted from when a message was
//! due, so that whoever stalls pays for every message that was delayed. The schedule stands on the machine's clock:
//! two workers that are given the same beginning push and receive at the same time.

mod calls;
mod tally;

use std::time::Duration;

use imaccess_wire::FrameType;
use imaccess_wire::frame::{Close, GroupPush, Push};
use imaccess_wire::header::Split;

use self::calls::Calls;
pub(crate) use self::calls::{UNIMPLEMENTED, is_sent};
use self::tally::{Delivery, Tally};
use super::connect::code_name;
use super::fanout::NUMBER_BYTES;
use super::{GRACE, Link, Worker, fail, need_links};
use crate::clock::monotonic_ns;
use crate::job::{Failures, Pushed, Pushes, To};
use crate::latency::Latency;
use crate::schedule::Schedule;

/// Waits at least this often, so that the end of the job is seen.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// What is still coming so long after the last push isn't waited for.
const LONGEST_TAIL_NS: u64 = 60_000_000_000;

impl Worker {
    pub(super) fn push(&mut self, job: &Pushes) -> anyhow::Result<Pushed> {
        need_links(&self.links)?;
        let mut tally = Tally::new(&job.streams, job.seconds, self.links.len());
        let (mut schedule, calls) = match (&job.publish, job.streams.first()) {
            (Some(publish), Some(stream)) => {
                let schedule = Schedule::new(stream.per_second, job.seconds);
                let devices = devices(&publish.to, &self.links);
                let calls = Calls::start(publish, devices, stream.first, schedule.total())?;
                (schedule, Some(calls))
            }
            _ => (Schedule::new(0.0, 0.0), None),
        };
        let (mut late, mut failures) = (Latency::new(), Failures::new());
        let end_ns = (job.seconds * 1e9) as u64;
        'pushing: loop {
            let now = monotonic_ns();
            // The beginning may be a moment away: nothing is due before it.
            let until = if let Some(elapsed) = now.checked_sub(job.start_ns) {
                if let Some(calls) = &calls {
                    while let Some((message, due)) = schedule.due(elapsed) {
                        late.record(elapsed - due);
                        if !calls.call(message, job.start_ns + due) {
                            // It failed, and says why when it is asked for its answers.
                            break 'pushing;
                        }
                    }
                }
                if elapsed >= end_ns && is_over(&tally, elapsed, end_ns) {
                    break;
                }
                schedule.next_ns().map_or(LONGEST_WAIT, |next| {
                    Duration::from_nanos(next.saturating_sub(elapsed))
                })
            } else {
                Duration::from_nanos(job.start_ns - now)
            };
            let events = self.epoll.wait(Some(until.min(LONGEST_WAIT)))?;
            for index in 0..events {
                let ready = self.epoll.event(index);
                let at = ready.token as usize;
                let link = &mut self.links[at];
                if !link.is_open() {
                    continue;
                }
                let elapsed = monotonic_ns().saturating_sub(job.start_ns);
                let received = link.receive(&mut self.scratch, |split, _| {
                    if let Some(fault) = take(split, at, elapsed, &mut tally) {
                        fail(&mut failures, &fault);
                    }
                });
                if let Err(error) = received {
                    fail(&mut failures, error.name());
                    link.drop_socket();
                }
            }
        }
        let published = match calls {
            Some(calls) => {
                let answers = calls.end()?;
                let lost = tally.lost(answers.gone_out());
                Some(answers.published(lost, &late))
            }
            None => None,
        };
        Ok(Pushed {
            published,
            received: tally.received(),
            failures,
        })
    }
}

/// After the last push: whether all is there, or nothing has come for so long that nothing will.
fn is_over(tally: &Tally, elapsed_ns: u64, end_ns: u64) -> bool {
    let silent_since = tally.last_ns().max(end_ns);
    tally.is_complete()
        || elapsed_ns > silent_since + GRACE.as_nanos() as u64
        || elapsed_ns > end_ns + LONGEST_TAIL_NS
}

/// Names of the devices that a stream goes to, in the order of their connections.
fn devices(to: &To, links: &[Link]) -> Vec<String> {
    match to {
        To::Devices { prefix, .. } => links
            .iter()
            .map(|link| format!("{prefix}{}", link.device))
            .collect(),
        To::Group { .. } | To::Everybody => Vec::new(),
    }
}

/// Takes one frame; what is wrong with it, if anything is.
#[inline]
fn take(split: &Split<'_>, connection: usize, now_ns: u64, tally: &mut Tally) -> Option<String> {
    let payload = match split.header.kind {
        Some(FrameType::Push) => Push::decode(split.body()).map(|push| push.payload),
        Some(FrameType::GroupPush) => GroupPush::decode(split.body()).map(|push| push.payload),
        Some(FrameType::Close) => {
            let code = Close::decode(split.body()).map_or(0, |close| close.code);
            return Some(format!("close_{}", code_name(code)));
        }
        // Pongs and the like.
        _ => return None,
    };
    let number = payload
        .ok()
        .and_then(|payload| payload.first_chunk::<NUMBER_BYTES>());
    let Some(number) = number else {
        return Some("not_a_push".to_owned());
    };
    match tally.deliver(connection, u64::from_be_bytes(*number), split.frame.len(), now_ns) {
        // What is late was lost to the job that waited for it.
        Delivery::Right | Delivery::Stray => None,
        Delivery::Twice => Some("received_twice".to_owned()),
        Delivery::Misdirected => Some("wrong_device".to_owned()),
    }
}

#[cfg(test)]
mod tests;
