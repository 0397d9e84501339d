//! How a worker ends when the sidecar is replaced: the gateway is told, what is in flight is answered, and nothing is
//! lost (link generation 2). Where that can't be agreed, requests are answered retry until none is in flight.

use std::time::Duration;

use super::Worker;

/// How long the gateway may take to say that nothing more comes: it only has to flush what it has read.
const ANSWER: Duration = Duration::from_secs(1);

/// How long the gateway may take to end the stream after the last batch: until then that may be on its way.
const LAST_WORD: Duration = Duration::from_millis(200);

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
    Alone,
    /// Nothing is left to do.
    Over,
}

impl Worker {
    /// Begins to leave.
    pub(super) fn begin_leaving(&mut self) {
        self.leaving = if self.machine.begin_leaving() {
            // The stream goes on; if it breaks, none is begun anew, for requests that came by it would never be answered.
            self.leaving_link.cancel();
            Leaving::Asked(self.now().micros)
        } else {
            self.leave_alone()
        };
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
            Leaving::Alone if self.machine.requests_in_flight() == 0 && self.machine.link.is_empty() => {
                Leaving::Over
            }
            stays => stays,
        }
    }

    fn leave_alone(&mut self) -> Leaving {
        self.machine.drain();
        Leaving::Alone
    }
}
