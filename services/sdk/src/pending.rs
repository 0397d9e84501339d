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
                    entry.last = Code::ConnectionLost;
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
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn entry(ask: Ask, asked: Instant, wait_ms: u32) -> (Entry, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        (Entry::new(ask, asked + wait_ms * MS, answer, permit), receiver)
    }

    fn request() -> Ask {
        Ask::Request {
            business: 1,
            payload: Bytes::new(),
            metadata: Bytes::new(),
            trace: String::new(),
        }
    }

    fn send() -> Ask {
        Ask::Send {
            business: 1,
            payload: Bytes::new(),
            metadata: Bytes::new(),
            trace: String::new(),
        }
    }

    fn told(message_id: u64, code: Code, retry_after_ms: u64) -> Verdict {
        let retry_after = Duration::from_millis(retry_after_ms);
        Verdict {
            message_id,
            number: code as u16,
            retry_after,
            reason: String::new(),
            payload: Bytes::new(),
        }
    }

    /// Sends everything that is due, with `next_id` and the following as message ids of what has none.
    fn flush(pending: &mut Pending, now: Instant, mut next_id: u64) -> Vec<u64> {
        let mut sent = Vec::new();
        while let Some((key, entry)) = pending.due(now) {
            let id = if entry.message_id == 0 {
                next_id
            } else {
                entry.message_id
            };
            next_id = next_id.max(id + 1);
            pending.sent(key, id);
            sent.push(id);
        }
        sent
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_request_is_repeated_with_its_id_and_answered_once() {
        let start = Instant::now();
        let mut pending = Pending::default();
        let (request, mut answer) = entry(request(), start, 1_000);
        pending.insert(request);
        assert_eq!(flush(&mut pending, start, 7), [7]);
        pending.answered(&told(7, Code::Retry, 0), start);
        assert_eq!(pending.next_wake(true), Some(start + FIRST_REPEAT));
        assert!(pending.due(start + 99 * MS).is_none());
        assert_eq!(flush(&mut pending, start + 100 * MS, 8), [7]);
        pending.answered(&told(7, Code::Busy, 500), start + 100 * MS);
        assert_eq!(
            pending.next_wake(true),
            Some(start + 600 * MS),
            "what the server asks for is a floor"
        );
        pending.connection_lost(start);
        assert_eq!(
            pending.next_wake(true),
            Some(start + 600 * MS),
            "a loss changes nothing for what waits"
        );
        assert_eq!(flush(&mut pending, start + 600 * MS, 8), [7]);
        pending.connection_lost(start);
        assert_eq!(flush(&mut pending, start + 700 * MS, 8), [7]);
        let payload = Bytes::from_static(b"hi");
        pending.answered(
            &Verdict {
                payload: payload.clone(),
                ..told(7, Code::Ok, 0)
            },
            start + 710 * MS,
        );
        assert_eq!(answer.try_recv().unwrap(), Ok(Reply { payload, attempts: 4 }));
        pending.answered(&told(7, Code::Ok, 0), start + 720 * MS);
        assert_eq!((pending.next_wake(true), pending.next_wake(false)), (None, None));
    }

    #[test]
    fn the_deadline_ends_it_with_what_was_last_told() {
        let start = Instant::now();
        let mut pending = Pending::default();
        let (request, mut answer) = entry(request(), start, 50);
        pending.insert(request);
        flush(&mut pending, start, 1);
        pending.answered(&told(1, Code::BusinessUnavailable, 0), start);
        assert_eq!(pending.next_wake(true), Some(start + 50 * MS));
        pending.expire(start + 49 * MS);
        assert!(answer.try_recv().is_err());
        pending.expire(start + 50 * MS);
        let expected = RequestError::DeadlineExceeded {
            last: Code::BusinessUnavailable,
        };
        assert_eq!(answer.try_recv().unwrap(), Err(expected));
    }

    #[test]
    fn a_send_under_way_is_not_repeated_but_one_that_waits_is_sent() {
        let start = Instant::now();
        let mut pending = Pending::default();
        let (first, mut lost) = entry(send(), start, 1_000);
        pending.insert(first);
        flush(&mut pending, start, 1);
        let (second, mut waits) = entry(send(), start, 1_000);
        pending.insert(second);
        pending.connection_lost(start);
        assert_eq!(lost.try_recv().unwrap(), Err(RequestError::Unknown));
        assert_eq!(flush(&mut pending, start, 2), [2]);
        pending.close(Code::Kicked);
        assert_eq!(
            waits.try_recv().unwrap(),
            Err(RequestError::Closed { code: Code::Kicked })
        );
    }

    #[test]
    fn in_a_new_session_what_was_sent_goes_before_what_was_not() {
        let start = Instant::now();
        let mut pending = Pending::default();
        let (requests, _answers): (Vec<_>, Vec<_>) = (0..3).map(|_| entry(request(), start, 1_000)).unzip();
        for (index, request) in requests.into_iter().enumerate() {
            if index == 2 {
                assert_eq!(flush(&mut pending, start, 1), [1, 2]);
            }
            pending.insert(request);
        }
        pending.answered(&told(1, Code::Retry, 800), start + MS);
        pending.connection_lost(start);
        pending.session_began(start + 2 * MS);
        assert_eq!(flush(&mut pending, start + 2 * MS, 3), [1, 2, 3]);
    }

    #[test]
    fn new_ones_wait_while_the_oldest_unanswered_is_64_numbers_behind() {
        let start = Instant::now();
        let mut pending = Pending::default();
        let (requests, _answers): (Vec<_>, Vec<_>) = (0..100).map(|_| entry(request(), start, 1_000)).unzip();
        requests.into_iter().for_each(|request| pending.insert(request));
        assert_eq!(flush(&mut pending, start, 1), (1..=64).collect::<Vec<_>>());
        assert_eq!(
            pending.next_wake(true),
            Some(start + 1_000 * MS),
            "what has no room wakes nobody"
        );
        pending.answered(&told(2, Code::Ok, 0), start);
        assert_eq!(
            flush(&mut pending, start, 65),
            [] as [u64; 0],
            "the oldest counts"
        );
        pending.answered(&told(1, Code::Ok, 0), start);
        assert_eq!(flush(&mut pending, start, 65), [65, 66]);
    }

    #[test]
    fn what_nobody_waits_for_is_forgotten() {
        let start = Instant::now();
        let mut pending = Pending::default();
        let (request, answer) = entry(request(), start, 50);
        pending.insert(request);
        drop(answer);
        assert!(pending.due(start).is_none());
        assert_eq!(pending.next_wake(true), None);
    }
}
