//! The names of devices, kept for one purpose: to say which devices a lost instance had.
//!
//! Cells of a few sizes in chunks, so that a name costs its length, rounded up to the next eight bytes, and no allocation of its own.

/// Bytes of a cell, by class: a name takes two bytes more than app and device have, which are at most 48.
const CELLS: [usize; 6] = [8, 16, 24, 32, 40, 56];
/// Cells per chunk.
const CHUNK: usize = 4_096;
/// Bits of a place within its class; the class stands above.
const PLACE_BITS: u32 = 29;

/// Where a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NameIndex(u32);

impl NameIndex {
    /// No name.
    pub(crate) const NONE: NameIndex = NameIndex(u32::MAX);
}

/// All names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    classes: [Class; CELLS.len()],
}

#[derive(Debug, Default)]
struct Class {
    chunks: Vec<Box<[u8]>>,
    /// Cells ever used.
    used: u32,
    free: Vec<u32>,
}

impl Names {
    /// Keeps a name; [`NameIndex::NONE`] for one that the protocol doesn't allow.
    pub(crate) fn insert(&mut self, app: &str, device: &str) -> NameIndex {
        let length = 2 + app.len() + device.len();
        let Some(class) = CELLS.iter().position(|&cell| length <= cell) else {
            return NameIndex::NONE;
        };
        let place = self.classes[class].take(CELLS[class]);
        let cell = self.classes[class].cell_mut(place, CELLS[class]);
        // Both fit a byte, as the cell is the longest.
        cell[0] = app.len() as u8;
        cell[1] = device.len() as u8;
        cell[2..2 + app.len()].copy_from_slice(app.as_bytes());
        cell[2 + app.len()..length].copy_from_slice(device.as_bytes());
        NameIndex((class as u32) << PLACE_BITS | place)
    }

    /// App and device of a name.
    pub(crate) fn get(&self, name: NameIndex) -> (&str, &str) {
        let Some((class, place)) = parts(name) else {
            return ("", "");
        };
        let cell = self.classes[class].cell(place, CELLS[class]);
        let (app, device) = (usize::from(cell[0]), usize::from(cell[1]));
        let text = |range: std::ops::Range<usize>| str::from_utf8(&cell[range]).unwrap_or_default();
        (text(2..2 + app), text(2 + app..2 + app + device))
    }

    /// Gives a name's cell back.
    pub(crate) fn remove(&mut self, name: NameIndex) {
        if let Some((class, place)) = parts(name) {
            self.classes[class].free.push(place);
        }
    }

    /// Memory taken.
    pub(crate) fn bytes(&self) -> usize {
        let of_class = |(class, cell): (&Class, &usize)| {
            class.chunks.len() * CHUNK * cell + class.free.capacity() * size_of::<u32>()
        };
        self.classes.iter().zip(&CELLS).map(of_class).sum()
    }
}

fn parts(name: NameIndex) -> Option<(usize, u32)> {
    let class = (name.0 >> PLACE_BITS) as usize;
    (class < CELLS.len()).then_some((class, name.0 & ((1 << PLACE_BITS) - 1)))
}

impl Class {
    fn take(&mut self, cell: usize) -> u32 {
        if let Some(place) = self.free.pop() {
            return place;
        }
        if self.used as usize == self.chunks.len() * CHUNK {
            self.chunks.push(vec![0; CHUNK * cell].into_boxed_slice());
        }
        let place = self.used;
        self.used += 1;
        place
    }

    fn cell(&self, place: u32, cell: usize) -> &[u8] {
        let (chunk, start) = (place as usize / CHUNK, place as usize % CHUNK * cell);
        &self.chunks[chunk][start..start + cell]
    }

    fn cell_mut(&mut self, place: u32, cell: usize) -> &mut [u8] {
        let (chunk, start) = (place as usize / CHUNK, place as usize % CHUNK * cell);
        &mut self.chunks[chunk][start..start + cell]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_name_fits_and_a_longer_one_has_none() {
        let mut names = Names::default();
        let (app, device) = ("a".repeat(12), "d".repeat(36));
        let name = names.insert(&app, &device);
        assert_eq!(names.get(name), (app.as_str(), device.as_str()));
        let none = names.insert(&app, &"d".repeat(60));
        assert_eq!((none, names.get(none)), (NameIndex::NONE, ("", "")));
        names.remove(none);
    }

    proptest! {
        #[test]
        fn behaves_as_a_list(steps in prop::collection::vec((any::<bool>(), "[a-z]{0,12}", "[a-z0-9]{1,36}"), 1..200)) {
            let mut names = Names::default();
            let mut model: Vec<(NameIndex, String, String)> = Vec::new();
            for (add, app, device) in steps {
                if add || model.is_empty() {
                    let name = names.insert(&app, &device);
                    prop_assert!(model.iter().all(|(other, ..)| *other != name), "a cell is given once");
                    model.push((name, app, device));
                } else {
                    let (name, ..) = model.swap_remove(app.len() % model.len());
                    names.remove(name);
                }
                for (name, app, device) in &model {
                    prop_assert_eq!(names.get(*name), (app.as_str(), device.as_str()));
                }
            }
        }
    }
}
