//! Numbered places for many small values: grows by chunks, so that it neither copies nor doubles.

/// Values per chunk: 288 KiB of routes, allocated at once but touched page by page.
const CHUNK: usize = 4_096;

/// Values by index. Who removes one gives its place back and must not use the index again.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    /// Places given back. Only ever as long as there were removals at once: 4 bytes for each.
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab {
            chunks: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Puts `value` into a free place.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self[index] = value;
            return index;
        }
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let last = self
            .chunks
            .last_mut()
            .expect("a chunk with room was just made sure of");
        last.push(value);
        u32::try_from(before + last.len() - 1).expect("four billion routes don't fit one process")
    }

    /// Gives the place back. The value stays until it is overwritten: it should own nothing by then.
    pub(crate) fn remove(&mut self, index: u32) {
        self.free.push(index);
    }

    /// Values in use.
    pub(crate) fn len(&self) -> usize {
        self.places() - self.free.len()
    }

    /// Memory taken, free places included.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<T>() + self.free.capacity() * size_of::<u32>()
    }

    /// Places, in use or not.
    pub(crate) fn places(&self) -> usize {
        self.chunks
            .last()
            .map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}
