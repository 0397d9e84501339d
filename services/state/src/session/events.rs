//! What a business is still to be told of connections: kept until it acknowledges, sent again on a new stream.
//!
//! Events of one shard go to a business over one stream, in the order in which they happened; those of one device
//! on different shards or pods are ordered by their epochs. The backlog is bounded in bytes: when a business stays
//! away for too long the oldest go, counted, and it is told that it needs a snapshot, in the order of the events like one of them.

use std::collections::VecDeque;

use bytes::Bytes;
use imaccess_proto::v1::{ConnectionEvent, EventKind};
use imaccess_wire::Code;

use super::record::Record;

/// Events sent and not acknowledged, at most: what a business may have to hear twice.
const WINDOW: usize = 4_096;

/// Bytes of an event beside its texts, roughly.
const EVENT_BYTES: usize = 160;

/// The events of one business on one worker.
#[derive(Debug)]
pub struct Backlog {
    capacity: usize,
    bytes: usize,
    /// Each with the serial of the ended connection that is settled with it; 0: none.
    events: VecDeque<(ConnectionEvent, u64)>,
    /// Serials of events that are done, or dropped.
    done: Vec<u64>,
    /// How many, from the front, were sent on the current stream.
    sent: usize,
    /// Sequence on the current stream of the front event.
    front: u64,
    /// Events dropped because the backlog was full.
    dropped: u64,
    /// That a snapshot is needed waits among the events.
    resync_waits: bool,
}

impl Backlog {
    /// Keeps at most `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            bytes: 0,
            events: VecDeque::new(),
            done: Vec::new(),
            sent: 0,
            front: 1,
            dropped: 0,
            resync_waits: false,
        }
    }

    /// Adds what happened to a session.
    pub fn add(&mut self, kind: EventKind, record: &Record, reason: u16, unix_ms: u64) {
        let reason = if kind == EventKind::Offline {
            reason
        } else {
            Code::Ok as u16
        };
        let event = of_session(kind, record, reason, unix_ms);
        let serial = if kind == EventKind::Offline {
            record.serial
        } else {
            0
        };
        self.put(event, serial);
        let mut dropped = 0;
        while self.bytes > self.capacity && !self.events.is_empty() {
            self.pop();
            dropped += 1;
        }
        self.dropped += dropped;
        if dropped > 0 && !self.resync_waits {
            self.resync_waits = true;
            let event = ConnectionEvent {
                kind: EventKind::ResyncNeeded as i32,
                unix_ms,
                ..ConnectionEvent::default()
            };
            self.put(event, 0);
        }
    }

    fn put(&mut self, event: ConnectionEvent, serial: u64) {
        self.bytes += weight(&event);
        self.events.push_back((event, serial));
    }

    /// Nobody wants to hear of these any more: they are dropped, and counted.
    pub fn forget(&mut self) {
        while !self.events.is_empty() {
            self.pop();
            self.dropped += 1;
        }
    }

    /// A new stream: everything unacknowledged is sent again, numbered from 1.
    pub fn restart(&mut self) {
        (self.sent, self.front) = (0, 1);
    }

    /// Everything up to `sequence` of the current stream is done. How many that were.
    pub fn acknowledge(&mut self, sequence: u64) -> usize {
        let mut done = 0;
        while self.front <= sequence && self.sent > 0 {
            self.pop();
            done += 1;
        }
        done
    }

    /// The events to send next, numbered; at most `max`.
    pub fn next(&mut self, max: usize) -> Vec<ConnectionEvent> {
        let until = self.events.len().min(self.sent + max).min(WINDOW.max(self.sent));
        let numbered = (self.sent..until).map(|index| {
            let mut event = self.events[index].0.clone();
            event.sequence = self.front + index as u64;
            event
        });
        let events = numbered.collect();
        self.sent = until;
        events
    }

    /// Whether there is something to send.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sent < self.events.len().min(WINDOW)
    }

    /// Events that settle an ended connection, each with its serial.
    pub fn owed(&self) -> impl Iterator<Item = (u64, &ConnectionEvent)> {
        let settling = self.events.iter().filter(|(_, serial)| *serial != 0);
        settling.map(|(event, serial)| (*serial, event))
    }

    /// Events not acknowledged yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether all is acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Events dropped since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Serials of the ended connections whose event was acknowledged or dropped since the last call.
    pub fn take_done(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.done)
    }

    fn pop(&mut self) {
        if let Some((event, serial)) = self.events.pop_front() {
            self.bytes -= weight(&event);
            if serial != 0 {
                self.done.push(serial);
            }
            if event.kind() == EventKind::ResyncNeeded {
                self.resync_waits = false;
            }
            if self.sent > 0 {
                self.sent -= 1;
                self.front += 1;
            }
        }
    }
}

/// What is said of a session in an event, or in a row of a snapshot.
#[must_use]
pub fn of_session(kind: EventKind, record: &Record, reason: u16, unix_ms: u64) -> ConnectionEvent {
    ConnectionEvent {
        sequence: 0,
        kind: kind as i32,
        app: record.who.app().to_owned(),
        device: record.who.device().to_owned(),
        session: Bytes::copy_from_slice(&record.id),
        epoch: record.epoch,
        reason: u32::from(reason),
        unix_ms,
    }
}

fn weight(event: &ConnectionEvent) -> usize {
    EVENT_BYTES + event.app.len() + event.device.len()
}

#[cfg(test)]
mod tests {
    use super::super::record::Identity;
    use super::*;

    fn backlog(events: u64, capacity: usize) -> Backlog {
        let mut backlog = Backlog::new(capacity);
        for epoch in 1..=events {
            let record = Record::new([0; 16], epoch, Identity::new("a", "d"));
            backlog.add(EventKind::Online, &record, 0, 0);
        }
        backlog
    }

    fn told(events: &[ConnectionEvent]) -> Vec<(u64, u64)> {
        events.iter().map(|event| (event.sequence, event.epoch)).collect()
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_in_order() {
        let mut backlog = backlog(4, 10_000);
        assert_eq!(told(&backlog.next(3)), [(1, 1), (2, 2), (3, 3)]);
        assert_eq!(backlog.acknowledge(2), 2);
        assert_eq!(told(&backlog.next(9)), [(4, 4)]);
        assert!(!backlog.is_ready());
        backlog.restart();
        assert_eq!(told(&backlog.next(9)), [(1, 3), (2, 4)]);
        assert_eq!(backlog.acknowledge(u64::MAX), 2);
        assert!(backlog.is_empty());
        assert_eq!(backlog.acknowledge(u64::MAX), 0);
    }

    #[test]
    fn the_oldest_go_when_it_is_full_and_an_acknowledgement_means_what_was_sent() {
        let mut backlog = backlog(3, 3 * (EVENT_BYTES + 2));
        assert_eq!(told(&backlog.next(2)), [(1, 1), (2, 2)]);
        let record = Record::new([0; 16], 4, Identity::new("a", "d"));
        backlog.add(EventKind::Offline, &record, 7, 0);
        // Three events, and the word that a snapshot is needed.
        assert_eq!((backlog.take_dropped(), backlog.len()), (1, 4));
        assert_eq!(told(&backlog.next(9)), [(3, 3), (4, 4), (5, 0)]);
        assert_eq!(backlog.acknowledge(3), 2);
        assert_eq!(backlog.len(), 2);
    }

    #[test]
    fn whoever_missed_events_is_told_once_and_until_it_has_heard() {
        let mut backlog = backlog(9, 3 * (EVENT_BYTES + 2));
        let kinds = |events: &[ConnectionEvent]| -> Vec<EventKind> {
            events.iter().map(ConnectionEvent::kind).collect()
        };
        let resyncs = |events: &[ConnectionEvent]| {
            kinds(events)
                .iter()
                .filter(|kind| **kind == EventKind::ResyncNeeded)
                .count()
        };
        let first = backlog.next(9);
        assert_eq!(resyncs(&first), 1);
        backlog.restart();
        assert_eq!(resyncs(&backlog.next(9)), 1, "until it is acknowledged");
        backlog.acknowledge(u64::MAX);
        let record = Record::new([0; 16], 4, Identity::new("a", "d"));
        backlog.add(EventKind::Online, &record, 0, 0);
        assert_eq!(
            kinds(&backlog.next(9)),
            [EventKind::Online],
            "only when something was dropped"
        );
    }

    #[test]
    fn the_window_holds_back() {
        let mut backlog = backlog(WINDOW as u64 + 5, usize::MAX);
        assert_eq!(backlog.next(usize::MAX / 2).len(), WINDOW);
        assert!(!backlog.is_ready() && backlog.next(9).is_empty());
        backlog.acknowledge(3);
        assert_eq!(backlog.next(9).len(), 3);
    }
}
