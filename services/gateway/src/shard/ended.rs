//! Sessions whose connection has ended, until state says that nothing is owed any more.
//!
//! State tells the businesses that a device is offline, half a minute later perhaps. If it dies before, the state after it
//! learns of these ends from here, and no device stays online for ever.

use std::collections::VecDeque;

use hashbrown::HashMap;
use imaccess_net::wheel::Tick;
use imaccess_proto::v1::{EndedConnection, HandedEnded};
use imaccess_wire::Code;

use super::timers::TICK;

/// Ends that are kept per shard, about 200 bytes each: 1,600 a second over two resume windows. Beyond it the oldest are
/// forgotten, and counted.
const MOST: usize = 100_000;

#[derive(Debug)]
struct End {
    ticket: Box<[u8]>,
    code: u16,
    at: Tick,
    /// Milliseconds that had passed before this gateway heard of it.
    before_ms: u32,
}

/// The ends that aren't settled.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    by_serial: HashMap<u64, End, foldhash::fast::RandomState>,
    /// In the order in which they came, with settled ones in between.
    order: VecDeque<u64>,
}

impl Ended {
    /// A session lost its connection. How many others had to be forgotten for it.
    pub(crate) fn add(&mut self, serial: u64, ticket: &[u8], code: Code, now: Tick) -> u64 {
        // Nothing can be said of a session without its ticket.
        if ticket.is_empty() {
            return 0;
        }
        let end = End {
            ticket: ticket.into(),
            code: code as u16,
            at: now,
            before_ms: 0,
        };
        self.insert(serial, end)
    }

    /// One that the gateway before has handed over.
    pub(crate) fn adopt(&mut self, handed: &HandedEnded, now: Tick) {
        self.learn(handed.serial, &handed.ticket, handed.code, handed.age_ms, now);
    }

    /// One that state tells of, which the gateway before may have taken along.
    pub(crate) fn told(&mut self, ended: &EndedConnection, now: Tick) {
        self.learn(ended.serial, &ended.ticket, ended.code, ended.age_ms, now);
    }

    fn learn(&mut self, serial: u64, ticket: &[u8], code: u32, age_ms: u32, now: Tick) {
        if ticket.is_empty() {
            return;
        }
        let end = End {
            ticket: ticket.into(),
            code: u16::try_from(code).unwrap_or(Code::ConnectionLost as u16),
            at: now,
            before_ms: age_ms,
        };
        self.insert(serial, end);
    }

    fn insert(&mut self, serial: u64, end: End) -> u64 {
        if self.by_serial.insert(serial, end).is_none() {
            self.order.push_back(serial);
        }
        let mut forgotten = 0;
        while self.order.len() > MOST {
            if let Some(oldest) = self.order.pop_front()
                && self.by_serial.remove(&oldest).is_some()
            {
                forgotten += 1;
            }
        }
        forgotten
    }

    /// State is done with these.
    pub(crate) fn settle(&mut self, serials: &[u64]) {
        for serial in serials {
            self.by_serial.remove(serial);
        }
        while self
            .order
            .front()
            .is_some_and(|serial| !self.by_serial.contains_key(serial))
        {
            self.order.pop_front();
        }
        if self.by_serial.is_empty() {
            // What a storm took is given back.
            *self = Self::default();
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.by_serial.len()
    }

    /// All of them, oldest first, for a state that has just come.
    pub(crate) fn rows(&self, now: Tick) -> impl Iterator<Item = EndedConnection> + '_ {
        self.all(now).map(|(serial, end, age_ms)| EndedConnection {
            serial,
            ticket: end.ticket.to_vec().into(),
            code: end.code.into(),
            age_ms,
        })
    }

    /// All of them, for the gateway that comes after.
    pub(crate) fn handed(&self, shard: u8, now: Tick) -> impl Iterator<Item = HandedEnded> + '_ {
        self.all(now).map(move |(serial, end, age_ms)| HandedEnded {
            serial,
            shard: shard.into(),
            ticket: end.ticket.to_vec().into(),
            code: end.code.into(),
            age_ms,
        })
    }

    fn all(&self, now: Tick) -> impl Iterator<Item = (u64, &End, u32)> {
        self.order.iter().filter_map(move |serial| {
            let end = self.by_serial.get(serial)?;
            let ticks = now.saturating_sub(end.at);
            let age_ms = end
                .before_ms
                .saturating_add(ticks.saturating_mul(TICK.as_millis() as u32));
            Some((*serial, end, age_ms))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_kept_until_they_are_settled() {
        let mut ended = Ended::default();
        assert_eq!(ended.add(1, b"one", Code::ConnectionLost, 10), 0);
        ended.add(2, b"", Code::ConnectionLost, 10);
        ended.add(3, b"three", Code::ClientLeft, 14);
        let rows: Vec<_> = ended.rows(18).map(|row| (row.serial, row.age_ms)).collect();
        assert_eq!(rows, [(1, 2_000), (3, 1_000)]);
        ended.settle(&[1, 99]);
        assert_eq!(ended.len(), 1);
        let handed: Vec<_> = ended.handed(4, 18).collect();
        let mut next = Ended::default();
        next.adopt(&handed[0], 2);
        // State tells of it too: it is one.
        let told: Vec<_> = next.rows(2).collect();
        next.told(&told[0], 2);
        let row = next.rows(6).next().unwrap();
        assert_eq!(
            (row.serial, row.age_ms, row.code),
            (3, 2_000, Code::ClientLeft as u32)
        );
        next.settle(&[3]);
        assert_eq!((next.len(), next.rows(6).count()), (0, 0));
    }

    #[test]
    fn the_oldest_are_forgotten_beyond_the_bound() {
        let mut ended = Ended::default();
        let mut forgotten = 0;
        for serial in 0..MOST as u64 + 5 {
            forgotten += ended.add(serial, b"t", Code::ConnectionLost, 0);
        }
        assert_eq!((forgotten, ended.len()), (5, MOST));
        assert_eq!(ended.rows(0).next().unwrap().serial, 5);
    }
}
