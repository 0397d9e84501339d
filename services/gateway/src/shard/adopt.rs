//! What a shard begins with when it takes the place of another process's.

use bytes::Bytes;
use imaccess_net::cursors::Cursor;
use imaccess_net::epoll::Interest;
use imaccess_net::wheel::Tick;
use imaccess_proto::v1::{HandedEnded, HandedOver, HandedPhase, Takeover};
use imaccess_wire::Code;
use imaccess_wire::header::{FLAG_IGNORABLE, FrameType, MAGIC, VERSION};

use super::Shard;
use super::connection::{Connection, Partial, Phase};
use super::queue::{OutQueue, Priority, Queued};
use super::timers::TICK;
use crate::takeover::Adopted;
use crate::takeover::plan::{self, As, Fate, Why};

/// Connections told per turn that frames may be lost.
const REPEATS_PER_TURN: u32 = 256;
/// A REPEAT frame (PROTOCOL.md 2.13), which has no body.
const REPEAT: [u8; 8] = [
    MAGIC,
    VERSION,
    FrameType::Repeat as u8,
    FLAG_IGNORABLE,
    0,
    0,
    0,
    0,
];

impl Shard {
    /// Takes the connections over that come to this shard, and ends those that can't go on.
    pub(crate) fn adopt(&mut self, adopted: Vec<Adopted>, ended: &[HandedEnded]) {
        for end in ended {
            self.ended.adopt(end, self.tick);
        }
        if self.takeover != Takeover::Unspecified {
            // What clients have sent meanwhile waits until state can be asked.
            self.holding = Some(self.tick);
        }
        for one in adopted {
            self.adopt_one(one);
        }
        if self.takeover == Takeover::Crashed {
            self.repeat_from = Some(0);
        }
    }

    fn adopt_one(&mut self, adopted: Adopted) {
        let Adopted {
            socket,
            serial,
            cursor,
            record,
            fate,
        } = adopted;
        let address = self
            .admission
            .per_address()
            .then(|| socket.peer_address())
            .flatten();
        let mut connection = Connection {
            accepted_ms: self.clock.now().as_millis(),
            deposited: true,
            phase: match (fate, cursor.phase) {
                (Fate::GoesOn(As::Connecting), _) => Phase::Connecting,
                (Fate::GoesOn(As::Online), _) | (_, plan::ONLINE) => Phase::Online,
                _ => Phase::Connecting,
            },
            ping_interval_s: self.ping_interval_s,
            address: address.map(Box::new),
            ..Connection::new(socket, serial, self.tick)
        };
        if let Some(record) = &record {
            self.restore(&mut connection, record);
        }
        self.admission.adopt(address);
        let phase = connection.phase;
        let queued = connection.queue.as_ref().map_or(0, |queue| queue.frames());
        let lost = cursor.queued;
        let (slot, generation) = self.connections.insert(connection);
        let cursor = Cursor {
            serial,
            queued: queued as u16,
            ..cursor
        };
        self.cursors.open(slot, cursor);
        if phase == Phase::Online {
            self.sessions += 1;
        }
        if let Some(record) = record {
            if phase == Phase::Online {
                self.tickets.put(slot, &record.ticket);
                self.attributes.put(slot, &record.attributes);
            }
        } else {
            self.metrics.frames_lost_down(lost.into());
        }
        self.logins_wait |= phase == Phase::Authenticating;
        let result = match fate {
            Fate::GoesOn(_) => "adopted",
            Fate::Closed(_, why) | Fate::Cut(_, why) => why.name(),
        };
        self.metrics.taken_over(result);
        match fate {
            Fate::GoesOn(_) => {}
            Fate::Closed(code, _) => return self.end_adopted(slot, generation, code),
            Fate::Cut(code, why) => {
                if !matches!(why, Why::Closing | Why::PeerGone) {
                    tracing::debug!(slot, %code, "a connection's stream was torn by a crash");
                }
                return self.gone(slot, code);
            }
        }
        self.watch(slot, generation);
        self.look_again(slot);
    }

    /// A code can be sent: the stream to the client is between two frames.
    fn end_adopted(&mut self, slot: u32, generation: u32, code: Code) {
        self.watch(slot, generation);
        self.end(slot, code);
        self.look_again(slot);
    }

    fn watch(&mut self, slot: u32, generation: u32) {
        let token = u64::from(generation) << 32 | u64::from(slot);
        let Some(connection) = self.connections.get(slot) else {
            return;
        };
        // What came meanwhile shows as an event at once.
        if let Err(error) = self
            .epoll
            .get_ref()
            .add(&connection.socket, token, Interest::Stream)
        {
            tracing::warn!(%error, "a connection can't be watched and is closed");
            self.gone(slot, Code::Internal);
        }
    }

    fn restore(&mut self, connection: &mut Connection, record: &HandedOver) {
        let ago = |ms: u32| self.tick.saturating_sub(ms / TICK.as_millis() as u32);
        connection.phase = match record.phase() {
            HandedPhase::Connecting => Phase::Connecting,
            HandedPhase::Authenticating => Phase::Authenticating,
            HandedPhase::Online => Phase::Online,
            HandedPhase::Closing => Phase::Closing,
        };
        connection.code = code_of(record.code);
        connection.ping_interval_s = u16::try_from(record.ping_interval_s).unwrap_or(u16::MAX);
        connection.last_seen = ago(record.silent_ms);
        connection.since = ago(record.phase_ms);
        connection.login = record.login;
        connection.ended = record.ended;
        if !record.partial.is_empty() {
            connection.partial = Some(Box::new(Partial {
                bytes: record.partial.to_vec(),
                since: ago(record.partial_ms),
            }));
        }
        if !record.requests.is_empty() {
            connection.unanswered = Some(Box::new(record.requests.clone()));
        }
        if !record.queue.is_empty() {
            let queue = requeue(record, self.tick);
            self.queued_bytes += queue.bytes();
            connection.queue = Some(Box::new(queue));
        }
    }

    /// After a crash every client is told that what it asked may be lost, once state can be asked again. Whether there is more
    /// to do.
    pub(crate) fn tell_repeats(&mut self) -> bool {
        let Some(first) = self.repeat_from.filter(|_| self.link.usable().is_some()) else {
            return false;
        };
        let last = self.connections.slots();
        let end = first.saturating_add(REPEATS_PER_TURN).min(last);
        for slot in first..end {
            // One that was born here has lost nothing.
            if self.connections.get(slot).is_some_and(|connection| {
                connection.phase == Phase::Online && connection.serial >> 40 != u64::from(self.incarnation)
            }) {
                self.send_control(slot, &REPEAT);
                self.look_again(slot);
            }
        }
        self.repeat_from = (end < last).then_some(end);
        self.repeat_from.is_some()
    }
}

/// The queue as it was, with the front frame as far as it had come.
fn requeue(record: &HandedOver, now: Tick) -> OutQueue {
    let mut queue = OutQueue::since(now);
    for (index, frame) in record.queue.iter().enumerate() {
        let queued = Queued {
            // A copy: a slice would hold the whole file's memory.
            bytes: Bytes::copy_from_slice(&frame.bytes),
            business: frame.business,
            // They stand in the order in which they go out.
            priority: Priority::default(),
            expires_ms: frame.expires_ms,
        };
        let written = if index == 0 { record.written as usize } else { 0 };
        queue.push(queued, written.min(frame.bytes.len()), None, usize::MAX);
    }
    queue
}

fn code_of(number: u32) -> Code {
    u16::try_from(number)
        .ok()
        .and_then(Code::from_u16)
        .unwrap_or(Code::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use imaccess_proto::v1::HandedFrame;
    use std::io::IoSlice;

    #[test]
    fn a_queue_goes_on_where_it_was() {
        let frame = |fill: u8, len: usize| HandedFrame {
            bytes: vec![fill; len].into(),
            business: 3,
            expires_ms: 0,
        };
        let record = HandedOver {
            queue: vec![frame(1, 10), frame(2, 5)],
            written: 7,
            ..HandedOver::default()
        };
        let mut queue = requeue(&record, 5);
        assert_eq!((queue.bytes(), queue.frames()), (8, 2));
        let mut slices = [IoSlice::new(&[]); 4];
        let count = queue.slices(&mut slices);
        let flat: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
        assert_eq!(flat, [1, 1, 1, 2, 2, 2, 2, 2]);
        assert_eq!(queue.advance(8), 15);
    }

    #[test]
    fn the_repeat_frame_is_one_that_others_skip() {
        use imaccess_wire::Limits;
        use imaccess_wire::header::split;
        let frame = split(&REPEAT, Limits::default()).unwrap().unwrap();
        assert!(frame.rest.is_empty() && frame.body().is_empty());
        assert_eq!(frame.header.kind, Some(FrameType::Repeat));
        assert_eq!(frame.header.flags & FLAG_IGNORABLE, FLAG_IGNORABLE);
    }
}
