//! LOGIN frames: left in the kernel, or kept, until state has answered.
//!
//! A login must outlive this process and state's: a client that has sent one waits for its answer, and repeats nothing. So a LOGIN that
//! came in one piece, as nearly all do, is only peeked at. The process that comes after finds it there and passes it on again; state
//! knows by the connection's serial that it is the same one.

use imaccess_proto::v1::{LoginAttempt, Transport};
use imaccess_wire::Code;
use imaccess_wire::header::{FrameType, split};

use super::Shard;
use super::connection::Phase;

impl Shard {
    /// Looks for a whole LOGIN at the front of what the kernel has; whether there was one. Anything else is read as usual.
    pub(crate) fn peek_login(&mut self, slot: u32, buffer: &mut [u8]) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else {
            return false;
        };
        let Ok(len @ 1..) = connection.socket.peek(buffer) else {
            return false;
        };
        let bytes = &buffer[..len];
        let Ok(Some(frame)) = split(bytes, self.wire_limits) else {
            return false;
        };
        if frame.header.kind != Some(FrameType::Login) {
            return false;
        }
        connection.last_seen = self.tick;
        connection.login = frame.frame.len() as u32;
        self.counts.received_bytes += frame.frame.len() as u64;
        self.counts.received_frames[FrameType::Login as usize] += 1;
        self.login(slot, frame.frame);
        self.behind_login(slot, frame.rest);
        true
    }

    /// A client whose login isn't answered has sent more, or has gone.
    pub(crate) fn read_behind_login(&mut self, slot: u32, buffer: &mut [u8]) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else {
            return false;
        };
        let login = connection.login as usize;
        let seen = if login > 0 {
            connection.socket.peek(buffer)
        } else {
            connection.socket.read(buffer)
        };
        match seen {
            Ok(0) => {
                connection.ended = true;
                self.peer_ended(slot);
            }
            Ok(len) => {
                if login == 0 {
                    self.cursors.add_read(slot, len as u64);
                }
                if let Some(bytes) = buffer.get(login..len) {
                    self.behind_login(slot, bytes);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.lost(slot),
        }
        false
    }

    /// Before its answer nothing may follow a LOGIN but a goodbye.
    pub(crate) fn behind_login(&mut self, slot: u32, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let waits = self
                .connections
                .get(slot)
                .is_some_and(|connection| connection.phase == Phase::Authenticating);
            if !waits {
                return;
            }
            match split(rest, self.wire_limits) {
                Ok(Some(frame)) => {
                    match frame.header.kind {
                        Some(FrameType::Close) => return self.goodbye(slot, frame.body()),
                        Some(_) => return self.end(slot, Code::NotLoggedIn),
                        None => {}
                    }
                    rest = frame.rest;
                }
                Ok(None) => return self.end(slot, Code::NotLoggedIn),
                Err(error) => return self.refuse_bytes(slot, error),
            }
        }
    }

    /// Passes a login on to state, lets it wait for one, or refuses it.
    pub(crate) fn login(&mut self, slot: u32, frame: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.phase = Phase::Authenticating;
        connection.since = self.tick;
        connection.announced = 0;
        self.pass_login(slot, frame);
        self.look_again(slot);
    }

    fn pass_login(&mut self, slot: u32, frame: &[u8]) {
        let Some(attachment) = self.link.usable() else {
            if !self.waits_for_state() {
                return self.refuse_login(slot, Code::LoginUnavailable);
            }
            self.logins_wait = true;
            return;
        };
        if self.outbox.bytes() + frame.len() > self.limits.link_queue {
            return self.refuse_login(slot, Code::Overloaded);
        }
        let handle = self.handle(slot);
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        connection.announced = attachment;
        let kept = connection.address.as_deref().copied();
        // One that was taken over, or is passed on again, has none kept.
        let address = kept.or_else(|| connection.socket.peer_address());
        if !self.admission.per_address() {
            connection.address = None;
        }
        self.outbox.login(LoginAttempt {
            handle: handle.bits(),
            serial: connection.serial,
            frame: bytes::Bytes::copy_from_slice(frame),
            peer: address.map_or_else(String::new, |address| address.to_string()),
            transport: Transport::Tcp.into(),
        });
    }

    /// Passes a login on that another state, or none, was given.
    pub(crate) fn repeat_login(&mut self, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let frame = match connection.login as usize {
            0 => connection.partial.as_ref().map(|partial| partial.bytes.clone()),
            len => {
                let mut frame = vec![0; len];
                let peeked = connection.socket.peek(&mut frame);
                (peeked.ok() == Some(len)).then_some(frame)
            }
        };
        match frame {
            Some(frame) => self.pass_login(slot, &frame),
            // The connection failed meanwhile, and takes what was received with it.
            None => self.gone(slot, Code::ConnectionLost),
        }
    }

    /// No state has come: the logins that waited for it are refused.
    pub(crate) fn refuse_waiting(&mut self) {
        self.logins_wait = false;
        for slot in 0..self.connections.slots() {
            if self.connections.get(slot).is_some_and(|connection| {
                connection.phase == Phase::Authenticating && connection.announced == 0
            }) {
                self.refuse_login(slot, Code::LoginUnavailable);
            }
        }
    }

    /// State has answered: the login is taken out of the kernel, or of where it was kept. Whether the connection is still there.
    pub(crate) fn take_login(&mut self, slot: u32) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else {
            return false;
        };
        let mut len = std::mem::take(&mut connection.login) as usize;
        if len == 0 {
            let kept = connection.partial.take().map_or(0, |partial| partial.bytes.len());
            self.cursors.add_read(slot, kept as u64);
            return true;
        }
        while len > 0 {
            match connection.socket.read(&mut self.read_buffer[..len]) {
                Ok(taken @ 1..) => {
                    self.cursors.add_read(slot, taken as u64);
                    len -= taken;
                }
                _ => {
                    self.lost(slot);
                    return false;
                }
            }
        }
        true
    }
}
