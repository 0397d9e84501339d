//! Each rule with a history that may have been and one that can't have been, in one place beside each other.

mod faults;
mod presence;
mod pushes;
mod told;

use std::collections::BTreeSet;

use imaccess_wire::Code;

use super::Rule;
use crate::history::limits::Limits;
use crate::history::record::{
    Connection, Device, End, Ending, Fault, FaultKind, Heard, History, Kick, Login, Moment, Part, Presence,
    Push, Query, Said, Session, Sighting, Span, Told,
};
use crate::history::verdict::{Verdict, judge};

const LOST: Told = Told::Offline {
    reason: Code::ConnectionLost as u16,
};
const LEFT: Told = Told::Offline {
    reason: Code::ClientLeft as u16,
};

/// A history being written. Times are milliseconds.
struct Script(History);

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000)
}

fn session(number: u8) -> Session {
    Session([number; 16])
}

impl Script {
    fn new() -> Self {
        Self(History {
            limits: Limits::default(),
            streams: vec!["pod-0.0".to_owned()],
            end: at(1_000_000),
            ..History::default()
        })
    }

    /// A device logs in: its session and epoch are told.
    fn online(&mut self, device: Device, login: u64, of: u8, epoch: u64) -> u32 {
        let number = self.connects(device, login - 20);
        self.0.connections[number as usize].login = Some(Login {
            at: at(login),
            session: session(of),
            epoch,
            resumed: false,
        });
        self.told(login + 5, Told::Online, device, of, epoch);
        number
    }

    /// A device connects and sends its LOGIN.
    fn connects(&mut self, device: Device, begun: u64) -> u32 {
        let number = u32::try_from(self.0.connections.len()).unwrap();
        self.0.connections.push(Connection {
            number,
            device,
            pod: 0,
            begun: at(begun),
            login_sent: Some(at(begun + 5)),
            presented: None,
            login: None,
            end: None,
        });
        number
    }

    fn ends(&mut self, number: u32, ms: u64, how: Ending) {
        self.0.connections[number as usize].end = Some(End {
            from: at(ms),
            at: at(ms + 2),
            how,
        });
    }

    fn push(&mut self, device: Device, ms: u64, said: Said) -> u64 {
        let id = self.0.pushes.len() as u64 + 1;
        self.0.pushes.push(Push {
            id,
            replica: 0,
            devices: vec![device],
            span: Span::new(at(ms), at(ms + 5)),
            answers: Some(vec![said]),
        });
        id
    }

    fn seen(&mut self, push: u64, connection: u32, ms: u64) {
        self.0.sightings.push(Sighting {
            push: Some(push),
            connection,
            at: at(ms),
        });
    }

    fn asked(&mut self, device: Device, ms: u64, said: Presence) {
        self.0.queries.push(Query {
            replica: 0,
            devices: vec![device],
            span: Span::new(at(ms), at(ms + 5)),
            answers: Some(vec![said]),
        });
    }

    fn kicked(&mut self, device: Device, ms: u64, said: Said) {
        self.0.kicks.push(Kick {
            replica: 0,
            device,
            span: Span::new(at(ms), at(ms + 5)),
            answer: Some(said),
        });
    }

    fn told(&mut self, ms: u64, told: Told, device: Device, of: u8, epoch: u64) {
        let sequence = self.0.heard.iter().filter(|heard| heard.stream == 0).count() as u64 + 1;
        self.0.heard.push(Heard {
            at: at(ms),
            stream: 0,
            sequence,
            told,
            device,
            session: session(of),
            epoch,
        });
    }

    fn fault(&mut self, part: Part, kind: FaultKind, from: u64, settled: u64) {
        self.0.faults.push(Fault {
            part,
            kind,
            from: at(from),
            until: at(settled - 10),
            settled: at(settled),
        });
    }

    fn verdict(&self) -> Verdict {
        judge(&self.0)
    }

    /// What it breaks.
    fn breaks(&self) -> BTreeSet<Rule> {
        let violations = self.verdict().violations;
        violations.into_iter().map(|violation| violation.rule).collect()
    }
}

fn only(rule: Rule) -> BTreeSet<Rule> {
    BTreeSet::from([rule])
}

/// Two devices that are online since second 10 and stay.
fn two() -> (Script, u32, u32) {
    let mut script = Script::new();
    let one = script.online(1, 10_000, 1, 100);
    let other = script.online(2, 10_000, 2, 101);
    assert_eq!(script.breaks(), BTreeSet::new());
    (script, one, other)
}
