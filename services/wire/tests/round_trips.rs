//! Properties of the frame layer: every frame reads back as it was written, also with fields that this
//! version doesn't know, however the bytes are cut; and no bytes do harm.

#[path = "round_trips/frames.rs"]
mod frames;

use imaccess_wire::{Frame, FrameBuffer, HEADER_LEN, Limits, ProtocolError, header};
use proptest::prelude::*;

use frames::{Owned, owned};

fn encoded(frame: &Owned) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.with(|frame| frame.encode(&mut bytes));
    bytes
}

/// The frame with unknown tags put between its tagged fields. `None` if it has no room for them.
fn with_unknown_tags(bytes: &[u8], fixed: usize, unknown: &[(usize, u64, Vec<u8>)]) -> Option<Vec<u8>> {
    use imaccess_wire::field::{Reader, put_bytes, put_varint};
    let (fixed, rest) = bytes[HEADER_LEN..].split_at(fixed);
    let mut rest = Reader::new(rest, "test");
    let mut tags = rest.tags().expect("our own bytes");
    let mut fields = Vec::new();
    while let Some((tag, value)) = tags.next().expect("our own bytes") {
        fields.push((tag, value.rest().to_vec()));
    }
    for (place, tag, value) in unknown {
        fields.insert(place % (fields.len() + 1), (*tag, value.clone()));
    }
    let mut section = Vec::new();
    for (tag, value) in fields {
        put_varint(&mut section, tag);
        put_bytes(&mut section, &value);
    }
    let mut out = bytes[..HEADER_LEN].to_vec();
    out.extend_from_slice(fixed);
    put_bytes(&mut out, &section);
    out.extend_from_slice(rest.payload());
    let body = u32::try_from(out.len() - HEADER_LEN)
        .ok()
        .filter(|len| *len <= 65_536)?;
    out[4..HEADER_LEN].copy_from_slice(&body.to_be_bytes());
    Some(out)
}

fn feed_all(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Result<(), ProtocolError>) {
    let mut frames = Vec::new();
    let mut buffer = FrameBuffer::new();
    for piece in pieces {
        let result = buffer.feed(piece, Limits::default(), |split| {
            frames.push(split.frame.to_vec());
            Ok::<(), ProtocolError>(())
        });
        if result.is_err() {
            return (frames, result);
        }
    }
    (frames, Ok(()))
}

proptest! {
    #[test]
    fn every_frame_reads_back_as_it_was_written(frame in owned()) {
        let bytes = encoded(&frame);
        let split = header::split(&bytes, Limits::default()).expect("valid").expect("whole");
        prop_assert!(split.rest.is_empty());
        let read = Frame::decode(&split).expect("valid").expect("known");
        frame.with(|written| assert_eq!(read, *written));
        let mut again = Vec::new();
        read.encode(&mut again);
        prop_assert_eq!(again, bytes);
    }

    #[test]
    fn unknown_tags_change_nothing(
        frame in owned(),
        unknown in prop::collection::vec((any::<usize>(), 100u64.., prop::collection::vec(any::<u8>(), 0..40)), 1..5),
    ) {
        let bytes = encoded(&frame);
        if let Some(extended) = with_unknown_tags(&bytes, frame.fixed_len(), &unknown) {
            let split = header::split(&extended, Limits::default()).expect("valid").expect("whole");
            let read = Frame::decode(&split).expect("unknown tags are skipped").expect("known");
            frame.with(|written| assert_eq!(read, *written));
        }
    }

    #[test]
    fn cut_anywhere_the_same_frames_come_out(
        frames in prop::collection::vec(owned(), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let expected: Vec<_> = frames.iter().map(encoded).collect();
        let stream = expected.concat();
        let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        places.extend([0, stream.len()]);
        places.sort_unstable();
        let pieces: Vec<_> = places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        prop_assert_eq!(feed_all(&pieces), (expected, Ok(())));
    }

    #[test]
    fn no_more_is_held_than_was_received_or_announced(
        frame in owned(),
        sizes in prop::collection::vec(1usize..2_000, 1..40),
    ) {
        let bytes = encoded(&frame);
        let mut buffer = FrameBuffer::new();
        let (mut rest, mut sizes, mut whole) = (&bytes[..], sizes.iter().cycle(), 0);
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min(*sizes.next().expect("endless")));
            rest = behind;
            let fed = buffer.feed(piece, Limits::default(), |_| { whole += 1; Ok::<(), ProtocolError>(()) });
            prop_assert_eq!(fed, Ok(()));
            let received = bytes.len() - rest.len();
            prop_assert!(buffer.capacity() <= (2 * received).min(bytes.len()).max(buffer.len()));
            prop_assert!(buffer.len() <= received);
        }
        prop_assert_eq!((whole, buffer.capacity()), (1, 0));
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 1u8..=17) {
        let _ = feed_all(&[&bytes]);
        // Behind a valid header the bodies' readers get their share.
        let mut framed = vec![header::MAGIC, header::VERSION, kind, 0];
        framed.extend_from_slice(&u32::try_from(bytes.len()).expect("short").to_be_bytes());
        framed.extend_from_slice(&bytes);
        let split = header::split(&framed, Limits::default()).expect("valid").expect("whole");
        if let Ok(Some(frame)) = Frame::decode(&split) {
            let mut again = Vec::new();
            frame.encode(&mut again);
            let split = header::split(&again, Limits::default()).expect("valid").expect("whole");
            prop_assert_eq!(Frame::decode(&split).expect("valid").expect("known"), frame);
        }
    }

    #[test]
    fn a_changed_byte_does_no_harm(frame in owned(), place in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encoded(&frame);
        let place = place.index(bytes.len());
        bytes[place] = byte;
        if let Ok(Some(split)) = header::split(&bytes, Limits::default()) {
            let _ = Frame::decode(&split);
        }
    }

    #[test]
    fn varints_have_the_length_that_is_said(value in any::<u64>(), shift in 0u32..64) {
        use imaccess_wire::field::{Reader, put_varint, varint_len};
        let value = value >> shift;
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        prop_assert_eq!(bytes.len(), varint_len(value));
        let mut reader = Reader::new(&bytes, "test");
        prop_assert_eq!(reader.varint(), Ok(value));
        prop_assert!(reader.is_empty());
    }
}

#[test]
fn a_big_announcement_costs_nothing() {
    let mut buffer = FrameBuffer::new();
    let announcement = [header::MAGIC, header::VERSION, 6, 0, 0, 1, 0, 0];
    let fed = buffer.feed(&announcement, Limits::default(), |_| Ok::<(), ProtocolError>(()));
    assert_eq!((fed, buffer.len()), (Ok(()), 8));
    assert!(buffer.capacity() <= 16, "{}", buffer.capacity());
}

#[test]
fn an_error_of_the_caller_ends_the_stream_and_frees_the_buffer() {
    let ping = [header::MAGIC, header::VERSION, 4, 0, 0, 0, 0, 0];
    let mut buffer = FrameBuffer::new();
    assert_eq!(
        buffer.feed(&ping[..5], Limits::default(), |_| Ok::<(), ProtocolError>(())),
        Ok(())
    );
    let stream = [&ping[5..], &ping[..], &ping[..3]].concat();
    let error = ProtocolError::Malformed("for the test");
    assert_eq!(
        buffer.feed(&stream, Limits::default(), |_| Err(error)),
        Err(error)
    );
    assert_eq!((buffer.is_empty(), buffer.capacity()), (true, 0));
}
