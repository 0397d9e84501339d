//! Group frames that wait for their turn, and the sweep over one group's members that is under way.
//!
//! A sweep writes all frames of its group that wait when it begins, as one run of bytes and one system call per
//! member, in slices: other connections get their turn between them. Frames that arrive during a sweep wait for the
//! next one, so the busier a group is, the more frames share a write.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::groups::{GroupIndex, Groups};

/// Most frames, and about the most bytes, that one sweep writes to a member at once: no more than a socket with a
/// small send buffer takes at once.
const SWEEP_FRAMES: usize = 64;
const SWEEP_BYTES: usize = 16 << 10;

/// One group frame.
#[derive(Clone, Debug)]
pub(crate) struct GroupFrame {
    pub(crate) business: u32,
    pub(crate) group: Bytes,
    pub(crate) frame: Bytes,
    pub(crate) expires_ms: u64,
}

/// A sweep under way.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    pub(crate) business: u32,
    pub(crate) group: GroupIndex,
    generation: u32,
    /// The frames, one after the other.
    pub(crate) run: Bytes,
    /// Length of each in `run`.
    pub(crate) lengths: Vec<usize>,
    pub(crate) expires_ms: Vec<u64>,
    /// The members when it began. Who has left meanwhile is skipped; who has joined gets the next one.
    members: Vec<u32>,
    cursor: usize,
}

/// The queue and the sweep.
#[derive(Debug, Default)]
pub(crate) struct Fanout {
    waiting: VecDeque<GroupFrame>,
    waiting_bytes: usize,
    sweep: Option<Sweep>,
    /// The last sweep's, to be used again.
    spare: Sweep,
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
    /// frames that expired; `expired` counts those.
    pub(crate) fn slice(
        &mut self,
        groups: &Groups,
        now_ms: u64,
        most: usize,
        expired: &mut u64,
    ) -> Option<(Sweep, std::ops::Range<usize>)> {
        loop {
            if let Some(mut sweep) = self.sweep.take() {
                let end = (sweep.cursor + most).min(sweep.members.len());
                if sweep.cursor < end && groups.is_current(sweep.group, sweep.generation) {
                    let range = sweep.cursor..end;
                    sweep.cursor = end;
                    return Some((sweep, range));
                }
                self.spare = sweep;
            }
            self.begin(groups, now_ms, expired)?;
        }
    }

    /// Takes back a sweep after its slice.
    pub(crate) fn resume(&mut self, sweep: Sweep) {
        self.sweep = Some(sweep);
    }

    /// Begins a sweep with the oldest frame's group, or drops that frame if nobody wants it.
    fn begin(&mut self, groups: &Groups, now_ms: u64, expired: &mut u64) -> Option<()> {
        let front = self.waiting.front()?;
        let (business, id) = (front.business, front.group.clone());
        let found = groups.find(business, &id);
        let mut sweep = std::mem::take(&mut self.spare);
        sweep.lengths.clear();
        sweep.expires_ms.clear();
        sweep.members.clear();
        sweep.cursor = 0;
        sweep.business = business;
        let mut parts: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        let waiting_bytes = &mut self.waiting_bytes;
        self.waiting.retain(|frame| {
            if frame.business != business || frame.group != id {
                return true;
            }
            let full = parts.len() >= SWEEP_FRAMES || (bytes + frame.frame.len() > SWEEP_BYTES && bytes > 0);
            if full && found.is_some() {
                return true;
            }
            *waiting_bytes -= frame.frame.len();
            if found.is_some() && frame.expires_ms != 0 && frame.expires_ms <= now_ms {
                *expired += 1;
            } else if found.is_some() {
                bytes += frame.frame.len();
                sweep.lengths.push(frame.frame.len());
                sweep.expires_ms.push(frame.expires_ms);
                parts.push(frame.frame.clone());
            }
            false
        });
        sweep.run = match parts.len() {
            1 => parts.swap_remove(0),
            _ => {
                let mut run = BytesMut::with_capacity(bytes);
                parts.iter().for_each(|part| run.extend_from_slice(part));
                run.freeze()
            }
        };
        match found {
            Some((group, generation)) if !sweep.run.is_empty() => {
                sweep.group = group;
                sweep.generation = generation;
                sweep.members.extend_from_slice(groups.members(group));
                self.sweep = Some(sweep);
            }
            _ => self.spare = sweep,
        }
        Some(())
    }
}

impl Sweep {
    /// The slot of the `index`-th member.
    pub(crate) fn member(&self, index: usize) -> u32 {
        self.members[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(group: &'static [u8], text: &'static str) -> GroupFrame {
        GroupFrame {
            business: 1,
            group: Bytes::from_static(group),
            frame: Bytes::from_static(text.as_bytes()),
            expires_ms: 0,
        }
    }

    fn run(fanout: &mut Fanout, groups: &Groups, most: usize) -> Vec<(Vec<u32>, String)> {
        let mut slices = Vec::new();
        let mut expired = 0;
        while let Some((sweep, range)) = fanout.slice(groups, 10, most, &mut expired) {
            let members = range.map(|index| sweep.member(index)).collect();
            slices.push((members, String::from_utf8(sweep.run.to_vec()).unwrap()));
            fanout.resume(sweep);
        }
        slices
    }

    #[test]
    fn waiting_frames_of_a_group_share_a_sweep_and_others_wait_their_turn() {
        let mut groups = Groups::default();
        (0..3).for_each(|slot| groups.join(slot, 1, b"a"));
        groups.join(7, 1, b"b");
        let mut fanout = Fanout::default();
        for frame in [
            frame(b"a", "1"),
            frame(b"b", "2"),
            frame(b"a", "3"),
            frame(b"nobody", "4"),
        ] {
            assert!(fanout.push(frame, 1000));
        }
        let slices = run(&mut fanout, &groups, 2);
        assert_eq!(
            slices,
            [
                (vec![0, 1], "13".to_owned()),
                (vec![2], "13".to_owned()),
                (vec![7], "2".to_owned())
            ]
        );
        assert!(fanout.is_idle());
        assert_eq!(fanout.waiting_bytes(), 0);
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
        let mut expired = 0;
        let (sweep, range) = fanout.slice(&groups, 0, 2, &mut expired).unwrap();
        assert_eq!(range, 0..2);
        fanout.resume(sweep);
        (0..4).for_each(|slot| groups.leave_all(slot));
        groups.join(2, 1, b"other");
        assert!(fanout.slice(&groups, 0, 2, &mut expired).is_none());
    }
}
