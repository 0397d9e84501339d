//! What happens to a session after its connection: suspended, over, superseded; and what businesses are told of it.

use std::cmp::Reverse;

use imaccess_proto::v1::EventKind;
use imaccess_wire::Code;

use super::Machine;
use super::business::Life;
use crate::session::Now;
use crate::session::record::Phase;
use crate::session::table::Key;

/// Sessions that may wait for routing to confirm their end, while there is none: about 200 MB per worker. The
/// records of devices that come back don't count, for their next login takes them over.
const MAX_LEAVING: usize = 1_000_000;

impl Machine {
    /// Sessions whose window has passed are over.
    pub(super) fn end_suspended(&mut self, now: Now) {
        while let Some(&(at, key, phase_no)) = self.suspended.front()
            && (at <= now.micros || !self.is_suspended_since(key, phase_no))
        {
            self.suspended.pop_front();
            if self.is_suspended_since(key, phase_no) {
                self.leave(key, None);
            }
        }
        while let Some(&Reverse((at, key, phase_no))) = self.restored_suspended.peek()
            && (at <= now.micros || !self.is_suspended_since(key, phase_no))
        {
            self.restored_suspended.pop();
            if self.is_suspended_since(key, phase_no) {
                self.leave(key, None);
            }
        }
    }

    pub(super) fn is_suspended_since(&self, key: Key, phase_no: u16) -> bool {
        self.table
            .get(key)
            .is_some_and(|record| record.phase == Phase::Suspended && record.phase_no == phase_no)
    }

    /// How long a session may be resumed, in microseconds.
    pub(super) fn resume_window(&self) -> u64 {
        u64::try_from(self.settings.resume_window.as_micros()).unwrap_or(u64::MAX)
    }

    /// The session has lost its connection and may be resumed.
    pub(super) fn suspend(&mut self, key: Key, code: Code, now: Now) {
        self.suspend_since(key, code, 0, now);
    }

    /// The same, for one that lost it some microseconds ago.
    pub(super) fn suspend_since(&mut self, key: Key, code: Code, ago: u64, now: Now) {
        self.set_groups_aside(key);
        self.table.set_handle(key, 0);
        let until = now
            .micros
            .saturating_add(self.resume_window().saturating_sub(ago));
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        record.enter(Phase::Suspended);
        record.reason = code as u16;
        let entry = (until, key, record.phase_no);
        if ago == 0 {
            self.suspended.push_back(entry);
        } else {
            self.restored_suspended.push(Reverse(entry));
        }
        self.shared
            .metrics
            .session_ends
            .with_label_values(&["suspended", code.name()])
            .inc();
    }

    /// The session is over; businesses hear of it when routing knows of nothing newer. Without a code, for the
    /// reason for which it was suspended.
    pub(super) fn leave(&mut self, key: Key, code: Option<Code>) {
        self.release_groups(key);
        self.table.set_handle(key, 0);
        self.delta += 1;
        let delta = self.delta;
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        record.enter(Phase::Leaving);
        record.announced = delta;
        if let Some(code) = code {
            record.reason = code as u16;
        }
        let reason = Code::from_u16(record.reason).map_or("unknown", Code::name);
        self.shared
            .metrics
            .session_ends
            .with_label_values(&["ended", reason])
            .inc();
        self.leaving.push_back((delta, key));
        self.retract(key);
        if self.leaving.len() > MAX_LEAVING
            && let Some((delta, key)) = self.leaving.pop_front()
            && self
                .table
                .get(key)
                .is_some_and(|record| record.announced == delta)
        {
            // Its route is gone or its device has a later one; only the event is lost, and counted.
            if let Some(record) = self.table.remove(key) {
                self.settle(record.serial);
            }
            self.shared
                .metrics
                .session_ends
                .with_label_values(&["forgotten", "no_routing"])
                .inc();
        }
    }

    /// The device has a later session: this one goes without a word to businesses.
    pub(super) fn supersede(&mut self, key: Key, code: Code) {
        self.release_groups(key);
        let Some(record) = self.table.remove(key) else {
            return;
        };
        self.close_for_good(record.handle, record.serial, code);
        self.shared
            .metrics
            .session_ends
            .with_label_values(&["superseded", code.name()])
            .inc();
    }

    pub(super) fn event(&mut self, kind: EventKind, key: Key, now: Now) {
        let Some(record) = self.table.get(key) else { return };
        let serial = record.serial;
        let mut told = 0;
        for business in self
            .businesses
            .iter_mut()
            .filter(|business| business.config.events && business.life == Life::Serving)
        {
            business.events.add(kind, record, record.reason, now.unix_ms);
            business.note_events();
            told += 1;
        }
        if kind == EventKind::Offline {
            self.owe(serial, told);
        }
        self.events_done();
    }
}
