//! What waits to be sent to one instance.
//!
//! Many pushes put in, one stream takes out: everything that is ready, as one message. Pushes are bounded in bytes
//! (when full they are refused, and the caller told), notices of lost routes in number (when full the stream is
//! cut: the snapshot of the next one gets them all again). While no stream is open nothing is taken.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use imaccess_proto::v1::{
    BroadcastPush, FromRouting, GroupCommand, GroupPush, LostSessions, Outranked, RoutingHello,
    SessionCommand, UnicastPush,
};

/// Payload bytes per message: well below the 4 MiB that a gRPC peer takes by default.
const MESSAGE_BYTES: usize = 1 << 20;
/// Notices of lost routes that may wait, about 200 bytes each: a burst of logins of 1.3 s at 50,000/s.
const NOTICES: usize = 65_536;
/// Notices per message.
const MESSAGE_NOTICES: usize = 4_096;
/// What a push costs beside its payload, in memory and on the stream.
const PUSH_OVERHEAD: usize = 128;

/// Why a push wasn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// No stream is open.
    Closed,
    /// The bytes that may wait are waiting.
    Full,
}

/// The queue of one instance.
#[derive(Debug)]
pub(crate) struct Outbox {
    bytes_limit: usize,
    /// Held for a few pushes' time, never over an await.
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The stream that takes out; 0 while none does. Streams are counted, so that an old one takes nothing.
    open: u64,
    streams: u64,
    hello: Option<RoutingHello>,
    acknowledged: u64,
    notices: VecDeque<Outranked>,
    unicasts: VecDeque<UnicastPush>,
    groups: VecDeque<GroupPush>,
    commands: VecDeque<SessionCommand>,
    group_commands: VecDeque<GroupCommand>,
    broadcasts: VecDeque<BroadcastPush>,
    lost: VecDeque<LostSessions>,
    /// The instance is leaving: nothing is taken any more, and after what waits it is told so.
    ending: Ending,
    /// Of the pushes.
    bytes: usize,
    waker: Option<Waker>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Ending {
    #[default]
    No,
    /// To be told.
    Due,
    Told,
}

// === impl Outbox ===

impl Outbox {
    pub(crate) fn new(bytes_limit: usize) -> Outbox {
        Outbox {
            bytes_limit,
            queue: Mutex::default(),
        }
    }

    /// The queue is whole between any two statements that could panic.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream that says `hello` first; an earlier one ends.
    pub(crate) fn open(self: &Arc<Outbox>, hello: RoutingHello) -> Outgoing {
        let mut queue = self.queue();
        let before = std::mem::take(&mut *queue);
        let stream = before.streams + 1;
        *queue = Queue {
            open: stream,
            streams: stream,
            hello: Some(hello),
            ..Queue::default()
        };
        drop(queue);
        wake(before.waker);
        Outgoing {
            outbox: Arc::clone(self),
            stream,
        }
    }

    /// Ends the stream and drops what waits.
    pub(crate) fn close(&self) {
        let mut queue = self.queue();
        let before = std::mem::take(&mut *queue);
        queue.streams = before.streams;
        drop(queue);
        wake(before.waker);
    }

    /// The instance is leaving: takes no push any more, and says so behind those that wait.
    pub(crate) fn end(&self) {
        self.with_open(|queue| {
            if queue.ending == Ending::No {
                queue.ending = Ending::Due;
            }
        });
    }

    /// Announcements and retractions up to `sequence` are applied.
    pub(crate) fn acknowledge(&self, sequence: u64) {
        self.with_open(|queue| queue.acknowledged = sequence);
    }

    /// A session of the instance has lost its route to another instance. `false` if too many wait: the stream must
    /// be cut.
    #[must_use]
    pub(crate) fn notify(&self, notice: Outranked) -> bool {
        let taken = self.with_open(|queue| {
            let room = queue.notices.len() < NOTICES;
            if room {
                queue.notices.push_back(notice);
            }
            room
        });
        // Without a stream there is nothing to cut, and its next snapshot brings the notice up again.
        taken.unwrap_or(true)
    }

    /// What the instance announced has lost. Always taken: who hears the instance waits while the queue
    /// [is crowded](Outbox::is_crowded).
    pub(crate) fn answer(&self, notice: Outranked) {
        self.with_open(|queue| queue.notices.push_back(notice));
    }

    /// Whether so many notices wait that nothing more should be heard from the instance now.
    pub(crate) fn is_crowded(&self) -> bool {
        self.queue().notices.len() > NOTICES / 2
    }

    /// Takes pushes from the front of `pushes` as far as there is room. What is left in it wasn't taken, and why.
    pub(crate) fn push_devices(&self, pushes: &mut VecDeque<UnicastPush>) -> Result<(), NotTaken> {
        self.put_all(
            pushes,
            |push| cost(push.payload.len()),
            |queue| &mut queue.unicasts,
        )
    }

    /// The same for commands.
    pub(crate) fn command(&self, commands: &mut VecDeque<SessionCommand>) -> Result<(), NotTaken> {
        self.put_all(commands, command_cost, |queue| &mut queue.commands)
    }

    /// Takes a command for a group.
    pub(crate) fn command_group(&self, command: GroupCommand) -> Result<(), NotTaken> {
        let mut one = VecDeque::from([command]);
        self.put_all(&mut one, group_command_cost, |queue| &mut queue.group_commands)
    }

    /// Takes a broadcast.
    pub(crate) fn broadcast(&self, push: BroadcastPush) -> Result<(), NotTaken> {
        let mut one = VecDeque::from([push]);
        self.put_all(&mut one, broadcast_cost, |queue| &mut queue.broadcasts)
    }

    /// Takes sessions of a lost instance.
    pub(crate) fn lost(&self, sessions: LostSessions) -> Result<(), NotTaken> {
        let mut one = VecDeque::from([sessions]);
        self.put_all(&mut one, lost_cost, |queue| &mut queue.lost)
    }

    fn put_all<T>(
        &self,
        items: &mut VecDeque<T>,
        cost: impl Fn(&T) -> usize,
        place: impl Fn(&mut Queue) -> &mut VecDeque<T>,
    ) -> Result<(), NotTaken> {
        let limit = self.bytes_limit;
        let taken = self.with_open(|queue| {
            if queue.ending != Ending::No {
                return Err(NotTaken::Closed);
            }
            while let Some(item) = items.pop_front() {
                let bytes = cost(&item);
                if queue.bytes + bytes > limit {
                    items.push_front(item);
                    return Err(NotTaken::Full);
                }
                queue.bytes += bytes;
                place(queue).push_back(item);
            }
            Ok(())
        });
        taken.unwrap_or(Err(NotTaken::Closed))
    }

    /// Whether a group push of `payload` bytes would be taken now.
    pub(crate) fn has_room(&self, payload: usize) -> Result<(), NotTaken> {
        let queue = self.queue();
        match (queue.open, queue.bytes + cost(payload) > self.bytes_limit) {
            (0, _) => Err(NotTaken::Closed),
            _ if queue.ending != Ending::No => Err(NotTaken::Closed),
            (_, true) => Err(NotTaken::Full),
            (_, false) => Ok(()),
        }
    }

    /// Takes a group push.
    pub(crate) fn push_group(&self, push: GroupPush) -> Result<(), NotTaken> {
        let bytes = cost(push.payload.len());
        let limit = self.bytes_limit;
        let taken = self.with_open(|queue| {
            if queue.ending != Ending::No {
                return Err(NotTaken::Closed);
            }
            if queue.bytes + bytes > limit {
                return Err(NotTaken::Full);
            }
            queue.bytes += bytes;
            queue.groups.push_back(push);
            Ok(())
        });
        taken.unwrap_or(Err(NotTaken::Closed))
    }

    /// Changes the queue if a stream is open, and wakes it.
    fn with_open<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        let mut queue = self.queue();
        if queue.open == 0 {
            return None;
        }
        let result = change(&mut queue);
        let waker = queue.waker.take();
        drop(queue);
        wake(waker);
        Some(result)
    }
}

impl Queue {
    /// The next message, if anything is ready.
    fn take(&mut self) -> Option<FromRouting> {
        let mut message = FromRouting {
            hello: self.hello.take(),
            ..FromRouting::default()
        };
        if message.hello.is_some() {
            return Some(message);
        }
        let notices = self.notices.len().min(MESSAGE_NOTICES);
        message.outranked = self.notices.drain(..notices).collect();
        // Whoever is acknowledged before it hears that it lost would take itself for confirmed.
        if self.notices.is_empty() {
            message.acknowledged = std::mem::take(&mut self.acknowledged);
        }
        let mut room = MESSAGE_BYTES;
        while let Some(push) = self
            .unicasts
            .pop_front_if(|push| cost(push.payload.len()) <= room)
        {
            room -= cost(push.payload.len());
            self.bytes -= cost(push.payload.len());
            message.unicasts.push(push);
        }
        // What one kind leaves is the other's; each gets at least one in, so that neither waits for the other.
        room = room.max(MESSAGE_BYTES / 8);
        while let Some(push) = self.groups.pop_front_if(|push| cost(push.payload.len()) <= room) {
            room -= cost(push.payload.len());
            self.bytes -= cost(push.payload.len());
            message.groups.push(push);
        }
        let mut room = MESSAGE_BYTES / 8;
        let bytes = &mut self.bytes;
        take_front(
            &mut self.commands,
            &mut message.commands,
            command_cost,
            &mut room,
            bytes,
        );
        let group_commands = &mut message.group_commands;
        take_front(
            &mut self.group_commands,
            group_commands,
            group_command_cost,
            &mut room,
            bytes,
        );
        room = room.max(MESSAGE_BYTES / 8);
        take_front(
            &mut self.broadcasts,
            &mut message.broadcasts,
            broadcast_cost,
            &mut room,
            bytes,
        );
        room = room.max(MESSAGE_BYTES / 4);
        take_front(&mut self.lost, &mut message.lost, lost_cost, &mut room, bytes);
        if self.ending == Ending::Due && self.has_sent_all() {
            self.ending = Ending::Told;
            message.last = true;
        }
        (message != FromRouting::default()).then_some(message)
    }

    fn has_sent_all(&self) -> bool {
        let pushes = self.unicasts.is_empty() && self.groups.is_empty() && self.broadcasts.is_empty();
        pushes && self.commands.is_empty() && self.group_commands.is_empty() && self.lost.is_empty()
    }
}

/// Moves items from a queue into a message, as far as there is room there.
fn take_front<T>(
    queue: &mut VecDeque<T>,
    message: &mut Vec<T>,
    cost: impl Fn(&T) -> usize,
    room: &mut usize,
    queued: &mut usize,
) {
    while let Some(item) = queue.pop_front_if(|item| cost(item) <= *room) {
        let bytes = cost(&item);
        *room -= bytes;
        *queued -= bytes;
        message.push(item);
    }
}

fn command_cost(command: &SessionCommand) -> usize {
    cost(command.group.len() + command.reason.len())
}

fn group_command_cost(command: &GroupCommand) -> usize {
    cost(command.group.len())
}

fn lost_cost(lost: &LostSessions) -> usize {
    let names = |session: &imaccess_proto::v1::LostSession| 64 + session.app.len() + session.device.len();
    cost(lost.sessions.iter().map(names).sum())
}

fn broadcast_cost(push: &BroadcastPush) -> usize {
    let filter = push.filter.as_ref();
    let platforms = filter.map_or(0, |filter| filter.platforms.iter().map(String::len).sum());
    cost(push.payload.len() + platforms)
}

/// Bytes that a push counts for.
fn cost(payload: usize) -> usize {
    payload + PUSH_OVERHEAD
}

/// Outside the lock, because the woken task may run at once elsewhere.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// One stream's way out of the queue.
#[derive(Debug)]
pub(crate) struct Outgoing {
    outbox: Arc<Outbox>,
    stream: u64,
}

impl Stream for Outgoing {
    type Item = FromRouting;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<FromRouting>> {
        let mut queue = self.outbox.queue();
        if queue.open != self.stream {
            return Poll::Ready(None);
        }
        if let Some(message) = queue.take() {
            return Poll::Ready(Some(message));
        }
        if !queue
            .waker
            .as_ref()
            .is_some_and(|waker| waker.will_wake(context.waker()))
        {
            queue.waker = Some(context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    fn unicast(id: u64, payload: usize) -> UnicastPush {
        UnicastPush {
            id,
            payload: Bytes::from(vec![0; payload]),
            ..UnicastPush::default()
        }
    }

    fn group(sequence: u64, payload: usize) -> GroupPush {
        GroupPush {
            sequence,
            payload: Bytes::from(vec![0; payload]),
            ..GroupPush::default()
        }
    }

    #[test]
    fn takes_nothing_while_closed_and_says_hello_alone() {
        let outbox = Arc::new(Outbox::new(1 << 20));
        assert_eq!(outbox.push_group(group(1, 1)), Err(NotTaken::Closed));
        let mut first = outbox.open(RoutingHello {
            cluster: "c".to_owned(),
            replica: 1,
        });
        outbox.push_group(group(1, 1)).unwrap();
        outbox.acknowledge(7);
        let hello = first.next().now_or_never().unwrap().unwrap();
        assert!(hello.hello.is_some() && hello.groups.is_empty());
        let all = first.next().now_or_never().unwrap().unwrap();
        assert_eq!((all.acknowledged, all.groups.len()), (7, 1));
        assert!(first.next().now_or_never().is_none(), "nothing is ready");
        let mut second = outbox.open(RoutingHello::default());
        assert_eq!(
            first.next().now_or_never(),
            Some(None),
            "a stream ends when the next opens"
        );
        outbox.close();
        assert_eq!(second.next().now_or_never(), Some(None));
    }

    #[test]
    fn nothing_is_acknowledged_before_all_notices_are_out() {
        let outbox = Arc::new(Outbox::new(1 << 20));
        let mut stream = outbox.open(RoutingHello::default());
        stream.next().now_or_never();
        for epoch in 0..=MESSAGE_NOTICES as u64 {
            outbox.answer(Outranked {
                epoch,
                ..Outranked::default()
            });
        }
        outbox.acknowledge(9);
        let first = stream.next().now_or_never().unwrap().unwrap();
        assert_eq!((first.outranked.len(), first.acknowledged), (MESSAGE_NOTICES, 0));
        let last = stream.next().now_or_never().unwrap().unwrap();
        assert_eq!((last.outranked.len(), last.acknowledged), (1, 9));
    }

    #[test]
    fn is_bounded_in_bytes_and_gives_them_back() {
        let limit = 3 * cost(100);
        let outbox = Arc::new(Outbox::new(limit));
        let mut stream = outbox.open(RoutingHello::default());
        stream.next().now_or_never();
        let mut pushes: VecDeque<_> = (1..=5).map(|id| unicast(id, 100)).collect();
        assert_eq!(outbox.push_devices(&mut pushes), Err(NotTaken::Full));
        assert_eq!(pushes.iter().map(|push| push.id).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(outbox.push_group(group(1, 1)), Err(NotTaken::Full));
        assert_eq!(outbox.has_room(1), Err(NotTaken::Full));
        let message = stream.next().now_or_never().unwrap().unwrap();
        assert_eq!(
            message.unicasts.iter().map(|push| push.id).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        assert_eq!(outbox.push_devices(&mut pushes), Ok(()));
        assert_eq!(outbox.has_room(1), Ok(()));
    }

    #[test]
    fn messages_stay_small_and_neither_kind_starves() {
        let outbox = Arc::new(Outbox::new(usize::MAX));
        let mut stream = outbox.open(RoutingHello::default());
        stream.next().now_or_never();
        let mut pushes: VecDeque<_> = (1..=40).map(|id| unicast(id, 60_000)).collect();
        outbox.push_devices(&mut pushes).unwrap();
        outbox.push_group(group(1, 60_000)).unwrap();
        let (mut unicasts, mut messages) = (Vec::new(), 0);
        while let Some(Some(message)) = stream.next().now_or_never() {
            let bytes: usize = message.unicasts.iter().map(|push| push.payload.len()).sum();
            assert!(bytes <= MESSAGE_BYTES);
            assert_eq!(message.groups.len(), usize::from(messages == 0));
            unicasts.extend(message.unicasts.iter().map(|push| push.id));
            messages += 1;
        }
        assert_eq!(unicasts, (1..=40).collect::<Vec<_>>());
        assert_eq!(messages, 3);
    }

    #[test]
    fn too_many_notices_ask_for_a_cut() {
        let outbox = Arc::new(Outbox::new(0));
        assert!(outbox.notify(Outranked::default()), "nothing to cut");
        let _stream = outbox.open(RoutingHello::default());
        for _ in 0..NOTICES {
            assert!(outbox.notify(Outranked::default()));
        }
        assert!(!outbox.notify(Outranked::default()));
    }
}
