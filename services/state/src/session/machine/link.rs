//! The link's side of the machine: it comes and goes, its snapshot says who is connected.

use bytes::Bytes;
use imaccess_proto::v1::{ConnectionClosed, GatewayHello, Outcome, SnapshotChunk, Takeover};
use imaccess_wire::Code;

use super::ended::close_code;
use super::takeover::Row;
use super::{Gateway, LinkState, Machine};
use crate::session::Now;
use crate::session::record::Phase;

impl Machine {
    /// A new stream has begun, of this link generation; its snapshot follows.
    pub fn link_up(&mut self, hello: &GatewayHello, generation: u32, now: Now) {
        self.link.clear();
        self.link_no += 1;
        self.link_state = LinkState::Syncing;
        self.generation = generation;
        self.quiescing = false;
        self.retired_to = None;
        let gateway = Gateway {
            instance: hello.instance.clone(),
            incarnation: hello.incarnation,
            shards: hello.shards,
        };
        let before = self.gateway.replace(gateway);
        let same_instance = before.as_ref().is_some_and(|it| it.instance == hello.instance);
        let same = same_instance
            && before
                .as_ref()
                .is_some_and(|it| it.incarnation == hello.incarnation);
        let mut imports = std::mem::take(&mut self.sync).imports;
        imports.retain(|shard| same_instance && u32::from(*shard) >= hello.shards);
        self.sync.foreign = before.is_some() && !same_instance;
        self.sync.imports_since = now.micros;
        self.settlements.link_up(self.sync.foreign);
        if same {
            self.sync.imports = imports;
            return;
        }
        self.table.forget_handles();
        self.sync.taken_over = same_instance;
        self.sync.crashed = hello.takeover() == Takeover::Crashed;
        // Connections of shards that are gone are on others now, and their workers' sessions come after them.
        self.imported
            .retain(|(incarnation, _)| *incarnation == hello.incarnation);
        let gone = hello.shards..before.map_or(0, |it| it.shards);
        let expected = gone
            .filter(|shard| shard % hello.shards.max(1) == u32::from(self.settings.worker))
            .filter_map(|shard| u8::try_from(shard).ok())
            .filter(|shard| !self.imported.contains(&(hello.incarnation, *shard)));
        imports.extend(expected);
        self.sync.imports = imports;
    }

    /// The stream broke, or ended after a handover. Sessions stay as they are; nothing is known of their connections.
    pub fn link_down(&mut self) {
        self.link_state = LinkState::Down;
        self.link.clear();
        self.settlements.link_down();
        // The gateway refuses the logins that wait, or lets them come again: nobody would answer them here.
        self.logins.clear();
        self.quiescing = false;
        // Whether pushes without a receipt were written isn't known.
        self.fail_pushes(if self.generation < 2 {
            Outcome::Retry
        } else {
            Outcome::Unknown
        });
    }

    /// Whether anything can be said to the gateway.
    pub(super) fn may_send(&self) -> bool {
        matches!(self.link_state, LinkState::Syncing | LinkState::Live)
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

    /// Connections that were logged in before the stream began, and those that ended and aren't settled.
    pub fn snapshot(&mut self, chunk: &SnapshotChunk, now: Now) {
        let mut at = 0usize;
        let rows = chunk.handle.iter().zip(&chunk.serial).zip(&chunk.ticket_length);
        for (index, ((&handle, &serial), &length)) in rows.enumerate() {
            let end = at.saturating_add(length as usize);
            let ticket = if end <= chunk.tickets.len() {
                chunk.tickets.slice(at..end)
            } else {
                Bytes::new()
            };
            at = end;
            let place = chunk.attributes.get(index).copied().unwrap_or(0) as usize;
            let attributes = place
                .checked_sub(1)
                .and_then(|place| chunk.attribute_table.get(place));
            let row = Row {
                handle,
                serial,
                ticket,
                attributes: attributes.cloned().unwrap_or_default(),
                forwarded: chunk.forwarded.get(index).copied(),
            };
            self.snapshot_row(row, now);
        }
        for group in &chunk.groups {
            let Some(index) = self.business_index(group.business) else {
                continue;
            };
            // Who gave a membership died with the state that knew it; where clients may not join, it was the business.
            let given = !self.businesses[index].config.client_groups;
            for &member in &group.member {
                if let Some(key) = self.table.by_handle(member) {
                    self.enter_group(key, group.business, &group.group, given);
                }
            }
        }
        for ended in &chunk.ended {
            self.ended_row(ended, now);
        }
        if chunk.done {
            self.snapshot_done(now);
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
                if !self.close_parked(closed) {
                    self.closed_by_us(closed.handle);
                }
                continue;
            };
            match close_code(closed.code) {
                code @ (Code::ClientLeft | Code::Kicked) => self.leave(key, Some(code)),
                code => self.suspend(key, code, now),
            }
        }
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
