//! Data frames of logged-in connections: requests, sends, groups, acknowledgements, goodbyes.

use bytes::Bytes;
use imaccess_proto::v1::{BusinessRequest, Frames};
use imaccess_wire::frame::{Join, Leave, PushAck, Reply, Request, Send};
use imaccess_wire::header::{self, ProtocolError, Split};
use imaccess_wire::limits::MAX_LOGIN_GROUPS;
use imaccess_wire::{Code, FrameType, Limits};

use super::streams::{Kind, Moment, Refusal};
use super::{LinkState, Machine};
use crate::session::Now;
use crate::session::inflight::Entry;
use crate::session::table::Key;
use crate::session::window::Sight;

/// Refused messages may come again after a tenth to a fifth of a second.
const RETRY_MS: std::ops::Range<u32> = 100..200;

impl Machine {
    /// Data frames, each whole, with the addresses of their connections.
    pub fn uplink(&mut self, frames: &Frames, now: Now) {
        self.clock = now.micros;
        if !self.may_send() {
            // The gateway has said that nothing comes any more.
            self.shared
                .metrics
                .frames_dropped
                .with_label_values(&["quiesced"])
                .inc_by(frames.handle.len() as u64);
            return;
        }
        let mut at = 0usize;
        for (&handle, &length) in frames.handle.iter().zip(&frames.length) {
            let end = at.saturating_add(length as usize);
            if end > frames.frames.len() {
                self.shared
                    .metrics
                    .frames_dropped
                    .with_label_values(&["batch"])
                    .inc();
                return;
            }
            let frame = frames.frames.slice(at..end);
            at = end;
            self.frame(handle, &frame, now);
        }
    }

    fn frame(&mut self, handle: u64, frame: &Bytes, now: Now) {
        let Some(key) = self.table.by_handle(handle) else {
            self.shared
                .metrics
                .frames_dropped
                .with_label_values(&["no_session"])
                .inc();
            // While the snapshot runs the row may still come; afterwards the two sides disagree, and a fresh
            // login settles it.
            if self.link_state == LinkState::Live {
                self.link.close(handle, Code::SessionLost);
            }
            return;
        };
        if let Some(record) = self.table.get_mut(key) {
            record.forwarded = record.forwarded.wrapping_add(1);
        }
        let done = match header::split(frame, Limits::default()) {
            Ok(Some(split)) => self.typed(key, handle, frame, &split, now),
            Ok(None) => Err(ProtocolError::Malformed("frame")),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = done {
            self.shared
                .metrics
                .frames_dropped
                .with_label_values(&[fault.code().name()])
                .inc();
            self.link.close(handle, fault.code());
        }
    }

    fn typed(
        &mut self,
        key: Key,
        handle: u64,
        frame: &Bytes,
        split: &Split<'_>,
        now: Now,
    ) -> Result<(), ProtocolError> {
        let body = split.body();
        match split.header.kind {
            Some(FrameType::Request) => self.request(key, handle, frame, &Request::decode(body)?, now),
            Some(FrameType::Send) => self.send(key, handle, frame, &Send::decode(body)?, now),
            Some(FrameType::Join) => {
                let join = Join::decode(body)?;
                let code = self.join(key, handle, join.business, join.group);
                self.link.accepted(handle, join.message_id, code, 0);
            }
            Some(FrameType::Leave) => {
                let leave = Leave::decode(body)?;
                let code = self.leave_group(key, handle, leave.business, leave.group);
                self.link.accepted(handle, leave.message_id, code, 0);
            }
            Some(FrameType::PushAck) => {
                let ack = PushAck::decode(body)?;
                if let Some(record) = self.table.get_mut(key) {
                    record.push_watermark = record.push_watermark.max(ack.sequence);
                }
            }
            Some(FrameType::Close) => {
                self.leave(key, Some(Code::ClientLeft));
                self.link.close(handle, Code::ClientLeft);
            }
            // Pings are the gateway's; one that comes here asks for nothing.
            Some(FrameType::Ping) | None => {}
            Some(_) => {
                self.shared
                    .metrics
                    .frames_dropped
                    .with_label_values(&[Code::Unexpected.name()])
                    .inc();
                self.link.close(handle, Code::Unexpected);
            }
        }
        Ok(())
    }

    fn request(&mut self, key: Key, handle: u64, frame: &Bytes, request: &Request<'_>, now: Now) {
        let index = self.business_index(request.business);
        let moment = self.moment(now);
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        let message_id = request.message_id;
        let first = record.first_in_flight;
        match record.window.mark(message_id) {
            Sight::New => {}
            Sight::Again if self.in_flight.has(first, message_id) => {
                self.shared
                    .metrics
                    .repeats
                    .with_label_values(&["in_flight"])
                    .inc();
                return;
            }
            Sight::Again | Sight::TooOld => return self.repeated(key, handle, message_id),
        }
        let full = record.in_flight >= self.settings.max_in_flight;
        if self.draining {
            return self.decline(key, handle, request, Code::Retry);
        }
        let Some(index) = index else {
            return self.decline(key, handle, request, Code::BusinessUnknown);
        };
        let business = &mut self.businesses[index];
        let stream = match business.admit(Kind::Request, full, moment) {
            Ok(stream) => stream,
            Err(refusal) => {
                let code = self.count_refusal(index, refusal);
                return self.decline_for(key, handle, request, code, refusal.wait_ms());
            }
        };
        let timeout_ms = business.timeout_ms();
        let deadline_ms = match request.deadline_ms {
            0 => timeout_ms,
            wanted => wanted.min(timeout_ms),
        };
        let entry = Entry {
            session: key,
            message_id,
            since_micros: now.micros,
            due_micros: now.micros + u64::from(deadline_ms) * 1_000,
            business: index as u16,
            stream,
        };
        let (id, first) = self.in_flight.insert(entry, first);
        record.first_in_flight = first;
        record.in_flight += 1;
        business.in_flight += 1;
        business.metrics.in_flight.set(i64::from(business.in_flight));
        let out = BusinessRequest {
            id,
            app: record.who.app().to_owned(),
            device: record.who.device().to_owned(),
            session: Bytes::copy_from_slice(&record.id),
            message_id,
            deadline_ms,
            traceparent: request.trace.to_owned(),
            metadata: slice(frame, request.metadata),
            payload: slice(frame, request.payload),
        };
        business.hand_on(stream, out);
    }

    /// A message that was answered before: the kept reply, or the news that there is none.
    fn repeated(&mut self, key: Key, handle: u64, message_id: u64) {
        let done = if let Some(reply) = self.replies.find(key, message_id) {
            self.link.control(handle, |out| out.extend_from_slice(&reply));
            "kept_reply"
        } else {
            let code = Code::AlreadyAnswered as u16;
            self.link.reply(
                handle,
                &Reply {
                    message_id,
                    code,
                    ..Reply::default()
                },
            );
            "already_answered"
        };
        self.shared.metrics.repeats.with_label_values(&[done]).inc();
    }

    fn decline(&mut self, key: Key, handle: u64, request: &Request<'_>, code: Code) {
        self.decline_for(key, handle, request, code, 0);
    }

    /// The same, for at least so long.
    fn decline_for(&mut self, key: Key, handle: u64, request: &Request<'_>, code: Code, wait_ms: u32) {
        let retry_after_ms = if code.retryable() {
            wait_ms.saturating_add(self.rng.u32(RETRY_MS))
        } else {
            0
        };
        if let Some(record) = self.table.get_mut(key) {
            // Nothing was handed on: the same message may come again, whatever the code.
            record.window.forget(request.message_id);
        }
        self.count_answer(request.business, code);
        let reply = Reply {
            message_id: request.message_id,
            code: code as u16,
            retry_after_ms,
            ..Reply::default()
        };
        self.link.reply(handle, &reply);
    }

    fn send(&mut self, key: Key, handle: u64, frame: &Bytes, send: &Send<'_>, now: Now) {
        let moment = self.moment(now);
        let index = self.business_index(send.business);
        let Some(record) = self.table.get_mut(key) else {
            return;
        };
        let message_id = send.message_id;
        match record.window.mark(message_id) {
            Sight::New => {}
            // It was accepted then, or it would not be marked.
            Sight::Again => return self.link.accepted(handle, message_id, Code::Ok, 0),
            Sight::TooOld => return self.link.accepted(handle, message_id, Code::AlreadyAnswered, 0),
        }
        let mut refused = None;
        let code = match index.map(|index| (index, &mut self.businesses[index])) {
            None => Code::BusinessUnknown,
            Some((index, business)) => match business.admit(Kind::Send, false, moment) {
                Err(refusal) => {
                    refused = Some((index, refusal));
                    refusal.code()
                }
                Ok(stream) => {
                    let out = BusinessRequest {
                        id: 0,
                        app: record.who.app().to_owned(),
                        device: record.who.device().to_owned(),
                        session: Bytes::copy_from_slice(&record.id),
                        message_id,
                        deadline_ms: send.deadline_ms,
                        traceparent: send.trace.to_owned(),
                        metadata: slice(frame, send.metadata),
                        payload: slice(frame, send.payload),
                    };
                    business.hand_on(stream, out);
                    Code::Ok
                }
            },
        };
        if code != Code::Ok {
            record.window.forget(message_id);
        }
        self.count_answer(send.business, code);
        let mut wait_ms = 0;
        if let Some((index, refusal)) = refused {
            self.count_refusal(index, refusal);
            wait_ms = refusal.wait_ms();
        }
        let retry_after_ms = if code.retryable() {
            wait_ms.saturating_add(self.rng.u32(RETRY_MS))
        } else {
            0
        };
        self.link.accepted(handle, message_id, code, retry_after_ms);
    }

    /// Counts why a message isn't handed on.
    fn count_refusal(&self, index: usize, refusal: Refusal) -> Code {
        if let Some(why) = refusal.why() {
            let name = self.businesses[index].metrics.name.as_str();
            self.shared.metrics.busy.with_label_values(&[name, why]).inc();
        }
        refusal.code()
    }

    fn moment(&self, now: Now) -> Moment {
        Moment {
            now: now.micros,
            workers: self.gateway.as_ref().map_or(1, |gateway| gateway.shards),
        }
    }

    fn join(&mut self, key: Key, handle: u64, business: u32, group: &[u8]) -> Code {
        let Some(index) = self.business_index(business) else {
            return Code::BusinessUnknown;
        };
        if !self.businesses[index].config.client_groups {
            return Code::Forbidden;
        }
        let groups = self
            .table
            .get(key)
            .map_or(0, |record| record.groups.as_slice().len());
        let member = self.groups.find(business, group).is_some_and(|group| {
            self.table
                .get(key)
                .is_some_and(|record| record.groups.contains(group))
        });
        if groups >= MAX_LOGIN_GROUPS && !member {
            return Code::GroupLimit;
        }
        self.enter_group(key, business, group, false);
        // Also if it was in there: a membership that was lost with a link is mended by the repeated join.
        self.link.membership(handle, business, group, true);
        Code::Ok
    }

    fn leave_group(&mut self, key: Key, handle: u64, business: u32, group: &[u8]) -> Code {
        let Some(index) = self.business_index(business) else {
            return Code::BusinessUnknown;
        };
        if !self.businesses[index].config.client_groups {
            return Code::Forbidden;
        }
        // Also if it isn't in there as far as is known here: the gateway may know more.
        self.link.membership(handle, business, group, false);
        if let Some(number) = self.groups.find(business, group) {
            self.exit_group(key, number);
        }
        Code::Ok
    }
}

/// The part of a batch's bytes that a decoded field points into; shares the batch for the few microseconds until
/// the request is encoded.
fn slice(frame: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() {
        Bytes::new()
    } else {
        frame.slice_ref(part)
    }
}
