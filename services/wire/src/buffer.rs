//! Puts frames together from bytes that arrive in pieces.

use crate::header::{self, HEADER_LEN, ProtocolError, Split};
use crate::limits::Limits;

/// The beginning of a frame whose end hasn't arrived.
///
/// Whole frames are handed on straight from the input, without a copy. Memory is held only while a frame is
/// partial: at most twice what was received of it, and never more than it announced, so that neither a big
/// announcement nor an idle connection costs anything.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    held: Vec<u8>,
}

impl FrameBuffer {
    /// Holds nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { held: Vec::new() }
    }

    /// Whether the bytes so far end with a whole frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Bytes received of the partial frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Bytes of memory held for it.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.held.capacity()
    }

    /// Forgets the partial frame and frees its memory.
    pub fn clear(&mut self) {
        self.held = Vec::new();
    }

    /// Takes in what was read, and calls `frame` for each frame that is whole, in order. What is left is kept.
    ///
    /// Frames of unknown, ignorable types are handed on too, with [`crate::Header::kind`] `None`.
    ///
    /// # Errors
    /// The first error of the bytes or of `frame`. The buffer is empty then, and the rest of the input is not
    /// looked at: a stream of frames can't be picked up again after an error.
    pub fn feed<E: From<ProtocolError>>(
        &mut self,
        mut input: &[u8],
        limits: Limits,
        mut frame: impl FnMut(Split<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.held.is_empty() {
            let mut held = std::mem::take(&mut self.held);
            if !complete(&mut held, &mut input, limits)? {
                self.held = held;
                return Ok(());
            }
            if let Some(split) = header::split(&held, limits)? {
                frame(split)?;
            }
        }
        while let Some(split) = header::split(input, limits)? {
            frame(split)?;
            input = split.rest;
        }
        keep(&mut self.held, input, limits)?;
        Ok(())
    }
}

/// Moves bytes from `input` until `held` is one whole frame: never a byte of the next one.
fn complete(held: &mut Vec<u8>, input: &mut &[u8], limits: Limits) -> Result<bool, ProtocolError> {
    while !input.is_empty() {
        let wanted = header::peek(held, limits)?.map_or(HEADER_LEN, |header| header.frame_len());
        if held.len() == wanted {
            break;
        }
        let (front, rest) = input.split_at(input.len().min(wanted - held.len()));
        keep(held, front, limits)?;
        *input = rest;
    }
    Ok(header::peek(held, limits)?.is_some_and(|header| header.frame_len() == held.len()))
}

/// Appends `bytes`, with room to grow that is bounded by what was received and by what was announced.
fn keep(held: &mut Vec<u8>, bytes: &[u8], limits: Limits) -> Result<(), ProtocolError> {
    let len = held.len() + bytes.len();
    if len > held.capacity() {
        let front = if held.is_empty() { bytes } else { held.as_slice() };
        let announced = header::peek(front, limits)?.map_or(HEADER_LEN, |header| header.frame_len());
        held.reserve_exact((2 * len).min(announced).max(len) - held.len());
    }
    held.extend_from_slice(bytes);
    Ok(())
}
