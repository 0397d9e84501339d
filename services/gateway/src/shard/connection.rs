//! One connection: a slot of the shard's slab, at most 160 bytes.

use std::net::IpAddr;

use bytes::Bytes;
use imaccess_net::socket::ClientSocket;
use imaccess_net::wheel::Tick;
use imaccess_wire::Code;
use imaccess_wire::limits::MAX_TICKET;

use super::queue::OutQueue;
use super::requests::Unanswered;

/// Where a connection is in its life, as far as the gateway has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connected; no login frame yet.
    Connecting,
    /// The login frame is with state.
    Authenticating,
    /// Logged in.
    Online,
    /// The last frame is on its way; what the client still sends is read and thrown away, so that the kernel
    /// answers with no reset, which would take the last frame with it.
    Closing,
}

/// What a connection needs while it is idle, and pointers to what it needs only sometimes.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: ClientSocket,
    pub(crate) phase: Phase,
    /// The end of the stream was read.
    pub(crate) ended: bool,
    /// The peer has shut its side: it is read until that shows.
    pub(crate) hung_up: bool,
    /// Only this connection's share of a turn was read; it is in the shard's list of those with more.
    pub(crate) has_more: bool,
    /// Counts against the limits; one that was refused doesn't.
    pub(crate) admitted: bool,
    /// The custodian has it, or is about to.
    pub(crate) deposited: bool,
    /// Why it is closing.
    pub(crate) code: Code,
    pub(crate) ping_interval_s: u16,
    /// Attachment of state that knows this connection.
    pub(crate) announced: u32,
    /// Low half of the ConnId.
    pub(crate) serial: u64,
    /// Milliseconds on the shard's clock at which it was accepted.
    pub(crate) accepted_ms: u64,
    /// When the client was last heard.
    pub(crate) last_seen: Tick,
    /// When the phase began.
    pub(crate) since: Tick,
    /// Bytes of a whole LOGIN that is left in the kernel until state has answered it, so that it outlives this process; 0:
    /// there is none, or it is in `partial`.
    pub(crate) login: u32,
    /// A frame that isn't whole yet.
    pub(crate) partial: Option<Box<Partial>>,
    /// What the kernel didn't take.
    pub(crate) queue: Option<Box<OutQueue>>,
    /// What state hasn't answered.
    pub(crate) unanswered: Option<Box<Unanswered>>,
    /// Peer address, kept only before login and where there is a limit per address.
    pub(crate) address: Option<Box<IpAddr>>,
}

impl Connection {
    /// One that was just accepted, at this tick.
    pub(crate) fn new(socket: ClientSocket, serial: u64, now: Tick) -> Self {
        Self {
            socket,
            phase: Phase::Connecting,
            ended: false,
            hung_up: false,
            has_more: false,
            admitted: true,
            deposited: false,
            code: Code::Ok,
            ping_interval_s: 0,
            announced: 0,
            serial,
            accepted_ms: 0,
            last_seen: now,
            since: now,
            login: 0,
            partial: None,
            queue: None,
            unanswered: None,
            address: None,
        }
    }
}

/// The beginning of a frame. Never longer than what was received of it.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) bytes: Vec<u8>,
    pub(crate) since: Tick,
}

/// The sealed tickets of logged-in connections, beside the slab: 97 bytes a slot, so that the slab stays dense.
#[derive(Debug, Default)]
pub(crate) struct Tickets {
    cells: Vec<Cell>,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    len: u8,
    bytes: [u8; MAX_TICKET],
}

impl Tickets {
    /// Keeps a slot's ticket. One that is too long isn't kept: the session is lost with state, not now.
    pub(crate) fn put(&mut self, slot: u32, ticket: &Bytes) -> bool {
        let index = slot as usize;
        if index >= self.cells.len() {
            self.cells.resize(
                index + 1,
                Cell {
                    len: 0,
                    bytes: [0; MAX_TICKET],
                },
            );
        }
        let cell = &mut self.cells[index];
        cell.len = 0;
        let Some(bytes) = cell.bytes.get_mut(..ticket.len()) else {
            return false;
        };
        bytes.copy_from_slice(ticket);
        cell.len = ticket.len() as u8;
        true
    }

    /// A slot's ticket; empty if it has none.
    pub(crate) fn get(&self, slot: u32) -> &[u8] {
        self.cells
            .get(slot as usize)
            .map_or(&[], |cell| &cell.bytes[..usize::from(cell.len)])
    }

    /// Forgets a slot's ticket.
    pub(crate) fn clear(&mut self, slot: u32) {
        if let Some(cell) = self.cells.get_mut(slot as usize) {
            *cell = Cell {
                len: 0,
                bytes: [0; MAX_TICKET],
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_fits_its_budget() {
        // The architecture's bound is 160 bytes; the slab adds a generation.
        assert!(size_of::<Connection>() <= 96, "{}", size_of::<Connection>());
    }

    #[test]
    fn tickets_come_back_and_are_forgotten() {
        let mut tickets = Tickets::default();
        assert!(tickets.put(3, &Bytes::from_static(b"sealed")));
        assert_eq!(tickets.get(3), b"sealed");
        assert_eq!(tickets.get(2), b"");
        tickets.clear(3);
        assert_eq!(tickets.get(3), b"");
        assert!(!tickets.put(3, &Bytes::from(vec![0; MAX_TICKET + 1])));
        assert_eq!(tickets.get(3), b"");
    }
}
