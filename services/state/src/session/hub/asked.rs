//! What businesses ask of sessions and groups: handed to the workers, whose answers are gathered into one.

use std::sync::Arc;

use imaccess_proto::v1::{
    BroadcastPush, GroupCommand, InstanceAnswer, LostSessions, Outcome, SessionCommand,
};

use super::Hub;
use crate::session::out::{PushReceipt, WorkerAnswer};
use crate::session::worker::ToWorker;

/// The answers of all workers to one command.
pub(super) struct Gathering {
    /// Workers that haven't answered.
    left: usize,
    answer: InstanceAnswer,
}

impl Hub {
    /// Hands commands to their worker; if it is behind, they are answered retry here.
    pub(super) fn command(&mut self, follower: u32, worker: u8, commands: Vec<SessionCommand>) {
        let Some(worker) = self.workers.get(usize::from(worker)) else {
            return;
        };
        let sent = worker.sender.try_send(ToWorker::Commands(follower, commands));
        if let Err(full) = sent
            && let ToWorker::Commands(_, commands) = full.into_inner()
        {
            let retry = |command: SessionCommand| PushReceipt {
                follower,
                id: command.id,
                outcome: Outcome::Retry,
            };
            let named = commands.into_iter().filter(|command| command.id != 0);
            self.receipts(named.map(retry).collect());
        }
    }

    /// Asks every worker, and gathers what they answer.
    pub(super) fn command_groups(&mut self, follower: u32, commands: Vec<GroupCommand>) {
        let ids: Vec<u64> = commands.iter().map(|command| command.id).collect();
        let commands = Arc::new(commands);
        self.ask_all(follower, &ids, || {
            ToWorker::GroupCommands(follower, Arc::clone(&commands))
        });
    }

    /// The same for broadcasts.
    pub(super) fn broadcast(&mut self, follower: u32, pushes: Vec<BroadcastPush>) {
        let ids: Vec<u64> = pushes.iter().map(|push| push.id).collect();
        let pushes = Arc::new(pushes);
        self.ask_all(follower, &ids, || {
            ToWorker::Broadcasts(follower, Arc::clone(&pushes))
        });
    }

    /// Has one worker tell of what another instance had, so that it is told once, also when several replicas say it.
    pub(super) async fn tell_lost(&mut self, follower: u32, lost: Vec<LostSessions>) {
        for lost in &lost {
            let gathering = Gathering {
                left: 1,
                answer: InstanceAnswer {
                    id: lost.id,
                    ..InstanceAnswer::default()
                },
            };
            self.gathered.insert((follower, lost.id), gathering);
        }
        self.tell(0, ToWorker::Lost(follower, lost)).await;
    }

    fn ask_all(&mut self, follower: u32, ids: &[u64], ask: impl Fn() -> ToWorker) {
        let workers = &self.workers;
        for &id in ids {
            let gathering = Gathering {
                left: workers.len(),
                answer: InstanceAnswer {
                    id,
                    ..InstanceAnswer::default()
                },
            };
            self.gathered.insert((follower, id), gathering);
        }
        // A worker that is behind isn't waited for: what it has is missing, and the answer says so.
        let behind = workers
            .iter()
            .filter(|worker| worker.sender.try_send(ask()).is_err())
            .count();
        for _ in 0..behind {
            for &id in ids {
                let mut answer = WorkerAnswer::new(follower, id);
                answer.partial = true;
                self.gather(answer);
            }
        }
    }

    /// One worker's answer; with the last the follower gets the whole.
    pub(super) fn gather(&mut self, part: WorkerAnswer) {
        let key = (part.follower, part.id);
        let Some(gathering) = self.gathered.get_mut(&key) else {
            return;
        };
        gathering.left -= 1;
        gathering.answer.count += part.count;
        gathering.answer.unknown += part.unknown;
        gathering.answer.partial |= part.partial;
        gathering.answer.members.extend(part.members);
        if gathering.left == 0
            && let Some(gathering) = self.gathered.remove(&key)
            && let Some(follower) = self.followers.get_mut(&part.follower)
        {
            follower.answer(gathering.answer);
        }
    }
}
