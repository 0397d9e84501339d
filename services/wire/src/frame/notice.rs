//! What keeps a connection and what ends it: ping, pong, go-away, close, repeat.

use super::login::{Transport, bounded, bounded_text, code};
use super::repeated::{Item, Repeated};
use crate::code::Code;
use crate::field::{Reader, put_bytes, put_tags, put_varint};
use crate::header::{FLAG_IGNORABLE, FrameType, ProtocolError, put, put_flagged};
use crate::limits::{MAX_ENDPOINTS, MAX_HOST, MAX_REASON, MAX_TICKET};

/// Client → gateway: still here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ping {
    /// Round trip of the last ping in milliseconds, as the client measured it; 0: not known.
    pub last_rtt_ms: u32,
}

impl Ping {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, ProtocolError> {
        Ok(Self {
            last_rtt_ms: only_number(body, "ping")?,
        })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::Ping, |out| {
            put_only_number(out, self.last_rtt_ms);
        });
    }
}

/// Answer to a ping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pong {
    /// From now on ping at this interval, in seconds; 0: as before.
    pub ping_interval_s: u32,
}

impl Pong {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, ProtocolError> {
        Ok(Self {
            ping_interval_s: only_number(body, "pong")?,
        })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::Pong, |out| {
            put_only_number(out, self.ping_interval_s);
        });
    }
}

/// A body whose one field, tag 1, is a number: most often it isn't there and the body is empty.
fn only_number(body: &[u8], what: &'static str) -> Result<u32, ProtocolError> {
    let mut reader = Reader::new(body, what);
    let mut tags = reader.tags()?;
    reader.end()?;
    let mut number = 0;
    while let Some((tag, mut value)) = tags.next()? {
        if tag == 1 {
            number = value.varint32()?;
        }
    }
    Ok(number)
}

fn put_only_number(out: &mut Vec<u8>, number: u32) {
    if number != 0 {
        put_tags(out, |tags| tags.number(1, number.into()));
    }
}

/// One place to go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoAwayEndpoint<'a> {
    /// Cluster id.
    pub cluster: &'a str,
    /// How to reach it.
    pub transport: Transport,
    /// Host name or address.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Name to verify in its certificate; empty: none.
    pub server_name: &'a str,
}

impl<'a> Item<'a> for GoAwayEndpoint<'a> {
    const TAG: u64 = TAG_ENDPOINT;

    fn decode(mut reader: Reader<'a>) -> Result<Self, ProtocolError> {
        let cluster = reader.text(MAX_HOST)?;
        let transport = Transport::from_number(reader.varint()?);
        let host = reader.text(MAX_HOST)?;
        let port = u16::try_from(reader.varint()?).map_err(|_| reader.malformed())?;
        let server_name = reader.text(MAX_HOST)?;
        Ok(Self {
            cluster,
            transport,
            host,
            port,
            server_name,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.cluster.as_bytes());
        put_varint(out, self.transport as u64);
        put_bytes(out, self.host.as_bytes());
        put_varint(out, self.port.into());
        put_bytes(out, self.server_name.as_bytes());
    }
}

/// The endpoints of a go-away, best first.
pub type Endpoints<'a> = Repeated<'a, GoAwayEndpoint<'a>>;

const TAG_ENDPOINT: u64 = 2;

/// Gateway → client: connect elsewhere first, resume there, then leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoAway<'a> {
    /// Why, a [`Code`] as a number.
    pub code: u16,
    /// Milliseconds until this connection is closed.
    pub deadline_ms: u32,
    /// Where to, best first; empty: ask ipconfig.
    pub endpoints: Endpoints<'a>,
    /// A ticket for there.
    pub ticket: &'a [u8],
    /// Milliseconds to wait before going, so that not all go at once.
    pub delay_ms: u32,
}

impl<'a> GoAway<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "go-away");
        let mut away = Self {
            code: code(&mut reader)?,
            ..Self::default()
        };
        let tags = reader.tags()?;
        reader.end()?;
        away.endpoints = Repeated::read(tags);
        let mut fields = tags;
        let mut endpoints = 0;
        while let Some((tag, mut value)) = fields.next()? {
            match tag {
                1 => away.deadline_ms = value.varint32()?,
                TAG_ENDPOINT => {
                    endpoints += 1;
                    if endpoints > MAX_ENDPOINTS {
                        return Err(value.malformed());
                    }
                    GoAwayEndpoint::decode(value)?;
                }
                3 => away.ticket = bounded(value, MAX_TICKET)?,
                4 => away.delay_ms = value.varint32()?,
                _ => {}
            }
        }
        Ok(away)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::GoAway, |out| {
            put_varint(out, self.code.into());
            put_tags(out, |tags| {
                tags.number(1, self.deadline_ms.into());
                self.endpoints.put(tags);
                tags.bytes(3, self.ticket);
                tags.number(4, self.delay_ms.into());
            });
        });
    }
}

/// Either side: the last frame of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Close<'a> {
    /// Why, a [`Code`] as a number.
    pub code: u16,
    /// Milliseconds to wait before connecting again.
    pub retry_after_ms: u32,
    /// Whether the session may be resumed with its ticket.
    pub resumable: bool,
    /// For people.
    pub reason: &'a str,
}

impl<'a> Close<'a> {
    /// A close with this code and nothing else.
    #[must_use]
    pub fn with_code(code: Code) -> Self {
        Self {
            code: code as u16,
            resumable: code.resumable(),
            ..Self::default()
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "close");
        let mut close = Self {
            code: code(&mut reader)?,
            ..Self::default()
        };
        let mut tags = reader.tags()?;
        reader.end()?;
        while let Some((tag, mut value)) = tags.next()? {
            match tag {
                1 => close.retry_after_ms = value.varint32()?,
                2 => close.resumable = value.varint()? != 0,
                3 => close.reason = bounded_text(value, MAX_REASON)?,
                _ => {}
            }
        }
        Ok(close)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::Close, |out| {
            put_varint(out, self.code.into());
            put_tags(out, |tags| {
                tags.number(1, self.retry_after_ms.into());
                tags.number(2, self.resumable.into());
                tags.bytes(3, self.reason.as_bytes());
            });
        });
    }

    /// The code, if it is one that this side knows.
    #[must_use]
    pub fn known_code(&self) -> Option<Code> {
        Code::from_u16(self.code)
    }
}

/// Gateway → client: a part that had frames of this connection died, so what is unanswered may be lost.
///
/// It is sent with the ignorable flag: a client from before it was defined skips it, and waits for its own deadlines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repeat;

impl Repeat {
    /// Reads a body: no field is defined yet.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "repeat");
        let mut tags = reader.tags()?;
        reader.end()?;
        while tags.next()?.is_some() {}
        Ok(Self)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_flagged(out, FrameType::Repeat, FLAG_IGNORABLE, |_| {});
    }
}
