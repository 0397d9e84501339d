//! Deliveries that didn't come, against what the parts say they dropped. Pure.

use crate::pages::Pages;

/// What the parts have counted so far; or, as a difference, in one phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Frames that the gateway dropped from one connection's queue: each is one delivery.
    pub(super) from_queues: u64,
    /// Frames that found no room to wait for their turn: each is a delivery to every receiver on its shard.
    pub(super) before_turn: u64,
    /// Deliveries that these would have been, if the gateway counts them.
    pub(super) missed_before_turn: Option<u64>,
    /// Pushes that a sidecar's worker dropped: each is a delivery to every receiver on its shard.
    pub(super) in_state: u64,
}

impl Counted {
    /// Parts that count.
    pub(super) const PARTS: [&'static str; 2] = ["gateway", "state"];

    /// Reads them from the pages.
    pub(super) fn of(pages: &Pages) -> Self {
        let dropped = |reason| {
            let name = "imaccess_gateway_dropped_frames_total";
            pages.sum("gateway", name, &[("reason", reason)]).unwrap_or(0)
        };
        let in_state = |outcome| {
            let name = "imaccess_state_pushes_total";
            pages.sum("state", name, &[("outcome", outcome)]).unwrap_or(0)
        };
        Self {
            from_queues: dropped("drop_oldest") + dropped("drop_newest") + dropped("expired"),
            before_turn: dropped("fanout_queue_full"),
            missed_before_turn: pages.sum("gateway", "imaccess_gateway_fanout_missed_deliveries_total", &[]),
            in_state: in_state("group_dropped") + in_state("broadcast_dropped"),
        }
    }

    /// What was counted since `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            from_queues: self.from_queues - earlier.from_queues,
            before_turn: self.before_turn - earlier.before_turn,
            missed_before_turn: self
                .missed_before_turn
                .map(|missed| missed - earlier.missed_before_turn.unwrap_or(0)),
            in_state: self.in_state - earlier.in_state,
        }
    }
}

/// What was pushed in one phase, what came, and what is said of the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// Deliveries of all messages to all receivers.
    pub(super) expected: u64,
    /// Of these, what callers were told won't arrive: calls refused, devices not handed on for.
    pub(super) told: u64,
    /// Deliveries that came.
    pub(super) received: u64,
    /// Unicasts that were promised and didn't come; those in the same queues are dropped by the same policy.
    pub(super) unicasts_lost: u64,
    /// Receivers of each message.
    pub(super) receivers: u64,
    /// What the parts counted.
    pub(super) counted: Counted,
}

impl Ledger {
    /// Deliveries that didn't come.
    pub(super) fn missed(&self) -> u64 {
        self.expected - self.received
    }

    /// Those of which neither a caller was told nor a part has counted anything.
    pub(super) fn unexplained(&self) -> u64 {
        let Counted {
            from_queues,
            before_turn,
            missed_before_turn,
            in_state,
        } = self.counted;
        // How many receivers a shard has isn't seen from outside: a drop for a whole shard explains at most all of them.
        let whole_shards = match missed_before_turn {
            Some(missed) => missed + in_state * self.receivers,
            None => (before_turn + in_state) * self.receivers,
        };
        let silent = self.missed().saturating_sub(self.told) + self.unicasts_lost;
        silent.saturating_sub(from_queues + whole_shards)
    }

    /// Adds another phase.
    pub(super) fn add(&mut self, other: &Self) {
        self.expected += other.expected;
        self.told += other.told;
        self.received += other.received;
        self.unicasts_lost += other.unicasts_lost;
        self.receivers = other.receivers;
        self.counted.from_queues += other.counted.from_queues;
        self.counted.before_turn += other.counted.before_turn;
        self.counted.in_state += other.counted.in_state;
        if let Some(missed) = other.counted.missed_before_turn {
            *self.counted.missed_before_turn.get_or_insert(0) += missed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(counted: Counted) -> Ledger {
        // Ten messages to 100 receivers, of whom 40 are on one of two shards.
        Ledger {
            expected: 1_000,
            told: 100,
            received: 837,
            unicasts_lost: 2,
            receivers: 100,
            counted,
        }
    }

    #[test]
    fn what_is_missing_needs_a_drop_for_each() {
        let nothing = Counted::default();
        assert_eq!(ledger(nothing).missed(), 163);
        // 63 nobody was told of, and two unicasts.
        assert_eq!(ledger(nothing).unexplained(), 65);
        let queues = Counted {
            from_queues: 25,
            ..nothing
        };
        assert_eq!(ledger(queues).unexplained(), 40);
        let both = Counted {
            before_turn: 1,
            missed_before_turn: Some(40),
            ..queues
        };
        assert_eq!(ledger(both).unexplained(), 0);
        // One delivery fewer is counted than is missing.
        let one_short = Counted {
            missed_before_turn: Some(39),
            ..both
        };
        assert_eq!(ledger(one_short).unexplained(), 1);
    }

    #[test]
    fn a_gateway_that_counts_frames_only_explains_whole_shards() {
        let counted = Counted {
            before_turn: 1,
            ..Counted::default()
        };
        assert_eq!(ledger(counted).unexplained(), 0);
        let in_state = Counted {
            in_state: 1,
            missed_before_turn: Some(0),
            ..Counted::default()
        };
        assert_eq!(ledger(in_state).unexplained(), 0);
    }

    #[test]
    fn counters_are_read_by_their_reasons() {
        let mut pages = Pages::default();
        let gateway = "imaccess_gateway_dropped_frames_total{reason=\"drop_oldest\"} 1\n\
                       imaccess_gateway_dropped_frames_total{reason=\"drop_newest\"} 2\n\
                       imaccess_gateway_dropped_frames_total{reason=\"fanout_queue_full\"} 8\n";
        pages.add("gateway", gateway.into()).unwrap();
        let state = "imaccess_state_pushes_total{outcome=\"group_dropped\"} 16\n\
                     imaccess_state_pushes_total{outcome=\"written\"} 500\n";
        pages.add("state", state.into()).unwrap();
        let counted = Counted::of(&pages);
        let expected = Counted {
            from_queues: 3,
            before_turn: 8,
            missed_before_turn: None,
            in_state: 16,
        };
        assert_eq!(counted, expected);
        assert_eq!(counted.since(counted), Counted::default());
    }

    #[test]
    fn phases_add_up() {
        let counted = Counted {
            missed_before_turn: Some(3),
            ..Counted::default()
        };
        let mut sum = Ledger::default();
        sum.add(&ledger(counted));
        sum.add(&ledger(counted));
        assert_eq!((sum.expected, sum.missed()), (2_000, 326));
        assert_eq!(sum.counted.missed_before_turn, Some(6));
    }
}
