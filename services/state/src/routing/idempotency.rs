//! Which calls were made already, by the keys that callers give them, and how they were answered.
//!
//! ```text
//!            begin                     end
//!   (new) ──────────▶ running ───────────────────▶ ended: repeated for 10 minutes
//!     ▲                  │ forget: it failed, and may be made again
//!     └──────────────────┘
//! ```
//!
//! Pure: time is an argument. What a running call has done isn't known, so it is never forgotten to make room, only answers are:
//! the oldest first. Names and requests are kept as keyed hashes, never themselves.

use std::collections::{HashMap, VecDeque};
use std::hash::Hasher;
use std::time::{Duration, Instant};

use bytes::Bytes;
use siphasher::sip128::{Hasher128, SipHasher24};
use tonic::{Code, Status};

/// Stands for a call's name, or for its request. Two share one with probability 2⁻¹²⁸, and callers can't find such a pair: the
/// hash's key is random per process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u64; 2]);

/// Makes fingerprints: SipHash-2-4-128 under a random key.
#[derive(Debug, Clone)]
pub(crate) struct Fingerprints {
    hasher: SipHasher24,
}

/// How a call was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With this message, encoded.
    Done(Bytes),
    /// With this code and sentence.
    Failed(Code, String),
}

/// What is to be done with a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It is new: to be made, and then ended or forgotten.
    Fresh(Ticket),
    /// It still runs.
    Running,
    /// It was made, and answered so.
    Repeat(Answer),
    /// Another call had its key.
    Other,
    /// So many run that it can't be remembered.
    Full,
}

/// Of one running call.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a call that is begun is ended or forgotten"]
pub(crate) struct Ticket {
    name: Fingerprint,
    bytes: usize,
}

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// For how long an answer is repeated.
    pub(crate) kept_for: Duration,
    /// Calls, running and ended. Each costs about 150 bytes beside its answer.
    pub(crate) calls: usize,
    /// Bytes of answers.
    pub(crate) answer_bytes: usize,
    /// Bytes of the requests of running calls, which go on when their callers go away.
    pub(crate) running_bytes: usize,
}

#[derive(Debug)]
struct Call {
    digest: Fingerprint,
    /// `None` while it runs.
    answer: Option<Answer>,
}

/// The calls of one replica.
#[derive(Debug)]
pub(crate) struct Idempotency {
    bounds: Bounds,
    calls: HashMap<Fingerprint, Call>,
    /// Those that have ended, the oldest first.
    ended: VecDeque<(Instant, Fingerprint)>,
    answer_bytes: usize,
    running_bytes: usize,
    evicted: u64,
}

// === impl Fingerprints ===

impl Fingerprints {
    /// With a key of its own.
    pub(crate) fn random() -> Fingerprints {
        let mut key = [0; 16];
        getrandom::fill(&mut key).expect("the operating system's random source works");
        Fingerprints {
            hasher: SipHasher24::new_with_key(&key),
        }
    }

    /// Of `bytes`: of a key, with its business as `tag`, or of a request, with its kind.
    pub(crate) fn of(&self, tag: u32, bytes: &[u8]) -> Fingerprint {
        let mut hasher = self.hasher;
        hasher.write_u32(tag);
        hasher.write(bytes);
        let hash = hasher.finish128();
        Fingerprint([hash.h1, hash.h2])
    }
}

// === impl Answer ===

impl Answer {
    /// What is kept of a failure; `None` if nothing was done and the call may be made again.
    pub(crate) fn of_failure(status: &Status) -> Option<Answer> {
        match status.code() {
            Code::Unavailable | Code::ResourceExhausted | Code::Aborted => None,
            code => Some(Answer::Failed(code, status.message().to_owned())),
        }
    }

    fn len(&self) -> usize {
        match self {
            Answer::Done(message) => message.len(),
            Answer::Failed(_, sentence) => sentence.len(),
        }
    }
}

// === impl Bounds ===

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            kept_for: Duration::from_secs(600),
            calls: 100_000,
            // An answer for 10,000 devices has 10 KB.
            answer_bytes: 64 << 20,
            // 150 calls of the longest kind at a time.
            running_bytes: 64 << 20,
        }
    }
}

// === impl Idempotency ===

impl Idempotency {
    pub(crate) fn new(bounds: Bounds) -> Idempotency {
        Idempotency {
            bounds,
            calls: HashMap::new(),
            ended: VecDeque::new(),
            answer_bytes: 0,
            running_bytes: 0,
            evicted: 0,
        }
    }

    /// A call comes: `name` stands for business and key, `digest` for everything else in it, of which there are `bytes`.
    pub(crate) fn begin(
        &mut self,
        now: Instant,
        name: Fingerprint,
        digest: Fingerprint,
        bytes: usize,
    ) -> Begun {
        self.expire(now);
        if let Some(call) = self.calls.get(&name) {
            return match &call.answer {
                _ if call.digest != digest => Begun::Other,
                None => Begun::Running,
                Some(answer) => Begun::Repeat(answer.clone()),
            };
        }
        if self.running_bytes + bytes > self.bounds.running_bytes {
            return Begun::Full;
        }
        while self.calls.len() >= self.bounds.calls {
            if !self.evict() {
                return Begun::Full;
            }
        }
        self.running_bytes += bytes;
        let answer = None;
        self.calls.insert(name, Call { digest, answer });
        Begun::Fresh(Ticket { name, bytes })
    }

    /// The call was answered.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is good for one end")]
    pub(crate) fn end(&mut self, now: Instant, ticket: Ticket, answer: Answer) {
        self.running_bytes -= ticket.bytes;
        let Some(call) = self.calls.get_mut(&ticket.name) else {
            return;
        };
        self.answer_bytes += answer.len();
        call.answer = Some(answer);
        self.ended.push_back((now, ticket.name));
        while self.answer_bytes > self.bounds.answer_bytes && self.evict() {}
    }

    /// The call has failed without having done anything: it may be made again.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is good for one end")]
    pub(crate) fn forget(&mut self, ticket: Ticket) {
        self.running_bytes -= ticket.bytes;
        self.calls.remove(&ticket.name);
    }

    /// Calls that are remembered, and the bytes of their answers.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.calls.len(), self.answer_bytes)
    }

    /// How many answers had to make room before their time, since this was last asked.
    pub(crate) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    fn expire(&mut self, now: Instant) {
        while let Some(&(at, _)) = self.ended.front() {
            if now.saturating_duration_since(at) < self.bounds.kept_for {
                return;
            }
            self.drop_oldest();
        }
    }

    fn evict(&mut self) -> bool {
        let dropped = self.drop_oldest();
        self.evicted += u64::from(dropped);
        dropped
    }

    fn drop_oldest(&mut self) -> bool {
        let Some((_, name)) = self.ended.pop_front() else {
            return false;
        };
        let answer = self.calls.remove(&name).and_then(|call| call.answer);
        self.answer_bytes -= answer.as_ref().map_or(0, Answer::len);
        true
    }
}

#[cfg(test)]
mod tests;
