//! What state said of each connection's device (its platform and version), for the state that comes after it.
//!
//! Opaque here. A fleet has a few hundred different ones, so each is kept once, and a connection costs two bytes.

use bytes::Bytes;
use hashbrown::HashMap;

/// Most different ones; a connection beyond them has none, and a filter leaves it out.
const MOST: usize = 4_096;
/// Longest one: a platform, a version, a byte between.
const LONGEST: usize = 128;

/// By slot.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    /// By number, from 1.
    table: Vec<Entry>,
    numbers: HashMap<Bytes, u16, foldhash::fast::RandomState>,
    free: Vec<u16>,
    of_slot: Vec<u16>,
}

#[derive(Debug, Default)]
struct Entry {
    text: Bytes,
    slots: u32,
}

impl Attributes {
    /// Keeps what was said of the connection in `slot`.
    pub(crate) fn put(&mut self, slot: u32, text: &[u8]) {
        self.clear(slot);
        let Some(number) = self.number(text) else { return };
        let index = slot as usize;
        if index >= self.of_slot.len() {
            self.of_slot.resize(index + 1, 0);
        }
        self.of_slot[index] = number;
        self.table[usize::from(number) - 1].slots += 1;
    }

    /// What was said of a connection; empty if nothing was.
    pub(crate) fn get(&self, slot: u32) -> &[u8] {
        self.entry(slot).map_or(&[], |(_, entry)| &entry.text)
    }

    /// The same, to be told apart by a number: none is 0.
    pub(crate) fn numbered(&self, slot: u32) -> (u16, &Bytes) {
        static NONE: Bytes = Bytes::new();
        self.entry(slot)
            .map_or((0, &NONE), |(number, entry)| (number, &entry.text))
    }

    /// Forgets a connection's.
    pub(crate) fn clear(&mut self, slot: u32) {
        let Some(number) = self.of_slot.get_mut(slot as usize).map(std::mem::take) else {
            return;
        };
        let Some(entry) = usize::from(number)
            .checked_sub(1)
            .and_then(|place| self.table.get_mut(place))
        else {
            return;
        };
        entry.slots -= 1;
        if entry.slots == 0 {
            self.numbers.remove(&std::mem::take(&mut entry.text));
            self.free.push(number);
        }
    }

    fn entry(&self, slot: u32) -> Option<(u16, &Entry)> {
        let number = *self.of_slot.get(slot as usize)?;
        let entry = self.table.get(usize::from(number).checked_sub(1)?)?;
        Some((number, entry))
    }

    fn number(&mut self, text: &[u8]) -> Option<u16> {
        if text.is_empty() || text.len() > LONGEST {
            return None;
        }
        if let Some(number) = self.numbers.get(text) {
            return Some(*number);
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.table.len() < MOST => {
                self.table.push(Entry::default());
                u16::try_from(self.table.len()).ok()?
            }
            None => return None,
        };
        // A copy: a slice would hold a whole batch of state's.
        let text = Bytes::copy_from_slice(text);
        self.table[usize::from(number) - 1].text = text.clone();
        self.numbers.insert(text, number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_kept_once_and_for_as_long_as_somebody_has_it() {
        let mut attributes = Attributes::default();
        attributes.put(3, b"ios\x001.2");
        attributes.put(9, b"ios\x001.2");
        attributes.put(4, b"android\x001.2");
        assert_eq!(attributes.get(3), b"ios\x001.2");
        assert_eq!(attributes.numbered(3).0, attributes.numbered(9).0);
        assert_ne!(attributes.numbered(3).0, attributes.numbered(4).0);
        assert_eq!((attributes.get(0), attributes.numbered(77).0), (&b""[..], 0));
        attributes.put(3, b"");
        attributes.clear(9);
        assert_eq!((attributes.get(3), attributes.get(9)), (&b""[..], &b""[..]));
        assert_eq!(attributes.numbers.len(), 1);
        attributes.put(1, b"web\x002");
        assert_eq!(attributes.table.len(), 2, "numbers are used again");
        assert_eq!(attributes.get(1), b"web\x002");
    }

    #[test]
    fn there_is_a_bound() {
        let mut attributes = Attributes::default();
        for slot in 0..MOST as u32 + 5 {
            attributes.put(slot, format!("p\0{slot}").as_bytes());
        }
        assert_eq!(attributes.table.len(), MOST);
        assert_eq!(attributes.get(MOST as u32), b"");
        attributes.put(0, &[b'x'; LONGEST + 1]);
        assert_eq!(attributes.get(0), b"");
    }
}
