//! Group frames that wait for their turn, and the sweep over one group's members that is under way.
//!
//! A sweep goes round its group's members in slices: other connections get their turn between them. At each member it
//! writes all frames that are on board, as one run of bytes and one system call. A frame that arrives meanwhile gets
//! on board where the sweep stands and gets off when it has gone round once. So the busier a group is, the more frames
//! share a write, and each member still sees them in order: who is on board first is nowhere written later.
//!
//! The members are those at the sweep's beginning. Once somebody has joined since, or another group's frame waits,
//! nothing more gets on board: the sweep ends within one round, and the next begins with the members of then. Who has
//! left meanwhile is skipped by the caller, who looks at the connection's own row.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::groups::{GroupIndex, Groups};

/// Most frames, and about the most bytes, that are written to a member at once: no more than a socket with a small
/// send buffer takes at once.
const ABOARD_FRAMES: usize = 64;
const ABOARD_BYTES: usize = 16 << 10;

/// One group frame.
#[derive(Clone, Debug)]
pub(crate) struct GroupFrame {
    pub(crate) business: u32,
    pub(crate) group: Bytes,
    pub(crate) frame: Bytes,
    pub(crate) expires_ms: u64,
}

/// A frame on board, and how many members it has still to get to.
#[derive(Clone, Debug)]
struct Aboard {
    frame: GroupFrame,
    left: usize,
}

/// A sweep under way.
#[derive(Debug)]
pub(crate) struct Sweep {
    pub(crate) business: u32,
    pub(crate) group: GroupIndex,
    id: Bytes,
    generation: u32,
    joins: u64,
    members: Vec<u32>,
    cursor: usize,
    aboard: VecDeque<Aboard>,
    /// The frames on board, one after the other.
    pub(crate) run: Bytes,
}

/// The queue and the sweep.
#[derive(Debug, Default)]
pub(crate) struct Fanout {
    waiting: VecDeque<GroupFrame>,
    waiting_bytes: usize,
    sweep: Option<Sweep>,
    /// The last sweep's list of members, to be used again.
    spare: Vec<u32>,
}

impl Fanout {
    /// Queues a frame; `false` if there is no room for it.
    pub(crate) fn push(&mut self, frame: GroupFrame, most_bytes: usize) -> bool {
        if self.waiting_bytes + frame.frame.len() > most_bytes {
            return false;
        }
        self.waiting_bytes += frame.frame.len();
        self.waiting.push_back(frame);
        true
    }

    /// Bytes that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.sweep.is_none() && self.waiting.is_empty()
    }

    /// The next at most `most` members to write to, with the sweep that they belong to: hand the sweep back with
    /// [`Self::resume`]. `None` when nothing is left to do. Frames of groups without members here fall out, as do
    /// frames that have expired, which are counted.
    pub(crate) fn slice(
        &mut self,
        groups: &Groups,
        now_ms: u64,
        most: usize,
        expired: &mut u64,
    ) -> Option<(Sweep, Range<usize>)> {
        loop {
            let mut sweep = match self.sweep.take() {
                Some(sweep) => sweep,
                None => self.begin(groups)?,
            };
            if !groups.is_current(sweep.group, sweep.generation) {
                // Everybody has left: what waits for this group falls out when its turn comes.
                self.spare = sweep.members;
                continue;
            }
            self.board(&mut sweep, groups, now_ms, expired);
            let Some(first) = sweep.aboard.front() else {
                self.spare = sweep.members;
                continue;
            };
            let end = (sweep.cursor + most.min(first.left)).min(sweep.members.len());
            let range = sweep.cursor..end;
            return Some((sweep, range));
        }
    }

    /// Takes back a sweep after its slice.
    pub(crate) fn resume(&mut self, mut sweep: Sweep, written: &Range<usize>) {
        sweep.cursor = if written.end == sweep.members.len() {
            0
        } else {
            written.end
        };
        let before = sweep.aboard.len();
        for aboard in &mut sweep.aboard {
            aboard.left -= written.len();
        }
        while sweep.aboard.front().is_some_and(|aboard| aboard.left == 0) {
            sweep.aboard.pop_front();
        }
        if sweep.aboard.len() != before {
            sweep.lay_out();
        }
        self.sweep = Some(sweep);
    }

    /// A sweep for the oldest frame's group, with nothing on board. Frames that nobody here wants fall out.
    fn begin(&mut self, groups: &Groups) -> Option<Sweep> {
        loop {
            let front = self.waiting.front()?;
            let (business, id) = (front.business, front.group.clone());
            if let Some((group, generation)) = groups.find(business, &id) {
                let mut members = std::mem::take(&mut self.spare);
                members.clear();
                members.extend_from_slice(groups.members(group));
                let joins = groups.joins(group);
                return Some(Sweep {
                    business,
                    group,
                    id,
                    generation,
                    joins,
                    members,
                    cursor: 0,
                    aboard: VecDeque::new(),
                    run: Bytes::new(),
                });
            }
            if let Some(frame) = self.waiting.pop_front() {
                self.waiting_bytes -= frame.frame.len();
            }
        }
    }

    /// Takes frames on board from the front of the queue, as long as they are this group's.
    fn board(&mut self, sweep: &mut Sweep, groups: &Groups, now_ms: u64, expired: &mut u64) {
        if groups.joins(sweep.group) != sweep.joins {
            return;
        }
        let mut bytes = sweep.run.len();
        let mut changed = false;
        while let Some(front) = self.waiting.front() {
            let len = front.frame.len();
            let full = sweep.aboard.len() >= ABOARD_FRAMES || (bytes > 0 && bytes + len > ABOARD_BYTES);
            if full || front.business != sweep.business || front.group != sweep.id {
                break;
            }
            let Some(frame) = self.waiting.pop_front() else {
                break;
            };
            self.waiting_bytes -= len;
            if frame.expires_ms != 0 && frame.expires_ms <= now_ms {
                *expired += 1;
                continue;
            }
            bytes += len;
            changed = true;
            sweep.aboard.push_back(Aboard {
                frame,
                left: sweep.members.len(),
            });
        }
        if changed {
            sweep.lay_out();
        }
    }
}

impl Sweep {
    /// The slot of the `index`-th member.
    pub(crate) fn member(&self, index: usize) -> u32 {
        self.members[index]
    }

    /// How many frames are on board.
    pub(crate) fn frames(&self) -> usize {
        self.aboard.len()
    }

    /// Length and expiry of each frame in [`Self::run`].
    pub(crate) fn parts(&self) -> impl Iterator<Item = (usize, u64)> {
        self.aboard
            .iter()
            .map(|aboard| (aboard.frame.frame.len(), aboard.frame.expires_ms))
    }

    /// Lays the frames on board out as one run.
    fn lay_out(&mut self) {
        self.run = match self.aboard.len() {
            0 => Bytes::new(),
            1 => self.aboard[0].frame.frame.clone(),
            _ => {
                let mut run = BytesMut::with_capacity(self.parts().map(|(len, _)| len).sum());
                self.aboard
                    .iter()
                    .for_each(|aboard| run.extend_from_slice(&aboard.frame.frame));
                run.freeze()
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn frame(group: &'static [u8], text: &str) -> GroupFrame {
        GroupFrame {
            business: 1,
            group: Bytes::from_static(group),
            frame: Bytes::copy_from_slice(text.as_bytes()),
            expires_ms: 0,
        }
    }

    /// Writes one slice: who got which bytes.
    fn step(fanout: &mut Fanout, groups: &Groups, most: usize) -> Option<(Vec<u32>, String)> {
        let (sweep, range) = fanout.slice(groups, 10, most, &mut 0)?;
        let members = range
            .clone()
            .map(|index| sweep.member(index))
            .filter(|slot| groups.is_member(*slot, sweep.group))
            .collect();
        let run = String::from_utf8(sweep.run.to_vec()).unwrap();
        fanout.resume(sweep, &range);
        Some((members, run))
    }

    #[test]
    fn frames_get_on_where_the_sweep_stands_and_off_after_a_round() {
        let mut groups = Groups::default();
        (0..4).for_each(|slot| groups.join(slot, 1, b"a"));
        let mut fanout = Fanout::default();
        assert!(fanout.push(frame(b"a", "1"), 1000));
        assert_eq!(step(&mut fanout, &groups, 2), Some((vec![0, 1], "1".to_owned())));
        assert!(fanout.push(frame(b"a", "2"), 1000));
        assert_eq!(step(&mut fanout, &groups, 9), Some((vec![2, 3], "12".to_owned())));
        assert_eq!(step(&mut fanout, &groups, 9), Some((vec![0, 1], "2".to_owned())));
        assert_eq!(step(&mut fanout, &groups, 9), None);
        assert!(fanout.is_idle());
        assert_eq!(fanout.waiting_bytes(), 0);
    }

    #[test]
    fn groups_take_turns_and_frames_for_nobody_fall_out() {
        let mut groups = Groups::default();
        (0..3).for_each(|slot| groups.join(slot, 1, b"a"));
        groups.join(7, 1, b"b");
        let mut fanout = Fanout::default();
        for frame in [
            frame(b"nobody", "0"),
            frame(b"a", "1"),
            frame(b"b", "2"),
            frame(b"a", "3"),
        ] {
            assert!(fanout.push(frame, 1000));
        }
        let slices: Vec<_> = std::iter::from_fn(|| step(&mut fanout, &groups, 2)).collect();
        let expected = [
            (vec![0, 1], "1"),
            (vec![2], "1"),
            (vec![7], "2"),
            (vec![0, 1], "3"),
            (vec![2], "3"),
        ];
        assert_eq!(slices, expected.map(|(members, run)| (members, run.to_owned())));
    }

    #[test]
    fn the_queue_is_bounded_and_expired_frames_fall_out() {
        let mut groups = Groups::default();
        groups.join(0, 1, b"a");
        let mut fanout = Fanout::default();
        assert!(fanout.push(
            GroupFrame {
                expires_ms: 10,
                ..frame(b"a", "old")
            },
            5
        ));
        assert!(!fanout.push(frame(b"a", "new"), 5));
        let mut expired = 0;
        assert!(fanout.slice(&groups, 10, 2, &mut expired).is_none());
        assert_eq!((expired, fanout.waiting_bytes()), (1, 0));
    }

    #[test]
    fn a_group_that_emptied_and_whose_place_was_taken_gets_nothing_of_the_old_sweep() {
        let mut groups = Groups::default();
        (0..4).for_each(|slot| groups.join(slot, 1, b"a"));
        let mut fanout = Fanout::default();
        fanout.push(frame(b"a", "1"), 1000);
        step(&mut fanout, &groups, 2);
        (0..4).for_each(|slot| groups.leave_all(slot));
        groups.join(2, 1, b"other");
        assert_eq!(step(&mut fanout, &groups, 2), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(bool),
        Join(u32),
        Leave(u32),
        Write(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => any::<bool>().prop_map(Step::Push),
            1 => (0u32..12).prop_map(Step::Join),
            1 => (0u32..12).prop_map(Step::Leave),
            4 => (1usize..6).prop_map(Step::Write),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whoever is a member from a frame's arrival until all is written gets it exactly once, and everybody gets
        /// what they get in order.
        #[test]
        fn members_get_every_frame_once_and_in_order(steps in steps()) {
            const NAMES: [&[u8]; 2] = [b"a", b"b"];
            let mut groups = Groups::default();
            let mut fanout = Fanout::default();
            // Per slot and group: frames due for certain, and frames got.
            let mut due: HashMap<(u32, usize), Vec<u8>> = HashMap::new();
            let mut got: HashMap<(u32, usize), Vec<u8>> = HashMap::new();
            let mut next = [0u8; 2];
            let mut write = |fanout: &mut Fanout, groups: &Groups, most: usize| {
                let Some((sweep, range)) = fanout.slice(groups, 0, most, &mut 0) else { return false };
                let which = NAMES.iter().position(|name| sweep.id == *name).unwrap();
                for slot in range.clone().map(|index| sweep.member(index)) {
                    if groups.is_member(slot, sweep.group) {
                        got.entry((slot, which)).or_default().extend_from_slice(&sweep.run);
                    }
                }
                fanout.resume(sweep, &range);
                true
            };
            for step in steps {
                match step {
                    Step::Push(second) => {
                        let which = usize::from(second);
                        next[which] += 1;
                        let text = Bytes::copy_from_slice(&[next[which]]);
                        fanout.push(GroupFrame { frame: text, ..frame(NAMES[which], "") }, 1 << 20);
                        if let Some((group, _)) = groups.find(1, NAMES[which]) {
                            for slot in groups.members(group) {
                                due.entry((*slot, which)).or_default().push(next[which]);
                            }
                        }
                    }
                    Step::Join(slot) => NAMES.iter().for_each(|name| groups.join(slot, 1, name)),
                    Step::Leave(slot) => {
                        groups.leave_all(slot);
                        // What was on its way may or may not have come.
                        (0..2).for_each(|which| { due.remove(&(slot, which)); });
                    }
                    Step::Write(most) => { write(&mut fanout, &groups, most); }
                }
            }
            while write(&mut fanout, &groups, 3) {}
            for (key, due) in due {
                let got = got.get(&key).cloned().unwrap_or_default();
                for text in due {
                    prop_assert_eq!(got.iter().filter(|other| **other == text).count(), 1, "{:?}", key);
                }
            }
            for got in got.values() {
                prop_assert!(got.is_sorted_by(|one, other| one < other), "{:?}", got);
            }
        }
    }
}
