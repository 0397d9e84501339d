//! What goes to state with the next batch.
//!
//! "Send what is ready": a turn's events are one batch; while the stream is full the batch goes on growing, up to
//! the link queue's bound. Frames beyond it are answered `busy` by the caller. Closes and receipts are always taken:
//! logins, which are bounded, bound the first; pushes under way the second.

use bytes::Bytes;
use imaccess_net::handle::Handle;
use imaccess_proto::v1::{
    ConnectionClosed, EndedConnection, Frames, GatewayBatch, LoginAttempt, Outcome, Quiesce, Receipts,
    SnapshotChunk, SnapshotGroup,
};
use imaccess_wire::Code;

/// Handle, serial, length and count of a snapshot row.
const ROW_BYTES: usize = 24;

/// The growing batch.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    snapshot: Option<SnapshotChunk>,
    tickets: Vec<u8>,
    /// The shard's numbers of the attributes in this chunk's table, in its order.
    attributes: Vec<u16>,
    snapshot_bytes: usize,
    logins: Vec<LoginAttempt>,
    login_bytes: usize,
    handles: Vec<u64>,
    lengths: Vec<u32>,
    frames: Vec<u8>,
    receipt_ids: Vec<u64>,
    outcomes: Vec<u8>,
    closed: Vec<ConnectionClosed>,
    quiesce: Quiesce,
    has_events: bool,
}

impl Outbox {
    /// Whether there is anything to send.
    pub(crate) fn has_events(&self) -> bool {
        self.has_events
    }

    /// Bytes of frames that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.frames.len() + self.login_bytes
    }

    /// Bytes of the snapshot that wait.
    pub(crate) fn snapshot_bytes(&self) -> usize {
        self.snapshot_bytes
    }

    /// A data frame of a connection.
    #[inline]
    pub(crate) fn uplink(&mut self, handle: Handle, frame: &[u8]) {
        self.has_events = true;
        self.handles.push(handle.bits());
        self.lengths.push(frame.len() as u32);
        self.frames.extend_from_slice(frame);
    }

    /// A login frame.
    pub(crate) fn login(&mut self, attempt: LoginAttempt) {
        self.has_events = true;
        self.login_bytes += attempt.frame.len();
        self.logins.push(attempt);
    }

    /// What became of a push.
    pub(crate) fn receipt(&mut self, id: u64, outcome: Outcome) {
        self.has_events = true;
        self.receipt_ids.push(id);
        self.outcomes.push(outcome as u8);
    }

    /// A connection is gone.
    pub(crate) fn closed(&mut self, handle: Handle, code: Code) {
        self.has_events = true;
        self.closed.push(ConnectionClosed {
            handle: handle.bits(),
            code: u32::from(code as u16),
        });
    }

    /// A logged-in connection that state may not know. `attributes`: what state said of its device, and the shard's number for that.
    pub(crate) fn row(
        &mut self,
        handle: Handle,
        serial: u64,
        ticket: &[u8],
        attributes: (u16, &Bytes),
        forwarded: u32,
    ) {
        self.has_events = true;
        let chunk = self.snapshot.get_or_insert_default();
        let (number, text) = attributes;
        let place = match self.attributes.iter().position(|known| *known == number) {
            _ if number == 0 => 0,
            Some(place) => place + 1,
            None => {
                self.attributes.push(number);
                chunk.attribute_table.push(text.clone());
                self.snapshot_bytes += text.len();
                self.attributes.len()
            }
        };
        chunk.attributes.push(place as u32);
        chunk.handle.push(handle.bits());
        chunk.serial.push(serial);
        chunk.ticket_length.push(ticket.len() as u32);
        chunk.forwarded.push(forwarded);
        self.tickets.extend_from_slice(ticket);
        self.snapshot_bytes += ROW_BYTES + ticket.len();
    }

    /// Some members of a group.
    pub(crate) fn group(&mut self, business: u32, id: &[u8], member: Vec<u64>) {
        self.has_events = true;
        self.snapshot_bytes += id.len() + member.len() * size_of::<u64>();
        let group = SnapshotGroup {
            business,
            group: Bytes::copy_from_slice(id),
            member,
        };
        self.snapshot.get_or_insert_default().groups.push(group);
    }

    /// Connections that have ended.
    pub(crate) fn ended(&mut self, rows: Vec<EndedConnection>) {
        self.has_events = true;
        self.snapshot_bytes += rows.iter().map(|row| ROW_BYTES + row.ticket.len()).sum::<usize>();
        self.snapshot.get_or_insert_default().ended = rows;
    }

    /// Says how far leaving has come, with the batch that is taken next.
    pub(crate) fn quiesce(&mut self, quiesce: Quiesce) {
        self.has_events = true;
        self.quiesce = quiesce;
    }

    /// The snapshot is complete.
    pub(crate) fn snapshot_done(&mut self) {
        self.has_events = true;
        self.snapshot.get_or_insert_default().done = true;
    }

    /// The batch, ready to send. Capacity is kept about as large as this batch was.
    pub(crate) fn take(&mut self) -> GatewayBatch {
        self.has_events = false;
        self.login_bytes = 0;
        self.snapshot_bytes = 0;
        let tickets = std::mem::take(&mut self.tickets);
        self.attributes.clear();
        let snapshot = self.snapshot.take().map(|chunk| SnapshotChunk {
            tickets: tickets.into(),
            ..chunk
        });
        let uplink = if self.handles.is_empty() {
            None
        } else {
            Some(Frames {
                handle: take_sized(&mut self.handles),
                length: take_sized(&mut self.lengths),
                frames: take_sized(&mut self.frames).into(),
            })
        };
        let receipts = if self.receipt_ids.is_empty() {
            None
        } else {
            Some(Receipts {
                id: std::mem::take(&mut self.receipt_ids),
                outcome: std::mem::take(&mut self.outcomes).into(),
            })
        };
        GatewayBatch {
            hello: None,
            snapshot,
            logins: std::mem::take(&mut self.logins),
            uplink,
            receipts,
            closed: std::mem::take(&mut self.closed),
            quiesce: std::mem::take(&mut self.quiesce).into(),
        }
    }

    /// Forgets everything: the stream that it was for is gone.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Takes a column, leaving one with room for about as much again: the next turn is likely to be like this one.
/// A column that was once huge leaves little behind.
fn take_sized<T>(column: &mut Vec<T>) -> Vec<T> {
    const MOST_BYTES: usize = 64 << 10;
    let room = column.len().min(MOST_BYTES / size_of::<T>().max(1));
    std::mem::replace(column, Vec::with_capacity(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_what_was_put_in_and_nothing_is_sent_twice() {
        let mut outbox = Outbox::default();
        assert!(!outbox.has_events());
        let (one, two) = (Handle::new(0, 1, 0), Handle::new(0, 2, 5));
        outbox.uplink(one, b"first");
        outbox.uplink(two, b"second");
        let (ios, web) = (Bytes::from_static(b"ios"), Bytes::from_static(b"web"));
        outbox.row(two, 9, b"ticket", (7, &ios), 3);
        for attributes in [(0, &ios), (4, &web), (7, &ios)] {
            outbox.row(one, 8, b"", attributes, 0);
        }
        outbox.receipt(77, Outcome::Written);
        outbox.closed(one, Code::ConnectionLost);
        assert_eq!(outbox.bytes(), 11);
        let batch = outbox.take();
        let uplink = batch.uplink.unwrap();
        assert_eq!(uplink.handle, [one.bits(), two.bits()]);
        assert_eq!(uplink.length, [5, 6]);
        assert_eq!(&uplink.frames[..], b"firstsecond");
        let snapshot = batch.snapshot.unwrap();
        assert_eq!(&snapshot.tickets[..], b"ticket");
        assert_eq!(snapshot.attributes, [1, 0, 2, 1]);
        assert_eq!(snapshot.attribute_table, [ios, web]);
        assert_eq!(batch.closed.len(), 1);
        assert_eq!(&batch.receipts.unwrap().outcome[..], [Outcome::Written as u8]);
        assert!(!outbox.has_events());
        assert_eq!(outbox.take(), GatewayBatch::default());
    }
}
