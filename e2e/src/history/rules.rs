//! What must hold, a rule a file.
//!
//! Rules read a [`Case`] and write a [`Verdict`]. They don't depend on each other.

mod causes;
mod closes;
mod delivery;
mod events;
mod ghosts;
mod kicks;
mod offline;
mod pushes;
mod recovery;
mod told;

use std::collections::BTreeMap;
use std::fmt;

use super::health::Health;
use super::limits::Limits;
use super::record::{Device, Heard, History};
use super::timeline::Timeline;
use super::verdict::Verdict;

/// A history with all that was derived from it.
pub struct Case<'a> {
    /// What was seen.
    pub history: &'a History,
    /// By which it is judged.
    pub limits: &'a Limits,
    /// Faults.
    pub health: &'a Health<'a>,
    /// Of every device that ever did anything.
    pub timelines: &'a BTreeMap<Device, Timeline<'a>>,
    /// What was told of each device, in the order in which it was heard.
    pub heard: &'a BTreeMap<Device, Vec<&'a Heard>>,
}

impl Case<'_> {
    /// What was told of a device.
    #[must_use]
    pub fn heard_of(&self, device: Device) -> &[&Heard] {
        self.heard.get(&device).map_or(&[], Vec::as_slice)
    }

    /// Who told an event.
    #[must_use]
    pub fn dialler(&self, heard: &Heard) -> &str {
        let streams = &self.history.streams;
        let name = streams.get(heard.stream as usize);
        name.map_or("nobody", String::as_str)
    }

    /// The pod of who told an event: sidecars are called by their gateway's name, which ends in the pod's number, and more behind it.
    #[must_use]
    pub fn teller(&self, heard: &Heard) -> Option<usize> {
        let name = self.dialler(heard).split('/').next()?;
        let number = name.rsplit('-').next()?;
        number.split('.').next()?.parse().ok()
    }
}

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        /// What must hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Its name in reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

rules! {
    /// A push comes only to a device that it was sent to, and holds what was sent.
    WrongDevice = "push_at_a_wrong_device";
    /// A push comes once.
    Doubled = "push_seen_twice";
    /// A push comes to no connection that another login of its device had replaced before it was sent.
    ReplacedConnection = "push_at_a_replaced_connection";
    /// A push that was said to have gone nowhere comes nowhere.
    SeenAfterRefusal = "push_seen_though_refused";
    /// A push that was written to a client that goes on reading is read.
    WrittenNotSeen = "push_written_and_not_seen";
    /// A device with a session is not said to be offline, by an answer or an event.
    FalseOffline = "offline_for_a_connected_device";
    /// Nor is one whose session can be resumed still.
    EarlyOffline = "offline_before_the_window_passed";
    /// A device without a session is not said to be online, by an answer.
    Ghost = "online_for_a_device_that_is_gone";
    /// And its business is told that it is offline.
    NotTold = "offline_never_told_or_late";
    /// An event is about something that happened, and says why rightly.
    UnexplainedEvent = "event_without_a_cause";
    /// An event is told once, or again on another stream as it was.
    RepeatedEvent = "event_told_twice";
    /// What one dialler tells of a device comes in the order of epochs, each stream counted without gaps.
    EventOrder = "events_out_of_order";
    /// A session that began is told.
    OnlineNotTold = "online_never_told";
    /// A kick that is done ends the session, and says so to client and business.
    Kicked = "kick_without_effect";
    /// A connection that ends by others' doing has a cause, and its code says which.
    UnexplainedClose = "close_without_a_cause";
    /// A part is whole again soon after its fault: what it excuses has an end.
    SlowRecovery = "part_not_whole_in_time";
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Judges by all of them.
pub fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    pushes::judge(case, verdict);
    delivery::judge(case, verdict);
    offline::judge(case, verdict);
    ghosts::judge(case, verdict);
    told::judge(case, verdict);
    events::judge(case, verdict);
    causes::judge(case, verdict);
    kicks::judge(case, verdict);
    closes::judge(case, verdict);
    recovery::judge(case, verdict);
}

#[cfg(test)]
mod tests;
