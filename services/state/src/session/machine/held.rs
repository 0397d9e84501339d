//! Group pushes that came while the gateway was being replaced: kept in order for a few seconds, and sent when the link
//! is complete again.

use std::collections::VecDeque;

use imaccess_proto::v1::GroupPush;

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
    pushes: VecDeque<GroupPush>,
    bytes: usize,
}

impl Held {
    fn pop(&mut self) -> Option<GroupPush> {
        let push = self.pushes.pop_front()?;
        self.bytes -= weight(&push);
        Some(push)
    }
}

impl Machine {
    /// Keeps a push for later, if it can't go out now and later isn't too late.
    pub(super) fn hold(&mut self, push: &GroupPush, now: Now) -> bool {
        let waits = self.link_state != LinkState::Live || !self.held.pushes.is_empty();
        if self.generation < 2 || !waits || self.is_away_for_long(now) {
            return false;
        }
        self.held.bytes += weight(push);
        self.held.pushes.push_back(push.clone());
        while self.held.bytes > MAX_HELD && self.held.pop().is_some() {
            self.drop_group_push();
        }
        true
    }

    /// Sends what was held, as far as `room` bytes go. Call it in every turn.
    pub fn release_held(&mut self, room: usize, now: Now) {
        while self.link_state == LinkState::Live
            && self.link.bytes() < room
            && let Some(push) = self.held.pop()
        {
            if push.expires_ms != 0 && push.expires_ms <= now.unix_ms {
                self.drop_group_push();
            } else {
                self.send_group_push(&push);
            }
        }
    }

    pub(super) fn tick_held(&mut self, now: Now) {
        if self.link_state == LinkState::Live {
            self.last_live = now.micros;
        } else if self.is_away_for_long(now) {
            while self.held.pop().is_some() {
                self.drop_group_push();
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

fn weight(push: &GroupPush) -> usize {
    128 + push.group.len() + push.payload.len()
}
