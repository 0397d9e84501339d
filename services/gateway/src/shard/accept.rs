//! Connections begin here.

use std::io::ErrorKind;
use std::net::SocketAddr;

use imaccess_net::cursors::Cursor;
use imaccess_net::epoll::Interest;
use imaccess_net::socket::ClientSocket;
use imaccess_wire::Code;
use imaccess_wire::frame::LoginRefused;

use super::connection::Connection;
use super::{LISTENER_TOKEN, Shard};
use crate::takeover::plan;

/// Connections taken per listener and turn: a storm mustn't keep those that are in from their turn.
const ACCEPTS_PER_TURN: usize = 128;
/// Refused connections that may linger per shard until they have read why; more are told and reset.
const MOST_REFUSED: usize = 1_024;
/// Retry-after of a connection that finds no room, spread over as much again by the client.
const NO_ROOM_RETRY_MS: u32 = 5_000;
/// Retry-after of a login that finds state away.
const NO_STATE_RETRY_MS: u32 = 1_000;

impl Shard {
    /// Starts listening.
    pub(crate) fn watch_listeners(&mut self) -> std::io::Result<()> {
        // Before the first: if a later one fails, pausing must take the first off again.
        self.accepting = true;
        for (index, listener) in self.listeners.iter().enumerate() {
            self.epoll.get_ref().add(
                &listener.socket,
                LISTENER_TOKEN + index as u64,
                Interest::Listener,
            )?;
        }
        Ok(())
    }

    /// Stops listening for now; who connects waits in the kernel's queue.
    pub(crate) fn pause_listeners(&mut self) {
        if std::mem::take(&mut self.accepting) {
            for listener in &self.listeners {
                let _ = self.epoll.get_ref().delete(&listener.socket);
            }
        }
    }

    /// Takes connections that wait; whether there may be more, of which a nested set doesn't tell again.
    pub(crate) fn accept(&mut self, index: usize) -> bool {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(listener) = self.listeners.get(index) else {
                return false;
            };
            match listener.socket.accept() {
                Ok((socket, peer)) => self.open(socket, peer),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return false,
                    // The client was gone before it was taken.
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                    _ => {
                        // Descriptors or memory are short: trying again at once would only spin.
                        tracing::warn!(%error, "accepting pauses for a tick");
                        self.metrics.accept_errors.inc();
                        self.pause_listeners();
                        return false;
                    }
                },
            }
        }
        true
    }

    fn open(&mut self, socket: ClientSocket, peer: Option<SocketAddr>) {
        self.metrics.accepted.inc();
        let address = peer.map(|peer| peer.ip());
        let refused = self.admission.admit(address).err();
        if let Some(code) = refused
            && self.refused_lingering >= MOST_REFUSED
        {
            let _ = socket.write(&refusal(code, NO_ROOM_RETRY_MS));
            self.metrics.refused(code);
            return socket.abort();
        }
        self.next_serial += 1;
        let serial = self.serial_base | self.next_serial;
        let (slot, generation) = self.connections.insert(Connection {
            admitted: refused.is_none(),
            accepted_ms: self.clock.now().as_millis(),
            address: address.map(Box::new),
            ..Connection::new(socket, serial, self.tick)
        });
        let cursor = Cursor {
            serial,
            phase: plan::CONNECTING,
            ..Cursor::default()
        };
        self.cursors.open(slot, cursor);
        let token = u64::from(generation) << 32 | u64::from(slot);
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        let watched = self
            .epoll
            .get_ref()
            .add(&connection.socket, token, Interest::Stream);
        self.refused_lingering += usize::from(refused.is_some());
        if let Err(error) = watched {
            tracing::warn!(%error, "a connection can't be watched and is closed");
            return self.gone(slot, Code::Internal);
        }
        match refused {
            None => {
                // One that is refused isn't worth a second holder.
                self.custody.opened(slot, generation);
                self.look_again(slot);
            }
            Some(code) => {
                self.metrics.refused(code);
                let frame = refusal(code, NO_ROOM_RETRY_MS);
                self.send_control(slot, &frame);
                self.begin_closing(slot, code);
            }
        }
    }

    /// Refuses a login for a reason of ours, and says when to come again.
    pub(crate) fn refuse_login(&mut self, slot: u32, code: Code) {
        self.metrics.login(code.name());
        let frame = refusal(code, NO_STATE_RETRY_MS);
        self.send_control(slot, &frame);
        self.begin_closing(slot, code);
    }
}

fn refusal(code: Code, retry_after_ms: u32) -> Vec<u8> {
    let mut frame = Vec::with_capacity(32);
    LoginRefused {
        code: code as u16,
        retry_after_ms,
        resumable: true,
        ..LoginRefused::default()
    }
    .encode(&mut frame);
    frame
}
