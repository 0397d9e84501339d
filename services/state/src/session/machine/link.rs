//! The link's side of the machine: it comes and goes, its snapshot says who is connected.

use imaccess_common::ticket::Ticket;
use imaccess_proto::v1::{ConnectionClosed, GatewayHello, SnapshotChunk};
use imaccess_wire::Code;

use super::{LinkState, Machine};
use crate::session::Now;
use crate::session::record::{Identity, Phase, Record};
use crate::session::table::Key;

impl Machine {
    /// A new stream has begun; its snapshot follows.
    pub fn link_up(&mut self, hello: &GatewayHello) {
        self.link.clear();
        self.link_no += 1;
        self.link_state = LinkState::Syncing;
        let gateway = (hello.instance.clone(), hello.incarnation);
        if self.gateway.as_ref() != Some(&gateway) {
            self.table.forget_handles();
            self.gateway = Some(gateway);
        }
    }

    /// The stream broke. Sessions stay as they are; nothing is known of their connections.
    pub fn link_down(&mut self) {
        self.link_state = LinkState::Down;
        self.link.clear();
        // The gateway refuses the logins that wait: nobody would answer them.
        self.logins.clear();
        self.fail_pushes();
    }

    /// Whether a stream is up.
    #[must_use]
    pub fn link_is_up(&self) -> bool {
        self.link_state != LinkState::Down
    }

    /// Whether the link is up and its snapshot complete.
    #[must_use]
    pub fn link_is_live(&self) -> bool {
        self.link_state == LinkState::Live
    }

    /// Whether the machine has ever known all sessions of its shard.
    #[must_use]
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// Connections that were logged in before the stream began.
    pub fn snapshot(&mut self, chunk: &SnapshotChunk, now: Now) {
        let mut at = 0usize;
        let rows = chunk.handle.iter().zip(&chunk.serial).zip(&chunk.ticket_length);
        for ((&handle, &serial), &length) in rows {
            let end = at.saturating_add(length as usize);
            let ticket = chunk.tickets.get(at..end).unwrap_or_default();
            at = end;
            self.snapshot_row(handle, serial, ticket);
        }
        for group in &chunk.groups {
            if self.business_index(group.business).is_none() {
                continue;
            }
            for &member in &group.member {
                if let Some(key) = self.table.by_handle(member) {
                    self.enter_group(key, group.business, &group.group);
                }
            }
        }
        if chunk.done {
            self.snapshot_done(now);
        }
    }

    /// The snapshot is complete (or the shard is gone for good): who wasn't in it has lost the connection.
    pub fn snapshot_done(&mut self, now: Now) {
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
        if self.link_state == LinkState::Syncing {
            self.link_state = LinkState::Live;
            self.deliver_undelivered();
        }
    }

    /// Connections that are gone.
    pub fn closed(&mut self, closed: &[ConnectionClosed], now: Now) {
        if !self.logins.is_empty() {
            // Else they would be logged in without a connection, and nothing would ever end them.
            let gone: std::collections::HashSet<u64> = closed.iter().map(|closed| closed.handle).collect();
            self.logins.retain(|login| !gone.contains(&login.handle));
        }
        for closed in closed {
            let Some(key) = self.table.by_handle(closed.handle) else {
                continue;
            };
            let number = u16::try_from(closed.code).unwrap_or(Code::Internal as u16);
            match Code::from_u16(number).unwrap_or(Code::Internal) {
                code @ (Code::ClientLeft | Code::Kicked) => self.leave(key, Some(code)),
                code => self.suspend(key, code, now),
            }
        }
    }

    fn snapshot_row(&mut self, handle: u64, serial: u64, sealed: &[u8]) {
        let link_no = self.link_no;
        if let Some(key) = self.table.by_handle(handle)
            && let Some(record) = self.table.get_mut(key)
            && record.serial == serial
        {
            record.seen_link = link_no;
            return;
        }
        // Its own gateway kept it, so its age doesn't matter: the connection has lived all the time.
        let Ok(ticket) = self.shared.tickets.open(sealed, 0) else {
            self.link.close(handle, Code::SessionLost);
            self.shared
                .metrics
                .session_ends
                .with_label_values(&["lost", Code::SessionLost.name()])
                .inc();
            return;
        };
        match self.table.by_session(ticket.session.as_bytes()) {
            Some(key) => self.relink(key, handle, serial, &ticket),
            None => self.restore(handle, serial, &ticket),
        }
    }

    /// A known session's connection has another address, or the session was resumed over this connection.
    fn relink(&mut self, key: Key, handle: u64, serial: u64, ticket: &Ticket) {
        let Some(record) = self.table.get(key) else { return };
        let newer = record.phase == Phase::Online && record.serial != serial && record.epoch > ticket.epoch.0;
        if newer {
            self.link.close(handle, Code::Moved);
            return;
        }
        self.table.set_handle(key, handle);
        let link_no = self.link_no;
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        record.seen_link = link_no;
        record.serial = serial;
        record.epoch = record.epoch.max(ticket.epoch.0);
        if record.phase != Phase::Online {
            record.enter(Phase::Online);
        }
        self.announce(key);
    }

    /// A session that is only known from its ticket: this sidecar was restarted.
    fn restore(&mut self, handle: u64, serial: u64, ticket: &Ticket) {
        if let Some(other) = self.table.by_device(&ticket.app, &ticket.device) {
            if self
                .table
                .get(other)
                .is_some_and(|record| record.epoch >= ticket.epoch.0)
            {
                self.link.close(handle, Code::Superseded);
                return;
            }
            self.supersede(other, Code::Superseded);
        }
        let who = Identity::new(&ticket.app, &ticket.device);
        let mut record = Record::new(*ticket.session.as_bytes(), ticket.epoch.0, who);
        record.serial = serial;
        record.seen_link = self.link_no;
        let key = self.table.insert(record);
        self.table.set_handle(key, handle);
        self.shared.metrics.restored.inc();
        self.announce(key);
    }
}

/// Connections that ended while no gateway was there to say so.
#[derive(Debug, Clone)]
pub enum Gone {
    /// All of them.
    All,
    /// Those with these serials.
    Serials(std::sync::Arc<[u64]>),
}

impl Machine {
    /// The custodian's word, which counts as long as the gateway has none: once its link is up, its snapshot says who is connected.
    pub fn connections_gone(&mut self, which: &Gone, now: Now) {
        if self.link_state != LinkState::Down {
            return;
        }
        let serials: Option<std::collections::HashSet<u64>> = match which {
            Gone::All => None,
            Gone::Serials(serials) => Some(serials.iter().copied().collect()),
        };
        for index in 0..self.table.end() {
            let Some(key) = self.table.key_at(index) else {
                continue;
            };
            let gone = self.table.get(key).is_some_and(|record| {
                record.phase == Phase::Online
                    && serials
                        .as_ref()
                        .is_none_or(|serials| serials.contains(&record.serial))
            });
            if gone {
                self.suspend(key, Code::ConnectionLost, now);
            }
        }
    }
}
