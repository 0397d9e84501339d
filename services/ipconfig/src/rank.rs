//! Who comes first. Pure: scores in, order out.
//!
//! The *dynamic* score decides first: remaining outbound bandwidth in GB/s, rounded to two decimals so that small
//! differences tie. The *static* score breaks ties: remaining connections. A gateway without a free connection comes
//! after all that have one, whatever its bandwidth: its clients would only be refused.
//!
//! Between two rankings many clients ask, and all would take the same first place. So the ranking is played
//! forward: a number of *slots*, each standing for its share of the clients expected until the next ranking, go one by
//! one to whoever is best once the earlier slots' clients have arrived. Equals take turns.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One gateway to rank, by its place in the caller's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The caller's index.
    pub(crate) index: usize,
    /// Remaining bandwidth in hundredths of a GB/s; negative when more is sent than was declared.
    pub(crate) dynamic: i64,
    /// Remaining connections; negative when more clients were sent there than it can take.
    pub(crate) remaining: i64,
}

/// What a gateway is judged by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// Declared bytes per second.
    pub(crate) capacity: f64,
    /// Measured bytes per second.
    pub(crate) rate: f64,
    /// Connections it accepts.
    pub(crate) limit: f64,
    /// Mean connections.
    pub(crate) connections: f64,
    /// Clients sent there that its figures don't show yet.
    pub(crate) outstanding: f64,
}

impl Candidate {
    /// Scores a gateway. A client on its way counts as a connection, and with a connection's mean rate.
    pub(crate) fn new(index: usize, load: &Load) -> Candidate {
        let rate_each = if load.connections >= 1.0 {
            load.rate / load.connections
        } else {
            0.0
        };
        let free = load.capacity - load.rate - load.outstanding * rate_each;
        Candidate {
            index,
            // GB/s × 100, rounded half away from zero; `as` saturates at the ends of i64.
            dynamic: (free / 1e7).round() as i64,
            remaining: (load.limit - load.connections - load.outstanding).floor() as i64,
        }
    }

    /// The greater the better.
    fn merit(&self) -> (bool, i64, i64) {
        (self.remaining > 0, self.dynamic, self.remaining)
    }

    fn ties_dynamically(&self, other: &Candidate) -> bool {
        let ((free, dynamic, _), (other_free, other_dynamic, _)) = (self.merit(), other.merit());
        free == other_free && dynamic == other_dynamic
    }
}

/// Sorts the best to the front. Equals begin at a place that `turn` chooses, so that over the rankings, and over
/// replicas with different turns, each is first equally often.
pub(crate) fn rank(candidates: &mut [Candidate], turn: u64) {
    let count = candidates.len().max(1) as u64;
    let shift = turn % count;
    let place = |index: usize| (index as u64 + shift) % count;
    candidates.sort_unstable_by_key(|candidate| (Reverse(candidate.merit()), place(candidate.index)));
}

/// The first choice of each of `slots` slots, as positions in `ranked`, when `expected` clients will ask.
pub(crate) fn spread(ranked: &[Candidate], slots: usize, expected: u64) -> Vec<usize> {
    let per_slot = i64::try_from(expected / slots.max(1) as u64)
        .unwrap_or(i64::MAX)
        .max(1);
    // Of equals the one with fewer slots so far, then the earlier one: that is taking turns.
    let mut heap: BinaryHeap<_> = ranked
        .iter()
        .enumerate()
        .map(|(position, candidate)| (candidate.merit(), Reverse((0_usize, position))))
        .collect();
    let mut choices = Vec::with_capacity(slots);
    while choices.len() < slots
        && let Some((_, Reverse((taken, position)))) = heap.pop()
    {
        choices.push(position);
        let taken = taken + 1;
        let sent = per_slot.saturating_mul(i64::try_from(taken).unwrap_or(i64::MAX));
        let then = Candidate {
            remaining: ranked[position].remaining.saturating_sub(sent),
            ..ranked[position]
        };
        heap.push((then.merit(), Reverse((taken, position))));
    }
    choices
}

/// The order for a client whose first choice is at `first` of `ranked`: its dynamic equals from there on and around, so
/// that second choices spread too, then everyone else by rank.
pub(crate) fn order_from(ranked: &[Candidate], first: usize) -> impl Iterator<Item = usize> {
    let begin = ranked[..first]
        .iter()
        .rposition(|other| !other.ties_dynamically(&ranked[first]))
        .map_or(0, |at| at + 1);
    let after = ranked[first..]
        .iter()
        .position(|other| !other.ties_dynamically(&ranked[first]));
    let end = after.map_or(ranked.len(), |at| first + at);
    (first..end)
        .chain(begin..first)
        .chain(0..begin)
        .chain(end..ranked.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(free_gb: f64, remaining: f64) -> Load {
        Load {
            capacity: 2e9,
            rate: 2e9 - free_gb * 1e9,
            limit: 1e5,
            connections: 1e5 - remaining,
            outstanding: 0.0,
        }
    }

    fn ranked(loads: &[Load]) -> Vec<usize> {
        let mut candidates: Vec<_> = loads
            .iter()
            .enumerate()
            .map(|(at, load)| Candidate::new(at, load))
            .collect();
        rank(&mut candidates, 0);
        candidates.iter().map(|candidate| candidate.index).collect()
    }

    #[test]
    fn dynamic_first_then_static() {
        // More bandwidth wins over more connections.
        assert_eq!(
            ranked(&[load(1.00, 900.0), load(1.20, 10.0), load(1.10, 500.0)]),
            [1, 2, 0]
        );
        // Less than a hundredth of a GB/s is a tie, and connections decide.
        assert_eq!(ranked(&[load(1.004, 100.0), load(0.996, 200.0)]), [1, 0]);
        assert_eq!(ranked(&[load(1.006, 100.0), load(0.996, 200.0)]), [0, 1]);
        // No free connection: last, whatever the bandwidth.
        assert_eq!(
            ranked(&[load(2.0, 0.0), load(0.1, 1.0), load(2.0, -5.0)]),
            [1, 0, 2]
        );
        // More sent than declared is worse than nothing left.
        assert_eq!(ranked(&[load(-0.5, 100.0), load(0.0, 100.0)]), [1, 0]);
    }

    #[test]
    fn clients_on_their_way_count() {
        let quiet = load(1.0, 50_000.0);
        let asked = Load {
            outstanding: 1_000.0,
            ..quiet
        };
        assert_eq!(
            Candidate::new(0, &asked).remaining,
            Candidate::new(0, &quiet).remaining - 1_000
        );
        // 1 GB/s over 50,000 connections is 20 kB/s each: 1,000 more are 0.02 GB/s.
        assert_eq!(
            Candidate::new(0, &asked).dynamic,
            Candidate::new(0, &quiet).dynamic - 2
        );
        assert_eq!(ranked(&[asked, quiet]), [1, 0]);
        let empty = Load {
            capacity: f64::MAX,
            rate: 0.0,
            limit: f64::MAX,
            connections: 0.0,
            outstanding: 9.0,
        };
        assert_eq!(Candidate::new(0, &empty).dynamic, i64::MAX);
    }

    fn equals(count: usize) -> Vec<Candidate> {
        (0..count)
            .map(|index| Candidate {
                index,
                dynamic: 100,
                remaining: 1_000,
            })
            .collect()
    }

    #[test]
    fn equals_take_turns_being_first() {
        let mut firsts = [0; 4];
        for turn in 0..40 {
            let mut candidates = equals(4);
            rank(&mut candidates, turn);
            firsts[candidates[0].index] += 1;
        }
        assert_eq!(firsts, [10; 4]);
        assert_eq!(spread(&equals(4), 8, 0), [0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn a_burst_fills_valleys_first() {
        let mut candidates = equals(3);
        candidates[1].remaining = 1_300;
        rank(&mut candidates, 0);
        // 16 slots of 100 clients: the emptier one takes three, then all alike.
        let choices = spread(&candidates, 16, 1_600);
        assert_eq!(choices[..3], [0, 0, 0]);
        let count = |position| choices.iter().filter(|choice| **choice == position).count();
        assert!(count(0) >= 7 && count(1) >= 4 && count(2) >= 4, "{choices:?}");
    }

    #[test]
    fn a_burst_goes_over_to_the_next_when_one_is_full() {
        let mut candidates = equals(2);
        candidates[0] = Candidate {
            index: 0,
            dynamic: 120,
            remaining: 200,
        };
        rank(&mut candidates, 0);
        assert_eq!(spread(&candidates, 4, 400), [0, 0, 1, 1]);
        assert_eq!(spread(&[], 4, 400), [0_usize; 0]);
    }

    #[test]
    fn later_choices_spread_among_equals_and_then_follow_the_rank() {
        let mut candidates = equals(3);
        candidates.push(Candidate {
            index: 3,
            dynamic: 90,
            remaining: 1_000,
        });
        candidates.push(Candidate {
            index: 4,
            dynamic: 120,
            remaining: 1_000,
        });
        rank(&mut candidates, 0);
        let order = |first| {
            order_from(&candidates, first)
                .map(|at| candidates[at].index)
                .collect::<Vec<_>>()
        };
        assert_eq!(order(0), [4, 0, 1, 2, 3]);
        assert_eq!(order(2), [1, 2, 0, 4, 3]);
        assert_eq!(order(4), [3, 4, 0, 1, 2]);
    }

    proptest! {
        #[test]
        fn every_order_has_everyone_once(
            scores in prop::collection::vec((0..4_i64, -1..3_i64), 1..20), turn: u64, expected in 0..5_000_u64,
        ) {
            let mut candidates: Vec<_> = scores
                .iter()
                .enumerate()
                .map(|(index, &(dynamic, remaining))| Candidate { index, dynamic, remaining })
                .collect();
            rank(&mut candidates, turn);
            prop_assert!(candidates.is_sorted_by_key(|candidate| Reverse(candidate.merit())));
            let choices = spread(&candidates, 64, expected);
            prop_assert_eq!(choices.len(), 64);
            prop_assert_eq!(choices[0], 0);
            for first in choices {
                let mut order: Vec<_> = order_from(&candidates, first).collect();
                prop_assert_eq!(order[0], first);
                order.sort_unstable();
                prop_assert!(order.into_iter().eq(0..scores.len()));
            }
        }
    }
}
