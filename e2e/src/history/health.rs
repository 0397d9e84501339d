//! When parts were at fault, and for how long that may be felt.

use std::collections::BTreeMap;
use std::time::Duration;

use super::limits::Limits;
use super::record::{Fault, Moment, Part, Span};

/// For how long a fault counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Until the part was whole again: for what only that part can do.
    Whole,
    /// But no longer than an instance may be away before it is taken for dead: for what others say of it.
    UntilDead,
}

/// The faults of a history, by what they touch.
#[derive(Debug)]
pub struct Health<'a> {
    limits: &'a Limits,
    /// Of gateway and state, by pod; earliest first.
    pods: BTreeMap<usize, Vec<Fault>>,
    /// Of replicas; earliest first.
    routing: Vec<Fault>,
    /// By pod: when neither gateway nor state was there to hold the other's part.
    lost: BTreeMap<usize, Vec<Span>>,
}

impl<'a> Health<'a> {
    /// Sorts them.
    #[must_use]
    pub fn new(faults: &[Fault], limits: &'a Limits) -> Self {
        let mut sorted = faults.to_vec();
        sorted.sort_by_key(|fault| fault.from);
        let (mut pods, mut routing) = (BTreeMap::<usize, Vec<Fault>>::new(), Vec::new());
        for fault in sorted {
            match fault.part {
                Part::Gateway(pod) | Part::State(pod) => pods.entry(pod).or_default().push(fault),
                Part::Routing(_) => routing.push(fault),
            }
        }
        let lost = pods.iter().map(|(pod, faults)| (*pod, losses(faults))).collect();
        Self {
            limits,
            pods,
            routing,
            lost,
        }
    }

    fn of_pod(&self, pod: usize) -> &[Fault] {
        self.pods.get(&pod).map_or(&[], Vec::as_slice)
    }

    /// Whether gateway or state of a pod was at fault during the span, or shortly before.
    #[must_use]
    pub fn pod_disturbed(&self, pod: usize, span: Span) -> bool {
        self.any(self.of_pod(pod), span, |_| true)
    }

    /// The same, of its state alone.
    #[must_use]
    pub fn state_disturbed(&self, pod: usize, span: Span) -> bool {
        self.any(self.of_pod(pod), span, |part| matches!(part, Part::State(_)))
    }

    /// The same, of any routing replica.
    #[must_use]
    pub fn routing_disturbed(&self, span: Span) -> bool {
        self.any(&self.routing, span, |_| true)
    }

    fn any(&self, faults: &[Fault], span: Span, of: impl Fn(Part) -> bool) -> bool {
        let felt = |fault: &Fault| Span::new(fault.from, fault.settled.plus(self.limits.slack));
        faults
            .iter()
            .any(|fault| of(fault.part) && felt(fault).meets(span))
    }

    /// Whether a pod's state was away for so long before a moment that the pod may have been taken for dead.
    #[must_use]
    pub fn may_be_dead(&self, pod: usize, moment: Moment) -> bool {
        let states = self.of_pod(pod).iter();
        let mut states = states.filter(|fault| matches!(fault.part, Part::State(_)));
        states.any(|fault| {
            let dead = fault.from.plus(self.limits.dead_after);
            dead <= fault.settled && dead <= moment
        })
    }

    /// When neither gateway nor state of the pod could hold what the other one had: what was there then may be lost.
    #[must_use]
    pub fn losses(&self, pod: usize) -> &[Span] {
        self.lost.get(&pod).map_or(&[], Vec::as_slice)
    }

    /// Whether what the pod had may have been lost during the span.
    #[must_use]
    pub fn lost(&self, pod: usize, span: Span) -> bool {
        self.losses(pod).iter().any(|lost| lost.meets(span))
    }

    /// By when a pod has noticed what happened at a moment and has then waited for `wait`: later if a fault came in between, each of
    /// which may have begun the wait anew.
    #[must_use]
    pub fn after(&self, pod: usize, moment: Moment, wait: Duration, count: Count) -> Moment {
        self.beyond(self.of_pod(pod), moment, wait, |fault| match count {
            Count::Whole => fault.settled,
            Count::UntilDead => fault.settled.min(fault.from.plus(self.limits.dead_after)),
        })
    }

    /// By when every routing replica has noticed what happened at a moment.
    #[must_use]
    pub fn routing_after(&self, moment: Moment) -> Moment {
        self.beyond(&self.routing, moment, Duration::ZERO, |fault| fault.settled)
    }

    /// By when a sidecar has every replica's word on something that it said at a moment, or has gone on without it.
    #[must_use]
    pub fn confirmed_after(&self, moment: Moment) -> Moment {
        self.beyond(&self.routing, moment, Duration::ZERO, |fault| {
            fault
                .settled
                .min(fault.from.plus(self.limits.follower_silence))
                .plus(self.limits.slack)
        })
    }

    fn beyond(
        &self,
        faults: &[Fault],
        moment: Moment,
        wait: Duration,
        end: impl Fn(&Fault) -> Moment,
    ) -> Moment {
        let mut by = moment.plus(wait);
        for fault in faults {
            // A fault that comes just then may come before it was noticed.
            if fault.from > by.plus(self.limits.slack) {
                break;
            }
            let end = end(fault);
            if end >= moment {
                by = by.max(end.plus(wait));
            }
        }
        by
    }
}

/// When a gateway and its state were at fault at once, until both were whole.
fn losses(faults: &[Fault]) -> Vec<Span> {
    let gateways = faults
        .iter()
        .filter(|fault| matches!(fault.part, Part::Gateway(_)));
    let mut lost = Vec::new();
    for gateway in gateways {
        let states = faults.iter().filter(|fault| matches!(fault.part, Part::State(_)));
        for state in states {
            let (from, to) = (gateway.from.max(state.from), gateway.settled.min(state.settled));
            if from <= to {
                lost.push(Span::new(from, gateway.settled.max(state.settled)));
            }
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::super::record::FaultKind;
    use super::*;

    fn s(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000)
    }

    fn fault(part: Part, from: u64, settled: u64) -> Fault {
        Fault {
            part,
            kind: FaultKind::Pause,
            from: s(from),
            until: s(settled),
            settled: s(settled),
        }
    }

    #[test]
    fn a_wait_begins_anew_after_each_fault_and_stops_growing_in_peace() {
        let limits = Limits::default();
        let window = limits.resume_window;
        let faults = [
            fault(Part::State(1), 100, 103),
            fault(Part::Gateway(1), 104, 105),
            fault(Part::Gateway(1), 200, 220),
            fault(Part::State(0), 100, 190),
        ];
        let health = Health::new(&faults, &limits);
        // Long before, and of a pod without faults.
        assert_eq!(health.after(1, s(50), window, Count::Whole), s(53));
        assert_eq!(health.after(2, s(102), window, Count::Whole), s(105));
        // Noticed after the first fault; the second came within the window.
        assert_eq!(health.after(1, s(101), window, Count::Whole), s(108));
        // Just before a fault: it may not have been noticed.
        assert_eq!(health.after(1, s(99), window, Count::Whole), s(108));
        // One that lasts for long counts until the instance is dead, for those who ask.
        assert_eq!(health.after(1, s(201), window, Count::Whole), s(223));
        let dead = s(200).plus(limits.dead_after).plus(window);
        assert_eq!(health.after(1, s(201), window, Count::UntilDead), dead);
    }

    #[test]
    fn a_pod_is_lost_when_neither_could_hold_the_other() {
        let limits = Limits::default();
        let faults = [
            fault(Part::Gateway(0), 10, 14),
            fault(Part::State(0), 13, 19),
            fault(Part::State(0), 30, 31),
            fault(Part::Gateway(0), 32, 33),
        ];
        let health = Health::new(&faults, &limits);
        assert_eq!(health.losses(0), [Span::new(s(13), s(19))]);
        assert!(health.lost(0, Span::new(s(18), s(25))) && !health.lost(0, Span::new(s(20), s(25))));
        assert!(
            health.pod_disturbed(0, Span::new(s(20), s(25))),
            "felt for a while"
        );
        assert!(!health.pod_disturbed(0, Span::new(s(22), s(29))));
        assert!(!health.state_disturbed(0, Span::new(s(34), s(35))));
        assert!(!health.routing_disturbed(Span::new(s(0), s(99))));
    }

    #[test]
    fn a_silent_replica_is_waited_for_only_so_long() {
        let limits = Limits::default();
        let faults = [fault(Part::Routing(1), 10, 90)];
        let health = Health::new(&faults, &limits);
        assert_eq!(health.confirmed_after(s(5)), s(5));
        let by = s(10).plus(limits.follower_silence).plus(limits.slack);
        assert_eq!(health.confirmed_after(s(20)), by);
        assert_eq!(health.routing_after(s(20)), s(90));
        assert_eq!(health.confirmed_after(s(91)), s(91));
    }
}
