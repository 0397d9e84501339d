//! When parts were at fault, and for how long that may be felt.

use std::collections::BTreeMap;
use std::time::Duration;

use super::limits::Limits;
use super::record::{Fault, FaultKind, Moment, Part, Span};

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

    /// The faults of a pod's gateway and state, earliest first.
    #[must_use]
    pub fn of_pod(&self, pod: usize) -> &[Fault] {
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
        self.any(self.of_pod(pod), span, |fault| {
            matches!(fault.part, Part::State(_))
        })
    }

    /// The same, and it was killed: only then is lost what it had in memory. One that stood still goes on with all of it.
    #[must_use]
    pub fn state_killed(&self, pod: usize, span: Span) -> bool {
        self.any(self.of_pod(pod), span, |fault| {
            matches!(fault.part, Part::State(_)) && fault.kind == FaultKind::Kill
        })
    }

    /// Whether a pod's gateway was at fault during the span, or shortly before.
    #[must_use]
    pub fn gateway_disturbed(&self, pod: usize, span: Span) -> bool {
        self.any(self.of_pod(pod), span, |fault| {
            matches!(fault.part, Part::Gateway(_))
        })
    }

    /// The same, of any routing replica.
    #[must_use]
    pub fn routing_disturbed(&self, span: Span) -> bool {
        self.any(&self.routing, span, |_| true)
    }

    fn any(&self, faults: &[Fault], span: Span, of: impl Fn(&Fault) -> bool) -> bool {
        let felt = |fault: &Fault| Span::new(fault.from, fault.settled.plus(self.limits.slack));
        faults.iter().any(|fault| of(fault) && felt(fault).meets(span))
    }

    /// When one of a pod's parts was away. Faults that follow each other closely are one absence: who listens may have heard nothing in
    /// between.
    #[must_use]
    pub fn absences(&self, pod: usize, of: fn(Part) -> bool) -> Vec<Span> {
        let mut absences: Vec<Span> = Vec::new();
        for fault in self.of_pod(pod).iter().filter(|fault| of(fault.part)) {
            match absences.last_mut() {
                Some(last) if fault.from <= last.to.plus(self.limits.slack) => {
                    last.to = last.to.max(fault.settled);
                }
                _ => absences.push(Span::new(fault.from, fault.settled)),
            }
        }
        absences
    }

    /// Whether a session that was at a pod during `life` may have been told, at a moment, to be lost with its instance: the pod's state was
    /// away for so long that the instance was taken for dead, the session was there then, and it is told about when the others could.
    #[must_use]
    pub fn may_be_told_lost(&self, pod: usize, life: Span, told: Moment) -> bool {
        let absences = self.absences(pod, |part| matches!(part, Part::State(_)));
        absences.into_iter().any(|away| {
            let dead = away.from.plus(self.limits.dead_after);
            dead <= away.to && away.meets(life) && dead <= told && told <= self.loss_told_by(away)
        })
    }

    /// By when the loss of an instance that was away is told: replicas say it when nothing may be resumed any more, to a sidecar that has
    /// to be well, and again until one is.
    fn loss_told_by(&self, away: Span) -> Moment {
        let limits = self.limits;
        let forgotten = away.from.plus(limits.dead_after + limits.resume_window);
        let said = self.routing_after(forgotten.max(away.to).plus(limits.news()));
        let pods = self.pods.keys();
        let taken = pods.map(|pod| self.after(*pod, said, Duration::ZERO, Count::Whole));
        taken.max().unwrap_or(said).plus(limits.news())
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

    /// By when one pod acts upon what happened at another at a moment, as replicas tell it.
    #[must_use]
    pub fn known_by(&self, there: usize, moment: Moment, here: usize) -> Moment {
        let said = self.after(there, moment, Duration::ZERO, Count::Whole);
        let heard = self.routing_after(said);
        self.after(here, heard, Duration::ZERO, Count::Whole)
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

    #[test]
    fn what_one_pod_says_reaches_another_when_all_between_are_well() {
        let limits = Limits::default();
        let faults = [
            fault(Part::State(0), 10, 14),
            fault(Part::Routing(1), 13, 20),
            fault(Part::Gateway(1), 21, 22),
            fault(Part::State(1), 60, 65),
        ];
        let health = Health::new(&faults, &limits);
        assert_eq!(health.known_by(0, s(5), 1), s(5));
        assert_eq!(health.known_by(0, s(11), 1), s(22));
        assert_eq!(health.known_by(2, s(30), 1), s(30), "what is over delays nothing");
    }

    #[test]
    fn the_loss_of_an_instance_is_about_who_was_there_and_told_soon() {
        let limits = Limits::default();
        let faults = [
            fault(Part::State(0), 10, 14),
            fault(Part::State(0), 15, 20),
            fault(Part::State(0), 60, 64),
            fault(Part::Gateway(0), 80, 95),
        ];
        let health = Health::new(&faults, &limits);
        assert_eq!(
            health.absences(0, |part| matches!(part, Part::State(_))),
            [Span::new(s(10), s(20)), Span::new(s(60), s(64))]
        );
        let there = Span::new(s(5), s(12));
        assert!(!health.may_be_told_lost(0, there, s(16)), "not dead yet");
        assert!(health.may_be_told_lost(0, there, s(20)));
        assert!(health.may_be_told_lost(0, there, s(25)));
        assert!(!health.may_be_told_lost(0, there, s(40)), "long over");
        assert!(!health.may_be_told_lost(0, Span::new(s(30), s(99)), s(40)));
        assert!(
            !health.may_be_told_lost(0, Span::new(s(55), s(99)), s(66)),
            "too short"
        );
        assert!(
            !health.may_be_told_lost(0, Span::new(s(70), s(99)), s(96)),
            "its gateway"
        );
    }
}
