//! Which requests of each connection state hasn't answered: if state dies, each is answered `retry` from here, and the client
//! repeats it with the same message id.
//!
//! Only connections with something unanswered have a list, and lists are used again, so that a request costs no allocation. SENDs
//! aren't kept: one that is repeated could arrive twice.

use imaccess_wire::field::Reader;
use imaccess_wire::frame::{Accepted, Reply};
use imaccess_wire::header::{FrameType, HEADER_LEN, split};
use imaccess_wire::{Code, Limits};

use super::Shard;
use super::connection::Phase;

/// Requests kept per connection; a client that has more unanswered isn't told of the rest. State allows 64.
const MOST: usize = 256;
/// Empty lists that are kept for the next.
const SPARE: usize = 1_024;
/// Retry-after of what was with a state that died.
const RETRY_AFTER_MS: u32 = 200;

/// The unanswered requests of one connection: `message id ‖ kind` (1: an ACCEPTED answers it).
pub(crate) type Unanswered = Vec<u64>;

fn entry(kind: FrameType, message_id: u64) -> Option<u64> {
    let accepted = match kind {
        FrameType::Request | FrameType::Reply => 0,
        FrameType::Join | FrameType::Leave | FrameType::Accepted => 1,
        _ => return None,
    };
    // A client counts from 1; one that uses the topmost bit has to look after itself.
    (message_id < 1 << 63).then_some(message_id << 1 | accepted)
}

/// The message id in the body of a frame to state, without decoding the rest.
fn asked(kind: FrameType, body: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(body, "request");
    match kind {
        FrameType::Request => {
            reader.varint32().ok()?;
        }
        FrameType::Join | FrameType::Leave => {
            reader.varint32().ok()?;
            let len = reader.varint().ok()?;
            reader.take(usize::try_from(len).ok()?).ok()?;
        }
        _ => return None,
    }
    entry(kind, reader.varint().ok()?)
}

impl Shard {
    /// A frame goes to state.
    #[inline]
    pub(crate) fn note_asked(&mut self, slot: u32, kind: FrameType, body: &[u8]) {
        let Some(entry) = asked(kind, body) else { return };
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let list = connection
            .unanswered
            .get_or_insert_with(|| self.spare_lists.pop().unwrap_or_default());
        // A repeated one is answered once.
        if list.len() < MOST && !list.contains(&entry) {
            list.push(entry);
        }
    }

    /// Control frames of state are written to a connection: what they answer isn't owed any more.
    #[inline]
    pub(crate) fn note_answered(&mut self, slot: u32, frames: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let Some(list) = &mut connection.unanswered else {
            return;
        };
        let mut rest = frames;
        while let Ok(Some(frame)) = split(rest, Limits::default()) {
            rest = frame.rest;
            if let Some(kind @ (FrameType::Reply | FrameType::Accepted)) = frame.header.kind
                && let Ok(message_id) = Reader::new(&frame.frame[HEADER_LEN..], "answer").varint()
                && let Some(entry) = entry(kind, message_id)
                && let Some(place) = list.iter().position(|other| *other == entry)
            {
                list.swap_remove(place);
            }
        }
        if list.is_empty() {
            let list = connection.unanswered.take();
            self.keep_list(list);
        }
    }

    /// State is gone with what it was asked: everybody who waits is told to repeat.
    pub(crate) fn answer_unanswered(&mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        for slot in 0..self.connections.slots() {
            let Some(connection) = self.connections.get_mut(slot) else {
                continue;
            };
            let Some(mut list) = connection.unanswered.take() else {
                continue;
            };
            if connection.phase == Phase::Online {
                answers.clear();
                for entry in list.drain(..) {
                    retry(entry, &mut answers);
                    self.counts.shed_state_died += 1;
                }
                self.send_control(slot, &answers);
                self.look_again(slot);
            }
            self.keep_list(Some(list));
        }
        answers.clear();
        self.answers = answers;
    }

    /// Keeps an emptied list for the next connection that needs one.
    pub(crate) fn keep_list(&mut self, list: Option<Box<Unanswered>>) {
        if let Some(mut list) = list
            && self.spare_lists.len() < SPARE
        {
            list.clear();
            self.spare_lists.push(list);
        }
    }
}

fn retry(entry: u64, out: &mut Vec<u8>) {
    let (message_id, code) = (entry >> 1, Code::Retry as u16);
    if entry & 1 == 0 {
        Reply {
            message_id,
            code,
            retry_after_ms: RETRY_AFTER_MS,
            ..Reply::default()
        }
        .encode(out);
    } else {
        Accepted {
            message_id,
            code,
            retry_after_ms: RETRY_AFTER_MS,
            ..Accepted::default()
        }
        .encode(out);
    }
}

/// The message ids in a list, for the handover file, and back.
pub(crate) fn listed(list: Option<&Unanswered>) -> Vec<u64> {
    list.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use imaccess_wire::frame::{Join, Request};

    #[test]
    fn ids_are_found_in_front_of_everything_else() {
        let mut out = Vec::new();
        Request {
            business: 300,
            message_id: 77,
            payload: b"\xa9\x01\x06\x00",
            ..Request::default()
        }
        .encode(&mut out);
        assert_eq!(asked(FrameType::Request, &out[HEADER_LEN..]), Some(77 << 1));
        out.clear();
        Join {
            business: 1,
            group: b"lobby",
            message_id: 5,
            ..Join::default()
        }
        .encode(&mut out);
        assert_eq!(asked(FrameType::Join, &out[HEADER_LEN..]), Some(5 << 1 | 1));
        assert_eq!(asked(FrameType::Send, &out[HEADER_LEN..]), None);
        assert_eq!(asked(FrameType::Request, &[0x80]), None);
        assert_eq!(entry(FrameType::Reply, u64::MAX), None);
    }
}
