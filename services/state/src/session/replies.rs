//! Replies that were given, kept for a while: a client that lost its connection before the reply came repeats
//! the request, and gets it from here.
//!
//! One ring of bytes per worker, first in first out, so that the bound is in bytes and nothing is allocated per
//! reply. It takes memory only once replies are given.

use std::collections::VecDeque;

use super::table::Key;

/// Heads of the look-up chains; a power of two. At 4 MiB of short replies a chain has about four entries.
const HEADS: usize = 16 * 1_024;

#[derive(Debug)]
struct Kept {
    session: Key,
    message_id: u64,
    at_micros: u64,
    /// Where its bytes begin, counted from the first byte ever kept.
    start: u64,
    len: u32,
    /// Number of an earlier entry with the same head; those below `first` are gone.
    previous: u64,
}

/// The kept replies of one worker, as whole frames.
#[derive(Debug)]
pub struct Replies {
    capacity: usize,
    bytes: VecDeque<u8>,
    kept: VecDeque<Kept>,
    /// Number of the oldest entry; numbers begin at 1.
    first: u64,
    /// Bytes that were dropped, ever.
    dropped: u64,
    heads: Vec<u64>,
}

impl Replies {
    /// Keeps at most `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            bytes: VecDeque::new(),
            kept: VecDeque::new(),
            first: 1,
            dropped: 0,
            heads: Vec::new(),
        }
    }

    /// Keeps a reply's frame, at the cost of the oldest ones.
    pub fn keep(&mut self, session: Key, message_id: u64, frame: &[u8], at_micros: u64) {
        if frame.len() > self.capacity || message_id == 0 {
            return;
        }
        if self.heads.is_empty() {
            self.heads = vec![0; HEADS];
        }
        while self.bytes.len() + frame.len() > self.capacity {
            self.drop_oldest();
        }
        let number = self.first + self.kept.len() as u64;
        let previous = std::mem::replace(&mut self.heads[head(session, message_id)], number);
        let start = self.dropped + self.bytes.len() as u64;
        self.bytes.extend(frame);
        self.kept.push_back(Kept {
            session,
            message_id,
            at_micros,
            start,
            len: frame.len() as u32,
            previous,
        });
    }

    /// The frame of the reply to this message, if it is still kept.
    #[must_use]
    pub fn find(&self, session: Key, message_id: u64) -> Option<Vec<u8>> {
        let mut number = *self.heads.get(head(session, message_id))?;
        while number >= self.first {
            let kept = &self.kept[(number - self.first) as usize];
            if kept.session == session && kept.message_id == message_id {
                let start = (kept.start - self.dropped) as usize;
                return Some(
                    self.bytes
                        .range(start..start + kept.len as usize)
                        .copied()
                        .collect(),
                );
            }
            number = kept.previous;
        }
        None
    }

    /// Drops what was kept before `since_micros`.
    pub fn expire(&mut self, since_micros: u64) {
        while self
            .kept
            .front()
            .is_some_and(|kept| kept.at_micros < since_micros)
        {
            self.drop_oldest();
        }
    }

    /// Bytes of frames kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn drop_oldest(&mut self) {
        if let Some(kept) = self.kept.pop_front() {
            self.bytes.drain(..kept.len as usize);
            self.first += 1;
            self.dropped += u64::from(kept.len);
        }
    }
}

fn head(session: Key, message_id: u64) -> usize {
    let mixed = (u64::from(session.index) << 32 | u64::from(session.generation)) ^ message_id.rotate_left(20);
    (mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 50) as usize % HEADS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_within_the_bytes() {
        let mut replies = Replies::new(100);
        let session = |index| Key { index, generation: 1 };
        for message in 1..=30 {
            replies.keep(session(1), message, &[message as u8; 10], message);
        }
        assert_eq!(replies.len(), 100);
        assert_eq!(replies.find(session(1), 20), None);
        assert_eq!(replies.find(session(2), 25), None);
        assert_eq!(replies.find(session(1), 21), Some(vec![21; 10]));
        assert_eq!(replies.find(session(1), 30), Some(vec![30; 10]));
        replies.expire(30);
        assert_eq!((replies.find(session(1), 29), replies.len()), (None, 10));
        replies.keep(session(1), 31, &[1; 101], 31);
        assert_eq!(replies.find(session(1), 31), None, "too long to keep");
        replies.expire(u64::MAX);
        assert!(replies.is_empty());
    }
}
