//! The address of a connection on one link.

use std::fmt;

/// Where a connection is: shard, slot and the slot's generation, packed in 64 bits.
///
/// An address, not an identity: valid for one gateway incarnation, and stale as soon as the slot is given to
/// another connection, because the generation differs then. Layout: `shard(8) ‖ generation(24) ‖ slot(32)`.
/// A generation comes again after 16.7 million connections in one slot; a handle is held for the life of one
/// session, so a stale one would have to be kept through all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(u64);

const GENERATION_BITS: u32 = 24;

impl Handle {
    /// Most shards that an address can tell apart.
    pub const MAX_SHARDS: usize = 256;

    /// Packs an address.
    #[inline]
    #[must_use]
    pub fn new(shard: u8, slot: u32, generation: u32) -> Self {
        let generation = u64::from(generation) & ((1 << GENERATION_BITS) - 1);
        Self(u64::from(shard) << 56 | generation << 32 | u64::from(slot))
    }

    /// As sent over the link.
    #[inline]
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As sent over the link.
    #[inline]
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The shard.
    #[inline]
    #[must_use]
    pub fn shard(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// The slot in the shard's slab.
    #[inline]
    #[must_use]
    pub fn slot(self) -> u32 {
        self.0 as u32
    }

    /// The slot's generation, 24 bits.
    #[inline]
    #[must_use]
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & ((1 << GENERATION_BITS) - 1)
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.shard(), self.slot(), self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packs_and_unpacks(shard: u8, slot: u32, generation in 0u32..1 << 24) {
            let handle = Handle::new(shard, slot, generation);
            prop_assert_eq!((handle.shard(), handle.slot(), handle.generation()), (shard, slot, generation));
            prop_assert_eq!(Handle::from_bits(handle.bits()), handle);
        }
    }
}
