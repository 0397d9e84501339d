//! One connection of the load process.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use imaccess_net::socket::ClientSocket;
use imaccess_wire::header::{self, Split};
use imaccess_wire::{Limits, ProtocolError};

/// A message that is not answered yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Its number; 0 for pings, which are answered in order.
    pub(crate) id: u64,
    /// When it was meant to go, on the job's clock.
    pub(crate) intended_ns: u64,
}

/// A connection, its unfinished frames and its unanswered messages.
pub(crate) struct Link {
    socket: Option<ClientSocket>,
    /// The front of a frame whose end has not come.
    partial: Vec<u8>,
    /// What the kernel did not take.
    unsent: Vec<u8>,
    /// Messages sent and not answered.
    pub(crate) waiting: VecDeque<Waiting>,
    /// Number of the next message; see [`FIRST_MESSAGE`].
    pub(crate) next_message: u64,
    /// The device's number.
    pub(crate) device: u64,
    /// With which the session goes on.
    pub(crate) ticket: Box<[u8]>,
}

/// Message ids start where their varint has four bytes and stays so for 260 million messages: every frame of a
/// run is equally long, and the bare server can be given the same bytes.
pub(crate) const FIRST_MESSAGE: u64 = 1 << 21;

/// Why a connection can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The other side closed it.
    #[error("closed by the server")]
    Ended,
    /// The kernel's reason.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are no frames.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

impl LinkError {
    /// Its name among the failures.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ended => "closed",
            Self::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => "refused",
            Self::Io(_) => "connection_lost",
            Self::Protocol(_) => "not_a_frame",
        }
    }
}

impl Link {
    /// A connection that was begun.
    pub(crate) fn new(socket: ClientSocket, device: u64) -> Self {
        Self {
            socket: Some(socket),
            partial: Vec::new(),
            unsent: Vec::new(),
            waiting: VecDeque::new(),
            next_message: FIRST_MESSAGE,
            device,
            ticket: Box::default(),
        }
    }

    /// Whether it is still good.
    pub(crate) fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Ends it; what is needed to go on with the session, if there is one.
    pub(crate) fn close(mut self) -> Option<(u64, Box<[u8]>)> {
        let was_open = self.is_open();
        self.drop_socket();
        (was_open && !self.ticket.is_empty()).then_some((self.device, self.ticket))
    }

    /// Gives the connection up after an error; its messages stay unanswered.
    pub(crate) fn drop_socket(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.close();
        }
    }

    /// Writes a frame; what the kernel doesn't take follows when it does.
    #[inline]
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<(), LinkError> {
        let Some(socket) = &self.socket else {
            return Err(LinkError::Ended);
        };
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(frame);
            return Ok(());
        }
        let written = match socket.write(frame) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        self.unsent.extend_from_slice(&frame[written..]);
        Ok(())
    }

    /// The socket takes bytes again.
    pub(crate) fn flush(&mut self) -> Result<(), LinkError> {
        let (Some(socket), false) = (&self.socket, self.unsent.is_empty()) else {
            return Ok(());
        };
        match socket.write(&self.unsent) {
            Ok(written) => {
                self.unsent.drain(..written);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads what is there and hands each whole frame to `each`, with the messages that wait for an answer.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut each: impl FnMut(&Split<'_>, &mut VecDeque<Waiting>),
    ) -> Result<(), LinkError> {
        loop {
            let Some(socket) = &self.socket else {
                return Err(LinkError::Ended);
            };
            let len = match socket.read(scratch) {
                Ok(0) => return Err(LinkError::Ended),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if self.partial.is_empty() {
                let rest = frames(&scratch[..len], |split| each(split, &mut self.waiting))?;
                self.partial.extend_from_slice(rest);
            } else {
                self.partial.extend_from_slice(&scratch[..len]);
                let rest = frames(&self.partial, |split| each(split, &mut self.waiting))?.len();
                self.partial.drain(..self.partial.len() - rest);
            }
            // A short read has emptied the socket; the next bytes bring the next event.
            if len < scratch.len() {
                return Ok(());
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket
            .as_ref()
            .expect("only open connections are watched")
            .as_fd()
    }
}

/// Hands each whole frame to `each`; what is left over.
#[inline]
fn frames(mut bytes: &[u8], mut each: impl FnMut(&Split<'_>)) -> Result<&[u8], ProtocolError> {
    while let Some(split) = header::split(bytes, Limits::default())? {
        each(&split);
        bytes = split.rest;
    }
    Ok(bytes)
}
