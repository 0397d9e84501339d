//! Tagged fields that come more than once, made of several values each.

use std::fmt::Debug;

use crate::field::{Reader, TagWriter, Tags};
use crate::header::ProtocolError;

/// One of them.
pub trait Item<'a>: Copy + Debug + PartialEq {
    /// The tag that it comes under.
    const TAG: u64;

    /// Reads one value.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`].
    fn decode(value: Reader<'a>) -> Result<Self, ProtocolError>;

    /// Appends one value.
    fn encode(&self, out: &mut Vec<u8>);
}

/// All of a frame, in order: either a slice to encode, or the checked bytes of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Repeated<'a, T>(Source<'a, T>);

#[derive(Clone, Copy, Debug)]
enum Source<'a, T> {
    Listed(&'a [T]),
    /// The frame's tagged fields, which were read through once without an error.
    Read(Tags<'a>),
}

impl<'a, T: Item<'a>> Repeated<'a, T> {
    /// The values to send.
    #[must_use]
    pub fn new(values: &'a [T]) -> Self {
        Self(Source::Listed(values))
    }

    /// The values in a frame's tagged fields, every one of which was decoded without an error.
    pub(super) fn read(tags: Tags<'a>) -> Self {
        Self(Source::Read(tags))
    }

    /// The values, in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let (listed, mut read) = match self.0 {
            Source::Listed(listed) => (listed, None),
            Source::Read(tags) => (&[][..], Some(tags)),
        };
        let mut listed = listed.iter();
        std::iter::from_fn(move || {
            if let Some(value) = listed.next() {
                return Some(*value);
            }
            let tags = read.as_mut()?;
            while let Ok(Some((tag, value))) = tags.next() {
                if tag == T::TAG {
                    return T::decode(value).ok();
                }
            }
            None
        })
    }

    /// Appends all of them.
    pub(super) fn put(&self, tags: &mut TagWriter<'_>) {
        for value in self.iter() {
            tags.nested(T::TAG, |out| value.encode(out));
        }
    }
}

impl<'a, T: Item<'a>> Default for Repeated<'a, T> {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl<'a, T: Item<'a>> PartialEq for Repeated<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, T: Item<'a> + Eq> Eq for Repeated<'a, T> {}
