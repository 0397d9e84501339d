//! Slots with generations: a connection's place for its whole life, found by index.

/// A slab of `T`. A freed slot's generation rises, so that what named the old content doesn't find the new.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    /// Head of the list of free slots; `NONE` when all are taken. Last in, first out: warm slots first.
    free: u32,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Free {
        next: u32,
    },
    /// Empty, but not to be used yet.
    Retired,
    Taken(T),
}

const NONE: u32 = u32::MAX;

impl<T> Slab<T> {
    /// An empty slab; it grows as it is filled.
    #[must_use]
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    /// How many slots are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One more than the highest slot ever taken.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Puts `content` into a free slot and returns (slot, generation).
    pub fn insert(&mut self, content: T) -> (u32, u32) {
        self.len += 1;
        if self.free == NONE {
            let slot = u32::try_from(self.slots.len()).expect("descriptors run out long before 2^32 slots");
            self.slots.push(Slot {
                generation: 1,
                content: Content::Taken(content),
            });
            return (slot, 1);
        }
        let slot = self.free;
        let entry = &mut self.slots[slot as usize];
        if let Content::Free { next } = entry.content {
            self.free = next;
        }
        entry.content = Content::Taken(content);
        (slot, entry.generation)
    }

    /// Empties a slot, if it is taken; the next insertion may have it.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let content = self.retire(slot)?;
        self.recycle(slot);
        Some(content)
    }

    /// Empties a slot, if it is taken, but keeps it from being used again until [`Self::recycle`].
    pub fn retire(&mut self, slot: u32) -> Option<T> {
        let entry = self.slots.get_mut(slot as usize)?;
        if !matches!(entry.content, Content::Taken(_)) {
            return None;
        }
        let content = std::mem::replace(&mut entry.content, Content::Retired);
        // A generation is never 0, so that no handle is.
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        if entry.generation == 0 {
            entry.generation = 1;
        }
        self.len -= 1;
        match content {
            Content::Taken(content) => Some(content),
            Content::Free { .. } | Content::Retired => None,
        }
    }

    /// Lets a retired slot be used again.
    pub fn recycle(&mut self, slot: u32) {
        if let Some(entry) = self.slots.get_mut(slot as usize)
            && matches!(entry.content, Content::Retired)
        {
            entry.content = Content::Free { next: self.free };
            self.free = slot;
        }
    }

    /// The content of a slot, whatever its generation.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<&T> {
        match self.slots.get(slot as usize) {
            Some(Slot {
                content: Content::Taken(content),
                ..
            }) => Some(content),
            _ => None,
        }
    }

    /// The content of a slot, whatever its generation.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        match self.slots.get_mut(slot as usize) {
            Some(Slot {
                content: Content::Taken(content),
                ..
            }) => Some(content),
            _ => None,
        }
    }

    /// The content of a slot, if it still is of this generation.
    #[inline]
    #[must_use]
    pub fn get_exact(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        match self.slots.get_mut(slot as usize) {
            Some(Slot {
                generation: current,
                content: Content::Taken(content),
            }) if *current == generation => Some(content),
            _ => None,
        }
    }

    /// The generation of a slot.
    #[inline]
    #[must_use]
    pub fn generation(&self, slot: u32) -> u32 {
        self.slots.get(slot as usize).map_or(0, |entry| entry.generation)
    }
}

/// A handle has room for 24 bits of generation.
const GENERATION_MASK: u32 = (1 << 24) - 1;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn a_retired_slot_waits_and_no_generation_is_zero() {
        let mut slab = Slab::new();
        assert_eq!(slab.insert('a'), (0, 1));
        assert_eq!(slab.retire(0), Some('a'));
        assert_eq!(slab.retire(0), None);
        assert_eq!(slab.insert('b'), (1, 1));
        slab.recycle(0);
        slab.recycle(0);
        assert_eq!(slab.insert('c'), (0, 2));
        assert_eq!(slab.insert('d'), (2, 1));
        slab.slots[2].generation = GENERATION_MASK;
        slab.remove(2);
        assert_eq!(slab.insert('e'), (2, 1));
    }

    proptest! {
        /// Against a map from (slot, generation): what was removed is never found again.
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec((any::<bool>(), any::<u16>()), 0..400)) {
            let mut slab = Slab::new();
            let mut live: HashMap<(u32, u32), u16> = HashMap::new();
            let mut dead: Vec<(u32, u32)> = Vec::new();
            for (insert, value) in steps {
                if insert {
                    let place = slab.insert(value);
                    prop_assert!(live.insert(place, value).is_none());
                } else if let Some(&place) = live.keys().min() {
                    prop_assert_eq!(slab.remove(place.0), live.remove(&place));
                    dead.push(place);
                }
                prop_assert_eq!(slab.len(), live.len());
            }
            for (&(slot, generation), value) in &live {
                prop_assert_eq!(slab.get_exact(slot, generation).map(|v| *v), Some(*value));
            }
            for (slot, generation) in dead {
                prop_assert_eq!(slab.get_exact(slot, generation), None);
            }
        }
    }
}
