//! What a turn produced, on its way: to the gateway, to businesses, to the hub, each as far as it has room.

use super::READY_PATIENCE;
use super::{CHUNK_ROWS, FromWorker, LINK_SOFT, Worker};

impl Worker {
    /// Tells the gateway that it may ask, once the businesses can be asked or have had their time.
    fn tell_ready(&mut self) {
        // A session that is still to come from another worker couldn't be found yet.
        if !self.unready || self.machine.awaits_imports() {
            return;
        }
        // Counted from the dialling: one that is away for longer holds up no gateway.
        let waited = u128::from(self.now().micros.saturating_sub(self.dialled));
        if self.machine.all_can_be_asked() || waited >= READY_PATIENCE.as_micros() {
            self.unready = false;
            self.machine.link.ready();
        }
    }

    /// Hands on what the machine produced, as far as there is room.
    pub(super) fn flush(&mut self) {
        self.flush_to_hub();
        self.tell_ready();
        // Asked again after each: only who found no room is told when there is some.
        let now = self.now();
        self.machine.release_pushes(LINK_SOFT, now);
        if let Some(link) = &self.link {
            self.machine.release_held(LINK_SOFT, now);
            while !self.machine.link.is_empty() && link.has_room() {
                link.put(self.machine.link.take());
                self.machine.release_pushes(LINK_SOFT, now);
                self.machine.release_held(LINK_SOFT, now);
            }
        }
        for (business, streams) in self.streams.iter().enumerate() {
            for (stream, mailbox) in streams.iter().enumerate() {
                let Some(mailbox) = mailbox else { continue };
                while self.machine.stream_is_ready(business, stream) && mailbox.has_room() {
                    mailbox.put(self.machine.take_stream(business, stream));
                }
            }
        }
    }

    /// Never waits: what the hub can't take now it gets in a later turn, in the same order.
    fn flush_to_hub(&mut self) {
        let restored = self.machine.is_restored();
        if restored && !std::mem::replace(&mut self.was_restored, true) {
            self.owed.push(FromWorker::Restored(self.number));
        }
        let live = self.machine.link_is_live();
        if live != std::mem::replace(&mut self.was_live, live) {
            self.owed.push(FromWorker::Live {
                worker: self.number,
                live,
                planned: self.machine.is_quiesced(),
            });
        }
        let settled = self.machine.take_settled();
        if !settled.is_empty() {
            self.owed.push(FromWorker::Settled(self.number, settled));
        }
        while !self.owed.is_empty() {
            let Ok(permit) = self.to_hub.try_reserve() else {
                return;
            };
            permit.send(self.owed.remove(0));
        }
        if self.machine.routes_waiting() > 0 {
            let Ok(permit) = self.to_hub.try_reserve() else {
                return;
            };
            if let Some(delta) = self.machine.take_routes() {
                permit.send(FromWorker::Delta(self.number, delta));
            }
        }
        while restored && !self.asked.is_empty() {
            let Ok(permit) = self.to_hub.try_reserve() else {
                return;
            };
            let (follower, from) = self.asked.remove(0);
            permit.send(FromWorker::Chunk(
                self.number,
                follower,
                self.machine.route_chunk(from, CHUNK_ROWS),
            ));
        }
    }
}
