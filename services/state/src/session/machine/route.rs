//! Routes: what is announced of sessions, what routing answers, what other workers of the instance announce.

use bytes::Bytes;
use imaccess_common::identity::Epoch;
use imaccess_proto::v1::{EventKind, GroupPresence, Outranked, RouteAnnouncement, RouteRetraction};
use imaccess_wire::Code;

use super::Machine;
use crate::session::Now;
use crate::session::record::Phase;
use crate::session::table::Key;

/// A part of what a new follower must hear.
#[derive(Debug, Default)]
pub struct RouteChunk {
    /// All sessions.
    pub announcements: Vec<RouteAnnouncement>,
    /// Sessions that ended, and whose end isn't confirmed.
    pub retractions: Vec<RouteRetraction>,
    /// Where the next chunk begins; `None`: this was the last.
    pub next: Option<u32>,
    /// With the last chunk: all deltas up to here are in the snapshot, or were sent before it.
    pub upto: u64,
}

/// Logins that no replica has heard of for so long were made while none listened; usually it takes a few milliseconds. Two within that
/// time may be decided wrongly, as either claims to be the later one until a replica has heard it.
const UNHEARD_MS: u64 = 50;

impl Machine {
    /// Announces a session's epoch to every replica and to the other workers.
    pub(super) fn announce(&mut self, key: Key) {
        self.delta += 1;
        let delta = self.delta;
        if let Some(record) = self.table.get_mut(key) {
            record.announced = delta;
        }
        if let Some(announcement) = self.announcement(key) {
            self.routes.announcements.push(announcement);
            self.routes.upto = delta;
        }
    }

    /// Says that a session is over; its `announced` is the number of this delta already.
    pub(super) fn retract(&mut self, key: Key) {
        if let Some(retraction) = self.retraction(key) {
            self.routes.retractions.push(retraction);
            self.routes.upto = self.delta;
        }
    }

    /// Says that a group has members here, or none any more.
    pub(super) fn presence(&mut self, business: u32, group: &[u8], present: bool) {
        let group = Bytes::copy_from_slice(group);
        self.routes.groups.push(GroupPresence {
            business,
            group,
            present,
        });
    }

    /// A part of the snapshot for a new follower, from record `from` on, `max` records long.
    #[must_use]
    pub fn route_chunk(&self, from: u32, max: u32) -> RouteChunk {
        let end = self.table.end();
        let until = from.saturating_add(max).min(end);
        let mut chunk = RouteChunk {
            upto: self.routes_taken,
            ..RouteChunk::default()
        };
        for index in from..until {
            let Some(key) = self.table.key_at(index) else {
                continue;
            };
            // One that is leaving is announced as well, and taken back at once: only an announcement is answered
            // when the device has a later session elsewhere.
            chunk.announcements.extend(self.announcement(key));
            if self
                .table
                .get(key)
                .is_some_and(|record| record.phase == Phase::Leaving)
            {
                chunk.retractions.extend(self.retraction(key));
            }
        }
        chunk.next = (until < end).then_some(until);
        chunk
    }

    /// Every replica in sync has acknowledged the deltas up to `upto`: sessions that left are told to businesses.
    pub fn confirm(&mut self, upto: u64, now: Now) {
        self.confirmed = self.confirmed.max(upto);
        while let Some(&(delta, key)) = self.leaving.front() {
            if delta > self.confirmed {
                break;
            }
            self.leaving.pop_front();
            let left = self
                .table
                .get(key)
                .is_some_and(|record| record.phase == Phase::Leaving && record.announced == delta);
            if left {
                self.event(EventKind::Offline, key, now);
                self.table.remove(key);
            }
        }
    }

    /// A device has a higher epoch elsewhere. The later login wins: a session that no replica had acknowledged before (`heard`) is
    /// the later one, whatever the clocks say, and stamps itself higher. One that some replica had heard of goes, also while
    /// another replica keeps all from being confirmed: what outranks it came after it.
    ///
    /// Of two logins that were both made while no replica listened the clocks decide, for nothing else can; but not one that is in the
    /// future here.
    pub fn outranked(&mut self, outranked: &Outranked, heard: u64, now: Now) {
        let by_locator = Key::from_locator(outranked.locator);
        let same_device = |key: &Key| {
            self.table
                .get(*key)
                .is_some_and(|record| record.who.is(&outranked.app, &outranked.device))
        };
        let key = Some(by_locator).filter(same_device);
        let Some(key) = key.or_else(|| self.table.by_device(&outranked.app, &outranked.device)) else {
            return;
        };
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        // Equal epochs are possible, between instances; then the replica broke the tie.
        if record.epoch != outranked.epoch || record.epoch > outranked.winner_epoch {
            return;
        }
        let unheard = record.fresh && record.announced > heard;
        let waited = now.unix_ms.saturating_sub(Epoch(record.epoch).unix_ms());
        let by_clock = waited >= UNHEARD_MS && Epoch(outranked.winner_epoch).unix_ms() <= now.unix_ms;
        let done = if unheard && !by_clock && record.phase == Phase::Online {
            record.epoch = self
                .shared
                .epochs
                .stamp(now.unix_ms, Some(Epoch(outranked.winner_epoch)))
                .0;
            self.announce(key);
            "stamped_higher"
        } else {
            let moved = outranked.winner_session[..] == record.id[..];
            if moved {
                self.send_groups_after(key);
            }
            self.supersede(key, if moved { Code::Moved } else { Code::Superseded });
            "superseded"
        };
        self.shared.metrics.outranked.with_label_values(&[done]).inc();
    }

    /// Another worker of this instance announced a session of a device that may also be here.
    pub fn peer(&mut self, announcement: &RouteAnnouncement) {
        let Some(key) = self.table.by_device(&announcement.app, &announcement.device) else {
            return;
        };
        let Some(record) = self.table.get(key) else { return };
        let same = announcement.session[..] == record.id[..];
        // The same epoch twice is a restored session whose connection came to another shard.
        let later = announcement.epoch > record.epoch
            || announcement.epoch == record.epoch && same && record.handle == 0;
        if later {
            if same {
                self.send_groups_after(key);
            }
            self.supersede(key, if same { Code::Moved } else { Code::Superseded });
        }
    }

    fn announcement(&self, key: Key) -> Option<RouteAnnouncement> {
        self.table.get(key).map(|record| RouteAnnouncement {
            app: record.who.app().to_owned(),
            device: record.who.device().to_owned(),
            session: Bytes::copy_from_slice(&record.id),
            serial: record.serial,
            epoch: record.epoch,
            locator: key.locator(self.settings.worker),
        })
    }

    fn retraction(&self, key: Key) -> Option<RouteRetraction> {
        self.table.get(key).map(|record| RouteRetraction {
            app: record.who.app().to_owned(),
            device: record.who.device().to_owned(),
            epoch: record.epoch,
        })
    }
}
