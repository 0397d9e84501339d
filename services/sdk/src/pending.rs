//! What was asked and isn't answered: each with its message id, its deadline, and when to repeat it.
//!
//! Time is an argument. The task that owns a table feeds it (`insert`, `answered`, `connection_lost`), sends what
//! [`Pending::due`] hands out while online, and sleeps until [`Pending::next_wake`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use imaccess_wire::Code;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use crate::error::RequestError;
use crate::message::{GroupName, Reply};

/// First wait before a request is repeated when the answer named none; doubles up to [`MAX_REPEAT`].
const FIRST_REPEAT: Duration = Duration::from_millis(100);
/// Longest wait between repetitions that nobody asked for.
const MAX_REPEAT: Duration = Duration::from_secs(2);

/// Numbers from the oldest unanswered frame to the newest: the access layer can't tell older ones from answered ones, so a
/// repetition would be refused (PROTOCOL.md 4.1).
const WINDOW: u64 = 64;

/// What is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    Request {
        business: u32,
        payload: Bytes,
        metadata: Bytes,
        trace: String,
    },
    Send {
        business: u32,
        payload: Bytes,
        metadata: Bytes,
        trace: String,
    },
    Join(GroupName),
    Leave(GroupName),
}

impl Ask {
    /// Whether it is sent again after a lost connection. A one-way send could arrive twice without the business
    /// being able to tell, so it isn't.
    fn repeats_after_loss(&self) -> bool {
        !matches!(self, Ask::Send { .. })
    }
}

/// How an answer gets to whoever asked.
pub(crate) type Answer = Result<Reply, RequestError>;

/// One thing asked.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) ask: Ask,
    pub(crate) deadline: Instant,
    /// 0 until it was sent for the first time.
    pub(crate) message_id: u64,
    answer: oneshot::Sender<Answer>,
    attempts: u32,
    last: Code,
    wait: Duration,
    progress: Progress,
    /// Counts against the client's bound of things in flight.
    _permit: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Not sent yet.
    New,
    /// To be sent again at this time or later.
    Waiting(Instant),
    /// Sent on the connection that lives now.
    Sent,
}

impl Entry {
    pub(crate) fn new(
        ask: Ask,
        deadline: Instant,
        answer: oneshot::Sender<Answer>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            ask,
            deadline,
            message_id: 0,
            answer,
            attempts: 0,
            last: Code::Ok,
            wait: FIRST_REPEAT,
            progress: Progress::New,
            _permit: permit,
        }
    }

    /// When something has to happen with it.
    fn wake(&self) -> Instant {
        match self.progress {
            Progress::Waiting(at) => at.min(self.deadline),
            Progress::New | Progress::Sent => self.deadline,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        matches!(self.progress, Progress::Waiting(at) if at <= now)
    }

    fn finish(self, answer: Answer) {
        // Whoever asked may have gone away; then nobody is interested.
        let _ = self.answer.send(answer);
    }
}

/// An answer as it came off the wire.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) message_id: u64,
    /// 0: fine; else a code's number.
    pub(crate) number: u16,
    pub(crate) retry_after: Duration,
    pub(crate) reason: String,
    pub(crate) payload: Bytes,
}

/// The table. Its size is bounded by the permits that entries hold.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// By an own number, in the order in which they were asked.
    entries: BTreeMap<u64, Entry>,
    next: u64,
    wakes: BTreeSet<(Instant, u64)>,
    /// Own numbers of what was never sent.
    new: BTreeSet<u64>,
    /// (message id, own number). Two joins of one group share a message id.
    sent: BTreeSet<(u64, u64)>,
    /// Highest message id sent.
    newest: u64,
}

impl Pending {
    /// Takes a new entry, due at once.
    pub(crate) fn insert(&mut self, entry: Entry) {
        let key = self.next;
        self.next += 1;
        self.wakes.insert((entry.wake(), key));
        self.new.insert(key);
        self.entries.insert(key, entry);
    }

    /// When [`due`](Self::due) or [`expire`](Self::expire) has something to do: only deadlines while offline.
    pub(crate) fn next_wake(&self, online: bool) -> Option<Instant> {
        if online {
            return self.wakes.first().map(|(at, _)| *at);
        }
        self.entries.values().map(|entry| entry.deadline).min()
    }

    /// Ends everything whose deadline has passed.
    pub(crate) fn expire(&mut self, now: Instant) {
        let woken = self.wakes.range(..=(now, u64::MAX)).map(|(_, key)| *key);
        let over: Vec<u64> = woken.filter(|key| self.entries[key].deadline <= now).collect();
        for key in over {
            if let Some(entry) = self.take(key) {
                let last = entry.last;
                entry.finish(Err(RequestError::DeadlineExceeded { last }));
            }
        }
    }

    /// The next entry to send: repetitions whose time has come, then new ones as long as the window has room. Send it
    /// and say so ([`sent`](Self::sent), or [`fail`](Self::fail)); call [`expire`](Self::expire) first, then this until
    /// `None`. What nobody waits for any more is forgotten instead.
    pub(crate) fn due(&mut self, now: Instant) -> Option<(u64, &Entry)> {
        let key = loop {
            let mut woken = self.wakes.range(..=(now, u64::MAX)).map(|(_, key)| *key);
            let repeated = woken.find(|key| self.entries[key].is_due(now));
            let key = repeated.or_else(|| self.new.first().copied().filter(|_| self.has_room()))?;
            if !self.entries[&key].answer.is_closed() {
                break key;
            }
            self.take(key);
        };
        Some((key, &self.entries[&key]))
    }

    fn has_room(&self) -> bool {
        self.sent
            .first()
            .is_none_or(|(oldest, _)| self.newest + 1 - oldest < WINDOW)
    }

    /// This entry went out on the connection that lives now, with this message id.
    pub(crate) fn sent(&mut self, key: u64, message_id: u64) {
        self.new.remove(&key);
        self.newest = self.newest.max(message_id);
        self.change(key, |entry| {
            entry.attempts += 1;
            entry.message_id = message_id;
            entry.progress = Progress::Sent;
        });
    }

    /// This entry can't be sent.
    pub(crate) fn fail(&mut self, key: u64, error: RequestError) {
        if let Some(entry) = self.take(key) {
            entry.finish(Err(error));
        }
    }

    /// An answer came. One that nobody waits for changes nothing.
    pub(crate) fn answered(&mut self, verdict: &Verdict, now: Instant) {
        let code = Code::nearest(verdict.number);
        let of_message = (verdict.message_id, 0)..=(verdict.message_id, u64::MAX);
        let keys: Vec<u64> = self.sent.range(of_message).map(|(_, key)| *key).collect();
        for key in keys {
            if code.retryable() {
                self.change(key, |entry| {
                    entry.last = code;
                    entry.progress = Progress::Waiting(now + verdict.retry_after.max(entry.wait));
                    entry.wait = (entry.wait * 2).min(MAX_REPEAT);
                });
            } else if let Some(entry) = self.take(key) {
                let (attempts, payload) = (entry.attempts, verdict.payload.clone());
                entry.finish(if verdict.number == 0 {
                    Ok(Reply { payload, attempts })
                } else {
                    let reason = verdict.reason.clone();
                    Err(RequestError::Refused {
                        code,
                        number: verdict.number,
                        reason,
                        payload,
                    })
                });
            }
        }
    }

    /// The connection is gone: what can be repeated is due on the next one, the rest ends.
    pub(crate) fn connection_lost(&mut self, now: Instant) {
        self.may_be_lost(Code::ConnectionLost, now);
    }

    /// What is under way may have been lost: what can be repeated is due at once, the rest ends.
    pub(crate) fn may_be_lost(&mut self, why: Code, now: Instant) {
        let under_way = |entry: &Entry| entry.progress == Progress::Sent;
        let keys: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| under_way(entry))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            if self.entries[&key].ask.repeats_after_loss() {
                self.change(key, |entry| {
                    entry.last = why;
                    // All at the same time: then they go out in the order of their message ids.
                    entry.progress = Progress::Waiting(now);
                });
            } else if let Some(entry) = self.take(key) {
                entry.finish(Err(RequestError::Unknown));
            }
        }
    }

    /// A new session has begun: what was sent in the old one goes out first, without further waiting, so that message
    /// ids keep rising there.
    pub(crate) fn session_began(&mut self, now: Instant) {
        let keys: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.message_id != 0)
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.change(key, |entry| entry.progress = Progress::Waiting(now));
        }
    }

    /// The client is closed: everything ends.
    pub(crate) fn close(&mut self, code: Code) {
        self.wakes.clear();
        self.new.clear();
        self.sent.clear();
        for (_, entry) in std::mem::take(&mut self.entries) {
            entry.finish(Err(RequestError::Closed { code }));
        }
    }

    fn change(&mut self, key: u64, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&key) {
            self.wakes.remove(&(entry.wake(), key));
            self.sent.remove(&(entry.message_id, key));
            change(entry);
            self.wakes.insert((entry.wake(), key));
            if entry.message_id != 0 {
                self.sent.insert((entry.message_id, key));
            }
        }
    }

    fn take(&mut self, key: u64) -> Option<Entry> {
        let entry = self.entries.remove(&key)?;
        self.new.remove(&key);
        self.wakes.remove(&(entry.wake(), key));
        self.sent.remove(&(entry.message_id, key));
        Some(entry)
    }
}

#[cfg(test)]
mod tests;
