//! What one client asked and was told: every byte read is looked at here. Pure; time is an argument, counted from
//! the load's start.

use std::time::Duration;

use imaccess_wire::frame::Reply;
use imaccess_wire::header::{ProtocolError, Split};
use imaccess_wire::{Code, Frame, FrameBuffer, FrameType, Limits};

use super::payload::{self, Length, Origin, Verdict};
use super::positions::Positions;

/// Without any reply for this long, an attempt's answer is lost.
pub const LOST: Duration = Duration::from_secs(20);
/// First wait before a request is repeated, and the longest, where the reply names no longer one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Unanswered requests of one client: well within the 64 numbers that a session remembers.
pub const MOST_OPEN: usize = 32;
/// Of all requests and replies.
pub const REQUEST: Length = Length { least: 0, most: 2048 };

/// One client's requests, positions and partial frame.
#[derive(Debug)]
pub struct Book {
    seed: u64,
    client: u32,
    next: u64,
    open: Vec<Open>,
    input: FrameBuffer,
    online: bool,
    /// Nothing counts behind a last frame.
    over: bool,
    /// What pushes came.
    pub positions: Positions,
}

/// A request without a final answer.
#[derive(Clone, Copy, Debug)]
struct Open {
    id: u64,
    /// When the last byte of its first attempt was to be sent.
    due: Duration,
    /// The same of its last attempt.
    attempted: Duration,
    attempts: u16,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sent,
    /// Answered with a retryable code; to be repeated.
    Waiting,
    /// Nothing came; remembered, so that a late answer is told from a second one.
    Lost,
}

/// What one read brought. Counts are since the last [`Seen::clear`].
#[derive(Debug, Default)]
pub struct Seen {
    /// Final answers: when due, how long it took, the code.
    pub answers: Vec<(Duration, Duration, u16)>,
    /// Requests to repeat, and when.
    pub repeats: Vec<(u64, Duration)>,
    /// The answer to the login.
    pub login: Option<LoginAnswer>,
    /// Code of the last frame.
    pub closed: Option<u16>,
    /// Second answers to one attempt.
    pub doubled: u64,
    /// Answers after they were counted as lost.
    pub late: u64,
    /// Replies to what was never asked, or with another's content.
    pub foreign: u64,
    /// Replies and pushes with content that is nobody's.
    pub torn: u64,
    /// What is no frame, or none that a gateway may send now, with why.
    pub forged: Option<String>,
    /// Group pushes that came.
    pub group_pushes: u64,
    /// Those between them that didn't: numbering stream and number.
    pub missed: Vec<(u64, u64)>,
    /// Pushes that had come before.
    pub repeated_pushes: u64,
    /// Pushes to this device that came.
    pub device_pushes: u64,
    /// Answered pings.
    pub pongs: u64,
    /// Memory for what is compared.
    pub(super) scratch: Vec<u8>,
}

/// What a login was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginAnswer {
    /// Online, with a ticket; whether it is the session of the ticket that was given.
    Online {
        /// For the next login.
        ticket: Vec<u8>,
        /// Whether the session goes on.
        resumed: bool,
    },
    /// Refused with this code, and how long to wait.
    Refused(u16, Duration),
}

impl Seen {
    /// Forgets all, and keeps the memory.
    pub fn clear(&mut self) {
        let mut kept = std::mem::take(self);
        kept.answers.clear();
        kept.repeats.clear();
        *self = Self {
            answers: kept.answers,
            repeats: kept.repeats,
            scratch: kept.scratch,
            ..Self::default()
        };
    }
}

/// What became of a request whose time for an answer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It was answered, or counted as lost before.
    Settled,
    /// It was answered that it be repeated, or was just repeated: look again then.
    LookAgain(Duration),
    /// It is lost; it was due then.
    Lost(Duration),
}

/// Why the bytes can't be the protocol's.
#[derive(Debug)]
struct Forged(String);

impl From<ProtocolError> for Forged {
    fn from(error: ProtocolError) -> Self {
        Self(error.to_string())
    }
}

impl Book {
    /// Of a client that has sent nothing.
    #[must_use]
    pub fn new(seed: u64, client: u32) -> Self {
        Self {
            seed,
            client,
            next: 1,
            open: Vec::new(),
            input: FrameBuffer::new(),
            online: false,
            over: false,
            positions: Positions::default(),
        }
    }

    /// Whether the login was answered well, and nothing ended since.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.online && !self.over
    }

    /// Requests without a final answer, lost ones left out.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.open.iter().filter(|open| open.phase != Phase::Lost).count()
    }

    /// A new request: its message id. Its last byte is to leave at `due`.
    pub fn ask(&mut self, due: Duration) -> u64 {
        let id = self.next;
        self.next += 1;
        self.open.push(Open {
            id,
            due,
            attempted: due,
            attempts: 1,
            phase: Phase::Sent,
        });
        id
    }

    /// The content of a request, appended.
    pub fn payload(&self, id: u64, out: &mut Vec<u8>) {
        payload::fill(self.origin(id), REQUEST, out);
    }

    /// Repeats a request, if it still has to be.
    pub fn repeat(&mut self, id: u64, now: Duration) -> bool {
        let found = self.open.iter_mut().find(|open| open.id == id);
        let Some(open) = found.filter(|open| open.phase == Phase::Waiting) else {
            return false;
        };
        open.phase = Phase::Sent;
        open.attempted = now;
        open.attempts += 1;
        true
    }

    /// Everything without a final answer, lowest number first, as sent again now.
    pub fn repeat_all(&mut self, now: Duration) -> Vec<u64> {
        let mut ids = Vec::new();
        for open in self.open.iter_mut().filter(|open| open.phase != Phase::Lost) {
            open.phase = Phase::Sent;
            open.attempted = now;
            open.attempts += 1;
            ids.push(open.id);
        }
        ids.sort_unstable();
        ids
    }

    /// Looks whether a request's answer is lost.
    pub fn expire(&mut self, id: u64, now: Duration) -> Expiry {
        let Some(open) = self.open.iter_mut().find(|open| open.id == id) else {
            return Expiry::Settled;
        };
        match open.phase {
            Phase::Lost => Expiry::Settled,
            Phase::Waiting => Expiry::LookAgain(now + LOST),
            Phase::Sent if open.attempted + LOST > now => Expiry::LookAgain(open.attempted + LOST),
            Phase::Sent => {
                open.phase = Phase::Lost;
                Expiry::Lost(open.due)
            }
        }
    }

    /// A new connection: nothing was read of it.
    pub fn connection_began(&mut self) {
        self.input.clear();
        (self.online, self.over) = (false, false);
    }

    /// The connection is gone: whether it ended within a frame.
    pub fn connection_ended(&mut self) -> bool {
        let within = !self.input.is_empty() && !self.over;
        self.connection_began();
        within
    }

    /// Takes in what was read.
    pub fn receive(&mut self, bytes: &[u8], now: Duration, seen: &mut Seen) {
        let mut input = std::mem::take(&mut self.input);
        let fed = input.feed(bytes, Limits::default(), |split| self.frame(&split, now, seen));
        self.input = input;
        if let Err(Forged(why)) = fed {
            self.over = true;
            seen.forged = Some(why);
        }
    }

    fn frame(&mut self, split: &Split<'_>, now: Duration, seen: &mut Seen) -> Result<(), Forged> {
        if self.over {
            // Bytes behind a last frame are to be ignored.
            return Ok(());
        }
        // Types that are younger than this client it doesn't know and skips: the gateway says that it may.
        let known = split
            .header
            .kind
            .filter(|kind| *kind as u8 <= FrameType::Close as u8);
        let (Some(kind), Some(frame)) = (known, Frame::decode(split)?) else {
            return Ok(());
        };
        let mut scratch = std::mem::take(&mut seen.scratch);
        scratch.clear();
        frame.encode(&mut scratch);
        let canonical = scratch.get(4..) == split.frame.get(4..);
        seen.scratch = scratch;
        if !canonical {
            return Err(Forged(format!("a {kind:?} that nobody encodes like this")));
        }
        match frame {
            Frame::LoginOk(ok) if !self.online => {
                self.online = true;
                seen.login = Some(LoginAnswer::Online {
                    ticket: ok.ticket.to_vec(),
                    resumed: ok.resumed,
                });
            }
            Frame::LoginRefused(refused) if !self.online => {
                self.over = true;
                let wait = Duration::from_millis(refused.retry_after_ms.into());
                seen.login = Some(LoginAnswer::Refused(refused.code, wait));
            }
            Frame::Close(close) => {
                self.over = true;
                seen.closed = Some(close.code);
            }
            _ if !self.online => return Err(Forged(format!("a {kind:?} before the login's answer"))),
            Frame::Pong(_) => seen.pongs += 1,
            Frame::Reply(reply) => self.reply(&reply, now, seen),
            Frame::GroupPush(push) => {
                let place = (push.group_epoch, push.sequence);
                self.positions.group_push(self.seed, place, push.payload, seen);
            }
            Frame::Push(push) => self.positions.device_push(self.seed, push.payload, seen),
            Frame::GoAway(_) | Frame::Accepted(_) => {}
            _ => return Err(Forged(format!("a {kind:?} from a gateway"))),
        }
        // An ignorable flag on a known type means nothing, and no gateway sets it.
        if split.header.flags != 0 {
            return Err(Forged(format!("flags {} on a {kind:?}", split.header.flags)));
        }
        Ok(())
    }

    fn reply(&mut self, reply: &Reply<'_>, now: Duration, seen: &mut Seen) {
        let place = self.open.iter().position(|open| open.id == reply.message_id);
        let Some(place) = place else {
            if (1..self.next).contains(&reply.message_id) {
                seen.doubled += 1;
            } else {
                seen.foreign += 1;
            }
            return;
        };
        let open = self.open[place];
        match open.phase {
            // Each attempt has one answer, and this one's has come.
            Phase::Waiting => seen.doubled += 1,
            Phase::Lost => seen.late += 1,
            Phase::Sent => {}
        }
        if reply.code == Code::Ok as u16 {
            let origin = self.origin(open.id);
            match payload::judge(origin, REQUEST, reply.payload, &mut seen.scratch) {
                Verdict::Right => {}
                Verdict::Foreign => seen.foreign += 1,
                Verdict::Torn => seen.torn += 1,
            }
            if reply.retry_after_ms != 0 || !reply.reason.is_empty() {
                seen.torn += 1;
            }
        } else if Code::nearest(reply.code).retryable() {
            if open.phase == Phase::Sent {
                let (first, longest) = BACKOFF;
                let backoff = first * 2_u32.pow(u32::from(open.attempts.min(6)) - 1);
                let wait = Duration::from_millis(reply.retry_after_ms.into()).max(backoff.min(longest));
                self.open[place].phase = Phase::Waiting;
                seen.repeats.push((open.id, now + wait));
            }
            return;
        }
        if open.phase != Phase::Lost {
            seen.answers
                .push((open.due, now.saturating_sub(open.due), reply.code));
        }
        self.open.swap_remove(place);
    }

    fn origin(&self, number: u64) -> Origin {
        Origin {
            seed: self.seed,
            who: self.client,
            number,
        }
    }
}

#[cfg(test)]
mod tests;
