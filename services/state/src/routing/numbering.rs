//! The numbers of group pushes, counted per group by this replica, in bounded memory.

use std::collections::HashMap;
use std::mem;

use super::key::Key;

/// Groups counted in one half before the older half is forgotten: 1,000,000 in both, about 50 MB.
const HALF: usize = 500_000;

/// The next number of each group that was pushed to lately.
///
/// Two halves: what isn't pushed to while 500,000 other groups are is forgotten. A forgotten group goes on above the
/// highest number that any forgotten one had, so no number is ever given twice; its members see a gap where there may
/// be none, which is the honest side to err on.
#[derive(Debug)]
pub(crate) struct Numbering {
    recent: HashMap<[u64; 2], u64, foldhash::fast::RandomState>,
    older: HashMap<[u64; 2], u64, foldhash::fast::RandomState>,
    /// At least every number given to a forgotten group.
    floor: u64,
    half: usize,
}

impl Numbering {
    pub(crate) fn new() -> Numbering {
        Numbering {
            recent: HashMap::default(),
            older: HashMap::default(),
            floor: 0,
            half: HALF,
        }
    }

    /// The next number, from 1.
    pub(crate) fn next(&mut self, key: Key) -> u64 {
        if let Some(last) = self.recent.get_mut(&key.0) {
            *last += 1;
            return *last;
        }
        let next = self.older.remove(&key.0).unwrap_or(self.floor) + 1;
        if self.recent.len() >= self.half {
            let forgotten = mem::replace(&mut self.older, mem::take(&mut self.recent));
            self.floor = forgotten
                .into_values()
                .max()
                .map_or(self.floor, |last| last.max(self.floor));
        }
        self.recent.insert(key.0, next);
        next
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_from_one_without_gaps() {
        let mut numbering = Numbering::new();
        for number in 1..=5 {
            assert_eq!(numbering.next(Key([1, 1])), number);
            assert_eq!(numbering.next(Key([1, 2])), number);
        }
    }

    proptest! {
        #[test]
        fn never_gives_a_number_twice_and_stays_bounded(groups in prop::collection::vec(0..20u64, 1..500)) {
            let mut numbering = Numbering { half: 4, ..Numbering::new() };
            let mut last: HashMap<u64, u64> = HashMap::new();
            for group in groups {
                let number = numbering.next(Key([group, 0]));
                let before = last.insert(group, number).unwrap_or(0);
                prop_assert!(number > before);
                prop_assert!(numbering.recent.len() <= 4 && numbering.older.len() <= 4);
            }
        }
    }
}
