//! Connections end here, each with a code, a count, and word to state.

use imaccess_wire::Code;
use imaccess_wire::frame::Close;

use super::Shard;
use super::connection::Phase;
use super::queue::{Priority, Queued};
use crate::takeover::plan;

impl Shard {
    /// Ends a connection with a close frame.
    pub(crate) fn end(&mut self, slot: u32, code: Code) {
        let mut frame = std::mem::take(&mut self.frame_buffer);
        frame.clear();
        Close::with_code(code).encode(&mut frame);
        self.end_with(slot, code, &frame);
        self.frame_buffer = frame;
    }

    /// Ends a connection with the close frame given.
    pub(crate) fn end_with(&mut self, slot: u32, code: Code, frame: &[u8]) {
        match self.connections.get(slot) {
            Some(connection) if connection.phase != Phase::Closing => {}
            _ => return,
        }
        if !frame.is_empty() {
            self.send_control(slot, frame);
        }
        self.begin_closing(slot, code);
    }

    /// The last frame is written or queued: nothing more is accepted from the client, and the socket ends when the
    /// client has read it all, or its deadline passes.
    pub(crate) fn begin_closing(&mut self, slot: u32, code: Code) {
        self.detach(slot, code);
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.phase = Phase::Closing;
        connection.since = self.tick;
        connection.code = code;
        connection.partial = None;
        if std::mem::take(&mut connection.login) > 0 && !std::mem::replace(&mut connection.has_more, true) {
            // A LOGIN left in the kernel is thrown away with the rest: unread, it would turn the close into a reset.
            self.unread.push(slot);
        }
        self.cursors.set_phase(slot, plan::CLOSING);
        if connection.ended {
            return self.release(slot);
        }
        if connection.queue.is_none() {
            connection.socket.shutdown_write();
        }
        self.look_again(slot);
    }

    /// Ends a connection that doesn't read. What waits for it is dropped but for a frame that is begun, behind which
    /// the close frame goes: a client that reads on before its deadline learns why.
    pub(crate) fn abandon(&mut self, slot: u32, code: Code) {
        let mut frame = Vec::with_capacity(16);
        Close::with_code(code).encode(&mut frame);
        if let Some(connection) = self.connections.get_mut(slot)
            && let Some(queue) = connection.queue.as_deref_mut()
        {
            let before = queue.bytes();
            self.counts.dropped_gone += queue.keep_begun();
            queue.push(
                Queued {
                    bytes: frame.into(),
                    business: 0,
                    priority: Priority::Normal,
                    expires_ms: 0,
                },
                0,
                None,
                usize::MAX,
            );
            self.queued_bytes = self.queued_bytes + queue.bytes() - before;
            self.cursors.set_queued(slot, queue.frames() as u16);
        }
        self.begin_closing(slot, code);
    }

    /// The peer closed its side.
    pub(crate) fn peer_ended(&mut self, slot: u32) {
        match self.connections.get(slot).map(|connection| connection.phase) {
            Some(Phase::Closing) => self.release(slot),
            Some(_) => self.gone(slot, Code::ConnectionLost),
            None => {}
        }
    }

    /// The socket failed.
    pub(crate) fn lost(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.ended = true;
        }
        self.peer_ended(slot);
    }

    /// The connection is over and there is nobody to tell but state.
    pub(crate) fn gone(&mut self, slot: u32, code: Code) {
        self.detach(slot, code);
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.phase = Phase::Closing;
            connection.code = code;
        }
        self.release(slot);
    }

    /// Takes a connection out of everything but its slot. Idempotent.
    fn detach(&mut self, slot: u32, code: Code) {
        let handle = self.handle(slot);
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let phase = connection.phase;
        if phase == Phase::Closing {
            return;
        }
        self.metrics.closed(code);
        let (serial, unanswered) = (connection.serial, connection.unanswered.take());
        if connection.admitted {
            self.count_drained(code);
        }
        if phase == Phase::Online
            && let Some(attachment) = self.link.usable()
        {
            // A state that hasn't been told of it yet must be, or the end would mean nothing to it.
            self.announce(slot, attachment);
        }
        self.keep_list(unanswered);
        if phase == Phase::Online {
            self.sessions -= 1;
            self.groups.leave_all(slot);
            // What state itself ended is settled there, but for the event that a kick brings.
            let by_state = matches!(code, Code::Moved | Code::Superseded | Code::SessionLost);
            if !by_state && self.link.settles() {
                let ticket = self.tickets.get(slot);
                self.counts.ended_forgotten += self.ended.add(serial, ticket, code, self.tick);
            }
            self.tickets.clear(slot);
            self.attributes.clear(slot);
        }
        if matches!(phase, Phase::Online | Phase::Authenticating) && self.link.usable().is_some() {
            self.outbox.closed(handle, code);
        }
    }

    /// The verdict: the slot is free after it.
    pub(crate) fn release(&mut self, slot: u32) {
        self.drop_queue(slot);
        self.wheel.cancel(slot);
        let Some(connection) = self.connections.retire(slot) else {
            return;
        };
        self.cursors.close(slot);
        // State takes logins before closes: within one batch a slot must not mean two connections.
        self.retired.push(slot);
        if connection.admitted {
            self.admission.release(connection.address.as_deref().copied());
        } else {
            self.refused_lingering -= 1;
        }
        let _ = self.epoll.get_ref().delete(&connection.socket);
        connection.socket.close();
        // After the verdict: the custodian only drops what it holds.
        self.custody.closed(connection.serial, connection.deposited);
    }

    fn drop_queue(&mut self, slot: u32) {
        if let Some(queue) = self
            .connections
            .get_mut(slot)
            .and_then(|connection| connection.queue.take())
        {
            self.queued_bytes -= queue.bytes();
            self.counts.dropped_gone += queue.frames() as u64;
            self.cursors.set_queued(slot, 0);
        }
    }
}
