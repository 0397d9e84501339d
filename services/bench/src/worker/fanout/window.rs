//! Which messages are on their way, and how many members have each. Pure.

use std::collections::VecDeque;

/// The messages that not all members have yet.
#[derive(Debug)]
pub(super) struct Window {
    members: u64,
    /// Number of the first message of the run.
    first: u64,
    /// Number of the oldest message in `under_way`.
    oldest: u64,
    under_way: VecDeque<Message>,
    receipts: u64,
    doubled: u64,
}

#[derive(Debug)]
struct Message {
    received: u64,
    published_ns: u64,
}

impl Window {
    /// For `members` members and messages numbered from `first`.
    pub(super) fn new(first: u64, members: u64) -> Self {
        Self {
            members,
            first,
            oldest: first,
            under_way: VecDeque::new(),
            receipts: 0,
            doubled: 0,
        }
    }

    /// The number of a message published now.
    pub(super) fn publish(&mut self, now_ns: u64) -> u64 {
        self.under_way.push_back(Message {
            received: 0,
            published_ns: now_ns,
        });
        self.oldest + self.under_way.len() as u64 - 1
    }

    /// A member has message `number`. What isn't under way (of an earlier run, or given up) doesn't count.
    #[inline]
    pub(super) fn received(&mut self, number: u64) {
        let Some(at) = number.checked_sub(self.oldest) else {
            return;
        };
        let Some(message) = self.under_way.get_mut(at as usize) else {
            return;
        };
        // Members aren't told apart: more receipts than members means that some got it twice.
        if message.received == self.members {
            self.doubled += 1;
        } else {
            message.received += 1;
            self.receipts += 1;
        }
    }

    /// Takes out the oldest message if all members have it: when it was published.
    pub(super) fn take_done(&mut self) -> Option<u64> {
        let oldest = self.under_way.front()?;
        if oldest.received < self.members {
            return None;
        }
        self.take()
    }

    /// Gives up the messages published before `before_ns`; how many.
    pub(super) fn give_up(&mut self, before_ns: u64) -> u64 {
        let mut given_up = 0;
        while self
            .under_way
            .front()
            .is_some_and(|oldest| oldest.published_ns < before_ns)
        {
            self.take();
            given_up += 1;
        }
        given_up
    }

    fn take(&mut self) -> Option<u64> {
        let message = self.under_way.pop_front()?;
        self.oldest += 1;
        Some(message.published_ns)
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Messages published.
    pub(super) fn published(&self) -> u64 {
        self.oldest - self.first + self.under_way.len() as u64
    }

    /// Receipts counted, at most one per message and member.
    pub(super) fn receipts(&self) -> u64 {
        self.receipts
    }

    /// Receipts beyond one per member.
    pub(super) fn doubled(&self) -> u64 {
        self.doubled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_done_when_all_have_it() {
        let mut window = Window::new(100, 2);
        assert_eq!((window.publish(10), window.publish(20)), (100, 101));
        window.received(101);
        window.received(101);
        window.received(100);
        // In order: the second is complete, the first is not.
        assert_eq!(window.take_done(), None);
        window.received(100);
        assert_eq!(
            (window.take_done(), window.take_done(), window.take_done()),
            (Some(10), Some(20), None)
        );
        assert_eq!(
            (window.published(), window.receipts(), window.is_empty()),
            (2, 4, true)
        );
    }

    #[test]
    fn what_is_lost_doubled_or_old_shows() {
        let mut window = Window::new(100, 2);
        window.publish(10);
        window.publish(50);
        // Of another run, and never published.
        window.received(3);
        window.received(102);
        assert_eq!(window.receipts(), 0);
        window.received(100);
        assert_eq!(window.give_up(50), 1);
        // Late: it was counted as lost, and stays so.
        window.received(100);
        (0..3).for_each(|_| window.received(101));
        assert_eq!(
            (window.receipts(), window.doubled(), window.published()),
            (3, 1, 2)
        );
        assert_eq!(window.take_done(), Some(50));
    }
}
