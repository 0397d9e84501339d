//! 128-bit keys of devices and groups: the table never stores a name.

use std::hash::Hasher;

use bytes::BufMut;
use siphasher::sip128::{Hasher128, SipHasher24};

/// Longest input hashed from the stack: a tag, two lengths, and the longest names the protocol allows.
const STACK: usize = 128;

/// The keyed hash of a name. Two names share one with probability 2⁻¹²⁸; clients, who choose device ids, can't find
/// such a pair because the hash's own key is random per process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) [u64; 2]);

impl Key {
    /// The half that places the key in a table; uniform already, so it isn't hashed again.
    pub(crate) fn hash(self) -> u64 {
        self.0[0]
    }

    /// One of `partitions` (a power of two), by the other half.
    pub(crate) fn partition(self, partitions: usize) -> usize {
        let mask = partitions as u64 - 1;
        usize::try_from(self.0[1] & mask).expect("a masked value is below the number of partitions")
    }
}

/// Makes keys: SipHash-2-4-128 under a random key.
#[derive(Debug, Clone)]
pub(crate) struct Keyer {
    hasher: SipHasher24,
}

impl Keyer {
    /// A keyer with a key of its own: keys of two keyers have nothing to do with each other.
    pub(crate) fn random() -> Keyer {
        let mut key = [0; 16];
        getrandom::fill(&mut key).expect("the operating system's random source works");
        Keyer {
            hasher: SipHasher24::new_with_key(&key),
        }
    }

    /// The key of a device of an app.
    pub(crate) fn device(&self, app: &str, device: &str) -> Key {
        self.of(u32::MAX, app.as_bytes(), device.as_bytes())
    }

    /// The key of a group of a business.
    pub(crate) fn group(&self, business: u32, group: &[u8]) -> Key {
        self.of(business, b"", group)
    }

    /// The lengths separate the parts. Devices and groups live in tables of their own.
    fn of(&self, tag: u32, first: &[u8], second: &[u8]) -> Key {
        let mut stack = [0; STACK];
        let length = 12 + first.len() + second.len();
        let mut hasher = self.hasher;
        if length <= STACK {
            let mut rest = &mut stack[..length];
            put(&mut rest, tag, first, second);
            hasher.write(&stack[..length]);
        } else {
            let mut heap = Vec::with_capacity(length);
            put(&mut heap, tag, first, second);
            hasher.write(&heap);
        }
        let hash = hasher.finish128();
        Key([hash.h1, hash.h2])
    }
}

fn put(into: &mut impl BufMut, tag: u32, first: &[u8], second: &[u8]) {
    into.put_u32_le(tag);
    // A name of 4 GiB doesn't fit any message; the cast can't cut.
    into.put_u32_le(first.len() as u32);
    into.put_u32_le(second.len() as u32);
    into.put_slice(first);
    into.put_slice(second);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let keyer = Keyer::random();
        assert_eq!(keyer.device("ab", "c"), keyer.device("ab", "c"));
        assert_ne!(keyer.device("ab", "c"), keyer.device("a", "bc"));
        assert_ne!(keyer.group(1, b"x"), keyer.group(2, b"x"));
        assert_ne!(keyer.group(1, b"x"), Keyer::random().group(1, b"x"));
        let long = "d".repeat(STACK);
        assert_ne!(keyer.device("a", &long), keyer.device("a", &long[1..]));
    }
}
