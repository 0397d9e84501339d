//! Bytes to clients: written at once where the kernel takes them, queued within bounds where it doesn't.

use std::io::{ErrorKind, IoSlice};

use bytes::Bytes;
use imaccess_wire::Code;

use super::Shard;
use super::connection::Phase;
use super::queue::{OutQueue, Policy, Priority, Pushed, Queued, Share};

/// Slices per vectored write.
const SLICES: usize = 16;

/// What became of a frame for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivered {
    Written,
    Queued,
    /// Dropped by the business's policy.
    Refused,
    /// The connection is ending.
    Gone,
}

/// What goes with a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// 0: control.
    pub(crate) business: u32,
    pub(crate) priority: Priority,
    pub(crate) expires_ms: u64,
}

impl Shard {
    /// Writes control bytes (whole frames) to a connection, or queues them.
    pub(crate) fn send_control(&mut self, slot: u32, bytes: &[u8]) -> Delivered {
        self.send(slot, bytes, Terms::default(), || Bytes::copy_from_slice(bytes))
    }

    /// Writes one frame, or a run of control frames. `owned` makes what is queued, if anything has to be: a copy
    /// for frames that share a batch's memory, a reference for a group's frame.
    #[inline]
    pub(crate) fn send(
        &mut self,
        slot: u32,
        bytes: &[u8],
        terms: Terms,
        owned: impl FnOnce() -> Bytes,
    ) -> Delivered {
        let Some(connection) = self.connections.get_mut(slot) else {
            return Delivered::Gone;
        };
        self.counts.sent_frames += 1;
        let mut written = 0;
        if connection.queue.is_none() {
            self.counts.writes += 1;
            self.cursors.intend_write(slot, bytes.len());
            match connection.socket.write(bytes) {
                Ok(taken) => {
                    self.counts.sent_bytes += taken as u64;
                    if taken == bytes.len() {
                        self.cursors.add_written(slot, taken as u64);
                        return Delivered::Written;
                    }
                    written = taken;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.lost(slot);
                    return Delivered::Gone;
                }
            }
            self.counts.blocked_writes += 1;
        }
        self.enqueue(
            slot,
            Queued {
                bytes: owned(),
                business: terms.business,
                priority: terms.priority,
                expires_ms: terms.expires_ms,
            },
            written,
        )
    }

    /// Queues a frame behind what waits already.
    pub(crate) fn enqueue(&mut self, slot: u32, frame: Queued, written: usize) -> Delivered {
        let share = (frame.business != 0).then(|| self.share(frame.business));
        let most = self.limits.queue_per_connection;
        let tick = self.tick;
        let Some(connection) = self.connections.get_mut(slot) else {
            return Delivered::Gone;
        };
        let queue = connection
            .queue
            .get_or_insert_with(|| Box::new(OutQueue::since(tick)));
        let before = queue.bytes();
        let pushed = queue.push(frame, written, share, most);
        self.cursors.set_queued(slot, queue.frames() as u16);
        self.queued_bytes = self.queued_bytes + queue.bytes() - before;
        match pushed {
            Pushed::Queued => Delivered::Queued,
            Pushed::DroppedOldest(count) => {
                self.counts.dropped_oldest += u64::from(count);
                Delivered::Queued
            }
            Pushed::DroppedNewest => {
                self.counts.dropped_newest += 1;
                Delivered::Refused
            }
            Pushed::Overflow => {
                self.abandon(slot, Code::SlowConsumer);
                Delivered::Gone
            }
        }
    }

    /// The bound and policy of a business in a connection's queue.
    fn share(&self, business: u32) -> Share {
        self.shares.get(&business).copied().unwrap_or(Share {
            bytes: self.limits.queue_per_business,
            policy: Policy::DropOldest,
        })
    }

    /// Writes what waits for a connection, now that the kernel takes more.
    pub(crate) fn flush(&mut self, slot: u32, now_ms: impl FnOnce() -> u64) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let Some(queue) = connection.queue.as_deref_mut() else {
            return;
        };
        let before = queue.bytes();
        self.counts.dropped_expired += queue.expire(now_ms());
        let mut lost = false;
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = queue.slices(&mut slices);
            let offered: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            self.counts.writes += 1;
            // From the beginning of the frame that is begun to the end of the last one.
            self.cursors.intend_write(slot, queue.begun() + offered);
            match connection.socket.write_vectored(&slices[..count]) {
                Ok(taken) => {
                    self.counts.sent_bytes += taken as u64;
                    queue.progress = self.tick;
                    self.cursors.add_written(slot, queue.advance(taken) as u64);
                    if taken < offered {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    lost = true;
                    break;
                }
            }
        }
        self.queued_bytes = self.queued_bytes + queue.bytes() - before;
        self.cursors.set_queued(slot, queue.frames() as u16);
        let drained = queue.is_empty();
        if drained {
            connection.queue = None;
        }
        if lost {
            self.lost(slot);
        } else if drained && connection.phase == Phase::Closing {
            connection.socket.shutdown_write();
        }
    }
}
