//! Group frames and broadcasts that wait for their turn, and the sweeps over their receivers that are under way.
//!
//! A sweep goes round its group's members in slices: other connections get their turn between them. At each member it
//! writes all frames that are on board, as one run of bytes and one system call. A frame that arrives meanwhile gets
//! on board where the sweep stands and gets off when it has gone round once. So the busier a group is, the more frames
//! share a write, and each member still sees them in order: who is on board first is nowhere written later.
//!
//! The members are those at the sweep's beginning, in the group's own list, which is held until the sweep ends: nobody changes
//! places there (but where many have left, and then in order), and who has left meanwhile is skipped. Once somebody has joined
//! since, or another group's frame waits, nothing more gets on board: the sweep ends within one round, and the next begins with
//! the members of then.
//!
//! A broadcast names its receivers by their handles, and its sweep is its own: nothing else gets on board, and who isn't the
//! connection any more that was named is skipped.
//!
//! Each priority has its own queue and its own sweep. A slice is always of the highest that has work, so that a long sweep of a
//! low one holds nothing up, and only frames of one priority are in order.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use imaccess_net::handle::Handle;

use super::groups::{Groups, Held};
use super::queue::Priority;

/// Most frames, and about the most bytes, that are written to a member at once: no more than a socket with a small
/// send buffer takes at once.
const ABOARD_FRAMES: usize = 64;
const ABOARD_BYTES: usize = 16 << 10;

/// For whom a frame is.
#[derive(Clone, Debug)]
pub(crate) enum Receivers {
    /// The members of a group of the frame's business.
    Group(Bytes),
    /// Connections, by their handles.
    Connections(Box<[u64]>),
}

/// One frame for many.
#[derive(Clone, Debug)]
pub(crate) struct FanoutFrame {
    pub(crate) business: u32,
    pub(crate) receivers: Receivers,
    pub(crate) frame: Bytes,
    pub(crate) priority: Priority,
    pub(crate) expires_ms: u64,
}

impl FanoutFrame {
    /// Memory that it takes while it waits.
    fn weight(&self) -> usize {
        self.frame.len()
            + match &self.receivers {
                Receivers::Group(_) => 0,
                Receivers::Connections(handles) => size_of_val(&**handles),
            }
    }
}

/// A frame on board, and how many members it has still to get to.
#[derive(Clone, Debug)]
struct Aboard {
    frame: Bytes,
    expires_ms: u64,
    left: usize,
}

/// Whose sweep it is.
#[derive(Debug)]
enum Of {
    Group {
        held: Held,
        id: Bytes,
    },
    /// One broadcast, to these handles.
    Connections(Box<[u64]>),
}

/// A sweep under way.
#[derive(Debug)]
pub(crate) struct Sweep {
    pub(crate) business: u32,
    pub(crate) priority: Priority,
    of: Of,
    cursor: usize,
    aboard: VecDeque<Aboard>,
    /// The frames on board, one after the other.
    pub(crate) run: Bytes,
}

/// What waits in one priority, and the sweep of it.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<FanoutFrame>,
    waiting_bytes: usize,
    sweep: Option<Sweep>,
}

/// The queues and the sweeps.
#[derive(Debug, Default)]
pub(crate) struct Fanout {
    /// Highest priority first.
    lanes: [Lane; 3],
}

impl Fanout {
    /// Queues a frame; `false` if there is no room for it among those of its priority.
    pub(crate) fn push(&mut self, frame: FanoutFrame, most_bytes: usize) -> bool {
        let lane = &mut self.lanes[frame.priority.place()];
        let weight = frame.weight();
        // One broadcast to very many is longer than the bound by its list alone.
        if lane.waiting_bytes + weight > most_bytes
            && !(lane.waiting.is_empty() && frame.frame.len() <= most_bytes)
        {
            return false;
        }
        lane.waiting_bytes += weight;
        lane.waiting.push_back(frame);
        true
    }

    /// Bytes that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting_bytes).sum()
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.lanes
            .iter()
            .all(|lane| lane.sweep.is_none() && lane.waiting.is_empty())
    }

    /// The next at most `most` members to write to, with the sweep that they belong to: hand the sweep back with
    /// [`Self::resume`]. `None` when nothing is left to do. Frames of groups without members here fall out, as do
    /// frames that have expired, which are counted.
    pub(crate) fn slice(
        &mut self,
        groups: &mut Groups,
        now_ms: u64,
        most: usize,
        expired: &mut u64,
    ) -> Option<(Sweep, Range<usize>)> {
        self.close_up(groups);
        self.lanes
            .iter_mut()
            .find_map(|lane| lane.slice(groups, now_ms, most, expired))
    }

    /// Closes the places that many have left in the lists that sweeps go round.
    fn close_up(&mut self, groups: &mut Groups) {
        for lane in 0..self.lanes.len() {
            let held = self.lanes[lane].sweep.as_ref().and_then(Sweep::held);
            let Some(group) = held.filter(|held| groups.is_current(held)).map(|held| held.group) else {
                continue;
            };
            if !groups.is_sparse(group) {
                continue;
            }
            let vacant = groups.close_up(group);
            for sweep in self.lanes.iter_mut().filter_map(|lane| lane.sweep.as_mut()) {
                if sweep
                    .held()
                    .is_some_and(|held| held.group == group && groups.is_current(held))
                {
                    sweep.closed_up(&vacant);
                }
            }
        }
    }

    /// Takes back a sweep after its slice.
    pub(crate) fn resume(&mut self, mut sweep: Sweep, written: &Range<usize>) {
        sweep.cursor = if written.end == sweep.len() {
            0
        } else {
            written.end
        };
        for aboard in &mut sweep.aboard {
            aboard.left -= written.len();
        }
        sweep.get_off();
        let lane = sweep.priority.place();
        self.lanes[lane].sweep = Some(sweep);
    }
}

impl Lane {
    fn slice(
        &mut self,
        groups: &mut Groups,
        now_ms: u64,
        most: usize,
        expired: &mut u64,
    ) -> Option<(Sweep, Range<usize>)> {
        loop {
            let mut sweep = match self.sweep.take() {
                Some(sweep) => sweep,
                None => self.begin(groups, now_ms, expired)?,
            };
            if !sweep.is_current(groups) {
                // Everybody has left: what waits for this group falls out when its turn comes.
                sweep.let_go(groups);
                continue;
            }
            self.board(&mut sweep, groups, now_ms, expired);
            let Some(left) = sweep.aboard.front().map(|first| first.left) else {
                sweep.let_go(groups);
                continue;
            };
            let end = (sweep.cursor + most.min(left)).min(sweep.len());
            let range = sweep.cursor..end;
            return Some((sweep, range));
        }
    }

    /// A sweep for the oldest frame's group, with nothing on board, or for the broadcast that it is. Frames that nobody here wants
    /// fall out.
    fn begin(&mut self, groups: &mut Groups, now_ms: u64, expired: &mut u64) -> Option<Sweep> {
        loop {
            let front = self.waiting.front()?;
            let (business, priority) = (front.business, front.priority);
            if let Receivers::Group(id) = &front.receivers
                && let Some(held) = groups.hold(business, id)
            {
                return Some(Sweep {
                    business,
                    priority,
                    of: Of::Group { held, id: id.clone() },
                    cursor: 0,
                    aboard: VecDeque::new(),
                    run: Bytes::new(),
                });
            }
            let frame = self.pop()?;
            let Receivers::Connections(handles) = frame.receivers else {
                continue;
            };
            if frame.expires_ms != 0 && frame.expires_ms <= now_ms {
                *expired += 1;
                continue;
            }
            if handles.is_empty() {
                continue;
            }
            let aboard = Aboard {
                frame: frame.frame.clone(),
                expires_ms: frame.expires_ms,
                left: handles.len(),
            };
            return Some(Sweep {
                business,
                priority,
                of: Of::Connections(handles),
                cursor: 0,
                aboard: VecDeque::from([aboard]),
                run: frame.frame,
            });
        }
    }

    fn pop(&mut self) -> Option<FanoutFrame> {
        let frame = self.waiting.pop_front()?;
        self.waiting_bytes -= frame.weight();
        Some(frame)
    }

    /// Takes frames on board from the front of the queue, as long as they are this group's.
    fn board(&mut self, sweep: &mut Sweep, groups: &Groups, now_ms: u64, expired: &mut u64) {
        let Of::Group { held, id } = &sweep.of else {
            return;
        };
        if !groups.nobody_joined(held) {
            return;
        }
        let mut bytes = sweep.run.len();
        let mut changed = false;
        while let Some(front) = self.waiting.front() {
            let len = front.frame.len();
            let full = sweep.aboard.len() >= ABOARD_FRAMES || (bytes > 0 && bytes + len > ABOARD_BYTES);
            let same = matches!(&front.receivers, Receivers::Group(other) if other == id);
            if full || front.business != sweep.business || !same {
                break;
            }
            let Some(frame) = self.pop() else {
                break;
            };
            if frame.expires_ms != 0 && frame.expires_ms <= now_ms {
                *expired += 1;
                continue;
            }
            bytes += len;
            changed = true;
            sweep.aboard.push_back(Aboard {
                frame: frame.frame,
                expires_ms: frame.expires_ms,
                left: held.places,
            });
        }
        if changed {
            sweep.lay_out();
        }
    }
}

impl Sweep {
    /// How many receivers there are.
    fn len(&self) -> usize {
        match &self.of {
            Of::Group { held, .. } => held.places,
            Of::Connections(handles) => handles.len(),
        }
    }

    fn held(&self) -> Option<&Held> {
        match &self.of {
            Of::Group { held, .. } => Some(held),
            Of::Connections(_) => None,
        }
    }

    /// These places of the list were closed: those that the frames on board have still to get to are fewer, and stand elsewhere.
    fn closed_up(&mut self, vacant: &[usize]) {
        let Of::Group { held, .. } = &mut self.of else {
            return;
        };
        let now = |place| Held::now(vacant, place);
        let (cursor, places) = (self.cursor, held.places);
        held.places = now(places);
        for aboard in &mut self.aboard {
            // Up to which place; round the end of the list, if that is behind it.
            let until = cursor + aboard.left;
            aboard.left = if until <= places {
                now(until) - now(cursor)
            } else {
                now(places) - now(cursor) + now(until - places)
            };
        }
        // Behind the last place it is an empty slice away from the first.
        self.cursor = now(cursor);
        self.get_off();
    }

    /// Frames that have gone round get off.
    fn get_off(&mut self) {
        let before = self.aboard.len();
        while self.aboard.front().is_some_and(|aboard| aboard.left == 0) {
            self.aboard.pop_front();
        }
        if self.aboard.len() != before {
            self.lay_out();
        }
    }

    /// Ends the sweep.
    fn let_go(self, groups: &mut Groups) {
        if let Of::Group { held, .. } = self.of {
            groups.release(held);
        }
    }

    fn is_current(&self, groups: &Groups) -> bool {
        match &self.of {
            Of::Group { held, .. } => groups.is_current(held),
            Of::Connections(_) => true,
        }
    }

    /// The slot of the `index`-th receiver, if what is on board is still for whoever has it. `generation` tells that of a slot.
    #[inline]
    pub(crate) fn receiver(
        &self,
        index: usize,
        groups: &Groups,
        generation: impl FnOnce(u32) -> u32,
    ) -> Option<u32> {
        match &self.of {
            Of::Group { held, .. } => groups.member_at(held.group, index),
            Of::Connections(handles) => {
                let handle = Handle::from_bits(handles[index]);
                (generation(handle.slot()) == handle.generation()).then_some(handle.slot())
            }
        }
    }

    /// How many frames are on board.
    pub(crate) fn frames(&self) -> usize {
        self.aboard.len()
    }

    /// Length and expiry of each frame in [`Self::run`].
    pub(crate) fn parts(&self) -> impl Iterator<Item = (usize, u64)> {
        self.aboard
            .iter()
            .map(|aboard| (aboard.frame.len(), aboard.expires_ms))
    }

    /// Lays the frames on board out as one run.
    fn lay_out(&mut self) {
        self.run = match self.aboard.len() {
            0 => Bytes::new(),
            1 => self.aboard[0].frame.clone(),
            _ => {
                let mut run = BytesMut::with_capacity(self.parts().map(|(len, _)| len).sum());
                self.aboard
                    .iter()
                    .for_each(|aboard| run.extend_from_slice(&aboard.frame));
                run.freeze()
            }
        };
    }
}

#[cfg(test)]
mod tests;
