//! The shard's connection to the custodian: every client socket and listener has a second holder there, from the turn in which
//! it is opened until it has been closed.
//!
//! One message with descriptors is on its way at a time, so that a shard has at most 253 descriptors in flight, which count
//! against the user's limit on the whole node. Whenever a connection begins (a new gateway, a new state), everything is
//! deposited, in slot order, beside what happens meanwhile; `Complete` says when that is done. Nothing here waits: what the
//! custodian doesn't take now is taken in a later turn, and while nobody is there, connections are served without custody.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use imaccess_common::generation;
use imaccess_net::descriptors::{DescriptorSocket, MOST_DESCRIPTORS};
use imaccess_net::wheel::Tick;
use imaccess_proto::v1::{
    Complete, CustodyHello, Deposit, FromCustodian, Held, HeldKind, Release, ToCustodian, Transport,
    from_custodian, to_custodian,
};
use prost::Message;
use tokio::io::unix::AsyncFd;

use super::{Shard, registered};
use crate::handover::lease::Handover;

/// Serials per release message: 32 KiB.
const RELEASES: usize = 4_096;
/// Ticks for an answer of the custodian, which has nothing else to do: 5 s.
const ANSWER: Tick = 20;
/// Ticks until a custodian that has refused this gateway is asked again: 10 s.
const REFUSED_PAUSE: Tick = 40;
/// Slots looked at per turn while everything is deposited.
const SLOTS_PER_TURN: u32 = 4_096;

/// What a shard has to do with the custodian.
#[derive(Debug)]
pub(crate) struct Custody {
    /// `None`: custody is off.
    path: Option<PathBuf>,
    hello: CustodyHello,
    shared: Arc<Handover>,
    connection: Option<Connection>,
    /// Slots, with generations, that were opened since everything was deposited.
    opened: VecDeque<(u32, u32)>,
    /// Serials whose sockets are closed. Bounded by what is held.
    closed: Vec<u64>,
    /// Descriptors that the custodian has acknowledged.
    held: i64,
    /// Not before this tick is the custodian dialled again.
    next_dial: Tick,
    /// What the shared gauges were told of `held` and completeness.
    reported: (i64, bool),
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    socket: AsyncFd<DescriptorSocket>,
    welcome: bool,
    /// Next slot to deposit; `None` once all were.
    next_slot: Option<u32>,
    listeners: usize,
    sent: u64,
    acknowledged: u64,
    /// When it was last sent what it has to answer.
    asked: Tick,
    /// Descriptors in the message on its way.
    in_flight: i64,
    said_complete: bool,
    /// Everything that there was when the connection began has been acknowledged. What was opened since is at most a
    /// message behind.
    established: bool,
}

impl Custody {
    pub(crate) fn new(path: Option<PathBuf>, hello: CustodyHello, shared: Arc<Handover>) -> Self {
        Self {
            path,
            hello,
            shared,
            connection: None,
            opened: VecDeque::new(),
            closed: Vec::new(),
            held: 0,
            next_dial: 0,
            reported: (0, false),
            buffer: Vec::new(),
        }
    }

    /// A connection was opened.
    pub(crate) fn opened(&mut self, slot: u32, generation: u32) {
        // Without a connection everything is deposited once there is one.
        if self.connection.is_some() {
            self.opened.push_back((slot, generation));
            self.note();
        }
    }

    /// A socket or listener was closed.
    pub(crate) fn closed(&mut self, serial: u64, was_deposited: bool) {
        if self.connection.is_some() && was_deposited {
            self.held -= 1;
            self.closed.push(serial);
            self.note();
        }
    }

    /// Waits for word of the custodian; forever while there is no connection. Cancel-safe.
    pub(crate) async fn activity(&self) {
        match &self.connection {
            Some(connection) => {
                // An error shows when it is read.
                let _ = connection
                    .socket
                    .readable()
                    .await
                    .map(|mut guard| guard.retain_ready());
            }
            None => std::future::pending().await,
        }
    }

    /// Whether there is somebody who holds what was deposited.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Whether everything is in custody and nothing on its way, or nobody is there to give it to.
    pub(crate) fn is_settled(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| {
            connection.said_complete
                && connection.sent == connection.acknowledged
                && self.opened.is_empty()
                && self.closed.is_empty()
        })
    }

    /// Tells the others what has changed.
    fn note(&mut self) {
        let complete = match &mut self.connection {
            Some(connection) => {
                connection.established |=
                    connection.said_complete && connection.sent == connection.acknowledged;
                connection.established
            }
            None => false,
        };
        let (held, was_complete) = std::mem::replace(&mut self.reported, (self.held, complete));
        self.shared.held.fetch_add(self.held - held, Ordering::Relaxed);
        match (was_complete, complete) {
            (false, true) => self.shared.complete.fetch_add(1, Ordering::AcqRel),
            (true, false) => self.shared.complete.fetch_sub(1, Ordering::AcqRel),
            _ => 0,
        };
    }

    fn lost(&mut self, why: &dyn std::fmt::Display, shard: u8) {
        if self.connection.take().is_some() {
            tracing::warn!(shard, %why, "nobody holds this shard's sockets now: a crash would close them");
        }
        self.opened.clear();
        self.closed.clear();
        self.held = 0;
        self.note();
    }

    /// Whether the custodian can be sent something now.
    fn has_room(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.welcome && connection.sent == connection.acknowledged)
    }
}

impl Shard {
    /// Dials the custodian if there is no connection.
    pub(crate) fn dial_custodian(&mut self) {
        let Some(path) = &self.custody.path else { return };
        if self.custody.connection.is_some() || self.tick < self.custody.next_dial {
            return;
        }
        let dialled = DescriptorSocket::connect(path).and_then(registered);
        let socket = match dialled {
            Ok(socket) => socket,
            Err(error) => {
                tracing::debug!(%error, shard = self.id, "the custodian can't be reached");
                return;
            }
        };
        let span = generation::spoken().custody;
        let hello = CustodyHello {
            oldest_generation: span.oldest,
            newest_generation: span.newest,
            ..self.custody.hello.clone()
        };
        self.custody.connection = Some(Connection {
            socket,
            welcome: false,
            next_slot: Some(0),
            listeners: 0,
            sent: 0,
            acknowledged: 0,
            asked: self.tick,
            in_flight: 0,
            said_complete: false,
            established: false,
        });
        for slot in 0..self.connections.slots() {
            if let Some(connection) = self.connections.get_mut(slot) {
                connection.deposited = false;
            }
        }
        if let Err(error) = self.tell_custodian(to_custodian::Message::Hello(hello), &[]) {
            self.custodian_lost(&error);
        }
    }

    /// Gives up a custodian that doesn't answer, and looks for one if there is none. Once per tick.
    pub(crate) fn look_after_custody(&mut self) {
        if let Some(connection) = &self.custody.connection {
            let waits = !connection.welcome || connection.sent != connection.acknowledged;
            if waits && self.tick.saturating_sub(connection.asked) >= ANSWER {
                self.custodian_lost(&"it doesn't answer");
            }
        }
        self.dial_custodian();
    }

    /// Hears the custodian and sends it what is due; whether there is more to do at once.
    pub(crate) fn serve_custody(&mut self) -> bool {
        if self.custody.connection.is_none() {
            return false;
        }
        if let Err(error) = self.hear_custodian().and_then(|()| self.feed_custodian()) {
            self.custodian_lost(&error);
        }
        self.custody.note();
        // A scan that found nothing to send yet goes on.
        self.custody.has_room() && !self.custody.is_settled() && self.holding.is_none()
    }

    fn custodian_lost(&mut self, why: &dyn std::fmt::Display) {
        self.metrics.custody_lost.inc();
        let shard = self.id;
        self.custody.lost(why, shard);
    }

    fn hear_custodian(&mut self) -> io::Result<()> {
        loop {
            let Some(connection) = &mut self.custody.connection else {
                return Ok(());
            };
            let Some(ready) = connection.socket.readable().now_or_never() else {
                return Ok(());
            };
            let mut guard = ready?;
            let (mut bytes, mut descriptors) = (std::mem::take(&mut self.custody.buffer), Vec::new());
            let received = guard.try_io(|socket| socket.get_ref().receive(&mut bytes, &mut descriptors));
            let message = match received {
                Err(_would_block) => {
                    self.custody.buffer = bytes;
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error),
                Ok(Ok(0)) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the custodian has gone")),
                Ok(Ok(_)) => {
                    FromCustodian::decode(&bytes[..])
                        .map_err(io::Error::other)?
                        .message
                }
            };
            self.custody.buffer = bytes;
            match message {
                Some(from_custodian::Message::Welcome(welcome)) => {
                    tracing::debug!(
                        shard = self.id,
                        generation = welcome.generation,
                        "the custodian is there"
                    );
                    connection.welcome = true;
                }
                Some(from_custodian::Message::Ack(ack)) => {
                    connection.acknowledged = ack.messages;
                    if connection.sent == connection.acknowledged {
                        let came = std::mem::take(&mut connection.in_flight);
                        self.custody.held += came;
                    }
                }
                Some(from_custodian::Message::Refused(refused)) => {
                    // Asked again at once it would say the same.
                    self.custody.next_dial = self.tick + REFUSED_PAUSE;
                    return Err(io::Error::other(refused.reason));
                }
                other => return Err(io::Error::other(format!("the custodian says {other:?}"))),
            }
        }
    }

    /// The next message, if there is room and anything to say.
    fn feed_custodian(&mut self) -> io::Result<()> {
        // Clients that wait for state come first: after a takeover all is still held, and a new state has as much to do as we.
        if !self.custody.has_room() || self.holding.is_some() {
            return Ok(());
        }
        let held = self.due_for_deposit();
        if !held.is_empty() {
            return self.deposit(held);
        }
        let scanned = self
            .custody
            .connection
            .as_ref()
            .is_some_and(|connection| connection.next_slot.is_none());
        if !self.custody.closed.is_empty() && scanned {
            let count = self.custody.closed.len().min(RELEASES);
            let id = self.custody.closed.drain(..count).collect();
            self.tell_custodian(to_custodian::Message::Release(Release { id }), &[])?;
            if let Some(connection) = &mut self.custody.connection {
                connection.sent += 1;
                connection.asked = self.tick;
            }
            return Ok(());
        }
        let Some(connection) = &mut self.custody.connection else {
            return Ok(());
        };
        if scanned && !connection.said_complete {
            connection.said_complete = true;
            self.tell_custodian(to_custodian::Message::Complete(Complete {}), &[])?;
        }
        Ok(())
    }

    /// What goes with the next deposit: listeners, then slots in their order, then what was opened meanwhile.
    fn due_for_deposit(&mut self) -> Vec<Source> {
        let Some(connection) = &mut self.custody.connection else {
            return Vec::new();
        };
        let mut due = Vec::new();
        while connection.listeners < self.listeners.len() && due.len() < MOST_DESCRIPTORS {
            due.push(Source::Listener(connection.listeners));
            connection.listeners += 1;
        }
        if let Some(first) = connection.next_slot {
            let last = self.connections.slots();
            let end = (first + SLOTS_PER_TURN).min(last);
            let mut slot = first;
            while slot < end && due.len() < MOST_DESCRIPTORS {
                // One that was refused isn't worth a second holder.
                if let Some(open) = self.connections.get_mut(slot)
                    && open.admitted
                    && !std::mem::replace(&mut open.deposited, true)
                {
                    due.push(Source::Slot(slot));
                }
                slot += 1;
            }
            connection.next_slot = (slot < last).then_some(slot);
        }
        if connection.next_slot.is_none() {
            while due.len() < MOST_DESCRIPTORS
                && let Some((slot, generation)) = self.custody.opened.pop_front()
            {
                if let Some(open) = self.connections.get_exact(slot, generation)
                    && !std::mem::replace(&mut open.deposited, true)
                {
                    due.push(Source::Slot(slot));
                }
            }
        }
        due
    }

    fn deposit(&mut self, due: Vec<Source>) -> io::Result<()> {
        let mut held = Vec::with_capacity(due.len());
        let mut descriptors = Vec::with_capacity(due.len());
        for source in due {
            match source {
                Source::Listener(index) => {
                    let listener = &self.listeners[index];
                    held.push(Held {
                        id: listener.id,
                        kind: HeldKind::Listener.into(),
                        transport: Transport::Tcp.into(),
                        address: listener.socket.address().to_string(),
                        ..Held::default()
                    });
                    descriptors.push(listener.socket.as_fd());
                }
                Source::Slot(slot) => {
                    let Some(connection) = self.connections.get(slot) else {
                        continue;
                    };
                    held.push(Held {
                        id: connection.serial,
                        kind: HeldKind::Socket.into(),
                        transport: Transport::Tcp.into(),
                        ..Held::default()
                    });
                    descriptors.push(connection.socket.as_fd());
                }
            }
        }
        let count = descriptors.len() as i64;
        let bytes = ToCustodian {
            message: Some(to_custodian::Message::Deposit(Deposit { held })),
        }
        .encode_to_vec();
        let Some(connection) = &mut self.custody.connection else {
            return Ok(());
        };
        // With one message on its way the socket's buffer always has room.
        connection.socket.get_ref().send(&bytes, &descriptors)?;
        connection.sent += 1;
        connection.asked = self.tick;
        connection.in_flight = count;
        Ok(())
    }

    fn tell_custodian(
        &mut self,
        message: to_custodian::Message,
        descriptors: &[std::os::fd::BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = ToCustodian {
            message: Some(message),
        }
        .encode_to_vec();
        match &self.custody.connection {
            Some(connection) => connection.socket.get_ref().send(&bytes, descriptors),
            None => Ok(()),
        }
    }
}

/// Where a descriptor to deposit is.
#[derive(Clone, Copy, Debug)]
enum Source {
    Listener(usize),
    Slot(u32),
}
