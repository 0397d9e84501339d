//! One place for one batch, between a loop that makes batches and the gRPC stream that sends them.
//!
//! The loop puts a batch when the place is empty; until then it adds to the batch at hand, which is how batches grow
//! when the receiver is slow. When the stream takes a batch and the loop had found the place occupied, the loop is
//! woken. So there is at most one batch on the way per stream, plus what flow control lets through.
//!
//! The lock is held for a move of one value; loop and stream of a worker run on the same thread.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tokio_stream::Stream;

#[derive(Debug)]
struct Place<T> {
    item: Option<T>,
    taker: Option<Waker>,
    /// The loop found the place occupied and wants to hear when it is empty.
    wanted: bool,
    closed: bool,
    /// The stream's end is gone: nothing will be taken any more.
    gone: bool,
}

/// The loop's end. Dropping it ends the stream, after what is in the place.
#[derive(Debug)]
pub struct Mailbox<T> {
    place: Arc<Mutex<Place<T>>>,
}

/// The stream's end. Dropping it tells the loop.
#[derive(Debug)]
pub struct Outgoing<T> {
    place: Arc<Mutex<Place<T>>>,
    room: Arc<Notify>,
}

/// A mailbox and its stream; `first` is sent first. `room` is notified when an occupied place becomes empty.
#[must_use]
pub fn mailbox<T>(first: Option<T>, room: Arc<Notify>) -> (Mailbox<T>, Outgoing<T>) {
    let place = Arc::new(Mutex::new(Place {
        item: first,
        taker: None,
        wanted: false,
        closed: false,
        gone: false,
    }));
    (
        Mailbox {
            place: Arc::clone(&place),
        },
        Outgoing { place, room },
    )
}

impl<T> Mailbox<T> {
    /// Whether a batch can be put now. If not, `room` will be notified.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let mut place = lock(&self.place);
        place.wanted = place.item.is_some();
        !place.wanted
    }

    /// Whether the stream has ended: what is in the place stays there.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        lock(&self.place).gone
    }

    /// Puts a batch into the empty place. Put into an occupied one, it would replace what is there.
    pub fn put(&self, item: T) {
        let mut place = lock(&self.place);
        debug_assert!(place.item.is_none(), "has_room is asked first");
        place.item = Some(item);
        if let Some(taker) = place.taker.take() {
            taker.wake();
        }
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        let mut place = lock(&self.place);
        place.closed = true;
        if let Some(taker) = place.taker.take() {
            taker.wake();
        }
    }
}

impl<T> Drop for Outgoing<T> {
    fn drop(&mut self) {
        lock(&self.place).gone = true;
        self.room.notify_one();
    }
}

impl<T> Stream for Outgoing<T> {
    type Item = T;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut place = lock(&self.place);
        if let Some(item) = place.item.take() {
            if std::mem::take(&mut place.wanted) {
                self.room.notify_one();
            }
            return Poll::Ready(Some(item));
        }
        if place.closed {
            return Poll::Ready(None);
        }
        place.taker = Some(context.waker().clone());
        Poll::Pending
    }
}

fn lock<T>(place: &Mutex<Place<T>>) -> MutexGuard<'_, Place<T>> {
    // Nothing can panic while it is held.
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    #[tokio::test]
    async fn one_batch_at_a_time_and_word_when_it_is_taken() {
        let room = Arc::new(Notify::new());
        let (mailbox, mut stream) = mailbox(Some(1), Arc::clone(&room));
        assert!(!mailbox.has_room());
        assert_eq!(stream.next().await, Some(1));
        room.notified().await;
        assert!(mailbox.has_room());
        mailbox.put(2);
        assert_eq!(stream.next().await, Some(2));
        drop(mailbox);
        assert_eq!(stream.next().await, None);
    }

    #[tokio::test]
    async fn the_loop_is_told_when_the_stream_ends_with_a_batch_in_its_place() {
        let room = Arc::new(Notify::new());
        let (mailbox, stream) = mailbox(Some(1), Arc::clone(&room));
        assert!(!mailbox.has_room() && !mailbox.is_gone());
        drop(stream);
        room.notified().await;
        assert!(mailbox.is_gone());
    }
}
