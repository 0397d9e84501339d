//! The table, with time as the test turns it.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::*;

fn entry(ask: Ask, asked: Instant, wait_ms: u32) -> (Entry, oneshot::Receiver<Answer>) {
    let (answer, receiver) = oneshot::channel();
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    (Entry::new(ask, asked + wait_ms * MS, answer, permit), receiver)
}

fn request() -> Ask {
    Ask::Request {
        business: 1,
        payload: Bytes::new(),
        metadata: Bytes::new(),
        trace: String::new(),
    }
}

fn send() -> Ask {
    Ask::Send {
        business: 1,
        payload: Bytes::new(),
        metadata: Bytes::new(),
        trace: String::new(),
    }
}

fn told(message_id: u64, code: Code, retry_after_ms: u64) -> Verdict {
    let retry_after = Duration::from_millis(retry_after_ms);
    Verdict {
        message_id,
        number: code as u16,
        retry_after,
        reason: String::new(),
        payload: Bytes::new(),
    }
}

/// Sends everything that is due, with `next_id` and the following as message ids of what has none.
fn flush(pending: &mut Pending, now: Instant, mut next_id: u64) -> Vec<u64> {
    let mut sent = Vec::new();
    while let Some((key, entry)) = pending.due(now) {
        let id = if entry.message_id == 0 {
            next_id
        } else {
            entry.message_id
        };
        next_id = next_id.max(id + 1);
        pending.sent(key, id);
        sent.push(id);
    }
    sent
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_request_is_repeated_with_its_id_and_answered_once() {
    let start = Instant::now();
    let mut pending = Pending::default();
    let (request, mut answer) = entry(request(), start, 1_000);
    pending.insert(request);
    assert_eq!(flush(&mut pending, start, 7), [7]);
    pending.answered(&told(7, Code::Retry, 0), start);
    assert_eq!(pending.next_wake(true), Some(start + FIRST_REPEAT));
    assert!(pending.due(start + 99 * MS).is_none());
    assert_eq!(flush(&mut pending, start + 100 * MS, 8), [7]);
    pending.answered(&told(7, Code::Busy, 500), start + 100 * MS);
    assert_eq!(
        pending.next_wake(true),
        Some(start + 600 * MS),
        "what the server asks for is a floor"
    );
    pending.connection_lost(start);
    assert_eq!(
        pending.next_wake(true),
        Some(start + 600 * MS),
        "a loss changes nothing for what waits"
    );
    assert_eq!(flush(&mut pending, start + 600 * MS, 8), [7]);
    pending.connection_lost(start);
    assert_eq!(flush(&mut pending, start + 700 * MS, 8), [7]);
    let payload = Bytes::from_static(b"hi");
    pending.answered(
        &Verdict {
            payload: payload.clone(),
            ..told(7, Code::Ok, 0)
        },
        start + 710 * MS,
    );
    assert_eq!(answer.try_recv().unwrap(), Ok(Reply { payload, attempts: 4 }));
    pending.answered(&told(7, Code::Ok, 0), start + 720 * MS);
    assert_eq!((pending.next_wake(true), pending.next_wake(false)), (None, None));
}

#[test]
fn the_deadline_ends_it_with_what_was_last_told() {
    let start = Instant::now();
    let mut pending = Pending::default();
    let (request, mut answer) = entry(request(), start, 50);
    pending.insert(request);
    flush(&mut pending, start, 1);
    pending.answered(&told(1, Code::BusinessUnavailable, 0), start);
    assert_eq!(pending.next_wake(true), Some(start + 50 * MS));
    pending.expire(start + 49 * MS);
    assert!(answer.try_recv().is_err());
    pending.expire(start + 50 * MS);
    let expected = RequestError::DeadlineExceeded {
        last: Code::BusinessUnavailable,
    };
    assert_eq!(answer.try_recv().unwrap(), Err(expected));
}

#[test]
fn a_send_under_way_is_not_repeated_but_one_that_waits_is_sent() {
    let start = Instant::now();
    let mut pending = Pending::default();
    let (first, mut lost) = entry(send(), start, 1_000);
    pending.insert(first);
    flush(&mut pending, start, 1);
    let (second, mut waits) = entry(send(), start, 1_000);
    pending.insert(second);
    pending.connection_lost(start);
    assert_eq!(lost.try_recv().unwrap(), Err(RequestError::Unknown));
    assert_eq!(flush(&mut pending, start, 2), [2]);
    pending.close(Code::Kicked);
    assert_eq!(
        waits.try_recv().unwrap(),
        Err(RequestError::Closed { code: Code::Kicked })
    );
}

#[test]
fn in_a_new_session_what_was_sent_goes_before_what_was_not() {
    let start = Instant::now();
    let mut pending = Pending::default();
    let (requests, _answers): (Vec<_>, Vec<_>) = (0..3).map(|_| entry(request(), start, 1_000)).unzip();
    for (index, request) in requests.into_iter().enumerate() {
        if index == 2 {
            assert_eq!(flush(&mut pending, start, 1), [1, 2]);
        }
        pending.insert(request);
    }
    pending.answered(&told(1, Code::Retry, 800), start + MS);
    pending.connection_lost(start);
    pending.session_began(start + 2 * MS);
    assert_eq!(flush(&mut pending, start + 2 * MS, 3), [1, 2, 3]);
}

#[test]
fn new_ones_wait_while_the_oldest_unanswered_is_64_numbers_behind() {
    let start = Instant::now();
    let mut pending = Pending::default();
    let (requests, _answers): (Vec<_>, Vec<_>) = (0..100).map(|_| entry(request(), start, 1_000)).unzip();
    requests.into_iter().for_each(|request| pending.insert(request));
    assert_eq!(flush(&mut pending, start, 1), (1..=64).collect::<Vec<_>>());
    assert_eq!(
        pending.next_wake(true),
        Some(start + 1_000 * MS),
        "what has no room wakes nobody"
    );
    pending.answered(&told(2, Code::Ok, 0), start);
    assert_eq!(
        flush(&mut pending, start, 65),
        [] as [u64; 0],
        "the oldest counts"
    );
    pending.answered(&told(1, Code::Ok, 0), start);
    assert_eq!(flush(&mut pending, start, 65), [65, 66]);
}

#[test]
fn what_nobody_waits_for_is_forgotten() {
    let start = Instant::now();
    let mut pending = Pending::default();
    let (request, answer) = entry(request(), start, 50);
    pending.insert(request);
    drop(answer);
    assert!(pending.due(start).is_none());
    assert_eq!(pending.next_wake(true), None);
}

#[test]
fn what_may_be_lost_is_due_at_once_in_order_and_sends_end() {
    let start = Instant::now();
    let mut pending = Pending::default();
    let (requests, mut answers): (Vec<_>, Vec<_>) = (0..3).map(|_| entry(request(), start, 1_000)).unzip();
    requests.into_iter().for_each(|request| pending.insert(request));
    let (one_way, mut unknown) = entry(send(), start, 1_000);
    pending.insert(one_way);
    assert_eq!(flush(&mut pending, start, 1), [1, 2, 3, 4]);
    pending.answered(&told(1, Code::Busy, 800), start);
    let (late, _answer) = entry(request(), start, 1_000);
    pending.insert(late);
    pending.may_be_lost(Code::Retry, start + MS);
    assert_eq!(unknown.try_recv().unwrap(), Err(RequestError::Unknown));
    assert_eq!(
        flush(&mut pending, start + MS, 5),
        [2, 3, 5],
        "what waits for its time goes on waiting, new ones come last"
    );
    pending.answered(&told(2, Code::Ok, 0), start + 2 * MS);
    pending.answered(&told(2, Code::Ok, 0), start + 2 * MS);
    assert_eq!(answers[1].try_recv().unwrap().unwrap().attempts, 2);
}
