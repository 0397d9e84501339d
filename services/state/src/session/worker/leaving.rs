//! How a worker ends when the sidecar is replaced: the gateway is told, what is in flight is answered, and nothing is
//! lost (link generation 2). Where that can't be agreed, requests are answered retry until none is in flight.
//!
//! At the pod's end the gateway goes first: it has sent its clients elsewhere. Then the worker stays until each of its sessions goes on
//! elsewhere, or is over and its businesses have heard so, for nobody would tell them later.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Worker;

/// How long the gateway may take to say that nothing more comes: it only has to flush what it has read.
const ANSWER: Duration = Duration::from_secs(1);

/// How long the gateway may take to end the stream after the last batch: until then that may be on its way.
const LAST_WORD: Duration = Duration::from_millis(200);

/// How long requests in flight may take where leaving can't be agreed with a gateway.
const ALONE: Duration = Duration::from_secs(5);

/// How far leaving has come; with the time, in microseconds, at which that step began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It stays.
    No,
    /// The gateway was told.
    Asked(u64),
    /// No frame comes any more; requests are being answered.
    Answering(u64),
    /// Businesses are acknowledging events.
    Acknowledging(u64),
    /// The last batch waits for its turn.
    LastBatch(u64),
    /// The stream is ended; the gateway ends it as well.
    Ending(u64),
    /// The gateway couldn't be told, or doesn't know how to answer.
    Alone(u64),
    /// The gateway is gone for good, and sessions go on elsewhere or come to their ends.
    Emptying(u64),
    /// Nothing is left to do.
    Over,
}

impl Worker {
    /// Begins to leave.
    pub(super) fn begin_leaving(&mut self) {
        self.leaving = if self.machine.begin_leaving() {
            self.asked()
        } else {
            self.leave_without_gateway()
        };
    }

    /// There is none to agree with. If it has ended in order, its sessions are waited for.
    fn leave_without_gateway(&mut self) -> Leaving {
        if !self.gateway_is_gone() || self.end_grace.is_zero() {
            return self.leave_alone();
        }
        let now = self.now();
        self.machine.begin_ending(now);
        let owed = self.machine.owed();
        if !owed.is_nothing() {
            tracing::info!(
                worker = self.number,
                sessions = owed.sessions,
                events = owed.events,
                at_most_s = self.end_grace.as_secs_f64(),
                "the gateway has gone: staying until its sessions go on elsewhere or their ends are told"
            );
        }
        Leaving::Emptying(now.micros)
    }

    fn asked(&mut self) -> Leaving {
        // The stream goes on; if it breaks, none is begun anew, for requests that came by it would never be answered.
        self.leaving_link.cancel();
        Leaving::Asked(self.now().micros)
    }

    /// Whether it has ended in order: it is linked no more, and left nothing that another process could take up.
    fn gateway_is_gone(&self) -> bool {
        let held = self.held.as_ref().map_or(0, |held| held.load(Ordering::Acquire));
        self.machine.link_is_down() && held == 0
    }

    /// Takes the steps whose time has come. Whether the worker may end.
    pub(super) fn leave(&mut self) -> bool {
        loop {
            let next = self.next_step();
            if next == self.leaving {
                return next == Leaving::Over;
            }
            self.leaving = next;
        }
    }

    fn next_step(&mut self) -> Leaving {
        let now = self.now();
        let over =
            |since: u64, limit: Duration| u128::from(now.micros.saturating_sub(since)) >= limit.as_micros();
        match self.leaving {
            Leaving::Asked(_) if self.machine.gateway_is_done() => Leaving::Answering(now.micros),
            // It ended in the moment in which it was asked.
            Leaving::Asked(_) if self.machine.link_is_down() => self.leave_without_gateway(),
            Leaving::Asked(since) if !self.machine.link_is_live() || over(since, ANSWER) => {
                tracing::warn!(
                    worker = self.number,
                    "the gateway didn't answer that the sidecar leaves"
                );
                self.leave_alone()
            }
            Leaving::Answering(since) if !self.machine.work_in_flight() || over(since, self.grace) => {
                self.machine.give_up_requests(now);
                Leaving::Acknowledging(now.micros)
            }
            Leaving::Acknowledging(since) if !self.machine.events_in_flight() || over(since, self.grace) => {
                self.machine.say_done();
                self.flush();
                Leaving::LastBatch(now.micros)
            }
            Leaving::LastBatch(since)
                if self.link.is_none() || self.machine.link.is_empty() || over(since, ANSWER) =>
            {
                // Ends the stream behind what is in its mailbox. It isn't begun anew.
                self.leaving_link.cancel();
                self.link_has_ended |= self.link.take().is_none();
                Leaving::Ending(now.micros)
            }
            Leaving::Ending(since) if self.link_has_ended || over(since, LAST_WORD) => Leaving::Over,
            Leaving::Alone(since)
                if self.machine.requests_in_flight() == 0 && self.machine.link.is_empty()
                    || over(since, ALONE) =>
            {
                Leaving::Over
            }
            // One has come after all: it is told, as ever.
            Leaving::Emptying(_) if self.machine.link_is_live() => {
                if self.machine.begin_leaving() {
                    self.asked()
                } else {
                    self.leave_alone()
                }
            }
            Leaving::Emptying(since) => self.empty(since, over(since, self.end_grace)),
            stays => stays,
        }
    }

    fn empty(&mut self, since: u64, late: bool) -> Leaving {
        let owed = self.machine.owed();
        let is_said = self.machine.routes_waiting() == 0 && self.owed.is_empty();
        if owed.is_nothing() && is_said {
            return Leaving::Over;
        }
        if !late {
            return Leaving::Emptying(since);
        }
        let untold = |what: &str, count: usize| {
            self.metrics
                .untold
                .with_label_values(&[what])
                .inc_by(count as u64);
        };
        untold("sessions", owed.sessions);
        untold("events", owed.events);
        if !owed.is_nothing() {
            tracing::warn!(
                worker = self.number,
                sessions = owed.sessions,
                events = owed.events,
                "the end has come before businesses could be told of all ends"
            );
        }
        Leaving::Over
    }

    fn leave_alone(&mut self) -> Leaving {
        self.machine.drain();
        Leaving::Alone(self.now().micros)
    }
}
