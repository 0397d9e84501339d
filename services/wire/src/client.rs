//! The client's side of a session: bytes and time in, bytes, events and deadlines out.
//!
//! One [`ClientSession`] outlives its connections. The caller owns the socket: it connects, calls
//! [`start`](ClientSession::start), writes what was appended to `out`, passes on what it reads
//! ([`handle_bytes`](ClientSession::handle_bytes)), wakes up at
//! [`next_deadline`](ClientSession::next_deadline), and drops the connection when
//! [`is_connected`](ClientSession::is_connected) turns false. When, where and how often to connect is the
//! caller's decision.
//!
//! | state            | meaning                               | left by → to                                       |
//! |------------------|---------------------------------------|----------------------------------------------------|
//! | `Connecting`     | no session and no connection yet      | `start` → `Authenticating`                         |
//! | `Authenticating` | LOGIN was sent                        | LOGIN_OK → `Online`; LOGIN_REFUSED, CLOSE, loss, timeout → *gone* |
//! | `Online`         | data may flow                         | GO_AWAY → `Moving`; CLOSE, loss, pong timeout → *gone*; `close` → `Closed` |
//! | `Moving`         | as `Online`; another connection is wanted | as `Online`                                    |
//! | `Suspended`      | no connection; the session may go on  | `start` → `Authenticating`                         |
//! | `Closed`         | the session is over                   | `start` → `Authenticating`, for a new session      |
//!
//! *Gone* is `Suspended` if the session has a ticket, else `Connecting`; but it is `Closed`, and the ticket
//! forgotten, when the gateway said that the session is not resumable.
//!
//! The session keeps its ticket, the positions of its pushes and the groups that it joined, because all three
//! change with what is received. Everything else of a login is the caller's ([`LoginParameters`]).
//!
//! Invariants: time never goes backwards and is an argument, in milliseconds; so is chance. Nothing is
//! allocated for an idle session but its ticket and its groups; a buffer exists only while a frame is partial.

mod event;
mod groups;
mod parameters;
mod receive;
mod submit;

pub use event::{ClientEvent, Continuity, LostReason};
pub use parameters::LoginParameters;
pub use submit::SubmitError;

use crate::buffer::FrameBuffer;
use crate::frame::{GroupPositions, Login, Ping};
use crate::header::{HEADER_LEN, ProtocolError};
use crate::limits::{DEFAULT_PING_INTERVAL_S, LOGIN_ANSWER_MS, MAX_BODY, PONG_DEADLINE_MS};
use groups::Groups;

/// Where a session stands; see the [module](self)'s table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// No session and no connection yet.
    #[default]
    Connecting,
    /// LOGIN was sent.
    Authenticating,
    /// Data may flow.
    Online,
    /// As online, but this gateway wants the client to go elsewhere.
    Moving,
    /// No connection; the session may go on with a new one.
    Suspended,
    /// The session is over.
    Closed,
}

/// The client's side of one session.
///
/// Inputs: `start`, `handle_bytes`, `handle_timeout`, `connection_lost`. The application's: `request`, `send`,
/// `join`, `leave`, `push_ack`, `close`. All append frames to the caller's `out`.
#[derive(Debug)]
pub struct ClientSession {
    /// The front of a frame whose end hasn't arrived.
    partial: FrameBuffer,
    groups: Groups,
    /// Empty: none.
    ticket: Box<[u8]>,
    /// Zero before the first LOGIN_OK.
    session: [u8; 16],
    /// For the next new frame.
    next_message_id: u64,
    /// Highest stream sequence handed to the application.
    received: u64,
    /// Highest stream sequence that the application has acknowledged.
    handled: u64,
    /// When the next ping is due; while authenticating, when the login is overdue.
    due: u64,
    /// When the connection is dead unless something is heard. Meaningful while `pinged` is set.
    silence_due: u64,
    /// When the oldest ping without an answer was sent.
    pinged: Option<u64>,
    ping_interval_ms: u32,
    last_rtt_ms: u32,
    /// Longest body that the gateway takes.
    max_body: u32,
    /// Part of the interval after which the first ping is due, in 65,536ths.
    ping_jitter: u16,
    state: State,
}

impl Default for ClientSession {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientSession {
    /// A session that is yet to begin.
    #[must_use]
    pub fn new() -> Self {
        Self {
            partial: FrameBuffer::new(),
            groups: Groups::default(),
            ticket: Box::default(),
            session: [0; 16],
            next_message_id: 1,
            received: 0,
            handled: 0,
            due: 0,
            silence_due: 0,
            pinged: None,
            ping_interval_ms: DEFAULT_PING_INTERVAL_S * 1000,
            last_rtt_ms: 0,
            max_body: MAX_BODY as u32,
            ping_jitter: 0,
            state: State::Connecting,
        }
    }

    /// Where the session stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the connection is still wanted: once this is false, write what is in `out` and drop it.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Authenticating | State::Online | State::Moving)
    }

    /// Whether data may be sent now.
    #[must_use]
    pub fn is_online(&self) -> bool {
        matches!(self.state, State::Online | State::Moving)
    }

    /// The session's id; zero before the first login.
    #[must_use]
    pub fn session(&self) -> [u8; 16] {
        self.session
    }

    /// The ticket with which the session would be resumed; empty if there is none.
    #[must_use]
    pub fn ticket(&self) -> &[u8] {
        &self.ticket
    }

    /// Round trip of the last ping in milliseconds; 0: not known.
    #[must_use]
    pub fn last_rtt_ms(&self) -> u32 {
        self.last_rtt_ms
    }

    /// Bytes of memory held for a partial frame.
    #[must_use]
    pub fn partial_capacity(&self) -> usize {
        self.partial.capacity()
    }

    /// A new connection is up: appends LOGIN, with the ticket and positions of the session if there is one. A
    /// connection that the session still had is given up.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`] when a parameter is over its limit or missing; nothing is appended then.
    pub fn start(
        &mut self,
        now_ms: u64,
        parameters: &LoginParameters<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ProtocolError> {
        self.connection_lost(now_ms);
        let positions = self.groups.positions();
        let login = Login {
            device: parameters.device,
            app: parameters.app,
            token: parameters.token,
            ticket: &self.ticket,
            install: parameters.install,
            platform: parameters.platform,
            version: parameters.version,
            last_push: self.handled,
            groups: GroupPositions::new(&positions),
            features: parameters.features,
            network: parameters.network,
            carrier: parameters.carrier,
            transport: parameters.transport,
        };
        let begin = out.len();
        login.encode(out);
        // Reading it back checks every limit in one place; a login is rare enough.
        if let Err(error) = Login::decode(&out[begin + HEADER_LEN..]) {
            out.truncate(begin);
            return Err(error);
        }
        // A float's cast saturates, so that anything outside 0..1 is one of its ends.
        self.ping_jitter = (parameters.ping_jitter * 65_536.0) as u16;
        self.due = now_ms.saturating_add(LOGIN_ANSWER_MS);
        self.state = State::Authenticating;
        Ok(())
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called; `None` without a connection.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        match self.state {
            State::Authenticating => Some(self.due),
            State::Online | State::Moving if self.pinged.is_some() => Some(self.due.min(self.silence_due)),
            State::Online | State::Moving => Some(self.due),
            State::Connecting | State::Suspended | State::Closed => None,
        }
    }

    /// Does what is due: appends a ping, or gives the connection up ([`ClientEvent::Lost`]). Early calls do
    /// nothing.
    pub fn handle_timeout(
        &mut self,
        now_ms: u64,
        out: &mut Vec<u8>,
        event: &mut impl FnMut(ClientEvent<'_>),
    ) {
        match self.state {
            State::Authenticating if now_ms >= self.due => {
                self.connection_lost(now_ms);
                event(ClientEvent::Lost(LostReason::LoginTimeout));
            }
            State::Online | State::Moving if self.pinged.is_some() && now_ms >= self.silence_due => {
                self.connection_lost(now_ms);
                event(ClientEvent::Lost(LostReason::PongTimeout));
            }
            State::Online | State::Moving if now_ms >= self.due => self.ping(now_ms, out),
            _ => {}
        }
    }

    /// The connection is gone, or the caller has dropped it.
    pub fn connection_lost(&mut self, _now_ms: u64) {
        if self.is_connected() {
            self.disconnect(Outcome::Resumable);
        }
    }

    /// A second session object for the same session, with which to log in elsewhere while this connection
    /// still works. Until this one is dropped, call [`catch_up`](Self::catch_up) on the successor before it
    /// handles bytes, so that no push is handed out twice; and once the successor is online, send through it
    /// alone, so that message ids stay unique.
    #[must_use]
    pub fn successor(&self) -> Self {
        let mut successor = Self {
            groups: self.groups.clone(),
            ticket: self.ticket.clone(),
            session: self.session,
            last_rtt_ms: self.last_rtt_ms,
            ..Self::new()
        };
        successor.catch_up(self);
        if !successor.ticket.is_empty() {
            successor.state = State::Suspended;
        }
        successor
    }

    /// Takes over what another object of the same session has sent, received and acknowledged meanwhile.
    pub fn catch_up(&mut self, other: &Self) {
        self.next_message_id = self.next_message_id.max(other.next_message_id);
        if self.session == other.session {
            self.received = self.received.max(other.received);
            self.handled = self.handled.max(other.handled);
        }
        self.groups.catch_up(&other.groups);
    }

    fn ping(&mut self, now_ms: u64, out: &mut Vec<u8>) {
        Ping {
            last_rtt_ms: self.last_rtt_ms,
        }
        .encode(out);
        if self.pinged.is_none() {
            self.pinged = Some(now_ms);
            self.silence_due = now_ms.saturating_add(self.pong_wait());
        }
        // From the time that it was due, so that the phase among all clients stays; unless that is long past.
        let interval = u64::from(self.ping_interval_ms);
        self.due = self.due.saturating_add(interval);
        if self.due <= now_ms {
            self.due = now_ms.saturating_add(interval);
        }
    }

    /// How long to wait for an answer to a ping.
    fn pong_wait(&self) -> u64 {
        PONG_DEADLINE_MS.min(self.ping_interval_ms.into())
    }

    /// Leaves the connection: see "gone" in the module's table.
    fn disconnect(&mut self, outcome: Outcome) {
        self.partial.clear();
        self.pinged = None;
        self.state = match outcome {
            Outcome::Resumable if self.ticket.is_empty() => State::Connecting,
            Outcome::Resumable => State::Suspended,
            Outcome::Final => {
                self.ticket = Box::default();
                State::Closed
            }
        };
    }
}

/// What is left when a connection is gone.
#[derive(Clone, Copy)]
enum Outcome {
    /// The session, if there was one.
    Resumable,
    /// Nothing.
    Final,
}

#[cfg(test)]
mod tests;
