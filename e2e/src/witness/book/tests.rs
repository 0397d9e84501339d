//! The book against a scripted server that misbehaves.

use imaccess_wire::frame::{Close, LoginOk};
use imaccess_wire::header::FLAG_IGNORABLE;

use super::*;

const NOW: Duration = Duration::from_secs(5);

/// A client that is online, and its requests' ids.
fn online(requests: usize) -> (Book, Vec<u64>) {
    let mut book = Book::new(9, 3);
    let mut seen = Seen::default();
    book.receive(&login_ok(), NOW, &mut seen);
    assert!(book.is_online() && seen.forged.is_none());
    let ids = (0..requests).map(|_| book.ask(NOW)).collect();
    (book, ids)
}

fn login_ok() -> Vec<u8> {
    let mut bytes = Vec::new();
    LoginOk {
        ticket: b"ticket",
        ..LoginOk::default()
    }
    .encode(&mut bytes);
    bytes
}

/// The server's answer to one request, as a good server gives it.
fn echo(book: &Book, id: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    book.payload(id, &mut payload);
    let mut bytes = Vec::new();
    Reply {
        message_id: id,
        payload: &payload,
        ..Reply::default()
    }
    .encode(&mut bytes);
    bytes
}

fn code(id: u64, code: Code) -> Vec<u8> {
    let mut bytes = Vec::new();
    Reply {
        message_id: id,
        code: code as u16,
        ..Reply::default()
    }
    .encode(&mut bytes);
    bytes
}

/// How much of what was seen is a failure.
fn faults(seen: &Seen) -> u64 {
    seen.doubled + seen.foreign + seen.torn + seen.repeated_pushes + u64::from(seen.forged.is_some())
}

#[test]
fn answers_are_taken_in_any_order_and_split_anywhere() {
    let (book, ids) = online(3);
    let bytes: Vec<u8> = [2, 0, 1].iter().flat_map(|at| echo(&book, ids[*at])).collect();
    for at in 0..=bytes.len() {
        let (mut book, _) = online(3);
        let mut seen = Seen::default();
        book.receive(&bytes[..at], NOW, &mut seen);
        book.receive(&bytes[at..], NOW + Duration::from_millis(7), &mut seen);
        assert_eq!((seen.answers.len(), faults(&seen)), (3, 0), "{at}");
        assert_eq!(book.unanswered(), 0);
        assert!(!book.connection_ended());
    }
}

#[test]
fn a_reply_that_never_comes_is_lost_and_one_that_comes_late_is_no_second_one() {
    let (mut book, ids) = online(2);
    let mut seen = Seen::default();
    book.receive(&echo(&book, ids[0]), NOW, &mut seen);
    assert_eq!(book.expire(ids[0], NOW + LOST), Expiry::Settled);
    assert_eq!(book.expire(ids[1], NOW), Expiry::LookAgain(NOW + LOST));
    assert_eq!(book.expire(ids[1], NOW + LOST), Expiry::Lost(NOW));
    book.receive(&echo(&book, ids[1]), NOW + LOST, &mut seen);
    assert_eq!((seen.late, seen.doubled, seen.answers.len()), (1, 0, 1));
}

#[test]
fn a_second_answer_is_doubled() {
    let (mut book, ids) = online(1);
    let mut seen = Seen::default();
    let bytes = echo(&book, ids[0]).repeat(2);
    book.receive(&bytes, NOW, &mut seen);
    assert_eq!((seen.answers.len(), seen.doubled), (1, 1));
    // An attempt that was answered `retry` has its answer as well.
    let (mut book, ids) = online(1);
    let mut seen = Seen::default();
    let bytes = [code(ids[0], Code::Retry), echo(&book, ids[0])].concat();
    book.receive(&bytes, NOW, &mut seen);
    assert_eq!((seen.answers.len(), seen.doubled, seen.repeats.len()), (1, 1, 1));
}

#[test]
fn a_retry_is_repeated_with_its_number_and_waits_longer_each_time() {
    let (mut book, ids) = online(1);
    let mut seen = Seen::default();
    let mut waits = Vec::new();
    for _ in 0..6 {
        book.receive(&code(ids[0], Code::Retry), NOW, &mut seen);
        let (id, at) = seen.repeats.pop().unwrap();
        assert!(book.repeat(id, at) && !book.repeat(id, at));
        waits.push((at - NOW).as_millis());
    }
    assert_eq!(waits, [100, 200, 400, 800, 1_600, 2_000]);
    book.receive(&echo(&book, ids[0]), NOW, &mut seen);
    assert_eq!((seen.answers.len(), faults(&seen)), (1, 0));
}

#[test]
fn a_flipped_byte_is_found_wherever_it_is() {
    // Long enough for a tag, short enough for a quick test.
    let (mut book, _) = online(0);
    let id = loop {
        let id = book.ask(NOW);
        if (60..900).contains(&echo(&book, id).len()) {
            break id;
        }
    };
    let good = echo(&book, id);
    for at in 0..good.len() {
        for bit in 0..8 {
            let (mut book, _) = online(usize::try_from(id).unwrap());
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let mut seen = Seen::default();
            book.receive(&bytes, NOW, &mut seen);
            let well = seen.answers.iter().any(|(_, _, code)| *code == 0) && faults(&seen) == 0;
            assert!(!well, "bit {bit} of byte {at} was not seen");
        }
    }
}

#[test]
fn answers_of_others_and_to_nothing_are_foreign() {
    let (mut book, ids) = online(2);
    let mut seen = Seen::default();
    book.receive(&echo(&book, 77), NOW, &mut seen);
    assert_eq!(seen.foreign, 1);
    let other = Book::new(9, 4);
    let theirs = (1..).map(|id| echo(&other, id)).find(|bytes| bytes.len() > 100);
    // Its number says that it answers ours.
    let (whole, id) = (theirs.unwrap(), ids[0]);
    let split = imaccess_wire::header::split(&whole, Limits::default())
        .unwrap()
        .unwrap();
    let Some(Frame::Reply(reply)) = Frame::decode(&split).unwrap() else {
        panic!()
    };
    let mut bytes = Vec::new();
    Reply {
        message_id: id,
        ..reply
    }
    .encode(&mut bytes);
    book.receive(&bytes, NOW, &mut seen);
    assert_eq!((seen.foreign, seen.answers.len()), (2, 1));
}

#[test]
fn what_no_gateway_sends_is_forged_and_what_may_be_skipped_is_not() {
    let (mut book, _) = online(0);
    let mut seen = Seen::default();
    let mut unknown = vec![imaccess_wire::header::MAGIC, 1, 200, FLAG_IGNORABLE, 0, 0, 0, 2];
    unknown.extend_from_slice(b"xx");
    book.receive(&unknown, NOW, &mut seen);
    assert_eq!(faults(&seen), 0);
    book.receive(&login_ok(), NOW, &mut seen);
    assert!(seen.forged.is_some() && !book.is_online());
    let (mut book, _) = online(0);
    seen.clear();
    book.receive(b"HTTP/1.1", NOW, &mut seen);
    assert!(seen.forged.is_some());
}

#[test]
fn an_end_within_a_frame_is_told_from_one_behind_a_close() {
    let (mut book, ids) = online(1);
    let bytes = echo(&book, ids[0]);
    let mut seen = Seen::default();
    book.receive(&bytes[..bytes.len() - 1], NOW, &mut seen);
    assert!(book.connection_ended());
    assert_eq!(book.repeat_all(NOW), ids);
    let mut close = Vec::new();
    Close::with_code(Code::Draining).encode(&mut close);
    close.extend_from_slice(&bytes[..3]);
    book.receive(&login_ok(), NOW, &mut seen);
    book.receive(&close, NOW, &mut seen);
    assert_eq!(seen.closed, Some(Code::Draining as u16));
    assert!(!book.is_online() && !book.connection_ended());
}
