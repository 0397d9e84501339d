//! How one side of the link leaves without losing anything (link generation 2, see `Quiesce` in link.proto).

use imaccess_proto::v1::{Outcome, Quiesce};
use imaccess_wire::Code;

use super::{LinkState, Machine};
use crate::session::Now;

impl Machine {
    /// What the gateway says of leaving: applied after everything else in its batch.
    pub fn quiesce(&mut self, quiesce: Quiesce) {
        match quiesce {
            Quiesce::Unspecified => {}
            Quiesce::Begin => {
                // Nobody is to be sent anything any more: the gateway reads and writes no socket from here on.
                self.say_done();
            }
            Quiesce::Done if self.link_state == LinkState::Quiesced => {
                // Handed over. A receipt that is still missing won't come.
                self.fail_pushes(Outcome::Unknown);
            }
            Quiesce::Done => self.gateway_is_done = self.quiescing,
        }
    }

    /// Whether the gateway left, or is leaving, with everything said.
    #[must_use]
    pub fn is_quiesced(&self) -> bool {
        self.link_state == LinkState::Quiesced
    }

    /// This side leaves: from now on pushes answer retry. Whether the gateway was told; else it can't be now.
    pub fn begin_leaving(&mut self) -> bool {
        if self.generation < 2 || self.link_state != LinkState::Live {
            return false;
        }
        self.quiescing = true;
        self.gateway_is_done = false;
        self.link.quiesce(Quiesce::Begin);
        true
    }

    /// Whether the gateway has answered that, so that no frame comes any more.
    #[must_use]
    pub fn gateway_is_done(&self) -> bool {
        self.gateway_is_done
    }

    /// Whether a business that is there still has something to be sent or to answer.
    #[must_use]
    pub fn work_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
            || !self.logins.is_empty()
            || self.businesses.iter().any(|it| it.has_requests())
    }

    /// Whether a business that is there hasn't acknowledged all events.
    #[must_use]
    pub fn events_in_flight(&self) -> bool {
        self.businesses.iter().any(|business| business.has_events())
    }

    /// Answers what is in flight with retry: whoever comes next is asked again.
    pub fn give_up_requests(&mut self, now: Now) {
        for id in self.in_flight.all() {
            if let Some(entry) = self.finish(id) {
                self.deliver(&entry, Code::Retry as u16, 0, &[], now);
            }
        }
    }

    /// After what waits, nothing more is said on this link.
    pub fn say_done(&mut self) {
        if self.may_send() {
            // Their LOGIN frames are still in the kernel; whoever comes next reads them again.
            self.logins.clear();
            self.link.quiesce(Quiesce::Done);
            self.link_state = LinkState::Quiesced;
        }
    }
}
