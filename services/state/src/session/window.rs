//! Which message ids of a session were seen: the highest, and a bit for each of the 64 up to it.
//!
//! Sixteen bytes give "answered once" without remembering answers. A client whose ids rise by one may have 64
//! messages in the air; an id further back than that can't be told from an answered one and is treated as such,
//! which errs on the side of at-most-once.

/// How many ids up to the highest are told apart.
pub const SPAN: u64 = 64;

/// The message ids seen in one session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    highest: u64,
    /// Bit `i`: `highest - i` was seen.
    seen: u64,
}

/// What a message id is to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Not seen before.
    New,
    /// Seen; may still be in flight.
    Again,
    /// Too far back to tell.
    TooOld,
}

impl Window {
    /// Marks `id` as seen and says what it was. Id 0 asks for no such care and is always new.
    #[inline]
    pub fn mark(&mut self, id: u64) -> Sight {
        if id == 0 {
            return Sight::New;
        }
        if id > self.highest {
            let by = id - self.highest;
            self.seen = if by >= SPAN { 1 } else { self.seen << by | 1 };
            self.highest = id;
            return Sight::New;
        }
        let back = self.highest - id;
        if back >= SPAN {
            return Sight::TooOld;
        }
        let bit = 1 << back;
        if self.seen & bit != 0 {
            return Sight::Again;
        }
        self.seen |= bit;
        Sight::New
    }

    /// Takes a mark back: the message was refused in a way that lets the client repeat it.
    #[inline]
    pub fn forget(&mut self, id: u64) {
        let back = self.highest.wrapping_sub(id);
        if id != 0 && id <= self.highest && back < SPAN {
            self.seen &= !(1 << back);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(ids in prop::collection::vec((1u64..200, any::<bool>()), 1..300)) {
            let mut window = Window::default();
            let (mut set, mut highest) = (HashSet::new(), 0);
            for (id, forget) in ids {
                if forget {
                    window.forget(id);
                    if highest < id + SPAN {
                        set.remove(&id);
                    }
                    continue;
                }
                let expected = if id > highest || highest - id < SPAN && !set.contains(&id) {
                    Sight::New
                } else if highest - id >= SPAN {
                    Sight::TooOld
                } else {
                    Sight::Again
                };
                prop_assert_eq!(window.mark(id), expected);
                highest = highest.max(id);
                set.insert(id);
            }
        }
    }

    #[test]
    fn far_jumps_and_zero() {
        let mut window = Window::default();
        assert_eq!(window.mark(0), Sight::New);
        assert_eq!(window.mark(0), Sight::New);
        assert_eq!(window.mark(u64::MAX), Sight::New);
        assert_eq!(window.mark(u64::MAX), Sight::Again);
        assert_eq!(window.mark(1), Sight::TooOld);
        window.forget(u64::MAX);
        assert_eq!(window.mark(u64::MAX), Sight::New);
    }
}
