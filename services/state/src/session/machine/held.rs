//! Group pushes and broadcasts that came while the gateway was being replaced: kept in order for a few seconds, and sent when the link
//! is complete again.

use std::collections::VecDeque;

use imaccess_proto::v1::{BroadcastPush, GroupPush};

use super::{LinkState, Machine};
use crate::session::Now;

/// Bytes held per worker: 0.3 s of 100,000 pushes of 250 bytes a second. Beyond it the oldest go; their numbers show the
/// gap.
const MAX_HELD: usize = 8 * 1024 * 1024;

/// A gateway that is away for longer isn't being replaced.
const LONGEST: u64 = 10_000_000;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Held {
    pushes: VecDeque<Waiting>,
    bytes: usize,
}

#[derive(Debug)]
enum Waiting {
    Group(GroupPush),
    /// And who is to be answered.
    Broadcast(u32, BroadcastPush),
}

impl Held {
    fn pop(&mut self) -> Option<Waiting> {
        let push = self.pushes.pop_front()?;
        self.bytes -= weight(&push);
        Some(push)
    }
}

impl Machine {
    /// Keeps a push for later, if it can't go out now and later isn't too late.
    pub(super) fn hold(&mut self, push: &GroupPush, now: Now) -> bool {
        let holds = self.holds(now);
        if holds {
            self.add_held(Waiting::Group(push.clone()));
        }
        holds
    }

    /// The same for a broadcast.
    pub(super) fn hold_broadcast(&mut self, follower: u32, push: &BroadcastPush, now: Now) -> bool {
        let holds = self.holds(now);
        if holds {
            self.add_held(Waiting::Broadcast(follower, push.clone()));
        }
        holds
    }

    fn holds(&self, now: Now) -> bool {
        let waits = self.link_state != LinkState::Live || !self.held.pushes.is_empty();
        self.generation >= 2 && waits && !self.is_away_for_long(now)
    }

    fn add_held(&mut self, push: Waiting) {
        self.held.bytes += weight(&push);
        self.held.pushes.push_back(push);
        while self.held.bytes > MAX_HELD
            && let Some(push) = self.held.pop()
        {
            self.drop_held(push);
        }
    }

    fn drop_held(&mut self, push: Waiting) {
        match push {
            Waiting::Group(_) => self.drop_group_push(),
            Waiting::Broadcast(follower, push) => self.drop_broadcast(follower, push.id),
        }
    }

    /// Sends what was held, as far as `room` bytes go. Call it in every turn.
    pub fn release_held(&mut self, room: usize, now: Now) {
        while self.link_state == LinkState::Live
            && self.link.bytes() < room
            && let Some(push) = self.held.pop()
        {
            let expires_ms = match &push {
                Waiting::Group(push) => push.expires_ms,
                Waiting::Broadcast(_, push) => push.expires_ms,
            };
            match push {
                push if expires_ms != 0 && expires_ms <= now.unix_ms => self.drop_held(push),
                Waiting::Group(push) => self.send_group_push(&push),
                Waiting::Broadcast(follower, push) => self.send_broadcast(follower, &push),
            }
        }
    }

    pub(super) fn tick_held(&mut self, now: Now) {
        if self.link_state == LinkState::Live {
            self.last_live = now.micros;
        } else if self.is_away_for_long(now) {
            while let Some(push) = self.held.pop() {
                self.drop_held(push);
            }
        }
        let worker = self.settings.worker.to_string();
        let held = i64::try_from(self.held.bytes).unwrap_or(i64::MAX);
        if held > 0 || self.held_was > 0 {
            self.shared
                .metrics
                .held_bytes
                .with_label_values(&[worker.as_str()])
                .set(held);
        }
        self.held_was = held;
    }

    pub(super) fn drop_group_push(&self) {
        // At most once; its number shows the gap.
        self.shared
            .metrics
            .pushes
            .with_label_values(&["group_dropped"])
            .inc();
    }

    fn is_away_for_long(&self, now: Now) -> bool {
        self.link_state != LinkState::Live && now.micros.saturating_sub(self.last_live) > LONGEST
    }
}

fn weight(push: &Waiting) -> usize {
    128 + match push {
        Waiting::Group(push) => push.group.len() + push.payload.len(),
        Waiting::Broadcast(_, push) => push.payload.len(),
    }
}
