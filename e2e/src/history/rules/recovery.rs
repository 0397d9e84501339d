//! A part is whole again soon after its fault. Until then a fault excuses much, so that without this a part that never came back would excuse
//! everything.

use std::time::Duration;

use super::{Case, Rule};
use crate::history::record::{Fault, FaultKind, Moment, Span};
use crate::history::verdict::Verdict;

/// Within which sessions are back after a part was killed.
const RECOVERY: Duration = Duration::from_secs(10);

pub(super) fn judge(case: &Case<'_>, verdict: &mut Verdict) {
    for fault in &case.history.faults {
        verdict.longest_recovery = verdict.longest_recovery.max(fault.settled.since(ended(fault)));
        // A part may have to wait for another that is at fault meanwhile; but not for that one's recovery.
        let meanwhile = Span::new(fault.from, fault.settled);
        let others = case.history.faults.iter();
        let others = others.filter(|other| Span::new(other.from, ended(other)).meets(meanwhile));
        let by = others.map(ended).fold(ended(fault), Moment::max).plus(RECOVERY);
        if fault.settled > by {
            let text = format!(
                "{:?} of {} at {}, over at {}: it was whole at {}, not by {by}",
                fault.kind,
                fault.part,
                fault.from,
                ended(fault),
                fault.settled
            );
            verdict.violated(Rule::SlowRecovery, None, fault.settled, text);
        }
    }
}

/// When recovery from a fault begins: that another process has to be started is part of it.
fn ended(fault: &Fault) -> Moment {
    match fault.kind {
        FaultKind::Kill => fault.from,
        FaultKind::Pause => fault.until,
    }
}
