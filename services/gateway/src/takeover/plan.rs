//! What becomes of each connection, shard and listener that a gateway takes over. Pure.

use imaccess_net::cursors::Cursor;
use imaccess_net::kernel_counts::KernelCounts;
use imaccess_proto::v1::HandedOver;
use imaccess_wire::Code;

/// A cursor's phase: no session yet.
pub(crate) const CONNECTING: u8 = 0;
/// A cursor's phase: logged in.
pub(crate) const ONLINE: u8 = 1;
/// A cursor's phase: the last frame was sent.
pub(crate) const CLOSING: u8 = 2;

/// How a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// Its login is still in the kernel, or not sent yet.
    Connecting,
    /// Its session is state's to tell.
    Online,
    /// As its record says.
    Recorded,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing is missing.
    GoesOn(As),
    /// Something of the client's is missing: it is told so by a code, and resumes.
    Closed(Code, Why),
    /// Its stream to the client may be within a frame, where a code would be taken for payload: it only ends.
    Cut(Code, Why),
}

/// Why one doesn't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The process died between the bytes of a frame.
    MidFrame,
    /// Its login was taken and the answer never written.
    LoginLost,
    /// It was ending.
    Closing,
    /// The peer ended it while nobody was there.
    PeerGone,
    /// Nobody wrote down how far it was.
    NoRecord,
}

impl Why {
    /// As in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::MidFrame => "mid_frame",
            Self::LoginLost => "login_lost",
            Self::Closing => "closing",
            Self::PeerGone => "peer_gone",
            Self::NoRecord => "no_record",
        }
    }
}

/// After a death: only what the kernel confirms goes on. Never a guess: payload taken for a header would forge frames.
pub(crate) fn after_crash(cursor: Option<Cursor>, counts: Option<KernelCounts>) -> Fate {
    let Some(cursor) = cursor else {
        // Its cell is emptied when it ends and filled before it is deposited: it was ending.
        return Fate::Cut(Code::ConnectionLost, Why::Closing);
    };
    if cursor.phase == CLOSING {
        return Fate::Cut(Code::ConnectionLost, Why::Closing);
    }
    let Some(counts) = counts else {
        return Fate::Cut(Code::GatewayLost, Why::NoRecord);
    };
    // It may have died in the call that wrote, before it could count: then what it was about to write is whole.
    let intended = cursor.written.wrapping_add(cursor.intended.into());
    if counts.written != cursor.written && counts.written != intended {
        return Fate::Cut(Code::GatewayLost, Why::MidFrame);
    }
    if counts.read != cursor.read {
        return Fate::Closed(Code::GatewayLost, Why::MidFrame);
    }
    match (cursor.read, counts.written) {
        (0, 0) => Fate::GoesOn(As::Connecting),
        // The login was read, which is done when its answer has come; the answer was not written.
        (_, 0) => Fate::Closed(Code::GatewayLost, Why::LoginLost),
        _ => Fate::GoesOn(As::Online),
    }
}

/// After a planned exit: the record says everything.
pub(crate) fn handed_over(record: Option<&HandedOver>, cursor: Option<Cursor>) -> Fate {
    match (record, cursor) {
        (Some(_), Some(_)) => Fate::GoesOn(As::Recorded),
        // Without its counts the next crash would be the end of it; now is as good.
        (Some(_), None) => Fate::Closed(Code::GatewayLost, Why::NoRecord),
        // It ended while the exit was prepared.
        (None, _) => Fate::Cut(Code::ConnectionLost, Why::Closing),
    }
}

/// The shard that a connection of a former shard goes to; state reckons alike.
pub(crate) fn shard_of(before: u32, shards: usize) -> usize {
    before as usize % shards.max(1)
}

/// Shares what is held out among the shards, in turn. Every held listener must be served, for connections hash to all of
/// them; a shard that gets none has to add one of its own.
pub(crate) fn share_out<T>(held: Vec<T>, shards: usize) -> Vec<Vec<T>> {
    let mut shared: Vec<Vec<T>> = (0..shards).map(|_| Vec::new()).collect();
    for (index, one) in held.into_iter().enumerate() {
        shared[index % shards].push(one);
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(read: u64, written: u64, phase: u8) -> Option<Cursor> {
        Some(Cursor {
            serial: 1,
            read,
            written,
            phase,
            ..Cursor::default()
        })
    }

    fn intending(cursor: Option<Cursor>, intended: u32) -> Option<Cursor> {
        cursor.map(|cursor| Cursor { intended, ..cursor })
    }

    fn counts(read: u64, written: u64) -> Option<KernelCounts> {
        Some(KernelCounts {
            read,
            written,
            peer_finished: false,
        })
    }

    #[test]
    fn only_what_the_kernel_confirms_goes_on() {
        let lost = Code::GatewayLost;
        let table = [
            (
                cursor(0, 0, CONNECTING),
                counts(0, 0),
                Fate::GoesOn(As::Connecting),
            ),
            (cursor(90, 120, ONLINE), counts(90, 120), Fate::GoesOn(As::Online)),
            // It died between the answer and the note that it was given.
            (
                cursor(90, 120, CONNECTING),
                counts(90, 120),
                Fate::GoesOn(As::Online),
            ),
            (
                cursor(90, 120, ONLINE),
                counts(91, 120),
                Fate::Closed(lost, Why::MidFrame),
            ),
            (
                cursor(90, 120, ONLINE),
                counts(89, 120),
                Fate::Closed(lost, Why::MidFrame),
            ),
            (
                cursor(90, 120, ONLINE),
                counts(90, 121),
                Fate::Cut(lost, Why::MidFrame),
            ),
            (
                cursor(90, 120, ONLINE),
                counts(91, 121),
                Fate::Cut(lost, Why::MidFrame),
            ),
            (
                cursor(90, 0, CONNECTING),
                counts(90, 0),
                Fate::Closed(lost, Why::LoginLost),
            ),
            (
                cursor(90, 0, ONLINE),
                counts(90, 0),
                Fate::Closed(lost, Why::LoginLost),
            ),
            (cursor(90, 120, ONLINE), None, Fate::Cut(lost, Why::NoRecord)),
            (
                intending(cursor(90, 120, ONLINE), 30),
                counts(90, 150),
                Fate::GoesOn(As::Online),
            ),
            (
                intending(cursor(90, 120, ONLINE), 30),
                counts(90, 120),
                Fate::GoesOn(As::Online),
            ),
            (
                intending(cursor(90, 120, ONLINE), 30),
                counts(90, 149),
                Fate::Cut(lost, Why::MidFrame),
            ),
            (
                cursor(90, 120, CLOSING),
                counts(90, 120),
                Fate::Cut(Code::ConnectionLost, Why::Closing),
            ),
            (
                None,
                counts(90, 120),
                Fate::Cut(Code::ConnectionLost, Why::Closing),
            ),
        ];
        for (cursor, counts, fate) in table {
            assert_eq!(after_crash(cursor, counts), fate, "{cursor:?} {counts:?}");
        }
    }

    #[test]
    fn a_record_says_everything() {
        let record = HandedOver::default();
        assert_eq!(
            handed_over(Some(&record), cursor(1, 1, ONLINE)),
            Fate::GoesOn(As::Recorded)
        );
        assert!(matches!(handed_over(Some(&record), None), Fate::Closed(..)));
        assert!(matches!(handed_over(None, cursor(1, 1, ONLINE)), Fate::Cut(..)));
    }

    #[test]
    fn all_listeners_are_served_by_any_number_of_shards() {
        assert_eq!(share_out(vec![1, 2], 1), [vec![1, 2]]);
        assert_eq!(share_out(vec![1, 2, 3, 4], 3), [vec![1, 4], vec![2], vec![3]]);
        assert_eq!(share_out(vec![1], 3), [vec![1], vec![], vec![]]);
        assert_eq!((shard_of(1, 2), shard_of(1, 1), shard_of(5, 3)), (1, 0, 2));
    }
}
