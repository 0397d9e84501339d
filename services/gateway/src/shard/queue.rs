//! What waits for one slow reader. Exists only while something waits.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use imaccess_net::wheel::Tick;

/// What to do when a business's share of a connection's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    DropOldest,
    DropNewest,
    Close,
}

/// Bound and policy of one business's frames in one connection's queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub(crate) bytes: usize,
    pub(crate) policy: Policy,
}

/// Which frame goes first. Pushes of a higher one overtake those of a lower one, but no control frame: a push must not come before the
/// answer to the login.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

impl Priority {
    /// Its place in a list with the highest first.
    pub(crate) fn place(self) -> usize {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }
}

impl From<imaccess_proto::v1::Priority> for Priority {
    fn from(priority: imaccess_proto::v1::Priority) -> Self {
        match priority {
            imaccess_proto::v1::Priority::High => Self::High,
            imaccess_proto::v1::Priority::Normal => Self::Normal,
            imaccess_proto::v1::Priority::Low => Self::Low,
        }
    }
}

/// A frame, or the unwritten rest of one.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) bytes: Bytes,
    /// 0: control, which no business's policy drops.
    pub(crate) business: u32,
    pub(crate) priority: Priority,
    /// Unix milliseconds after which it is of no use; 0: never.
    pub(crate) expires_ms: u64,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// Queued; so many older frames of the business were dropped for it.
    DroppedOldest(u32),
    /// Not queued.
    DroppedNewest,
    /// The connection must go.
    Overflow,
}

/// What a queued frame costs beside its bytes: its entry, and a small allocation's overhead. Counted against the
/// connection's bound, or a queue of tiny frames would hold ten times what it may.
const FRAME_OVERHEAD: usize = 64;

/// The queue. The front frame may be partly written; it is never dropped, or the stream would be torn.
#[derive(Debug, Default)]
pub(crate) struct OutQueue {
    frames: VecDeque<Queued>,
    /// Bytes of the front frame that are written.
    written: usize,
    /// Unwritten bytes in all.
    bytes: usize,
    /// Unwritten bytes by business; a handful.
    shares: Vec<(u32, usize)>,
    /// When the kernel last took anything.
    pub(crate) progress: Tick,
}

impl OutQueue {
    /// An empty queue that has to make progress from `now`.
    pub(crate) fn since(now: Tick) -> Self {
        Self {
            progress: now,
            ..Self::default()
        }
    }

    /// Unwritten bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many frames wait, a begun one included.
    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Queues a frame of which `written` bytes are written already (only the first can be begun).
    /// `most` bounds the whole queue; `share` the business's part of it.
    pub(crate) fn push(
        &mut self,
        frame: Queued,
        written: usize,
        share: Option<Share>,
        most: usize,
    ) -> Pushed {
        debug_assert!(
            written == 0 || self.frames.is_empty(),
            "only the front frame can be begun"
        );
        let len = frame.bytes.len() - written;
        let mut dropped = 0;
        if let Some(share) = share
            && written == 0
        {
            if len > share.bytes {
                // It doesn't fit even alone: nothing is gained by dropping others for it.
                return match share.policy {
                    Policy::Close => Pushed::Overflow,
                    Policy::DropOldest | Policy::DropNewest => Pushed::DroppedNewest,
                };
            }
            while self.share(frame.business) + len > share.bytes {
                match share.policy {
                    Policy::DropNewest => return Pushed::DroppedNewest,
                    Policy::Close => return Pushed::Overflow,
                    Policy::DropOldest if self.drop_oldest(frame.business, frame.priority) => dropped += 1,
                    // What is left of the business is begun, or matters more.
                    Policy::DropOldest => return Pushed::DroppedNewest,
                }
            }
        }
        // A begun frame is always taken: without its rest the stream would be torn.
        let held = self.bytes + self.frames.len() * FRAME_OVERHEAD;
        if written == 0 && held + len > most {
            return Pushed::Overflow;
        }
        self.bytes += len;
        if frame.business != 0 {
            match self
                .shares
                .iter_mut()
                .find(|(business, _)| *business == frame.business)
            {
                Some((_, bytes)) => *bytes += len,
                None => self.shares.push((frame.business, len)),
            }
        }
        if written > 0 {
            self.written = written;
        }
        let place = self.place_of(&frame);
        self.frames.insert(place, frame);
        if dropped > 0 {
            Pushed::DroppedOldest(dropped)
        } else {
            Pushed::Queued
        }
    }

    fn share(&self, business: u32) -> usize {
        self.shares
            .iter()
            .find(|(other, _)| *other == business)
            .map_or(0, |(_, bytes)| *bytes)
    }

    fn subtract(&mut self, business: u32, len: usize) {
        self.bytes -= len;
        if business != 0
            && let Some((_, bytes)) = self.shares.iter_mut().find(|(other, _)| *other == business)
        {
            *bytes -= len;
        }
    }

    /// Drops every frame but one that is begun; returns how many.
    pub(crate) fn keep_begun(&mut self) -> u64 {
        let keep = usize::from(self.written > 0);
        let mut dropped = 0;
        while self.frames.len() > keep {
            if let Some(frame) = self.frames.pop_back() {
                self.subtract(frame.business, frame.bytes.len());
                dropped += 1;
            }
        }
        dropped
    }

    /// Behind everything that doesn't matter less.
    fn place_of(&self, frame: &Queued) -> usize {
        let begun = usize::from(self.written > 0);
        let overtakes =
            |other: &&Queued| frame.business != 0 && other.business != 0 && other.priority < frame.priority;
        let behind = self.frames.iter().skip(begun).rev().take_while(overtakes).count();
        self.frames.len() - behind
    }

    /// Drops a business's oldest frame of those that matter least, and not more than `priority`; whether there was one.
    fn drop_oldest(&mut self, business: u32, priority: Priority) -> bool {
        let begun = usize::from(self.written > 0);
        let found = self
            .frames
            .iter()
            .enumerate()
            .skip(begun)
            .filter(|(_, frame)| frame.business == business && frame.priority <= priority)
            .min_by_key(|(_, frame)| frame.priority)
            .map(|(index, _)| index);
        let Some(frame) = found.and_then(|index| self.frames.remove(index)) else {
            return false;
        };
        self.subtract(business, frame.bytes.len());
        true
    }

    /// Drops what is expired, and returns how many frames that were. `now_ms` is Unix time.
    pub(crate) fn expire(&mut self, now_ms: u64) -> u64 {
        let begun = self.written > 0;
        let mut freed = Vec::new();
        let mut index = 0;
        self.frames.retain(|frame| {
            let keep = (begun && index == 0) || frame.expires_ms == 0 || frame.expires_ms > now_ms;
            index += 1;
            if !keep {
                freed.push((frame.business, frame.bytes.len()));
            }
            keep
        });
        for (business, len) in &freed {
            self.subtract(*business, *len);
        }
        freed.len() as u64
    }

    /// The next bytes to write, as at most `slices.len()` slices; returns how many.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        let mut skip = self.written;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(&frame.bytes[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// Takes off what the kernel took; returns the lengths of the frames that are whole now.
    pub(crate) fn advance(&mut self, mut taken: usize) -> usize {
        let mut whole = 0;
        while taken > 0 {
            let Some(front) = self.frames.front() else { break };
            let (business, len) = (front.business, front.bytes.len());
            let left = len - self.written;
            if taken < left {
                self.written += taken;
                self.subtract(business, taken);
                break;
            }
            taken -= left;
            whole += len;
            self.subtract(business, left);
            self.frames.pop_front();
            self.written = 0;
        }
        whole
    }

    /// Bytes of the front frame that are written.
    pub(crate) fn begun(&self) -> usize {
        self.written
    }

    /// The frames, front first, and how much of the first is written: for the process that comes after.
    pub(crate) fn content(&self) -> (impl Iterator<Item = &Queued>, usize) {
        (self.frames.iter(), self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(business: u32, len: usize, fill: u8) -> Queued {
        Queued {
            bytes: Bytes::from(vec![fill; len]),
            business,
            priority: Priority::Normal,
            expires_ms: 0,
        }
    }

    fn share(bytes: usize, policy: Policy) -> Option<Share> {
        Some(Share { bytes, policy })
    }

    #[test]
    fn the_policy_of_the_business_decides() {
        let mut queue = OutQueue::default();
        assert_eq!(
            queue.push(frame(1, 60, 1), 0, share(100, Policy::DropOldest), 1000),
            Pushed::Queued
        );
        assert_eq!(
            queue.push(frame(1, 60, 2), 0, share(100, Policy::DropOldest), 1000),
            Pushed::DroppedOldest(1)
        );
        assert_eq!(
            queue.push(frame(1, 60, 3), 0, share(100, Policy::DropNewest), 1000),
            Pushed::DroppedNewest
        );
        assert_eq!(
            queue.push(frame(1, 60, 4), 0, share(100, Policy::Close), 1000),
            Pushed::Overflow
        );
        assert_eq!(
            queue.push(frame(2, 60, 5), 0, share(100, Policy::Close), 1000),
            Pushed::Queued
        );
        assert_eq!(queue.push(frame(0, 900, 6), 0, None, 1000), Pushed::Overflow);
        assert_eq!(queue.bytes(), 120);
    }

    #[test]
    fn a_begun_frame_is_never_dropped() {
        let mut queue = OutQueue::default();
        queue.push(frame(1, 60, 1), 10, share(100, Policy::DropOldest), 1000);
        let pushed = queue.push(frame(1, 60, 2), 0, share(100, Policy::DropOldest), 1000);
        assert_eq!(pushed, Pushed::DroppedNewest);
        assert_eq!(queue.bytes(), 50);
    }

    #[test]
    fn what_is_expired_is_dropped_but_not_what_is_begun() {
        let mut queue = OutQueue::default();
        let soon = |fill| Queued {
            expires_ms: 5,
            ..frame(1, 10, fill)
        };
        queue.push(soon(1), 4, None, 1000);
        queue.push(soon(2), 0, None, 1000);
        queue.push(frame(1, 10, 3), 0, None, 1000);
        assert_eq!(queue.expire(4), 0);
        assert_eq!(queue.expire(5), 1);
        assert_eq!(queue.bytes(), 16);
    }

    /// The first bytes of all frames, in the order in which they go out.
    fn fills(queue: &OutQueue) -> Vec<u8> {
        queue.frames.iter().map(|frame| frame.bytes[0]).collect()
    }

    #[test]
    fn what_matters_more_overtakes_pushes_but_nothing_else() {
        let mut queue = OutQueue::default();
        let with = |fill, priority| Queued {
            priority,
            ..frame(1, 10, fill)
        };
        queue.push(with(1, Priority::Low), 4, None, 1000);
        queue.push(with(2, Priority::Low), 0, None, 1000);
        queue.push(with(3, Priority::Normal), 0, None, 1000);
        queue.push(with(4, Priority::High), 0, None, 1000);
        queue.push(with(5, Priority::Normal), 0, None, 1000);
        assert_eq!(fills(&queue), [1, 4, 3, 5, 2], "the begun one stays in front");
        queue.push(frame(0, 10, 6), 0, None, 1000);
        queue.push(with(7, Priority::High), 0, None, 1000);
        assert_eq!(
            fills(&queue),
            [1, 4, 3, 5, 2, 6, 7],
            "a control frame isn't overtaken"
        );
    }

    #[test]
    fn what_matters_least_is_dropped_first() {
        let mut queue = OutQueue::default();
        let with = |fill, priority| Queued {
            priority,
            ..frame(1, 40, fill)
        };
        let mut push =
            |fill, priority| queue.push(with(fill, priority), 0, share(80, Policy::DropOldest), 1000);
        assert_eq!(push(1, Priority::High), Pushed::Queued);
        assert_eq!(push(2, Priority::Low), Pushed::Queued);
        assert_eq!(push(3, Priority::Normal), Pushed::DroppedOldest(1));
        assert_eq!(push(4, Priority::Low), Pushed::DroppedNewest);
        assert_eq!(push(5, Priority::High), Pushed::DroppedOldest(1));
        assert_eq!(fills(&queue), [1, 5]);
    }

    proptest! {
        /// Whatever the kernel takes at a time, the bytes come out whole and in order, and the counts agree.
        #[test]
        fn nothing_is_torn(
            frames in proptest::collection::vec((0u32..3, 1usize..50), 1..40),
            begun in 0usize..50,
            takes in proptest::collection::vec(1usize..70, 1..200),
        ) {
            let mut queue = OutQueue::default();
            let mut expected = Vec::new();
            for (index, (business, len)) in frames.iter().enumerate() {
                let written = if index == 0 { begun.min(len - 1) } else { 0 };
                let frame = frame(*business, *len, index as u8);
                expected.extend_from_slice(&frame.bytes[written..]);
                prop_assert_eq!(queue.push(frame, written, None, usize::MAX), Pushed::Queued);
            }
            let (mut came, mut whole) = (Vec::new(), 0);
            for take in takes.into_iter().cycle() {
                if queue.is_empty() {
                    break;
                }
                let mut slices = [IoSlice::new(&[]); 4];
                let count = queue.slices(&mut slices);
                let flat: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                let taken = take.min(flat.len());
                came.extend_from_slice(&flat[..taken]);
                whole += queue.advance(taken);
                prop_assert_eq!(queue.bytes(), expected.len() - came.len());
            }
            // What was written before it was queued belongs to the first frame.
            let begun = begun.min(frames[0].1 - 1);
            prop_assert_eq!(whole, expected.len() + begun);
            prop_assert_eq!(came, expected);
            prop_assert!(queue.shares.iter().all(|(_, bytes)| *bytes == 0));
        }
    }
}
