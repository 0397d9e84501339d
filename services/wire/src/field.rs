//! Varints, length-prefixed bytes and skippable tagged fields.
//!
//! A body is its type's fixed fields, then (if bytes are left) the tagged fields behind their total length,
//! then the payload: `fixed ‖ varint(tags length) ‖ tags ‖ payload`. One tagged field is
//! `varint(tag) ‖ varint(length) ‖ value`. A reader skips tags that it doesn't know, which is how the protocol
//! grows.

use crate::header::ProtocolError;

/// Appends an unsigned LEB128 varint in its shortest form.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends length-prefixed bytes.
#[inline]
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Length of a varint's shortest form.
#[must_use]
pub fn varint_len(value: u64) -> usize {
    // 64 bits in groups of seven; zero still takes one byte.
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Reads the fields of one body, front to back. Every method fails with `Malformed(what)`, where `what` names
/// the frame being read.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` as part of a `what`.
    #[must_use]
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// What to say of bytes that don't fit.
    #[must_use]
    pub fn malformed(&self) -> ProtocolError {
        ProtocolError::Malformed(self.what)
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes not read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// One varint of at most ten bytes.
    ///
    /// # Errors
    /// If the bytes end inside it or it doesn't fit 64 bits.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, ProtocolError> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7F);
            // The tenth byte carries the 64th bit alone.
            if index == 9 && bits > 1 {
                return Err(self.malformed());
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(self.malformed())
    }

    /// A varint that fits 32 bits.
    ///
    /// # Errors
    /// If it doesn't.
    #[inline]
    pub fn varint32(&mut self) -> Result<u32, ProtocolError> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| self.malformed())
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// If there are fewer.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], ProtocolError> {
        let Some((front, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.malformed());
        };
        self.rest = rest;
        Ok(front)
    }

    /// Length-prefixed bytes, at most `max`.
    ///
    /// # Errors
    /// If they are longer, or the body ends first.
    #[inline]
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], ProtocolError> {
        let len = self.varint()?;
        if len > max as u64 {
            return Err(self.malformed());
        }
        self.take(len as usize)
    }

    /// Length-prefixed UTF-8, at most `max` bytes.
    ///
    /// # Errors
    /// As [`Self::bytes`], or if it isn't UTF-8.
    #[inline]
    pub fn text(&mut self, max: usize) -> Result<&'a str, ProtocolError> {
        let bytes = self.bytes(max)?;
        str::from_utf8(bytes).map_err(|_| self.malformed())
    }

    /// A 16-byte session id.
    ///
    /// # Errors
    /// If the body ends first.
    pub fn session(&mut self) -> Result<[u8; 16], ProtocolError> {
        let bytes = self.take(16)?;
        bytes.try_into().map_err(|_| self.malformed())
    }

    /// The tagged fields: an iterator over (tag, value reader). Absent when the body ends here.
    ///
    /// # Errors
    /// If their total length runs past the body.
    #[inline]
    pub fn tags(&mut self) -> Result<Tags<'a>, ProtocolError> {
        let bytes = if self.rest.is_empty() {
            &[][..]
        } else {
            let len = self.varint()?;
            if len > self.rest.len() as u64 {
                return Err(self.malformed());
            }
            self.take(len as usize)?
        };
        Ok(Tags {
            reader: Reader::new(bytes, self.what),
        })
    }

    /// The payload: all that is left.
    #[must_use]
    pub fn payload(self) -> &'a [u8] {
        self.rest
    }

    /// For types without a payload: nothing may be left.
    ///
    /// # Errors
    /// If something is.
    pub fn end(self) -> Result<(), ProtocolError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }
}

/// The tagged fields of one body.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'a> {
    reader: Reader<'a>,
}

impl<'a> Tags<'a> {
    /// The next tag and a reader over its value.
    ///
    /// # Errors
    /// If a length runs past the section.
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator's item would hide the error's end"
    )]
    pub fn next(&mut self) -> Result<Option<(u64, Reader<'a>)>, ProtocolError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let tag = self.reader.varint()?;
        let value = self.reader.bytes(usize::MAX)?;
        Ok(Some((tag, Reader::new(value, self.reader.what))))
    }
}

/// Appends tagged fields: the total length first, which is one byte as long as they stay below 128 bytes.
pub fn put_tags(out: &mut Vec<u8>, fields: impl FnOnce(&mut TagWriter<'_>)) {
    let at = out.len();
    out.push(0);
    fields(&mut TagWriter { out });
    let len = out.len() - at - 1;
    if len < 0x80 {
        out[at] = len as u8;
    } else {
        // Rare (long tickets, many groups): move the fields behind a longer length.
        let mut prefix = Vec::with_capacity(4);
        put_varint(&mut prefix, len as u64);
        out.splice(at..=at, prefix);
    }
}

/// Writes tagged fields; each is left out when it has its default value.
#[derive(Debug)]
pub struct TagWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl TagWriter<'_> {
    /// A number, left out when zero.
    pub fn number(&mut self, tag: u64, value: u64) {
        if value != 0 {
            put_varint(self.out, tag);
            put_varint(self.out, varint_len(value) as u64);
            put_varint(self.out, value);
        }
    }

    /// Bytes, left out when empty.
    pub fn bytes(&mut self, tag: u64, value: &[u8]) {
        if !value.is_empty() {
            put_varint(self.out, tag);
            put_bytes(self.out, value);
        }
    }

    /// A field made of several values.
    pub fn nested(&mut self, tag: u64, value: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = Vec::new();
        value(&mut inner);
        put_varint(self.out, tag);
        put_bytes(self.out, &inner);
    }
}
