//! The pod's end: the gateway has gone for good, and its sessions go on elsewhere or are over. The sidecar stays until it knows of each.

use super::link::Gone;
use super::{LinkState, Machine};
use crate::session::Now;

/// What a sidecar that ends now would never say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Owed {
    /// Sessions that may still be resumed elsewhere, or whose end routing hasn't confirmed: if they aren't resumed, nobody would tell
    /// their businesses.
    pub sessions: usize,
    /// Events that businesses haven't acknowledged.
    pub events: usize,
}

impl Owed {
    /// Whether that is nothing.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

impl Machine {
    /// Whether there is no gateway.
    #[must_use]
    pub fn link_is_down(&self) -> bool {
        self.link_state == LinkState::Down
    }

    /// No gateway will come: whoever was still connected isn't any more. Sessions may be resumed elsewhere for as long as ever.
    pub fn begin_ending(&mut self, now: Now) {
        self.drain();
        self.connections_gone(&Gone::All, now);
    }

    /// What is still to be said.
    #[must_use]
    pub fn owed(&self) -> Owed {
        Owed {
            sessions: self.table.len(),
            events: self.businesses.iter().map(|business| business.events.len()).sum(),
        }
    }
}
