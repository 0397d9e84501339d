//! Pushes on their way to the application: a bounded queue, and back the word of what was handled.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{mpsc, watch};

use crate::message::{Push, Target};
use crate::state::SessionId;

/// Up to where the application has handled the numbered pushes of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handled {
    pub(crate) session: SessionId,
    pub(crate) sequence: u64,
}

#[derive(Debug)]
struct Delivered {
    push: Push,
    session: SessionId,
}

/// The application's end: pushes in the order in which they came. See [`crate::Client::pushes`].
#[derive(Debug)]
pub struct Pushes {
    receiver: mpsc::Receiver<Delivered>,
    handled: watch::Sender<Handled>,
    /// Of the push handed out last: it counts as handled when the next is asked for.
    in_hand: Option<Handled>,
}

impl Pushes {
    /// The next push; `None` once the client is closed and everything before was handed out. Asking for the next one
    /// says that the one before was handled. Cancel safe.
    pub async fn recv(&mut self) -> Option<Push> {
        if let Some(handled) = self.in_hand.take() {
            self.handled.send_replace(handled);
        }
        let Delivered { push, session } = self.receiver.recv().await?;
        if let Target::Device { sequence } = push.target
            && sequence != 0
        {
            self.in_hand = Some(Handled { session, sequence });
        }
        Some(push)
    }
}

/// The connection's end.
#[derive(Debug)]
pub(crate) struct PushQueue {
    sender: mpsc::Sender<Delivered>,
    shared: Arc<PushCounters>,
    /// Read off the socket when the queue was full: no more than one read holds, because reading stops then.
    held: VecDeque<Delivered>,
}

/// What both ends and the client know of the queue.
#[derive(Debug, Default)]
pub(crate) struct PushCounters {
    /// Whether the application has taken its end.
    pub(crate) taken: AtomicBool,
    /// Pushes that nobody took.
    pub(crate) dropped: AtomicU64,
}

pub(crate) fn channel(capacity: usize) -> (PushQueue, Pushes, watch::Receiver<Handled>) {
    let (sender, receiver) = mpsc::channel(capacity);
    let (handled, handled_receiver) = watch::channel(Handled::default());
    let queue = PushQueue {
        sender,
        shared: Arc::default(),
        held: VecDeque::new(),
    };
    (
        queue,
        Pushes {
            receiver,
            handled,
            in_hand: None,
        },
        handled_receiver,
    )
}

impl PushQueue {
    pub(crate) fn counters(&self) -> Arc<PushCounters> {
        Arc::clone(&self.shared)
    }

    /// Whether the application is behind: then the socket isn't read.
    pub(crate) fn is_stalled(&self) -> bool {
        !self.held.is_empty()
    }

    pub(crate) fn deliver(&mut self, push: Push, session: SessionId) {
        self.held.push_back(Delivered { push, session });
        self.pass_on();
    }

    /// Waits until the queue has room again. Cancel safe.
    pub(crate) async fn room(&mut self) {
        if !self.is_stalled() {
            return std::future::pending().await;
        }
        // The permit is given back at once: nobody else sends, so the room stays.
        let _ = self.sender.reserve().await;
        self.pass_on();
    }

    fn pass_on(&mut self) {
        while let Some(next) = self.held.pop_front() {
            match self.sender.try_send(next) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(next)) if self.shared.taken.load(Ordering::Acquire) => {
                    self.held.push_front(next);
                    return;
                }
                // Nobody takes pushes, or nobody does any more.
                Err(_) => {
                    self.shared.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn push(sequence: u64) -> Push {
        let target = Target::Device { sequence };
        Push {
            business: 1,
            target,
            message_id: Bytes::new(),
            expires_unix_ms: 0,
            payload: Bytes::new(),
        }
    }

    #[tokio::test]
    async fn a_full_queue_stalls_once_it_was_taken_and_asking_for_more_says_handled() {
        let (mut queue, mut pushes, handled) = channel(2);
        let session = SessionId([1; 16]);
        (1..=3).for_each(|sequence| queue.deliver(push(sequence), session));
        assert!(!queue.is_stalled(), "nobody has taken it");
        assert_eq!(queue.counters().dropped.load(Ordering::Relaxed), 1);
        queue.counters().taken.store(true, Ordering::Release);
        queue.deliver(push(4), session);
        assert!(queue.is_stalled());
        assert_eq!(pushes.recv().await, Some(push(1)));
        queue.room().await;
        assert!(!queue.is_stalled());
        assert_eq!(handled.borrow().sequence, 0);
        assert_eq!(pushes.recv().await, Some(push(2)));
        assert_eq!(*handled.borrow(), Handled { session, sequence: 1 });
        assert_eq!(pushes.recv().await, Some(push(4)));
        drop(pushes);
        queue.deliver(push(5), session);
        assert!(!queue.is_stalled());
    }
}
