//! Bytes from clients: read into the shard's one buffer, cut into frames, and passed on.

use std::io::ErrorKind;

use imaccess_net::handle::Handle;
use imaccess_wire::frame::{Accepted, Close, Join, Leave, Pong, Reply, Request, Send};
use imaccess_wire::header::{FrameType, Split, peek, split};
use imaccess_wire::{Code, ProtocolError};

use super::Shard;
use super::connection::{Partial, Phase};
use super::write::Delivered;

/// Reads per connection and turn: one that floods gets 128 KiB of a turn, then the others theirs.
const READS_PER_TURN: usize = 1;
/// Retry-after of a frame that found state away or busy.
const RETRY_AFTER_MS: u32 = 500;

impl Shard {
    /// Reads what a connection has sent, up to its share of a turn.
    pub(crate) fn read(&mut self, slot: u32) {
        // The buffer leaves the shard while frames are borrowed from it.
        let mut buffer = std::mem::take(&mut self.read_buffer);
        for _ in 0..READS_PER_TURN {
            if !self.read_once(slot, &mut buffer) {
                break;
            }
        }
        self.read_buffer = buffer;
    }

    /// One read; whether there may be more.
    fn read_once(&mut self, slot: u32, buffer: &mut [u8]) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else {
            return false;
        };
        let (phase, begun) = (connection.phase, connection.partial.is_some());
        match phase {
            Phase::Connecting if !begun && self.peek_login(slot, buffer) => {
                return false;
            }
            Phase::Authenticating => return self.read_behind_login(slot, buffer),
            // State is being replaced: what the client sends waits where nothing can be lost.
            Phase::Online if self.holding.is_some() => return self.hold(slot),
            _ => {}
        }
        let Some(connection) = self.connections.get_mut(slot) else {
            return false;
        };
        // A frame that was begun is continued in the buffer, behind its beginning.
        let begun = connection.partial.take();
        let start = begun.as_ref().map_or(0, |partial| {
            buffer[..partial.bytes.len()].copy_from_slice(&partial.bytes);
            partial.bytes.len()
        });
        let received = match connection.socket.read(&mut buffer[start..]) {
            Ok(0) => {
                connection.ended = true;
                self.peer_ended(slot);
                return false;
            }
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                connection.partial = begun;
                return false;
            }
            Err(_) => {
                self.lost(slot);
                return false;
            }
        };
        connection.last_seen = self.tick;
        self.counts.received_bytes += received as u64;
        let more = received == buffer.len() - start || connection.hung_up;
        if connection.phase == Phase::Closing {
            // Read and thrown away: an unread byte would turn the close into a reset.
            return self.note_more(slot, more);
        }
        let since = begun.map(|partial| partial.since);
        self.frames(slot, &buffer[..start + received], since);
        if let Some(connection) = self.connections.get(slot) {
            // Up to the last whole frame, which has been handed on.
            let begun = connection
                .partial
                .as_ref()
                .map_or(0, |partial| partial.bytes.len());
            self.cursors.add_read(slot, (start + received - begun) as u64);
        }
        self.answer(slot);
        self.note_more(slot, more)
    }

    /// Puts off reading a connection until state can be asked again.
    fn hold(&mut self, slot: u32) -> bool {
        if let Some(connection) = self.connections.get_mut(slot)
            && !std::mem::replace(&mut connection.has_more, true)
        {
            self.held.push(slot);
        }
        false
    }

    /// Reads on what was put off.
    pub(crate) fn release_held(&mut self) {
        if self.holding.take().is_some() {
            self.unread.append(&mut self.held);
        }
    }

    /// Edge-triggered: a connection that may have more is read again next turn without another event.
    fn note_more(&mut self, slot: u32, more: bool) -> bool {
        if more
            && let Some(connection) = self.connections.get_mut(slot)
            && !connection.has_more
        {
            connection.has_more = true;
            self.unread.push(slot);
        }
        more
    }

    /// Cuts `bytes` into frames and keeps the beginning of one that isn't whole. `since`: when it was begun.
    fn frames(&mut self, slot: u32, bytes: &[u8], since: Option<u32>) {
        let mut rest = bytes;
        let mut first = true;
        loop {
            match split(rest, self.wire_limits) {
                Ok(Some(frame)) => {
                    rest = frame.rest;
                    first = false;
                    self.frame(slot, &frame);
                    match self.connections.get(slot).map(|connection| connection.phase) {
                        None | Some(Phase::Closing) => return,
                        Some(Phase::Authenticating) => return self.behind_login(slot, rest),
                        Some(_) => {}
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.refuse_bytes(slot, error);
                    return;
                }
            }
        }
        if rest.is_empty() {
            return;
        }
        debug_assert!(peek(rest, self.wire_limits).is_ok(), "split has looked at it");
        // The deadline counts from the first byte of this frame, however slowly the rest drips in.
        let begun = match since {
            Some(since) if first => since,
            _ => self.tick,
        };
        if let Some(connection) = self.connections.get_mut(slot) {
            connection.partial = Some(Box::new(Partial {
                bytes: rest.to_vec(),
                since: begun,
            }));
        }
        self.look_again(slot);
    }

    /// One whole frame.
    #[inline]
    fn frame(&mut self, slot: u32, frame: &Split<'_>) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let kind = frame.header.kind;
        self.counts.received_frames[kind.map_or(0, |kind| kind as usize)] += 1;
        let Some(kind) = kind else { return };
        match (connection.phase, kind) {
            (Phase::Online, FrameType::Request | FrameType::Send) => self.forward(slot, kind, frame),
            (Phase::Online, FrameType::Ping) => Pong::default().encode(&mut self.answers),
            (Phase::Online, FrameType::Join | FrameType::Leave | FrameType::PushAck) => {
                self.forward(slot, kind, frame);
            }
            (Phase::Connecting, FrameType::Login) => {
                // It came in pieces, so it had to be read: it is kept until state has answered it.
                connection.partial = Some(Box::new(Partial {
                    bytes: frame.frame.to_vec(),
                    since: self.tick,
                }));
                self.login(slot, frame.frame);
            }
            (_, FrameType::Close) => self.goodbye(slot, frame.body()),
            (Phase::Online, _) => self.end(slot, Code::Unexpected),
            (Phase::Connecting | Phase::Authenticating, _) => self.end(slot, Code::NotLoggedIn),
            (Phase::Closing, _) => {}
        }
    }

    /// Writes what the frames of one read are answered with by the gateway itself, in one call: a client that sends
    /// thousands of pings at once costs the others no thousand calls.
    fn answer(&mut self, slot: u32) {
        if self.answers.is_empty() {
            return;
        }
        let mut answers = std::mem::take(&mut self.answers);
        let open = self
            .connections
            .get(slot)
            .is_some_and(|connection| connection.phase != Phase::Closing);
        if open && self.send_control(slot, &answers) == Delivered::Queued {
            self.look_again(slot);
        }
        answers.clear();
        self.answers = answers;
    }

    /// The client says goodbye: no resume is wanted, unless its code says so.
    pub(crate) fn goodbye(&mut self, slot: u32, body: &[u8]) {
        let code = match Close::decode(body) {
            // Who moved has resumed its session elsewhere: to take its device for gone would be wrong.
            Ok(close) if close.resumable || close.known_code() == Some(Code::Moved) => Code::ConnectionLost,
            _ => Code::ClientLeft,
        };
        self.gone(slot, code);
    }

    /// Passes a data frame on to state, or answers that it can't.
    fn forward(&mut self, slot: u32, kind: FrameType, frame: &Split<'_>) {
        let Some(attachment) = self.link.usable() else {
            self.counts.shed_no_state += 1;
            return self.shed(slot, kind, frame.body(), Code::Retry);
        };
        if self.outbox.bytes() + frame.frame.len() > self.limits.link_queue {
            self.counts.shed_busy += 1;
            return self.shed(slot, kind, frame.body(), Code::Busy);
        }
        self.announce(slot, attachment);
        self.note_asked(slot, kind, frame.body());
        let handle = self.handle(slot);
        self.outbox.uplink(handle, frame.frame);
        self.cursors.add_forwarded(slot);
    }

    /// Puts a connection's snapshot row before its first event on this attachment.
    pub(crate) fn announce(&mut self, slot: u32, attachment: u32) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        if connection.announced != attachment {
            connection.announced = attachment;
            let serial = connection.serial;
            let handle = self.handle(slot);
            let forwarded = self.cursors.get(slot).forwarded;
            let ticket = self.tickets.get(slot);
            self.outbox
                .row(handle, serial, ticket, self.attributes.numbered(slot), forwarded);
        }
    }

    /// Answers a data frame that isn't forwarded: the client repeats it with the same message id.
    fn shed(&mut self, slot: u32, kind: FrameType, body: &[u8], code: Code) {
        let message_id = match kind {
            FrameType::Request => Request::decode(body).map(|frame| frame.message_id),
            FrameType::Send => Send::decode(body).map(|frame| frame.message_id),
            FrameType::Join => Join::decode(body).map(|frame| frame.message_id),
            FrameType::Leave => Leave::decode(body).map(|frame| frame.message_id),
            // A watermark comes again with the next one.
            _ => return,
        };
        let message_id = match message_id {
            Ok(message_id) => message_id,
            Err(error) => return self.refuse_bytes(slot, error),
        };
        if kind == FrameType::Request {
            let reply = Reply {
                message_id,
                code: code as u16,
                retry_after_ms: RETRY_AFTER_MS,
                ..Reply::default()
            };
            reply.encode(&mut self.answers);
        } else {
            let accepted = Accepted {
                message_id,
                code: code as u16,
                retry_after_ms: RETRY_AFTER_MS,
                ..Accepted::default()
            };
            accepted.encode(&mut self.answers);
        }
    }

    /// What the peer sent is no frame: a close with its own code, and no effect on others.
    pub(crate) fn refuse_bytes(&mut self, slot: u32, error: ProtocolError) {
        tracing::debug!(handle = %self.handle(slot), %error, "closing a connection");
        self.end(slot, error.code());
    }

    /// The handle of the connection in `slot`.
    pub(crate) fn handle(&self, slot: u32) -> Handle {
        Handle::new(self.id, slot, self.connections.generation(slot))
    }
}
