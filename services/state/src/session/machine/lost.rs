//! The sessions of another instance that is lost: their businesses are told here, once, however many replicas say so.

use std::collections::{HashSet, VecDeque};

use imaccess_proto::v1::{EventKind, LostSessions};
use imaccess_wire::Code;

use super::Machine;
use super::business::Life;
use crate::session::Now;
use crate::session::out::WorkerAnswer;
use crate::session::record::{Identity, Record};

/// Sessions remembered as told: 24 bytes each, and as much for finding them. Replicas say the same within seconds.
const MOST: usize = 262_144;

/// Sessions that were told of lately, each by its id and epoch.
#[derive(Debug, Default)]
pub(super) struct Told {
    known: HashSet<([u8; 16], u64)>,
    order: VecDeque<([u8; 16], u64)>,
}

impl Told {
    /// Whether it is new.
    fn note(&mut self, session: [u8; 16], epoch: u64) -> bool {
        if !self.known.insert((session, epoch)) {
            return false;
        }
        self.order.push_back((session, epoch));
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

impl Machine {
    /// What another instance had when it was given up. A session that is here now goes on, and nothing is told of it.
    pub fn lost_elsewhere(&mut self, follower: u32, lost: &LostSessions, now: Now) {
        let mut answer = WorkerAnswer::new(follower, lost.id);
        for session in &lost.sessions {
            let Ok(id) = <[u8; 16]>::try_from(&session.session[..]) else {
                continue;
            };
            let goes_on = self
                .table
                .by_device(&session.app, &session.device)
                .and_then(|key| self.table.get(key))
                .is_some_and(|record| record.epoch >= session.epoch);
            if goes_on || !self.told.note(id, session.epoch) {
                continue;
            }
            answer.count += 1;
            let record = Record::new(id, session.epoch, Identity::new(&session.app, &session.device));
            for business in self
                .businesses
                .iter_mut()
                .filter(|business| business.config.events && business.life == Life::Serving)
            {
                let reason = Code::InstanceLost as u16;
                business
                    .events
                    .add(EventKind::Offline, &record, reason, now.unix_ms);
                business.note_events();
            }
        }
        self.events_done();
        self.routes.answers.push(answer);
    }
}
