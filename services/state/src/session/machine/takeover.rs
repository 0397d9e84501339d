//! Rows of a snapshot: which session each connection belongs to, also when another gateway process has it now.
//!
//! A connection that was taken over has a new handle and perhaps no ticket; its session is found by its serial, in a map
//! that exists only while the snapshot runs.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use imaccess_common::identity::{Epoch, SessionId};
use imaccess_common::ticket::Ticket;
use imaccess_proto::v1::{ConnectionClosed, EndedConnection, SessionRow};
use imaccess_wire::Code;

use super::{LinkState, Machine};
use crate::session::Now;
use crate::session::record::{Identity, Phase, Record};
use crate::session::table::Key;

/// Another worker's sessions that don't come within this time don't come: it is in the same process and only has to
/// make a list.
const IMPORT_PATIENCE: u64 = 5_000_000;

/// One connection of a snapshot.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) handle: u64,
    pub(super) serial: u64,
    /// Empty: the gateway has none.
    pub(super) ticket: Bytes,
    /// What was said of its device; empty: nothing.
    pub(super) attributes: Bytes,
    /// Frames forwarded since it was opened, if the gateway says it.
    pub(super) forwarded: Option<u32>,
}

/// What is only needed while a snapshot runs.
#[derive(Debug, Default)]
pub(super) struct Syncing {
    /// Another process of the same gateway has the connections now.
    pub(super) taken_over: bool,
    /// The one before died.
    pub(super) crashed: bool,
    /// Serials here are of another gateway: they mean nothing.
    pub(super) foreign: bool,
    /// Serial → session, made when it is needed first.
    pub(super) serials: Option<HashMap<u64, Key>>,
    /// What was settled before this stream, made when it is needed first.
    pub(super) settled: Option<HashSet<u64>>,
    /// Frames that were lost with the gateway before.
    pub(super) lost_frames: u64,
    /// Workers whose sessions are to come here, because their shards are gone.
    pub(super) imports: Vec<u8>,
    /// When waiting for them began.
    pub(super) imports_since: u64,
    /// Rows of sessions that those may have.
    pub(super) rows: Vec<Row>,
    /// The same, ended.
    pub(super) ended: Vec<EndedConnection>,
    /// The gateway has sent everything.
    pub(super) complete: bool,
}

impl Syncing {
    /// Whether other workers' sessions are still to come.
    pub(super) fn awaits_imports(&self) -> bool {
        !self.imports.is_empty()
    }
}

impl Machine {
    /// The session whose connection, present or last, has this serial.
    pub(super) fn by_serial(&mut self, serial: u64) -> Option<Key> {
        if self.generation < 2 || self.sync.foreign || serial == 0 {
            return None;
        }
        let table = &self.table;
        let serials = self.sync.serials.get_or_insert_with(|| {
            let keys = (0..table.end()).filter_map(|index| table.key_at(index));
            let with_serial = keys.filter_map(|key| table.get(key).map(|record| (record.serial, key)));
            with_serial.collect()
        });
        let key = *serials.get(&serial)?;
        // It may have gone on over another connection since.
        table
            .get(key)
            .is_some_and(|record| record.serial == serial)
            .then_some(key)
    }

    pub(super) fn snapshot_row(&mut self, row: Row, now: Now) {
        let of_handle = self.table.by_handle(row.handle);
        let known = of_handle.filter(|key| {
            self.table
                .get(*key)
                .is_some_and(|record| record.serial == row.serial)
        });
        if let Some(key) = known {
            let link_no = self.link_no;
            if let Some(record) = self.table.get_mut(key) {
                record.seen_link = link_no;
            }
            self.count_forwarded(key, row.forwarded);
            return self.name_session(key, &row, now);
        }
        // Before its session: a device that was kicked has one until businesses have heard of it.
        if let Some(farewell) = self.settlements.take_unsaid(row.serial) {
            return self.close_again(row.handle, row.serial, farewell);
        }
        if let Some(key) = self.by_serial(row.serial) {
            return self.take_over(key, &row, now);
        }
        if self.sync.awaits_imports() {
            self.sync.rows.push(row);
            return;
        }
        // Its own gateway kept it, so its age doesn't matter: the connection has lived all the time.
        let Ok(ticket) = self.shared.tickets.open(&row.ticket, 0) else {
            self.count_lost();
            return self.close_for_good(row.handle, row.serial, Code::SessionLost);
        };
        match self.table.by_session(ticket.session.as_bytes()) {
            Some(key) => self.relink(key, &row, &ticket),
            None => self.restore(&row, &ticket),
        }
    }

    /// Whether sessions of workers whose shards are gone are still to come.
    #[must_use]
    pub fn awaits_imports(&self) -> bool {
        self.sync.awaits_imports()
    }

    /// A connection ended whose session is still to come from another worker; whether it was one.
    pub(super) fn close_parked(&mut self, closed: &ConnectionClosed) -> bool {
        let Some(place) = self.sync.rows.iter().position(|row| row.handle == closed.handle) else {
            return false;
        };
        let row = self.sync.rows.swap_remove(place);
        self.sync.ended.push(EndedConnection {
            serial: row.serial,
            ticket: row.ticket,
            code: closed.code,
            age_ms: 0,
        });
        true
    }

    /// The same connection in the hands of another process: nothing that routing knows has changed.
    fn take_over(&mut self, key: Key, row: &Row, now: Now) {
        self.table.set_handle(key, row.handle);
        let link_no = self.link_no;
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        record.seen_link = link_no;
        let retracted = record.phase == Phase::Leaving;
        let is_back = record.phase != Phase::Online;
        if is_back {
            record.enter(Phase::Online);
            self.take_groups_up(key);
        }
        self.count_forwarded(key, row.forwarded);
        if retracted {
            self.announce(key);
        }
        self.name_session(key, row, now);
        self.say_groups(key);
    }

    /// A known session's connection has another address, or the session was resumed over this connection.
    fn relink(&mut self, key: Key, row: &Row, ticket: &Ticket) {
        let Some(record) = self.table.get(key) else { return };
        let newer =
            record.phase == Phase::Online && record.serial != row.serial && record.epoch > ticket.epoch.0;
        if newer {
            return self.close_for_good(row.handle, row.serial, Code::Moved);
        }
        self.renumber(key, row.serial);
        self.table.set_handle(key, row.handle);
        let link_no = self.link_no;
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        record.seen_link = link_no;
        record.epoch = record.epoch.max(ticket.epoch.0);
        record.forwarded = row.forwarded.unwrap_or(0);
        if record.phase != Phase::Online {
            record.enter(Phase::Online);
            self.take_groups_up(key);
        }
        self.announce(key);
        self.say_groups(key);
    }

    /// A session that is only known from its ticket: this sidecar was restarted.
    fn restore(&mut self, row: &Row, ticket: &Ticket) {
        if let Some(other) = self.table.by_device(&ticket.app, &ticket.device) {
            if self
                .table
                .get(other)
                .is_some_and(|record| record.epoch >= ticket.epoch.0)
            {
                return self.close_for_good(row.handle, row.serial, Code::Superseded);
            }
            self.supersede(other, Code::Superseded);
        }
        let who = Identity::new(&ticket.app, &ticket.device);
        let mut record = Record::new(*ticket.session.as_bytes(), ticket.epoch.0, who);
        record.serial = row.serial;
        record.seen_link = self.link_no;
        record.forwarded = row.forwarded.unwrap_or(0);
        let key = self.table.insert(record);
        self.table.set_handle(key, row.handle);
        self.table
            .describe_as(key, str::from_utf8(&row.attributes).unwrap_or_default());
        self.shared.metrics.restored.inc();
        self.announce(key);
    }

    /// Gives a gateway that has no ticket for a connection a new one.
    fn name_session(&mut self, key: Key, row: &Row, now: Now) {
        if !row.ticket.is_empty() || self.generation < 2 {
            return;
        }
        let Some(ticket) = self.sealed(key, now) else {
            return;
        };
        let attributes = Bytes::copy_from_slice(self.table.attributes_of(key).as_bytes());
        self.link.session_row(SessionRow {
            handle: row.handle,
            ticket,
            ping_interval_s: self.ping_interval_s(),
            attributes,
        });
    }

    /// A session's ticket, sealed anew; empty without a key.
    pub(super) fn sealed(&self, key: Key, now: Now) -> Option<Bytes> {
        let record = self.table.get(key)?;
        let (app, device) = (record.who.app(), record.who.device());
        Some(self.seal(record.id, record.epoch, app, device, now))
    }

    /// A ticket; empty without a key.
    pub(super) fn seal(&self, id: [u8; 16], epoch: u64, app: &str, device: &str, now: Now) -> Bytes {
        let lifetime = self.settings.ticket_lifetime.as_secs();
        let ticket = Ticket {
            session: SessionId(id),
            epoch: Epoch(epoch),
            expires_unix_s: u32::try_from(now.unix_ms / 1_000 + lifetime).unwrap_or(u32::MAX),
            app: app.to_owned(),
            device: device.to_owned(),
        };
        let sealed = self.shared.tickets.seal(&ticket);
        sealed.map_or_else(|_| Bytes::new(), |sealed| Bytes::copy_from_slice(&sealed))
    }

    /// A gateway process that has just begun knows no memberships.
    fn say_groups(&mut self, key: Key) {
        if !self.sync.taken_over || self.generation < 2 {
            return;
        }
        let Some(record) = self.table.get(key) else { return };
        for member in record.groups.as_slice() {
            let (business, name) = self.groups.name(member.group());
            self.link.membership(record.handle, business, name, true);
        }
    }

    /// The gateways forwarded this many frames of the connection: what didn't come here died with one of them.
    fn count_forwarded(&mut self, key: Key, forwarded: Option<u32>) {
        let (Some(forwarded), Some(record)) = (forwarded, self.table.get_mut(key)) else {
            return;
        };
        let lost = forwarded.wrapping_sub(std::mem::replace(&mut record.forwarded, forwarded));
        // A number below ours is no loss.
        if self.sync.crashed && lost < u32::MAX / 2 {
            self.sync.lost_frames += u64::from(lost);
        }
    }

    pub(super) fn count_lost(&self) {
        self.shared
            .metrics
            .session_ends
            .with_label_values(&["lost", Code::SessionLost.name()])
            .inc();
    }

    /// The gateway has listed everything: who wasn't in it has lost the connection.
    pub(super) fn snapshot_done(&mut self, now: Now) {
        if self.sync.awaits_imports() {
            self.sync.complete = true;
            return;
        }
        for index in 0..self.table.end() {
            let Some(key) = self.table.key_at(index) else {
                continue;
            };
            let lost = self
                .table
                .get(key)
                .is_some_and(|record| record.phase == Phase::Online && record.seen_link != self.link_no);
            if lost {
                self.suspend(key, Code::ConnectionLost, now);
            }
        }
        self.restored = true;
        if self.sync.taken_over {
            self.list_ended(now);
        }
        let lost = std::mem::take(&mut self.sync).lost_frames;
        if lost > 0 {
            self.shared.metrics.frames_lost.inc_by(lost);
            tracing::warn!(
                worker = self.settings.worker,
                frames = lost,
                "frames that the gateway had read were lost when it died"
            );
        }
        self.settlements.snapshot_done();
        if self.link_state == LinkState::Syncing {
            self.link_state = LinkState::Live;
            self.last_live = now.micros;
            self.deliver_undelivered();
        }
    }

    /// Whatever was to come from other workers has come, or never will: judges what waited for it.
    pub(super) fn imports_done(&mut self, now: Now) {
        for row in std::mem::take(&mut self.sync.rows) {
            self.snapshot_row(row, now);
        }
        for ended in std::mem::take(&mut self.sync.ended) {
            self.ended_row(&ended, now);
        }
        if self.sync.complete {
            self.snapshot_done(now);
        }
    }

    pub(super) fn tick_sync(&mut self, now: Now) {
        if self.sync.awaits_imports() && now.micros.saturating_sub(self.sync.imports_since) > IMPORT_PATIENCE
        {
            tracing::error!(
                worker = self.settings.worker,
                missing = ?self.sync.imports,
                "the sessions of workers whose shards are gone didn't come"
            );
            self.sync.imports.clear();
            self.imports_done(now);
        }
    }
}
