//! Bare epoll servers: what the kernel itself costs, with the same sockets and bytes as ours.
//!
//! One thread, one epoll set. Everything is allocated at the start; after that there is one `epoll_wait` per
//! batch and, per message, exactly one read and one write, counted so that the run can show it. They speak no
//! protocol: the echo sends back what it read, the fan-out copies what its control port got.

pub(crate) mod echo;
pub(crate) mod fanout;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Context;
use imaccess_net::epoll::{Epoll, Interest};
use imaccess_net::socket::{ClientSocket, Listener, StreamOptions};
use serde::{Deserialize, Serialize};

/// Events taken per wait.
const BATCH: usize = 1_024;

/// Bytes read at a time.
const BUFFER: usize = 64 * 1024;

/// Connections that fit a process with 20,000 descriptors, with some to spare.
const CONNECTIONS: usize = 19_900;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// Tokens above all slots.
const CONTROL: u64 = u64::MAX;
const LISTENER: u64 = u64::MAX - 1;
const SECOND_LISTENER: u64 = u64::MAX - 2;
const PUBLISHER: u64 = u64::MAX - 3;

/// What a bare server did since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Connections accepted.
    pub(crate) accepted: u64,
    /// Calls of `epoll_wait`.
    pub(crate) waits: u64,
    /// Reads that brought bytes.
    pub(crate) reads: u64,
    /// Bytes that they brought.
    pub(crate) read_bytes: u64,
    /// Writes.
    pub(crate) writes: u64,
    /// Writes that the kernel didn't take whole: the figures of such a run are worth nothing.
    pub(crate) short_writes: u64,
}

impl Counts {
    /// What was done since `earlier`.
    #[must_use]
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            accepted: self.accepted - earlier.accepted,
            waits: self.waits - earlier.waits,
            reads: self.reads - earlier.reads,
            read_bytes: self.read_bytes - earlier.read_bytes,
            writes: self.writes - earlier.writes,
            short_writes: self.short_writes - earlier.short_writes,
        }
    }
}

/// First line that a bare server prints.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Started {
    /// Where clients connect to.
    pub(crate) address: SocketAddr,
    /// Where messages are published, if there is such a port.
    pub(crate) control: Option<SocketAddr>,
}

/// The connections of a bare server.
struct Sockets {
    slots: Vec<Option<ClientSocket>>,
    /// Slots that are free again.
    free: Vec<usize>,
}

impl Sockets {
    fn new() -> Self {
        Self {
            slots: Vec::with_capacity(CONNECTIONS),
            free: Vec::with_capacity(CONNECTIONS),
        }
    }

    /// Accepts everything that waits.
    fn accept(&mut self, listener: &Listener, epoll: &Epoll, counts: &mut Counts) -> io::Result<()> {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let slot = match self.free.pop() {
                Some(slot) => slot,
                None if self.slots.len() < CONNECTIONS => {
                    self.slots.push(None);
                    self.slots.len() - 1
                }
                None => {
                    socket.abort();
                    continue;
                }
            };
            epoll.add(&socket, slot as u64, Interest::Stream)?;
            self.slots[slot] = Some(socket);
            counts.accepted += 1;
        }
    }

    fn close(&mut self, slot: usize) {
        if let Some(socket) = self.slots[slot].take() {
            socket.close();
            self.free.push(slot);
        }
    }

    fn close_all(&mut self) {
        (0..self.slots.len()).for_each(|slot| self.close(slot));
    }
}

/// Binds a free port with the buffers that our gateway's sockets have.
fn listen() -> anyhow::Result<Listener> {
    let options = StreamOptions {
        send_buffer: SEND_BUFFER,
        receive_buffer: None,
        user_timeout: Duration::from_secs(30),
    };
    Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), BACKLOG, options).context("listen")
}

/// Kernel send buffer: small like the gateway's, and enough for every message that may wait in a run.
const SEND_BUFFER: usize = 64 * 1024;

/// Who asks a bare server for its counts: its standard input and output, or a test.
pub(crate) struct Asker<In, Out> {
    /// Each line asks; the end ends the server.
    pub(crate) input: BufReader<In>,
    /// Answers, a line each.
    pub(crate) output: Out,
}

impl<In: Read + AsFd, Out: Write> Asker<In, Out> {
    fn say(&mut self, what: &impl Serialize) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.output, what)?;
        self.output.write_all(b"\n")?;
        Ok(self.output.flush()?)
    }

    /// Answers one question; false at the end.
    fn answer(&mut self, counts: &Counts) -> anyhow::Result<bool> {
        let mut line = String::new();
        if self.input.read_line(&mut line)? == 0 {
            return Ok(false);
        }
        self.say(counts)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
