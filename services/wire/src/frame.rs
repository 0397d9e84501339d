//! The bodies of all frames, borrowed from the bytes that they were read from.
//!
//! Every type has `decode(body)` and `encode(&self, out)`, which appends a whole frame, header included.
//! Fields that are tagged on the wire are plain fields here; a default value means "not sent".

mod login;
mod message;
mod notice;
mod repeated;

pub use login::{GroupPosition, GroupPositions, Login, LoginOk, LoginRefused, NetworkType, Transport};
pub use message::{
    Accepted, DeliveryClass, GroupPush, Join, Leave, Priority, Push, PushAck, Reply, Request, Send,
};
pub use notice::{Close, Endpoints, GoAway, GoAwayEndpoint, Ping, Pong, Repeat};
pub use repeated::{Item, Repeated};

use crate::header::{FrameType, ProtocolError, Split};

/// Any frame, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the type of the same name")]
pub enum Frame<'a> {
    Login(Login<'a>),
    LoginOk(LoginOk<'a>),
    LoginRefused(LoginRefused<'a>),
    Ping(Ping),
    Pong(Pong),
    Request(Request<'a>),
    Reply(Reply<'a>),
    Send(Send<'a>),
    Accepted(Accepted<'a>),
    Push(Push<'a>),
    PushAck(PushAck),
    GroupPush(GroupPush<'a>),
    Join(Join<'a>),
    Leave(Leave<'a>),
    GoAway(GoAway<'a>),
    Close(Close<'a>),
    Repeat(Repeat),
}

impl<'a> Frame<'a> {
    /// Decodes one frame; `None` for an unknown type that may be skipped.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`] when the body doesn't hold what its type says.
    pub fn decode(split: &Split<'a>) -> Result<Option<Self>, ProtocolError> {
        let body = split.body();
        let Some(kind) = split.header.kind else {
            return Ok(None);
        };
        Ok(Some(match kind {
            FrameType::Login => Self::Login(Login::decode(body)?),
            FrameType::LoginOk => Self::LoginOk(LoginOk::decode(body)?),
            FrameType::LoginRefused => Self::LoginRefused(LoginRefused::decode(body)?),
            FrameType::Ping => Self::Ping(Ping::decode(body)?),
            FrameType::Pong => Self::Pong(Pong::decode(body)?),
            FrameType::Request => Self::Request(Request::decode(body)?),
            FrameType::Reply => Self::Reply(Reply::decode(body)?),
            FrameType::Send => Self::Send(Send::decode(body)?),
            FrameType::Accepted => Self::Accepted(Accepted::decode(body)?),
            FrameType::Push => Self::Push(Push::decode(body)?),
            FrameType::PushAck => Self::PushAck(PushAck::decode(body)?),
            FrameType::GroupPush => Self::GroupPush(GroupPush::decode(body)?),
            FrameType::Join => Self::Join(Join::decode(body)?),
            FrameType::Leave => Self::Leave(Leave::decode(body)?),
            FrameType::GoAway => Self::GoAway(GoAway::decode(body)?),
            FrameType::Close => Self::Close(Close::decode(body)?),
            FrameType::Repeat => Self::Repeat(Repeat::decode(body)?),
        }))
    }

    /// Appends the frame, header included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Login(frame) => frame.encode(out),
            Self::LoginOk(frame) => frame.encode(out),
            Self::LoginRefused(frame) => frame.encode(out),
            Self::Ping(frame) => frame.encode(out),
            Self::Pong(frame) => frame.encode(out),
            Self::Request(frame) => frame.encode(out),
            Self::Reply(frame) => frame.encode(out),
            Self::Send(frame) => frame.encode(out),
            Self::Accepted(frame) => frame.encode(out),
            Self::Push(frame) => frame.encode(out),
            Self::PushAck(frame) => frame.encode(out),
            Self::GroupPush(frame) => frame.encode(out),
            Self::Join(frame) => frame.encode(out),
            Self::Leave(frame) => frame.encode(out),
            Self::GoAway(frame) => frame.encode(out),
            Self::Close(frame) => frame.encode(out),
            Self::Repeat(frame) => frame.encode(out),
        }
    }
}
