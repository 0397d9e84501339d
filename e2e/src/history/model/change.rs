//! Changes in one place that make of a history one that can't have been.

mod calls;
mod events;

use std::time::Duration;

use fastrand::Rng;

use super::super::record::{Connection, History, Moment, Part};
use super::super::rules::Rule;
use calls::*;
use events::*;

/// One of them.
pub(super) struct Change {
    pub(super) name: &'static str,
    /// What it breaks at least.
    pub(super) rule: Rule,
    /// Whether the history had a place for it.
    pub(super) make: fn(&mut History, &mut Rng) -> bool,
}

/// All of them.
pub(super) const CHANGES: &[Change] = &[
    Change {
        name: "a push comes to another device",
        rule: Rule::WrongDevice,
        make: to_another_device,
    },
    Change {
        name: "a push comes that nobody sent",
        rule: Rule::WrongDevice,
        make: from_nobody,
    },
    Change {
        name: "a push comes twice",
        rule: Rule::Doubled,
        make: twice,
    },
    Change {
        name: "a push comes to a connection that was replaced",
        rule: Rule::ReplacedConnection,
        make: to_the_old_connection,
    },
    Change {
        name: "a push that came was answered offline",
        rule: Rule::SeenAfterRefusal,
        make: refused_and_seen,
    },
    Change {
        name: "a push that was written doesn't come",
        rule: Rule::WrittenNotSeen,
        make: written_and_not_seen,
    },
    Change {
        name: "a connected device is said to be offline",
        rule: Rule::FalseOffline,
        make: offline_while_connected,
    },
    Change {
        name: "a device is told as offline while it is connected",
        rule: Rule::FalseOffline,
        make: told_offline_while_connected,
    },
    Change {
        name: "a session that has gone on elsewhere is told as offline",
        rule: Rule::FalseOffline,
        make: told_offline_after_it_went_on,
    },
    Change {
        name: "a device that may resume is said to be offline",
        rule: Rule::EarlyOffline,
        make: offline_before_the_window,
    },
    Change {
        name: "a device that is gone is said to be online",
        rule: Rule::Ghost,
        make: online_when_gone,
    },
    Change {
        name: "a push to a device that is gone is written",
        rule: Rule::Ghost,
        make: written_when_gone,
    },
    Change {
        name: "the end of a session isn't told",
        rule: Rule::NotTold,
        make: end_not_told,
    },
    Change {
        name: "the end of a session is told late",
        rule: Rule::NotTold,
        make: end_told_late,
    },
    Change {
        name: "a session begins that nobody began",
        rule: Rule::UnexplainedEvent,
        make: nobodys_session,
    },
    Change {
        name: "a session is said to be over because its client left, and it hadn't",
        rule: Rule::UnexplainedEvent,
        make: another_reason,
    },
    Change {
        name: "an event comes twice on one stream",
        rule: Rule::RepeatedEvent,
        make: event_again,
    },
    Change {
        name: "two events change places",
        rule: Rule::EventOrder,
        make: swapped_events,
    },
    Change {
        name: "the beginning of a session isn't told",
        rule: Rule::OnlineNotTold,
        make: beginning_not_told,
    },
    Change {
        name: "a kick is done and the connection goes on",
        rule: Rule::Kicked,
        make: kicked_and_there,
    },
    Change {
        name: "a connection is closed as replaced, and nothing replaced it",
        rule: Rule::UnexplainedClose,
        make: replaced_by_nothing,
    },
    Change {
        name: "a connection is lost while all parts run",
        rule: Rule::UnexplainedClose,
        make: lost_without_a_fault,
    },
    Change {
        name: "a part isn't whole for long after its fault",
        rule: Rule::SlowRecovery,
        make: whole_late,
    },
];

/// Any one of these.
fn any<T>(random: &mut Rng, list: Vec<T>) -> Option<T> {
    let place = (!list.is_empty()).then(|| random.usize(..list.len()))?;
    list.into_iter().nth(place)
}

/// Connections that lasted for so long after their login, at pods that never were at fault, of devices that never tried in vain and of
/// which no other connection was there at that time.
fn lasting(history: &History, time: Duration) -> Vec<Connection> {
    let faulty = |pod: usize| {
        history
            .faults
            .iter()
            .any(|fault| fault.part == Part::Gateway(pod) || fault.part == Part::State(pod))
    };
    let simple = |one: &&Connection| {
        let of_device = || {
            history
                .connections
                .iter()
                .filter(|other| other.device == one.device)
        };
        let login = one.login.map_or(Moment::NEVER, |login| login.at);
        let end = one.end.map_or(Moment(0), |end| end.from);
        let alone = of_device().all(|other| {
            let over = other.end.map_or(Moment::NEVER, |end| end.at);
            other.number == one.number || over < one.begun || other.begun > end
        });
        let sure = of_device().all(|other| !faulty(other.pod));
        alone && sure && login.plus(time) < end
    };
    history.connections.iter().filter(simple).cloned().collect()
}

/// A moment of a connection's life, so long after its login.
fn within(one: &Connection, time: Duration) -> Moment {
    one.login.map_or(one.begun, |login| login.at).plus(time)
}

/// Devices that were gone for so long before they came again, or for good, with the moment.
fn gone_for(history: &History, time: Duration) -> Vec<(Connection, Moment)> {
    let ends = lasting(history, Duration::ZERO).into_iter();
    ends.filter_map(|one| {
        let gone = one.end?.at.plus(time);
        let back = history
            .connections
            .iter()
            .any(|other| other.device == one.device && other.number > one.number && other.begun <= gone);
        (!back).then_some((one, gone))
    })
    .collect()
}
