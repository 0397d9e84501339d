//! What the load has to do at its time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One thing, of the client with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// Let so many more bytes of a request go, on the connection of this count; all that is there, if the last.
    Piece {
        client: u32,
        connection: u32,
        bytes: usize,
        last: bool,
    },
    /// Repeat a request.
    Repeat { client: u32, id: u64 },
    /// Look whether a request's answer is lost.
    Expire { client: u32, id: u64 },
    /// Send a ping.
    Ping { client: u32 },
    /// Write what the socket didn't take.
    Flush { client: u32 },
}

/// All tasks, the next one first. Bounded by what the load has under way: a few per request and one per client.
#[derive(Debug, Default)]
pub(super) struct Agenda(Mutex<BinaryHeap<Reverse<(Duration, Task)>>>);

impl Agenda {
    pub(super) fn add(&self, at: Duration, task: Task) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Reverse((at, task)));
    }

    /// The next task, if its time has come.
    pub(super) fn due(&self, now: Duration) -> Option<Task> {
        let mut heap = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heap.peek().filter(|Reverse((at, _))| *at <= now)?;
        heap.pop().map(|Reverse((_, task))| task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_come_in_the_order_of_their_times() {
        let agenda = Agenda::default();
        let at = Duration::from_millis;
        agenda.add(at(3), Task::Ping { client: 1 });
        agenda.add(at(1), Task::Ping { client: 2 });
        assert_eq!(agenda.due(at(0)), None);
        assert_eq!(agenda.due(at(3)), Some(Task::Ping { client: 2 }));
        assert_eq!(agenda.due(at(3)), Some(Task::Ping { client: 1 }));
        assert_eq!(agenda.due(at(3)), None);
    }
}
