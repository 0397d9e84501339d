//! The eight bytes in front of every frame.
//!
//! ```text
//! 0      1        2     3      4..8
//! magic  version  type  flags  body length, big endian
//! ```

use crate::code::Code;
use crate::limits::Limits;

/// First byte of every frame.
pub const MAGIC: u8 = 0xA9;
/// The protocol version that this crate speaks.
pub const VERSION: u8 = 1;
/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;
/// Flag: a receiver that doesn't know the type skips the frame instead of closing.
pub const FLAG_IGNORABLE: u8 = 0x01;

/// What a frame is. The numbers are the protocol's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// Client → gateway, first frame of a connection.
    Login = 1,
    /// The session is online.
    LoginOk = 2,
    /// No session; the connection is closed after it.
    LoginRefused = 3,
    /// Client → gateway: still here.
    Ping = 4,
    /// Answer to a ping.
    Pong = 5,
    /// Client → business; one reply follows.
    Request = 6,
    /// Answer to a request.
    Reply = 7,
    /// Client → business, one way; accepted or refused by the access layer.
    Send = 8,
    /// Answer to send, join and leave.
    Accepted = 9,
    /// Business → one device.
    Push = 10,
    /// Client → gateway: handled up to this sequence.
    PushAck = 11,
    /// Business → members of a group.
    GroupPush = 12,
    /// Client → gateway: enter a group.
    Join = 13,
    /// Client → gateway: leave a group.
    Leave = 14,
    /// Gateway → client: move elsewhere.
    GoAway = 15,
    /// Either side: last frame, with its code.
    Close = 16,
    /// Gateway → client: what is unanswered may be lost. Always with [`FLAG_IGNORABLE`].
    Repeat = 17,
}

impl FrameType {
    /// All types, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Login,
        Self::LoginOk,
        Self::LoginRefused,
        Self::Ping,
        Self::Pong,
        Self::Request,
        Self::Reply,
        Self::Send,
        Self::Accepted,
        Self::Push,
        Self::PushAck,
        Self::GroupPush,
        Self::Join,
        Self::Leave,
        Self::GoAway,
        Self::Close,
        Self::Repeat,
    ];

    /// The type with this number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).wrapping_sub(1)).copied()
    }
}

/// A frame's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The frame's type; `None` is an unknown type that may be skipped.
    pub kind: Option<FrameType>,
    /// Flags as sent.
    pub flags: u8,
    /// Length of the body in bytes.
    pub body_len: usize,
}

impl Header {
    /// Length of the whole frame, header included.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        HEADER_LEN + self.body_len
    }
}

/// What is wrong with the bytes of a peer. Each has a close code of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The first byte isn't [`MAGIC`].
    #[error("not an imaccess frame")]
    BadMagic,
    /// A version that this side doesn't speak.
    #[error("protocol version {0} is not spoken here")]
    UnsupportedVersion(u8),
    /// An unknown type without the ignorable flag.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// The announced body is longer than allowed.
    #[error("body of {0} bytes is over the limit")]
    Oversized(usize),
    /// The body doesn't hold what its type says.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// A frame that isn't allowed in this state or direction.
    #[error("unexpected {0:?}")]
    Unexpected(FrameType),
}

impl ProtocolError {
    /// The close code that goes with it.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::BadMagic => Code::BadMagic,
            Self::UnsupportedVersion(_) => Code::UnsupportedVersion,
            Self::UnknownType(_) => Code::UnknownType,
            Self::Oversized(_) => Code::Oversized,
            Self::Malformed(_) => Code::Malformed,
            Self::Unexpected(_) => Code::Unexpected,
        }
    }
}

/// Looks at the front of `bytes`: a whole header, or `None` if more bytes are needed.
///
/// What can be told from the bytes at hand is told at once: a wrong magic is refused at the first byte, a
/// wrong version at the second.
///
/// # Errors
/// [`ProtocolError`] when the bytes can't be a frame, whatever follows.
#[inline]
pub fn peek(bytes: &[u8], limits: Limits) -> Result<Option<Header>, ProtocolError> {
    let Some(&magic) = bytes.first() else {
        return Ok(None);
    };
    if magic != MAGIC {
        return Err(ProtocolError::BadMagic);
    }
    match bytes.get(1) {
        None => return Ok(None),
        Some(&VERSION) => {}
        Some(&other) => return Err(ProtocolError::UnsupportedVersion(other)),
    }
    let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let [_, _, number, flags, l0, l1, l2, l3] = *head;
    let kind = FrameType::from_u8(number);
    if kind.is_none() && flags & FLAG_IGNORABLE == 0 {
        return Err(ProtocolError::UnknownType(number));
    }
    let body_len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if body_len > limits.max_body {
        return Err(ProtocolError::Oversized(body_len));
    }
    Ok(Some(Header {
        kind,
        flags,
        body_len,
    }))
}

/// Takes the first whole frame off `bytes`: its header, its bytes (header included) and what follows; `None`
/// if the frame isn't whole yet.
///
/// # Errors
/// As [`peek`].
#[inline]
pub fn split(bytes: &[u8], limits: Limits) -> Result<Option<Split<'_>>, ProtocolError> {
    let Some(header) = peek(bytes, limits)? else {
        return Ok(None);
    };
    if bytes.len() < header.frame_len() {
        return Ok(None);
    }
    let (frame, rest) = bytes.split_at(header.frame_len());
    Ok(Some(Split { header, frame, rest }))
}

/// One frame and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Split<'a> {
    /// The frame's header.
    pub header: Header,
    /// The whole frame, header included.
    pub frame: &'a [u8],
    /// The bytes behind it.
    pub rest: &'a [u8],
}

impl<'a> Split<'a> {
    /// The frame's body.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.frame[HEADER_LEN..]
    }
}

/// Appends one frame to `out`: the header, and the body that `body` appends. The length is filled in after.
pub fn put(out: &mut Vec<u8>, kind: FrameType, body: impl FnOnce(&mut Vec<u8>)) {
    put_flagged(out, kind, 0, body);
}

/// Appends one frame with flags, as [`put`].
pub(crate) fn put_flagged(out: &mut Vec<u8>, kind: FrameType, flags: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[MAGIC, VERSION, kind as u8, flags, 0, 0, 0, 0]);
    body(out);
    let len = u32::try_from(out.len() - start - HEADER_LEN).expect("a body is far below 4 GiB");
    out[start + 4..start + HEADER_LEN].copy_from_slice(&len.to_be_bytes());
}
