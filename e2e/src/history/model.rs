//! Histories that may have been, made by a model of a cluster much smaller than the cluster: what the rules must let pass, and, changed in
//! one place, must not.
//!
//! A device is played on its own, in the order of time; an epoch is the time of its login. Pods forget nothing: faults delay, end some
//! connections, and let logins take effect late.

mod change;
mod looks;
mod tests;

use std::time::Duration;

use fastrand::Rng;
use imaccess_wire::Code;

use super::limits::Limits;
use super::record::{
    Connection, Device, End, Ending, Fault, FaultKind, Heard, History, Kick, Login, Moment, Part, Said,
    Session, Span, Told,
};

const PODS: usize = 3;
const REPLICAS: usize = 2;
const DEVICES: Device = 6;
/// Nothing begins later.
const LENGTH: Duration = Duration::from_secs(120);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// An event without its place in a stream.
type Tale = (Moment, usize, Told, Device, Session, u64);

struct World {
    random: Rng,
    history: History,
    tales: Vec<Tale>,
}

/// A history that may have been.
pub(super) fn legal(seed: u64) -> History {
    let mut world = World {
        random: Rng::with_seed(seed),
        history: History {
            limits: Limits::default(),
            ..History::default()
        },
        tales: Vec::new(),
    };
    if world.random.bool() {
        world.do_faults();
    }
    for device in 0..DEVICES {
        world.play(device);
    }
    world.tell();
    let end = Moment(0).plus(LENGTH).plus(Duration::from_secs(120));
    world.history.end = end;
    world.history
}

/// A session and its connection, as the device has it now.
#[derive(Clone, Copy)]
struct Here {
    number: u32,
    pod: usize,
    session: Session,
    epoch: u64,
    since: Moment,
}

impl World {
    /// Each part has a time of its own for faults, so that no pod is lost.
    fn do_faults(&mut self) {
        for pod in 0..PODS {
            let mut at = Moment(0);
            for _ in 0..self.random.usize(0..4) {
                at = at.plus(ms(self.random.u64(8_000..30_000)));
                let part = if self.random.bool() {
                    Part::Gateway(pod)
                } else {
                    Part::State(pod)
                };
                let kind = if self.random.bool() {
                    FaultKind::Kill
                } else {
                    FaultKind::Pause
                };
                let until = at.plus(ms(self.random.u64(100..5_000)));
                let settled = until.plus(ms(200));
                self.history.faults.push(Fault {
                    part,
                    kind,
                    from: at,
                    until,
                    settled,
                });
                at = settled;
            }
        }
    }

    /// The fault of a pod's parts at a moment.
    fn fault(&self, pod: usize, at: Moment) -> Option<Fault> {
        let of_pod = |part: Part| part == Part::Gateway(pod) || part == Part::State(pod);
        let faults = self.history.faults.iter();
        let mut now = faults.filter(|fault| of_pod(fault.part) && fault.from <= at && at <= fault.settled);
        now.next().copied()
    }

    /// When a pod can do what is due at a moment.
    fn when_well(&self, pod: usize, at: Moment) -> Moment {
        self.fault(pod, at).map_or(at, |fault| fault.settled.plus(ms(10)))
    }

    fn session(&mut self) -> Session {
        Session(self.random.u128(..).to_le_bytes())
    }

    fn tale(&mut self, at: Moment, here: Here, device: Device, told: Told) {
        let at = self.when_well(here.pod, at);
        self.tales
            .push((at, here.pod, told, device, here.session, here.epoch));
    }

    /// A device's life.
    fn play(&mut self, device: Device) {
        let mut at = Moment(self.random.u64(1_000..5_000_000));
        // The session that it may resume, until when, and where it was.
        let mut kept: Option<(Session, usize)> = None;
        while at < Moment(0).plus(LENGTH) {
            let pod = self.random.usize(..PODS);
            if self.fault(pod, at).is_some() || self.fault(pod, at.plus(ms(30))).is_some() {
                at = self.in_vain(device, pod, at, kept.is_none());
                continue;
            }
            let mut here = self.log_in(device, pod, at, kept);
            let mut until = here.since.plus(ms(self.random.u64(200..15_000)));
            while self.random.u8(..5) == 0 && self.fault(here.pod, until).is_none() {
                here = self.elsewhere(device, here, &mut until);
            }
            self.look(device, here, until);
            (at, kept) = self.leave(device, here, until);
        }
    }

    /// A login at a pod that is at fault; it may take effect afterwards, if nothing else of the device is in doubt then.
    fn in_vain(&mut self, device: Device, pod: usize, at: Moment, alone: bool) -> Moment {
        let settled = self
            .fault(pod, at)
            .or_else(|| self.fault(pod, at.plus(ms(30))))
            .map_or(at, |fault| fault.settled);
        let taken = alone && self.random.bool();
        let given_up = at.plus(ms(self.random.u64(10..1_000)));
        let number = self.connect(device, pod, at, taken.then(|| at.plus(ms(1))), None);
        let how = if taken { Ending::Cut } else { Ending::NotTaken };
        self.end(number, given_up, how);
        if !taken || self.random.bool() {
            return given_up.plus(ms(self.random.u64(100..1_500)));
        }
        let effect = settled.plus(ms(40));
        let here = Here {
            number,
            pod,
            session: self.session(),
            epoch: effect.0,
            since: effect,
        };
        self.tale(effect.plus(ms(5)), here, device, Told::Online);
        let reason = Code::ConnectionLost as u16;
        let over = self.when_over(pod, effect.max(given_up)).plus(ms(100));
        self.tale(over, here, device, Told::Offline { reason });
        self.when_well(pod, over).plus(ms(500))
    }

    fn connect(
        &mut self,
        device: Device,
        pod: usize,
        begun: Moment,
        login_sent: Option<Moment>,
        presented: Option<Session>,
    ) -> u32 {
        let number = u32::try_from(self.history.connections.len()).unwrap();
        self.history.connections.push(Connection {
            number,
            device,
            pod,
            begun,
            login_sent,
            presented,
            login: None,
            end: None,
        });
        number
    }

    fn end(&mut self, number: u32, from: Moment, how: Ending) {
        let at = from.plus(ms(2));
        self.history.connections[number as usize].end = Some(End { from, at, how });
    }

    fn log_in(&mut self, device: Device, pod: usize, at: Moment, kept: Option<(Session, usize)>) -> Here {
        let resumed = kept.filter(|_| self.random.bool());
        let presented = resumed.map(|(session, _)| session);
        let number = self.connect(device, pod, at, Some(at.plus(ms(1))), presented);
        let session = presented.unwrap_or_else(|| self.session());
        let here = Here {
            number,
            pod,
            session,
            epoch: at.plus(ms(10)).0,
            since: at.plus(ms(20)),
        };
        self.history.connections[number as usize].login = Some(Login {
            at: here.since,
            session,
            epoch: here.epoch,
            resumed: resumed.is_some(),
        });
        if resumed.is_none_or(|(_, before)| before != pod) {
            self.tale(at.plus(ms(25)), here, device, Told::Online);
        }
        here
    }

    /// Another login while the connection is there.
    fn elsewhere(&mut self, device: Device, here: Here, until: &mut Moment) -> Here {
        let pod = self.random.usize(..PODS);
        let at = *until;
        if self.fault(pod, at).is_some() || self.fault(pod, at.plus(ms(30))).is_some() {
            return here;
        }
        self.look(device, here, at);
        let next = self.log_in(device, pod, at, Some((here.session, here.pod)));
        let code = if next.session == here.session {
            Code::Moved
        } else {
            Code::Superseded
        };
        let closed = self.when_well(here.pod, next.since.plus(ms(20)));
        let how = Ending::Closed {
            code: code as u16,
            resumable: false,
        };
        self.end(here.number, closed, how);
        *until = closed.plus(ms(self.random.u64(200..8_000)));
        next
    }

    /// Whether a connection may be lost at a moment: its gateway was killed and hadn't lost two before, or a part is away for longer than
    /// the other one waits for it.
    fn may_be_lost(&self, pod: usize, at: Moment) -> bool {
        let Some(fault) = self.fault(pod, at) else {
            return false;
        };
        let torn = self.history.connections.iter().filter(|one| {
            let end = one.end.filter(|end| end.how == Ending::Lost);
            one.pod == pod && end.is_some_and(|end| end.at >= fault.from && end.from <= fault.settled)
        });
        let killed = fault.part == Part::Gateway(pod) && fault.kind == FaultKind::Kill;
        let waited = fault.from.plus(self.history.limits.dead_man);
        (killed && torn.count() < 2) || waited <= at
    }

    /// When a session that lost its connection at a moment is over.
    fn when_over(&self, pod: usize, at: Moment) -> Moment {
        let window = self.history.limits.resume_window;
        let over = self.when_well(pod, at).plus(window);
        self.when_well(pod, over)
    }

    /// The connection ends. When the device may come again, and with what.
    fn leave(&mut self, device: Device, here: Here, at: Moment) -> (Moment, Option<(Session, usize)>) {
        let well = self.fault(here.pod, at).is_none() && self.fault(here.pod, at.plus(ms(300))).is_none();
        let way = self.random.u8(..10);
        if way < 2 {
            self.end(here.number, at, Ending::Left);
            let reason = Code::ClientLeft as u16;
            let told = self.when_well(here.pod, at.plus(ms(30)));
            self.tale(told, here, device, Told::Offline { reason });
            return (self.absence(device, told), None);
        }
        if way < 4 && well {
            self.history.kicks.push(Kick {
                replica: self.random.usize(..REPLICAS),
                device,
                span: Span::new(at, at.plus(ms(5))),
                answer: Some(Said::Done),
            });
            let code = Code::Kicked as u16;
            let how = Ending::Closed {
                code,
                resumable: false,
            };
            self.end(here.number, at.plus(ms(10)), how);
            self.tale(at.plus(ms(20)), here, device, Told::Offline { reason: code });
            return (self.absence(device, at.plus(ms(20))), None);
        }
        let how = if self.may_be_lost(here.pod, at) && self.random.bool() {
            Ending::Lost
        } else {
            Ending::Cut
        };
        self.end(here.number, at, how);
        let goes_on = at.plus(Duration::from_secs(5)) < Moment(0).plus(LENGTH);
        if goes_on && self.random.bool() {
            // Back in time.
            let next = at.plus(ms(self.random.u64(50..1_000)));
            return (next, Some((here.session, here.pod)));
        }
        let over = self.when_over(here.pod, at).plus(ms(100));
        let reason = Code::ConnectionLost as u16;
        self.tale(over, here, device, Told::Offline { reason });
        (self.absence(device, self.when_well(here.pod, over)), None)
    }
}

/// What is told of it all.
impl World {
    /// Puts the events on streams: a sidecar that was killed comes with another, and tells its last event again.
    fn tell(&mut self) {
        self.tales.sort_by_key(|tale| tale.0);
        for pod in 0..PODS {
            let mut kills: Vec<Moment> = self
                .history
                .faults
                .iter()
                .filter(|fault| fault.part == Part::State(pod) && fault.kind == FaultKind::Kill)
                .map(|fault| fault.settled)
                .collect();
            kills.sort();
            kills.reverse();
            let (mut stream, mut sequence, mut last) = (self.stream(pod), 0, None);
            let tales: Vec<Tale> = self.tales.iter().filter(|tale| tale.1 == pod).copied().collect();
            for tale in tales {
                if kills.last().is_some_and(|settled| *settled <= tale.0) {
                    kills.pop();
                    (stream, sequence) = (self.stream(pod), 0);
                    if let Some((_, pod, told, device, session, epoch)) = last {
                        sequence += 1;
                        self.hear((tale.0, pod, told, device, session, epoch), stream, sequence);
                    }
                }
                sequence += 1;
                self.hear(tale, stream, sequence);
                last = Some(tale);
            }
        }
        self.history
            .heard
            .sort_by_key(|heard| (heard.at, heard.stream, heard.sequence));
    }

    fn stream(&mut self, pod: usize) -> u32 {
        self.history.streams.push(format!("pod-{pod}.0"));
        u32::try_from(self.history.streams.len() - 1).unwrap()
    }

    fn hear(&mut self, (at, _, told, device, session, epoch): Tale, stream: u32, sequence: u64) {
        self.history.heard.push(Heard {
            at,
            stream,
            sequence,
            told,
            device,
            session,
            epoch,
        });
    }
}
