//! A device's life: it comes, stays, goes, and comes again.

use std::sync::Arc;

use fastrand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::choice::{self, Parting, Temper};
use super::line::{Held, Line, Opened, Recorded, Ticket};
use super::{Ground, Phase};
use crate::history::record::{Connection, Device, Sighting};

/// What a device wrote down.
#[derive(Default)]
pub(super) struct Lived {
    pub(super) connections: Vec<Connection>,
    pub(super) sightings: Vec<Sighting>,
}

impl Lived {
    fn add(&mut self, (connection, sightings): Recorded) {
        self.connections.push(connection);
        self.sightings.extend(sightings);
    }
}

/// One device.
struct Life {
    ground: Arc<Ground>,
    device: Device,
    random: Rng,
    temper: Temper,
    phases: watch::Receiver<Phase>,
    ticket: Option<Ticket>,
    lived: Lived,
    /// Connections that a later login has replaced, read until they end.
    old: JoinSet<Recorded>,
}

/// Until it was told to leave, and has.
pub(super) async fn live(ground: Arc<Ground>, device: Device, phases: watch::Receiver<Phase>) -> Lived {
    let mut random = Rng::with_seed(ground.plan.seed ^ (u64::from(device) << 32));
    let temper = Temper::of(&mut random);
    let mut life = Life {
        ground,
        device,
        random,
        temper,
        phases,
        ticket: None,
        lived: Lived::default(),
        old: JoinSet::new(),
    };
    // Not all at the same moment.
    sleep(choice::backoff(&mut life.random)).await;
    while life.phase() != Phase::Leave {
        if let Some(line) = life.come().await {
            life.ground.set_online(device, true);
            let ended = life.stay(line).await;
            life.ground.set_online(device, false);
            life.lived.add(ended);
        }
        life.away().await;
    }
    while let Some(ended) = life.old.join_next().await {
        // One that panicked has nothing to say; the run fails with it elsewhere.
        if let Ok(ended) = ended {
            life.lived.add(ended);
        }
    }
    life.lived
}

impl Life {
    fn phase(&self) -> Phase {
        *self.phases.borrow()
    }

    /// A connection, if it can be had now.
    async fn come(&mut self) -> Option<Box<Line>> {
        let pod = self.random.usize(..self.ground.gateways.len());
        let ticket = self.ticket.clone().filter(|_| self.random.u8(..10) < 7);
        let patience = choice::patience(&mut self.random);
        match Line::open(&self.ground, self.device, pod, ticket.as_ref(), patience).await {
            Opened::Online(line, ticket) => {
                self.ticket = ticket;
                Some(line)
            }
            Opened::Not(seen) => {
                self.lived.connections.push(seen);
                None
            }
        }
    }

    /// Until the connection has ended, by whomever.
    async fn stay(&mut self, mut line: Box<Line>) -> Recorded {
        loop {
            // Also when the change was noticed elsewhere: nobody is told of it twice.
            if self.phase() == Phase::Leave {
                let goodbye = self.random.bool();
                return self.part(line, goodbye).await;
            }
            let restless = self.temper == Temper::Restless && self.phase() == Phase::Busy;
            let until = restless.then(|| Instant::now() + choice::stay(&mut self.random));
            match line.hold(&self.ground, until, &mut self.phases).await {
                Held::Ended => return self.ended(line),
                Held::Phase => {}
                Held::Time => match Parting::by(&mut self.random) {
                    Parting::Leave => return self.part(line, true).await,
                    Parting::Cut => return self.part(line, false).await,
                    Parting::Elsewhere { resume } => {
                        let (next, has_ended) = self.elsewhere(line, resume).await;
                        if has_ended {
                            return self.ended(next);
                        }
                        line = next;
                    }
                },
            }
        }
    }

    fn ended(&mut self, line: Box<Line>) -> Recorded {
        if !line.is_resumable() {
            self.ticket = None;
        }
        line.record()
    }

    /// Leaves, with a goodbye or without.
    async fn part(&mut self, line: Box<Line>, goodbye: bool) -> Recorded {
        if goodbye {
            self.ticket = None;
            line.leave(&self.ground).await
        } else {
            line.cut(&self.ground)
        }
    }

    /// Logs in once more; the old connection is read on until it ends. The connection to go on with, and whether it has ended.
    async fn elsewhere(&mut self, mut line: Box<Line>, resume: bool) -> (Box<Line>, bool) {
        let pod = self.random.usize(..self.ground.gateways.len());
        let ticket = self.ticket.clone().filter(|_| resume);
        let patience = choice::patience(&mut self.random);
        let open = Line::open(&self.ground, self.device, pod, ticket.as_ref(), patience);
        tokio::pin!(open);
        let mut has_ended = false;
        let opened = loop {
            tokio::select! {
                biased;
                held = line.hold(&self.ground, None, &mut self.phases), if !has_ended => {
                    has_ended = matches!(held, Held::Ended);
                }
                opened = &mut open => break opened,
            }
        };
        match opened {
            Opened::Online(next, ticket) => {
                self.ticket = ticket;
                if has_ended {
                    self.lived.add(line.record());
                } else {
                    let read_out = read_out(line, Arc::clone(&self.ground), self.phases.clone());
                    self.old.spawn(read_out);
                }
                (next, false)
            }
            Opened::Not(seen) => {
                self.lived.connections.push(seen);
                (line, has_ended)
            }
        }
    }

    /// Until the device comes again, or is to be elsewhere.
    async fn away(&mut self) {
        let busy = self.phase() == Phase::Busy;
        let has_failed = self
            .lived
            .connections
            .last()
            .is_some_and(|last| last.login.is_none());
        let time = if busy && self.temper == Temper::Restless && !has_failed {
            choice::absence(&mut self.random, &self.ground.plan.limits)
        } else {
            choice::backoff(&mut self.random)
        };
        tokio::select! {
            () = sleep(time) => {}
            // Also when nobody says any more where to be.
            _ = self.phases.changed() => {}
        }
    }
}

/// Reads a connection that was replaced, until it ends, or all are to leave.
async fn read_out(mut line: Box<Line>, ground: Arc<Ground>, mut phases: watch::Receiver<Phase>) -> Recorded {
    // The change may have been noticed before this began.
    while *phases.borrow() != Phase::Leave {
        if let Held::Ended = line.hold(&ground, None, &mut phases).await {
            return line.record();
        }
    }
    line.cut(&ground)
}
