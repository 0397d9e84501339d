//! Login and its two answers.

use super::repeated::{Item, Repeated};
use crate::code::Code;
use crate::field::{Reader, put_bytes, put_tags, put_varint};
use crate::header::{FrameType, ProtocolError, put};
use crate::limits::{
    MAX_APP, MAX_CARRIER, MAX_DEVICE, MAX_GROUP, MAX_INSTALL, MAX_LOGIN_GROUPS, MAX_PLATFORM, MAX_REASON,
    MAX_TICKET, MAX_TOKEN, MAX_VERSION,
};

/// How the device is connected to the network. Unknown numbers read as `Unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it")]
pub enum NetworkType {
    #[default]
    Unknown = 0,
    Wifi = 1,
    Ethernet = 2,
    Cellular2g = 3,
    Cellular3g = 4,
    Cellular4g = 5,
    Cellular5g = 6,
}

impl NetworkType {
    fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Wifi,
            2 => Self::Ethernet,
            3 => Self::Cellular2g,
            4 => Self::Cellular3g,
            5 => Self::Cellular4g,
            6 => Self::Cellular5g,
            _ => Self::Unknown,
        }
    }
}

/// How the client reached the gateway, as it believes. Unknown numbers read as `Unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Transport {
    #[default]
    Unknown = 0,
    Tcp = 1,
    Tls = 2,
    Ws = 3,
    Wss = 4,
    Quic = 5,
}

impl Transport {
    /// The transport with this number.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Tcp,
            2 => Self::Tls,
            3 => Self::Ws,
            4 => Self::Wss,
            5 => Self::Quic,
            _ => Self::Unknown,
        }
    }
}

/// One group that the client was in, and the last push that it saw there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupPosition<'a> {
    /// The business that the group belongs to.
    pub business: u32,
    /// The group's id.
    pub group: &'a [u8],
    /// Numbering stream last seen; 0: none.
    pub group_epoch: u64,
    /// Last sequence seen in it.
    pub sequence: u64,
}

impl<'a> Item<'a> for GroupPosition<'a> {
    const TAG: u64 = TAG_GROUP;

    fn decode(mut reader: Reader<'a>) -> Result<Self, ProtocolError> {
        let position = Self {
            business: reader.varint32()?,
            group: reader.bytes(MAX_GROUP)?,
            group_epoch: reader.varint()?,
            sequence: reader.varint()?,
        };
        if position.group.is_empty() {
            return Err(reader.malformed());
        }
        Ok(position)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.business.into());
        put_bytes(out, self.group);
        put_varint(out, self.group_epoch);
        put_varint(out, self.sequence);
    }
}

/// The groups of a login.
pub type GroupPositions<'a> = Repeated<'a, GroupPosition<'a>>;

const TAG_TICKET: u64 = 1;
const TAG_INSTALL: u64 = 2;
const TAG_PLATFORM: u64 = 3;
const TAG_VERSION: u64 = 4;
const TAG_LAST_PUSH: u64 = 5;
const TAG_GROUP: u64 = 6;
const TAG_FEATURES: u64 = 7;
const TAG_NETWORK: u64 = 8;
const TAG_CARRIER: u64 = 9;
const TAG_TRANSPORT: u64 = 10;

/// First frame of a connection: who the device is. What doesn't change travels here, once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Login<'a> {
    /// Device id, 1 to 36 bytes.
    pub device: &'a str,
    /// App id, 1 to 12 bytes.
    pub app: &'a str,
    /// Proof of it, at most 2,048 bytes; may be empty when a ticket is given.
    pub token: &'a [u8],
    /// Sealed ticket of the session to go on with.
    pub ticket: &'a [u8],
    /// Names this installation of the app.
    pub install: &'a [u8],
    /// Platform, such as `android`.
    pub platform: &'a str,
    /// Version of the app.
    pub version: &'a str,
    /// Stream sequence of the last push that the application has handled.
    pub last_push: u64,
    /// Groups to be in.
    pub groups: GroupPositions<'a>,
    /// What the client can do.
    pub features: u64,
    /// How the device is connected.
    pub network: NetworkType,
    /// Its carrier.
    pub carrier: &'a str,
    /// How it reached the gateway.
    pub transport: Transport,
}

impl<'a> Login<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "login");
        let mut login = Self {
            device: reader.text(MAX_DEVICE)?,
            app: reader.text(MAX_APP)?,
            token: reader.bytes(MAX_TOKEN)?,
            ..Self::default()
        };
        if login.device.is_empty() || login.app.is_empty() {
            return Err(reader.malformed());
        }
        let tags = reader.tags()?;
        reader.end()?;
        login.groups = Repeated::read(tags);
        let mut fields = tags;
        let mut groups = 0;
        while let Some((tag, mut value)) = fields.next()? {
            match tag {
                TAG_TICKET => login.ticket = bounded(value, MAX_TICKET)?,
                TAG_INSTALL => login.install = bounded(value, MAX_INSTALL)?,
                TAG_PLATFORM => login.platform = bounded_text(value, MAX_PLATFORM)?,
                TAG_VERSION => login.version = bounded_text(value, MAX_VERSION)?,
                TAG_LAST_PUSH => login.last_push = value.varint()?,
                TAG_GROUP => {
                    groups += 1;
                    if groups > MAX_LOGIN_GROUPS {
                        return Err(value.malformed());
                    }
                    GroupPosition::decode(value)?;
                }
                TAG_FEATURES => login.features = value.varint()?,
                TAG_NETWORK => login.network = NetworkType::from_number(value.varint()?),
                TAG_CARRIER => login.carrier = bounded_text(value, MAX_CARRIER)?,
                TAG_TRANSPORT => login.transport = Transport::from_number(value.varint()?),
                _ => {}
            }
        }
        Ok(login)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::Login, |out| {
            put_bytes(out, self.device.as_bytes());
            put_bytes(out, self.app.as_bytes());
            put_bytes(out, self.token);
            put_tags(out, |tags| {
                tags.bytes(TAG_TICKET, self.ticket);
                tags.bytes(TAG_INSTALL, self.install);
                tags.bytes(TAG_PLATFORM, self.platform.as_bytes());
                tags.bytes(TAG_VERSION, self.version.as_bytes());
                tags.number(TAG_LAST_PUSH, self.last_push);
                self.groups.put(tags);
                tags.number(TAG_FEATURES, self.features);
                tags.number(TAG_NETWORK, self.network as u64);
                tags.bytes(TAG_CARRIER, self.carrier.as_bytes());
                tags.number(TAG_TRANSPORT, self.transport as u64);
            });
        });
    }
}

/// The session is online.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoginOk<'a> {
    /// The session's id.
    pub session: [u8; 16],
    /// The session's epoch: every login of the device has a higher one.
    pub epoch: u64,
    /// Ticket with which the session can be resumed.
    pub ticket: &'a [u8],
    /// Seconds for which a lost connection may be resumed.
    pub resume_window_s: u32,
    /// Seconds between pings.
    pub ping_interval_s: u32,
    /// Longest body that the gateway takes; 0: the protocol's limit.
    pub max_body: u32,
    /// Most requests that may wait for a reply; 0: no limit of the session's own.
    pub max_in_flight: u32,
    /// What the cluster can do.
    pub features: u64,
    /// The login's session goes on: same id, nothing lost that was promised.
    pub resumed: bool,
    /// The server's clock, Unix milliseconds.
    pub server_unix_ms: u64,
}

impl<'a> LoginOk<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "login-ok");
        let mut ok = Self {
            session: reader.session()?,
            epoch: reader.varint()?,
            ..Self::default()
        };
        let mut tags = reader.tags()?;
        reader.end()?;
        while let Some((tag, mut value)) = tags.next()? {
            match tag {
                1 => ok.ticket = bounded(value, MAX_TICKET)?,
                2 => ok.resume_window_s = value.varint32()?,
                3 => ok.ping_interval_s = value.varint32()?,
                4 => ok.max_body = value.varint32()?,
                5 => ok.max_in_flight = value.varint32()?,
                6 => ok.features = value.varint()?,
                7 => ok.resumed = value.varint()? != 0,
                8 => ok.server_unix_ms = value.varint()?,
                _ => {}
            }
        }
        Ok(ok)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::LoginOk, |out| {
            out.extend_from_slice(&self.session);
            put_varint(out, self.epoch);
            put_tags(out, |tags| {
                tags.bytes(1, self.ticket);
                tags.number(2, self.resume_window_s.into());
                tags.number(3, self.ping_interval_s.into());
                tags.number(4, self.max_body.into());
                tags.number(5, self.max_in_flight.into());
                tags.number(6, self.features);
                tags.number(7, self.resumed.into());
                tags.number(8, self.server_unix_ms);
            });
        });
    }
}

/// No session. The gateway closes the connection after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoginRefused<'a> {
    /// Why, a [`Code`] as a number.
    pub code: u16,
    /// Milliseconds to wait before the next attempt.
    pub retry_after_ms: u32,
    /// For people.
    pub reason: &'a str,
    /// Whether the ticket may still be used.
    pub resumable: bool,
}

impl<'a> LoginRefused<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "login-refused");
        let mut refused = Self {
            code: code(&mut reader)?,
            ..Self::default()
        };
        let mut tags = reader.tags()?;
        reader.end()?;
        while let Some((tag, mut value)) = tags.next()? {
            match tag {
                1 => refused.retry_after_ms = value.varint32()?,
                2 => refused.reason = bounded_text(value, MAX_REASON)?,
                3 => refused.resumable = value.varint()? != 0,
                _ => {}
            }
        }
        Ok(refused)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::LoginRefused, |out| {
            put_varint(out, self.code.into());
            put_tags(out, |tags| {
                tags.number(1, self.retry_after_ms.into());
                tags.bytes(2, self.reason.as_bytes());
                tags.number(3, self.resumable.into());
            });
        });
    }

    /// The code, if it is one that this side knows.
    #[must_use]
    pub fn known_code(&self) -> Option<Code> {
        Code::from_u16(self.code)
    }
}

/// A code as a number that fits 16 bits.
pub(super) fn code(reader: &mut Reader<'_>) -> Result<u16, ProtocolError> {
    let value = reader.varint()?;
    u16::try_from(value).map_err(|_| reader.malformed())
}

/// A tagged value of at most `max` bytes.
pub(super) fn bounded<'a>(value: Reader<'a>, max: usize) -> Result<&'a [u8], ProtocolError> {
    if value.rest().len() > max {
        Err(value.malformed())
    } else {
        Ok(value.rest())
    }
}

/// A tagged text of at most `max` bytes.
pub(super) fn bounded_text<'a>(value: Reader<'a>, max: usize) -> Result<&'a str, ProtocolError> {
    let bytes = bounded(value, max)?;
    str::from_utf8(bytes).map_err(|_| value.malformed())
}
