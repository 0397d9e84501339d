//! What a turn of the machine produces: one batch for the link, one delta for the hub.
//!
//! Both are built in place and taken by the worker when the receiver has room; until then later turns add to
//! them, which is how batches grow under load. The bounds are the worker's to keep.

use bytes::Bytes;
use imaccess_proto::v1::{
    CloseConnection, EndedConnection, GroupFrame, GroupPresence, LinkPolicy, LoginResult, Member, Membership,
    MovedGroups, Multicast, Outcome, Quiesce, RouteAnnouncement, RouteRetraction, SessionRow, StateBatch,
    Unicast,
};
use imaccess_wire::Code;
use imaccess_wire::frame::{Accepted, Close, Reply};

/// Frames per message: well below the 4 MiB that gRPC takes by default.
const BATCH_BYTES: usize = 1024 * 1024;

/// The next batch to the gateway.
#[derive(Debug, Default)]
pub struct LinkOut {
    batch: StateBatch,
    unicast: Unicast,
    frames: Vec<u8>,
    /// Bytes that aren't in `frames`.
    other_bytes: usize,
    /// To be said with the next batch (`Begin`) or with the last one (`Done`).
    quiesce: Option<Quiesce>,
    /// `Done` was taken: whatever is added after it goes nowhere.
    over: bool,
}

/// How one push is queued by the gateway.
#[derive(Debug, Clone, Copy, Default)]
pub struct PushTerms {
    /// Whose queue bound and policy apply.
    pub business: u32,
    /// Delivery class, as on the link.
    pub class: i32,
    /// Priority, as on the link.
    pub priority: i32,
    /// Unix milliseconds after which it is dropped; 0: never.
    pub expires_ms: u64,
    /// Names the receipt; 0: none wanted.
    pub receipt: u64,
}

impl LinkOut {
    /// Bytes waiting, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        if self.over {
            return 0;
        }
        self.frames.len() + self.other_bytes
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0 && self.quiesce.is_none()
    }

    /// The batch so far, as much of it as fits a message.
    pub fn take(&mut self) -> StateBatch {
        let mut batch = std::mem::take(&mut self.batch);
        self.other_bytes = 0;
        if self.frames.len() > BATCH_BYTES {
            batch.unicast = Some(self.take_front());
        } else if !self.unicast.handle.is_empty() {
            // Most batches are as long as the last one.
            let next = Vec::with_capacity(self.frames.len().next_power_of_two().min(64 * 1_024));
            let mut unicast = std::mem::take(&mut self.unicast);
            let columns = unicast.handle.len();
            self.unicast.handle.reserve(columns);
            self.unicast.length.reserve(columns);
            unicast.frames = Bytes::from(std::mem::replace(&mut self.frames, next));
            batch.unicast = Some(unicast);
        }
        match self.quiesce {
            Some(Quiesce::Done) if !self.frames.is_empty() => {}
            Some(quiesce) => {
                self.over = quiesce == Quiesce::Done;
                batch.quiesce = quiesce as i32;
                self.quiesce = None;
            }
            None => {}
        }
        batch
    }

    /// Says that what the gateway held back may come.
    pub fn ready(&mut self) {
        self.other_bytes += 2;
        self.batch.ready = true;
    }

    /// Says that this side leaves (`Begin`), or that all is said (`Done`): then nothing more will be sent.
    pub fn quiesce(&mut self, quiesce: Quiesce) {
        self.quiesce = Some(quiesce);
    }

    /// The first of more frames than one message should have; rare, so the rest is moved.
    fn take_front(&mut self) -> Unicast {
        let (mut bytes, mut count) = (0, 0);
        for &length in &self.unicast.length {
            if count > 0 && bytes + length as usize > BATCH_BYTES {
                break;
            }
            bytes += length as usize;
            count += 1;
        }
        fn front<T>(column: &mut Vec<T>, count: usize) -> Vec<T> {
            let rest = column.split_off(count.min(column.len()));
            std::mem::replace(column, rest)
        }
        let all = &mut self.unicast;
        Unicast {
            handle: front(&mut all.handle, count),
            length: front(&mut all.length, count),
            frames: front(&mut self.frames, bytes).into(),
            business: front(&mut all.business, count),
            class: front(&mut all.class, count),
            priority: front(&mut all.priority, count),
            expires_ms: front(&mut all.expires_ms, count),
            receipt: front(&mut all.receipt, count),
            sequence: front(&mut all.sequence, count),
        }
    }

    /// Drops everything: the link it was for is gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// A control frame (reply, acknowledgement) for one connection. The bytes it became.
    #[inline]
    pub fn control(&mut self, handle: u64, encode: impl FnOnce(&mut Vec<u8>)) -> &[u8] {
        let start = self.frames.len();
        encode(&mut self.frames);
        self.unicast.handle.push(handle);
        self.unicast.length.push((self.frames.len() - start) as u32);
        if !self.unicast.business.is_empty() {
            self.terms(PushTerms::default());
        }
        &self.frames[start..]
    }

    /// A reply.
    #[inline]
    pub fn reply(&mut self, handle: u64, reply: &Reply<'_>) -> &[u8] {
        self.control(handle, |out| reply.encode(out))
    }

    /// The answer to a send, join or leave.
    pub fn accepted(&mut self, handle: u64, message_id: u64, code: Code, retry_after_ms: u32) {
        let accepted = Accepted {
            message_id,
            code: code as u16,
            retry_after_ms,
            ..Accepted::default()
        };
        self.control(handle, |out| accepted.encode(out));
    }

    /// A push.
    pub fn push(&mut self, handle: u64, terms: PushTerms, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.unicast.business.is_empty() {
            // The first push of a batch: what is before it has the default terms.
            for _ in 0..self.unicast.handle.len() {
                self.terms(PushTerms::default());
            }
        }
        let start = self.frames.len();
        encode(&mut self.frames);
        self.unicast.handle.push(handle);
        self.unicast.length.push((self.frames.len() - start) as u32);
        self.terms(terms);
    }

    fn terms(&mut self, terms: PushTerms) {
        self.unicast.business.push(terms.business);
        self.unicast.class.push(terms.class);
        self.unicast.priority.push(terms.priority);
        self.unicast.expires_ms.push(terms.expires_ms);
        self.unicast.receipt.push(terms.receipt);
        self.unicast.sequence.push(0);
    }

    /// Intervals and queue bounds, at the start of a stream.
    pub fn policy(&mut self, policy: LinkPolicy) {
        self.other_bytes += 16 + 32 * policy.businesses.len();
        self.batch.policy = Some(policy);
    }

    /// The answer to a login.
    pub fn login(&mut self, result: LoginResult) {
        self.other_bytes += 64 + result.frame.len() + result.ticket.len() + result.attributes.len();
        self.batch.logins.push(result);
    }

    /// What a connection's session is, for a gateway that has taken the connection over without its ticket.
    pub fn session_row(&mut self, row: SessionRow) {
        self.other_bytes += 32 + row.ticket.len() + row.attributes.len();
        self.batch.sessions.push(row);
    }

    /// A connection that ended, for a gateway that may not know of it.
    pub fn ended(&mut self, ended: EndedConnection) {
        self.other_bytes += 32 + ended.ticket.len();
        self.batch.ended.push(ended);
    }

    /// Nothing is owed any more of an ended connection.
    pub fn settled(&mut self, serial: u64) {
        self.other_bytes += 8;
        self.batch.settled.push(serial);
    }

    /// A change of membership.
    pub fn membership(&mut self, handle: u64, business: u32, group: &[u8], member: bool) {
        self.other_bytes += 32 + group.len();
        let group = Bytes::copy_from_slice(group);
        self.batch.memberships.push(Membership {
            handle,
            business,
            group,
            member,
        });
    }

    /// A frame for a group's members.
    pub fn group(&mut self, frame: GroupFrame) {
        self.other_bytes += 64 + frame.frame.len() + frame.group.len();
        self.batch.groups.push(frame);
    }

    /// One frame for many connections.
    pub fn multicast(&mut self, multicast: Multicast) {
        self.other_bytes += 64 + multicast.frame.len() + 8 * multicast.handle.len();
        self.batch.multicasts.push(multicast);
    }

    /// Closes a connection, saying why.
    pub fn close(&mut self, handle: u64, code: Code) {
        self.close_saying(handle, code, "");
    }

    /// The same, with words for people.
    pub fn close_saying(&mut self, handle: u64, code: Code, reason: &str) {
        let mut frame = Vec::with_capacity(16 + reason.len());
        let close = Close {
            reason,
            ..Close::with_code(code)
        };
        close.encode(&mut frame);
        self.other_bytes += 32 + frame.len();
        self.batch.closes.push(CloseConnection {
            handle,
            code: u32::from(code as u16),
            frame: frame.into(),
        });
    }
}

/// What became of one push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushReceipt {
    /// Which follower (routing replica) sent it.
    pub follower: u32,
    /// Its name for the push.
    pub id: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// One worker's part of the answer to a group command or a broadcast.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerAnswer {
    /// Which follower asked.
    pub follower: u32,
    /// Its name for what it asked.
    pub id: u64,
    /// Members, memberships ended, or devices that a broadcast was handed on for.
    pub count: u64,
    /// Members by name.
    pub members: Vec<Member>,
    /// Devices of which isn't known what a filter asks for.
    pub unknown: u64,
    /// It couldn't be carried out, or not on all.
    pub partial: bool,
}

impl WorkerAnswer {
    /// Nothing found, nothing done.
    #[must_use]
    pub fn new(follower: u32, id: u64) -> Self {
        Self {
            follower,
            id,
            count: 0,
            members: Vec::new(),
            unknown: 0,
            partial: false,
        }
    }
}

/// The next delta to the hub.
#[derive(Debug, Default)]
pub struct RouteOut {
    /// New epochs of sessions, logged in or restored here.
    pub announcements: Vec<RouteAnnouncement>,
    /// Sessions that are over.
    pub retractions: Vec<RouteRetraction>,
    /// Groups that got their first member here, or lost their last.
    pub groups: Vec<GroupPresence>,
    /// What became of pushes.
    pub receipts: Vec<PushReceipt>,
    /// Groups that follow sessions which go on elsewhere.
    pub moved_groups: Vec<MovedGroups>,
    /// Answers to commands and broadcasts.
    pub answers: Vec<WorkerAnswer>,
    /// Number of the last announcement or retraction in here or before.
    pub upto: u64,
}

impl RouteOut {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many things there are to say.
    #[must_use]
    pub fn len(&self) -> usize {
        let routes = self.announcements.len() + self.retractions.len() + self.groups.len();
        routes + self.receipts.len() + self.moved_groups.len() + self.answers.len()
    }

    /// The delta so far; the next begins empty.
    pub fn take(&mut self) -> Self {
        let upto = self.upto;
        std::mem::replace(
            self,
            Self {
                upto,
                ..Self::default()
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_empty_or_complete() {
        let mut out = LinkOut::default();
        out.reply(
            1,
            &Reply {
                message_id: 1,
                payload: b"a",
                ..Reply::default()
            },
        );
        let unicast = out.take().unicast.unwrap();
        assert_eq!((unicast.handle.len(), unicast.business.len()), (1, 0));
        assert!(out.is_empty());

        out.accepted(1, 2, Code::Ok, 0);
        out.push(
            2,
            PushTerms {
                business: 7,
                receipt: 9,
                ..PushTerms::default()
            },
            |out| out.push(5),
        );
        out.accepted(3, 4, Code::Busy, 5);
        let unicast = out.take().unicast.unwrap();
        assert_eq!(unicast.handle, [1, 2, 3]);
        assert_eq!(unicast.business, [0, 7, 0]);
        assert_eq!(unicast.receipt, [0, 9, 0]);
        let total: u32 = unicast.length.iter().sum();
        assert_eq!(total as usize, unicast.frames.len());
        for column in [
            unicast.class.len(),
            unicast.priority.len(),
            unicast.expires_ms.len(),
            unicast.sequence.len(),
        ] {
            assert_eq!(column, 3);
        }
    }

    #[test]
    fn done_is_the_very_last() {
        let mut out = LinkOut::default();
        out.quiesce(Quiesce::Begin);
        assert!(!out.is_empty());
        assert_eq!(out.take().quiesce(), Quiesce::Begin);
        for handle in 1..=3 {
            out.push(handle, PushTerms::default(), |out| {
                out.resize(out.len() + 600_000, 0);
            });
        }
        out.quiesce(Quiesce::Done);
        out.settled(7);
        let mut batches = Vec::new();
        while !out.is_empty() {
            batches.push(out.take());
        }
        let said: Vec<_> = batches.iter().map(StateBatch::quiesce).collect();
        assert_eq!(said, [Quiesce::Unspecified, Quiesce::Unspecified, Quiesce::Done]);
        out.settled(8);
        assert!(out.is_empty() && out.bytes() == 0);
        out.clear();
        out.settled(9);
        assert_eq!(out.take().settled, [9]);
    }

    #[test]
    fn a_message_stays_small() {
        let mut out = LinkOut::default();
        for handle in 1..=40 {
            out.push(
                handle,
                PushTerms {
                    receipt: handle,
                    ..PushTerms::default()
                },
                |out| {
                    out.resize(out.len() + 60_000, handle as u8);
                },
            );
        }
        let mut handles = Vec::new();
        while !out.is_empty() {
            let unicast = out.take().unicast.unwrap();
            assert!(unicast.frames.len() <= BATCH_BYTES);
            assert_eq!(unicast.frames.len(), 60_000 * unicast.handle.len());
            assert_eq!(u64::from(unicast.frames[0]), unicast.handle[0]);
            assert_eq!(unicast.receipt, unicast.handle);
            handles.extend(unicast.handle);
        }
        assert_eq!(handles, (1..=40).collect::<Vec<_>>());
    }
}
