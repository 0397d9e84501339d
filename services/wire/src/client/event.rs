//! What a client is told.

use crate::frame::{Accepted, Close, GoAway, GroupPush, LoginOk, LoginRefused, Push, Reply};

/// Something happened. Borrowed from the bytes that were read: what shall last must be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent<'a> {
    /// The session is online. When it was not `resumed`, it is a new one: what the old one was owed is gone,
    /// and requests without an answer are to be repeated now, with their message ids, before any new one.
    LoggedIn(LoginOk<'a>),
    /// No session; the gateway closes the connection.
    LoginRefused(LoginRefused<'a>),
    /// Answer to a request. The application drops it when it waits for no such message id (any more).
    Reply(Reply<'a>),
    /// Answer to a send, a join or a leave.
    Accepted(Accepted<'a>),
    /// A push that this session hasn't handed out before.
    Push(Push<'a>),
    /// A numbered push came again and was dropped. If it was acknowledged, it has been acknowledged again.
    DuplicatePush {
        /// Its stream sequence.
        sequence: u64,
    },
    /// A push to a group.
    GroupPush {
        /// The push.
        push: GroupPush<'a>,
        /// How it follows the last one of its group.
        continuity: Continuity,
    },
    /// What was sent on this connection and isn't answered may be lost: requests, joins and leaves without an answer are
    /// to be repeated now, with their message ids, lowest first. Sends are not: their fate is unknown.
    Repeat,
    /// Connect elsewhere ([`super::ClientSession::successor`]), then leave here.
    GoAway(GoAway<'a>),
    /// The gateway said goodbye; drop the connection.
    Closed(Close<'a>),
    /// A ping was answered.
    Pong {
        /// Its round trip; `None` if no ping was waiting for an answer.
        rtt_ms: Option<u32>,
    },
    /// The session gave the connection up; drop it.
    Lost(LostReason),
}

/// How a group push follows the last one that was seen in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// The first one seen.
    First,
    /// The next one: nothing is missing.
    Next,
    /// Some are missing in between.
    Gap {
        /// How many.
        missing: u64,
    },
    /// Another numbering stream than the last one's: what is missing can't be told.
    NewEpoch,
    /// Not above the last one: seen before, or overtaken. To be dropped.
    Repeated,
}

/// Why a session gave a connection up by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostReason {
    /// The login wasn't answered.
    LoginTimeout,
    /// A ping wasn't answered, nor was anything else heard.
    PongTimeout,
}
