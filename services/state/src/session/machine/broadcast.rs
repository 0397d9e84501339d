//! Pushes for every session that a filter lets through: one message to the gateway, however many they are.

use bytes::Bytes;
use imaccess_proto::v1::{BroadcastPush, DeviceFilter, Multicast};
use imaccess_wire::frame::{DeliveryClass, Push};

use super::push::{MAX_PUSH_PAYLOAD, priority};
use super::{LinkState, Machine};
use crate::session::Now;
use crate::session::attributes::{Judged, Passes};
use crate::session::out::{PushTerms, WorkerAnswer};
use crate::session::record::Phase;

/// Connections named in one message of the link: 128 KB.
const HANDLES_PER_MESSAGE: usize = 16_384;
/// The first generation of the link that has multicasts.
const MULTICASTS: u32 = 3;

impl Machine {
    /// A broadcast, from a routing replica. While the gateway is being replaced it waits, as group pushes do.
    pub fn broadcast(&mut self, follower: u32, push: &BroadcastPush, room: bool, now: Now) {
        if push.payload.len() > MAX_PUSH_PAYLOAD {
            return self.drop_broadcast(follower, push.id);
        }
        if self.hold_broadcast(follower, push, now) {
            return;
        }
        // Without its connections known the sessions that get it aren't either.
        if !room || self.link_state != LinkState::Live || self.quiescing {
            return self.drop_broadcast(follower, push.id);
        }
        self.send_broadcast(follower, push);
    }

    pub(super) fn send_broadcast(&mut self, follower: u32, push: &BroadcastPush) {
        let everybody = DeviceFilter::default();
        let filter = push.filter.as_ref().unwrap_or(&everybody);
        let judged = Judged::new(filter, self.table.attributes());
        let mut handles = Vec::new();
        let mut answer = WorkerAnswer::new(follower, push.id);
        for record in (0..self.table.end()).filter_map(|index| self.table.at(index)) {
            if record.phase != Phase::Online || record.handle == 0 {
                continue;
            }
            match judged.passes(record.who.app(), record.who.attributes()) {
                Passes::Yes => handles.push(record.handle),
                Passes::Unknown => answer.unknown += 1,
                Passes::No => {}
            }
        }
        answer.count = handles.len() as u64;
        let frame = Push {
            business: push.business,
            sequence: 0,
            class: DeliveryClass::AtMostOnce,
            message_id: &push.message_id,
            expires_unix_ms: push.expires_ms,
            priority: priority(push.priority),
            payload: &push.payload,
        };
        let mut bytes = Vec::with_capacity(push.payload.len() + 64);
        frame.encode(&mut bytes);
        if self.generation < MULTICASTS {
            self.send_one_by_one(push, &handles, &bytes);
        } else {
            let frame = Bytes::from(bytes);
            for handles in handles.chunks(HANDLES_PER_MESSAGE) {
                self.link.multicast(Multicast {
                    handle: handles.to_vec(),
                    business: push.business,
                    frame: frame.clone(),
                    priority: push.priority,
                    expires_ms: push.expires_ms,
                });
            }
        }
        self.shared.metrics.broadcasts.inc();
        self.routes.answers.push(answer);
    }

    /// For a gateway that doesn't know multicasts.
    fn send_one_by_one(&mut self, push: &BroadcastPush, handles: &[u64], frame: &[u8]) {
        let terms = PushTerms {
            business: push.business,
            priority: push.priority,
            expires_ms: push.expires_ms,
            ..PushTerms::default()
        };
        for &handle in handles {
            self.link.push(handle, terms, |out| out.extend_from_slice(frame));
        }
    }

    /// It is at most once; its sender is told that it went to nobody here.
    pub(super) fn drop_broadcast(&mut self, follower: u32, id: u64) {
        self.drop_group_push();
        let mut answer = WorkerAnswer::new(follower, id);
        answer.partial = true;
        self.routes.answers.push(answer);
    }
}
