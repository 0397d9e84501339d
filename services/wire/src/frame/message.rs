//! What carries data: requests, replies, sends, pushes, and the membership of groups.

use super::login::{bounded, bounded_text, code};
use crate::code::Code;
use crate::field::{Reader, put_bytes, put_tags, put_varint};
use crate::header::{FrameType, ProtocolError, put};
use crate::limits::{MAX_GROUP, MAX_METADATA, MAX_PUSH_ID, MAX_REASON, MAX_TRACE};

/// What is promised for a push. Unknown numbers read as `AtMostOnce`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum DeliveryClass {
    /// Written once, not confirmed.
    #[default]
    AtMostOnce = 0,
    /// Numbered, acknowledged, resent after a resume; duplicates are dropped by the SDK.
    AtLeastOnce = 1,
}

impl DeliveryClass {
    fn from_number(number: u64) -> Self {
        if number == 1 {
            Self::AtLeastOnce
        } else {
            Self::AtMostOnce
        }
    }
}

/// What goes first when a queue builds up. Unknown numbers read as `Normal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Priority {
    #[default]
    Normal = 0,
    High = 1,
    Low = 2,
}

impl Priority {
    fn from_number(number: u64) -> Self {
        match number {
            1 => Self::High,
            2 => Self::Low,
            _ => Self::Normal,
        }
    }
}

macro_rules! uplink {
    ($(#[doc = $doc:literal])+ $name:ident, $what:literal) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name<'a> {
            /// Which business.
            pub business: u32,
            /// The client's number for it, rising within the session; the same when it is repeated.
            pub message_id: u64,
            /// Milliseconds after which nobody waits for the answer; 0: the business's timeout.
            pub deadline_ms: u32,
            /// W3C traceparent.
            pub trace: &'a str,
            /// For the business, not interpreted.
            pub metadata: &'a [u8],
            /// What goes first.
            pub priority: Priority,
            /// For the business, not interpreted.
            pub payload: &'a [u8],
        }

        impl<'a> $name<'a> {
            /// Reads a body.
            ///
            /// # Errors
            /// [`ProtocolError::Malformed`].
            #[inline]
            pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
                let mut reader = Reader::new(body, $what);
                let mut frame =
                    Self { business: reader.varint32()?, message_id: reader.varint()?, ..Self::default() };
                let mut tags = reader.tags()?;
                frame.payload = reader.payload();
                while let Some((tag, mut value)) = tags.next()? {
                    match tag {
                        1 => frame.deadline_ms = value.varint32()?,
                        2 => frame.trace = bounded_text(value, MAX_TRACE)?,
                        3 => frame.metadata = bounded(value, MAX_METADATA)?,
                        4 => frame.priority = Priority::from_number(value.varint()?),
                        _ => {}
                    }
                }
                Ok(frame)
            }

            /// Appends the frame.
            pub fn encode(&self, out: &mut Vec<u8>) {
                put(out, FrameType::$name, |out| {
                    put_varint(out, self.business.into());
                    put_varint(out, self.message_id);
                    put_tags(out, |tags| {
                        tags.number(1, self.deadline_ms.into());
                        tags.bytes(2, self.trace.as_bytes());
                        tags.bytes(3, self.metadata);
                        tags.number(4, self.priority as u64);
                    });
                    out.extend_from_slice(self.payload);
                });
            }
        }
    };
}

uplink! {
    /// Client → business; one [`Reply`] with the same message id follows.
    Request, "request"
}

uplink! {
    /// Client → business, one way; [`Accepted`] says that the access layer took it, and no more.
    Send, "send"
}

macro_rules! answer {
    ($(#[doc = $doc:literal])+ $name:ident, $what:literal) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name<'a> {
            /// Of the frame that this answers.
            pub message_id: u64,
            /// 0: fine; else a [`Code`] as a number.
            pub code: u16,
            /// Milliseconds to wait before repeating it.
            pub retry_after_ms: u32,
            /// For people.
            pub reason: &'a str,
            /// From the business, not interpreted; empty in [`Accepted`].
            pub payload: &'a [u8],
        }

        impl<'a> $name<'a> {
            /// Reads a body.
            ///
            /// # Errors
            /// [`ProtocolError::Malformed`].
            #[inline]
            pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
                let mut reader = Reader::new(body, $what);
                let mut frame =
                    Self { message_id: reader.varint()?, code: code(&mut reader)?, ..Self::default() };
                let mut tags = reader.tags()?;
                frame.payload = reader.payload();
                while let Some((tag, mut value)) = tags.next()? {
                    match tag {
                        1 => frame.retry_after_ms = value.varint32()?,
                        2 => frame.reason = bounded_text(value, MAX_REASON)?,
                        _ => {}
                    }
                }
                Ok(frame)
            }

            /// Appends the frame.
            pub fn encode(&self, out: &mut Vec<u8>) {
                put(out, FrameType::$name, |out| {
                    put_varint(out, self.message_id);
                    put_varint(out, self.code.into());
                    put_tags(out, |tags| {
                        tags.number(1, self.retry_after_ms.into());
                        tags.bytes(2, self.reason.as_bytes());
                    });
                    out.extend_from_slice(self.payload);
                });
            }

            /// The code, if it is one that this side knows.
            #[must_use]
            pub fn known_code(&self) -> Option<Code> {
                Code::from_u16(self.code)
            }
        }
    };
}

answer! {
    /// Answer to a [`Request`].
    Reply, "reply"
}

answer! {
    /// Answer to [`Send`], [`Join`] and [`Leave`].
    Accepted, "accepted"
}

/// Business → one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Push<'a> {
    /// Which business.
    pub business: u32,
    /// Position in the session's stream of numbered pushes; 0: not numbered.
    pub sequence: u64,
    /// What is promised.
    pub class: DeliveryClass,
    /// The business's id of the message, at most 16 bytes.
    pub message_id: &'a [u8],
    /// Unix milliseconds after which it is of no use; 0: none.
    pub expires_unix_ms: u64,
    /// What goes first.
    pub priority: Priority,
    /// Not interpreted.
    pub payload: &'a [u8],
}

impl<'a> Push<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "push");
        let mut push = Self {
            business: reader.varint32()?,
            sequence: reader.varint()?,
            ..Self::default()
        };
        let mut tags = reader.tags()?;
        push.payload = reader.payload();
        while let Some((tag, mut value)) = tags.next()? {
            match tag {
                1 => push.class = DeliveryClass::from_number(value.varint()?),
                2 => push.message_id = bounded(value, MAX_PUSH_ID)?,
                3 => push.expires_unix_ms = value.varint()?,
                4 => push.priority = Priority::from_number(value.varint()?),
                _ => {}
            }
        }
        Ok(push)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::Push, |out| {
            put_varint(out, self.business.into());
            put_varint(out, self.sequence);
            put_tags(out, |tags| {
                tags.number(1, self.class as u64);
                tags.bytes(2, self.message_id);
                tags.number(3, self.expires_unix_ms);
                tags.number(4, self.priority as u64);
            });
            out.extend_from_slice(self.payload);
        });
    }
}

/// The application has handled all numbered pushes up to here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushAck {
    /// Stream sequence of the last one.
    pub sequence: u64,
}

impl PushAck {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "push-ack");
        let ack = Self {
            sequence: reader.varint()?,
        };
        skip_tags(&mut reader)?;
        reader.end()?;
        Ok(ack)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::PushAck, |out| put_varint(out, self.sequence));
    }
}

/// Business → members of a group. The same bytes for all of them, so it is numbered per group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupPush<'a> {
    /// Which business.
    pub business: u32,
    /// Which group, 1 to 64 bytes.
    pub group: &'a [u8],
    /// Names the numbering stream; sequences of different epochs can't be compared.
    pub group_epoch: u64,
    /// Position in it; a gap is a lost push.
    pub sequence: u64,
    /// The business's id of the message, at most 16 bytes.
    pub message_id: &'a [u8],
    /// Unix milliseconds after which it is of no use; 0: none.
    pub expires_unix_ms: u64,
    /// Not interpreted.
    pub payload: &'a [u8],
}

impl<'a> GroupPush<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "group-push");
        let mut push = Self {
            business: reader.varint32()?,
            group: group(&mut reader)?,
            group_epoch: reader.varint()?,
            sequence: reader.varint()?,
            ..Self::default()
        };
        let mut tags = reader.tags()?;
        push.payload = reader.payload();
        while let Some((tag, mut value)) = tags.next()? {
            match tag {
                1 => push.message_id = bounded(value, MAX_PUSH_ID)?,
                2 => push.expires_unix_ms = value.varint()?,
                _ => {}
            }
        }
        Ok(push)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::GroupPush, |out| {
            put_varint(out, self.business.into());
            put_bytes(out, self.group);
            put_varint(out, self.group_epoch);
            put_varint(out, self.sequence);
            put_tags(out, |tags| {
                tags.bytes(1, self.message_id);
                tags.number(2, self.expires_unix_ms);
            });
            out.extend_from_slice(self.payload);
        });
    }
}

/// Enter a group; [`Accepted`] answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Join<'a> {
    /// The business that the group belongs to.
    pub business: u32,
    /// Which group, 1 to 64 bytes.
    pub group: &'a [u8],
    /// The client's number for it.
    pub message_id: u64,
    /// Numbering stream last seen; 0: none.
    pub group_epoch: u64,
    /// Last sequence seen in it.
    pub sequence: u64,
}

impl<'a> Join<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "join");
        let mut join = Self {
            business: reader.varint32()?,
            group: group(&mut reader)?,
            message_id: reader.varint()?,
            ..Self::default()
        };
        let mut tags = reader.tags()?;
        reader.end()?;
        while let Some((tag, mut value)) = tags.next()? {
            match tag {
                1 => join.group_epoch = value.varint()?,
                2 => join.sequence = value.varint()?,
                _ => {}
            }
        }
        Ok(join)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::Join, |out| {
            put_varint(out, self.business.into());
            put_bytes(out, self.group);
            put_varint(out, self.message_id);
            put_tags(out, |tags| {
                tags.number(1, self.group_epoch);
                tags.number(2, self.sequence);
            });
        });
    }
}

/// Leave a group; [`Accepted`] answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leave<'a> {
    /// The business that the group belongs to.
    pub business: u32,
    /// Which group, 1 to 64 bytes.
    pub group: &'a [u8],
    /// The client's number for it.
    pub message_id: u64,
}

impl<'a> Leave<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    pub fn decode(body: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(body, "leave");
        let leave = Self {
            business: reader.varint32()?,
            group: group(&mut reader)?,
            message_id: reader.varint()?,
        };
        skip_tags(&mut reader)?;
        reader.end()?;
        Ok(leave)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, FrameType::Leave, |out| {
            put_varint(out, self.business.into());
            put_bytes(out, self.group);
            put_varint(out, self.message_id);
        });
    }
}

fn group<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], ProtocolError> {
    let group = reader.bytes(MAX_GROUP)?;
    if group.is_empty() {
        Err(reader.malformed())
    } else {
        Ok(group)
    }
}

/// Reads through tagged fields of which none is known yet: they must still be well-formed.
pub(super) fn skip_tags(reader: &mut Reader<'_>) -> Result<(), ProtocolError> {
    let mut tags = reader.tags()?;
    while tags.next()?.is_some() {}
    Ok(())
}
