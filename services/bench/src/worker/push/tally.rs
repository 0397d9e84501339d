//! Which messages have come to whom: a bit for each delivery, so that one lost and one doubled never make a right. Pure.

use crate::job::{Received, Receivers, Stream};
use crate::latency::Latency;
use crate::schedule::Schedule;

/// What came of all streams.
pub(super) struct Tally {
    streams: Vec<Seen>,
}

/// What came of one.
struct Seen {
    stream: Stream,
    schedule: Schedule,
    connections: u64,
    /// A bit per delivery: those of a message stand together.
    bits: Vec<u64>,
    received: u64,
    last_ns: u64,
    latency: Latency,
    frame_bytes: usize,
}

/// What a delivery was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// The first of its message to its connection.
    Right,
    /// One that had come before.
    Twice,
    /// Meant for another connection.
    Misdirected,
    /// Of no stream of this job: a late one of a job before.
    Stray,
}

impl Tally {
    /// For streams of `seconds` to `connections` connections.
    pub(super) fn new(streams: &[Stream], seconds: f64, connections: usize) -> Self {
        let seen = |stream: &Stream| {
            let schedule = Schedule::new(stream.per_second, seconds);
            let connections = connections as u64;
            let mut seen = Seen {
                stream: *stream,
                schedule,
                connections,
                bits: Vec::new(),
                received: 0,
                last_ns: 0,
                latency: Latency::new(),
                frame_bytes: 0,
            };
            seen.bits = vec![0; seen.expected().div_ceil(64) as usize];
            seen
        };
        Self {
            streams: streams.iter().map(seen).collect(),
        }
    }

    /// Connection `connection` has message `number`, in a frame of so many bytes, so long after the beginning.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        connection: usize,
        number: u64,
        frame_bytes: usize,
        now_ns: u64,
    ) -> Delivery {
        let Some((seen, message)) = self
            .streams
            .iter_mut()
            .find_map(|seen| seen.message(number).map(|message| (seen, message)))
        else {
            return Delivery::Stray;
        };
        let connection = connection as u64;
        let bit = match seen.stream.receivers {
            Receivers::One if message % seen.connections != connection => return Delivery::Misdirected,
            Receivers::One => message,
            Receivers::All => message * seen.connections + connection,
        };
        if !seen.set(bit) {
            return Delivery::Twice;
        }
        seen.received += 1;
        seen.last_ns = now_ns;
        seen.frame_bytes = frame_bytes;
        seen.latency
            .record(now_ns.saturating_sub(seen.schedule.intended_ns(message)));
        Delivery::Right
    }

    /// Whether nothing is missing.
    pub(super) fn is_complete(&self) -> bool {
        self.streams.iter().all(|seen| seen.received == seen.expected())
    }

    /// When the last delivery came; 0 before the first.
    pub(super) fn last_ns(&self) -> u64 {
        self.streams.iter().map(|seen| seen.last_ns).max().unwrap_or(0)
    }

    /// Messages of the first stream, each for one connection, that are said to have gone out and never came.
    pub(super) fn lost(&self, gone_out: &[bool]) -> u64 {
        match self.streams.first() {
            Some(seen) if seen.stream.receivers == Receivers::One => {
                let lost = gone_out
                    .iter()
                    .zip(0..)
                    .filter(|&(gone_out, message)| *gone_out && !seen.has(message));
                lost.count() as u64
            }
            _ => 0,
        }
    }

    /// What came of each stream, in their order.
    pub(super) fn received(&self) -> Vec<Received> {
        let received = |seen: &Seen| Received {
            messages: seen.schedule.total(),
            expected: seen.expected(),
            received: seen.received,
            seconds: seen.last_ns as f64 / 1e9,
            latency: seen.latency.counts(),
            frame_bytes: seen.frame_bytes,
        };
        self.streams.iter().map(received).collect()
    }
}

impl Seen {
    /// Deliveries that there should be.
    fn expected(&self) -> u64 {
        match self.stream.receivers {
            Receivers::One => self.schedule.total(),
            Receivers::All => self.schedule.total() * self.connections,
        }
    }

    /// The place of a number in this stream, if it is of it.
    fn message(&self, number: u64) -> Option<u64> {
        let message = number.checked_sub(self.stream.first)?;
        (message < self.schedule.total()).then_some(message)
    }

    fn has(&self, bit: u64) -> bool {
        self.bits[(bit / 64) as usize] & 1 << (bit % 64) != 0
    }

    /// Whether it wasn't set before.
    fn set(&mut self, bit: u64) -> bool {
        let word = &mut self.bits[(bit / 64) as usize];
        let mask = 1 << (bit % 64);
        let is_new = *word & mask == 0;
        *word |= mask;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two messages a second to each in turn, one a second to all; three connections, two seconds.
    fn tally() -> Tally {
        let unicasts = Stream {
            first: 1_000,
            per_second: 2.0,
            receivers: Receivers::One,
        };
        let group = Stream {
            first: 5_000,
            per_second: 1.0,
            receivers: Receivers::All,
        };
        Tally::new(&[unicasts, group], 2.0, 3)
    }

    #[test]
    fn every_delivery_counts_once_and_for_its_own_connection() {
        let mut tally = tally();
        for message in 0..4 {
            let connection = message % 3;
            let number = 1_000 + message as u64;
            assert_eq!(tally.deliver(connection, number, 120, 1), Delivery::Right);
            assert_eq!(tally.deliver(connection, number, 120, 1), Delivery::Twice);
            assert_eq!(
                tally.deliver((connection + 1) % 3, number, 120, 1),
                Delivery::Misdirected
            );
        }
        for number in [999, 1_004, 4_999, 5_002] {
            assert_eq!(tally.deliver(0, number, 120, 1), Delivery::Stray);
        }
        for connection in 0..3 {
            assert!(!tally.is_complete());
            for number in [5_000, 5_001] {
                assert_eq!(tally.deliver(connection, number, 130, 9), Delivery::Right);
                assert_eq!(tally.deliver(connection, number, 130, 9), Delivery::Twice);
            }
        }
        assert!(tally.is_complete());
        assert_eq!(tally.last_ns(), 9);
        let [unicasts, group] = &tally.received()[..] else {
            panic!("two streams")
        };
        assert_eq!(
            (unicasts.messages, unicasts.expected, unicasts.received),
            (4, 4, 4)
        );
        assert_eq!((group.messages, group.expected, group.received), (2, 6, 6));
        assert_eq!((unicasts.frame_bytes, group.frame_bytes), (120, 130));
    }

    #[test]
    fn lost_is_what_was_promised_and_never_came() {
        let mut tally = tally();
        // The third was promised and lost, the fourth refused and lost; the second came though it was refused.
        for message in [0, 1] {
            tally.deliver(message, 1_000 + message as u64, 120, 1);
        }
        assert_eq!(tally.lost(&[true, false, true, false]), 1);
        assert_eq!(tally.lost(&[true, true]), 0);
        // A stream to all has no such promises.
        assert_eq!(Tally::new(&[tally.streams[1].stream], 2.0, 3).lost(&[true]), 0);
    }

    #[test]
    fn latency_is_from_the_time_that_a_message_was_meant_for() {
        let mut tally = tally();
        // The second group message, due after a second, came 250 ms late.
        tally.deliver(0, 5_001, 130, 1_250_000_000);
        let latency: Latency = [&tally.received()[1].latency].into_iter().collect();
        assert!((latency.us(0.99) - 250_000.0).abs() < 500.0);
    }
}
