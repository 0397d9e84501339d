//! What a load's testimony means for a report: the same limits by the same names in every scenario.

use std::fmt::Debug;

use crate::report::Report;
use crate::witness::Testimony;
use crate::witness::tally::Window;

/// A planned change may delay a request by so much, in milliseconds.
const STALL_MS: f64 = 200.0;

/// What no machine is too busy for, in milliseconds.
const HELD_BACK_MS: f64 = 1_500.0;
/// Requests that are shown one by one.
const SLOWEST: usize = 10;

/// Counts as a figure or limit; they are far below 2^53.
pub(super) fn count(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let count = count as f64;
    count
}

/// Everything that was seen, as figures.
pub(super) fn note(testimony: &Testimony, report: &mut Report) {
    testimony.plain.note("plain", report);
    testimony.sdk.note("sdk", report);
    report.figure(
        "plain_slowest",
        format!("{:.3?}", testimony.plain.slowest(SLOWEST)),
    );
    let visits = &testimony.visits;
    report.figure("visits", visits.begun);
    report.figure("visits_retries", visits.retries);
    report.figure("visits_longest_login_ms", visits.longest_login_ms());
    for (what, times) in &visits.refused {
        report.figure(&format!("visits_{}", what.replace(' ', "_")), *times);
    }
    let pushed = &testimony.pushed;
    report.figure("pushed_to_group", pushed.to_group);
    for (outcome, devices) in &pushed.to_devices {
        report.figure(&format!("pushed_to_devices_{outcome}"), *devices);
    }
    for (what, times) in &pushed.failed {
        report.figure(&format!("push_failed_{}", what.replace(' ', "_")), *times);
    }
}

/// What must hold when nothing may be noticed at all: no close, no refused connect, every request one good answer.
pub(super) fn nothing_lost(testimony: &Testimony, report: &mut Report) {
    report.exactly("told_retry_to_the_end", count(testimony.sdk.told_retry), 0.0);
    nothing_lost_untold(testimony, report);
}

/// The same where a request may be answered `retry` until nobody waits for it any more.
pub(super) fn nothing_lost_untold(testimony: &Testimony, report: &mut Report) {
    let (plain, sdk) = (&testimony.plain, &testimony.sdk);
    let both = |of: fn(&crate::witness::tally::Tally) -> u64| count(of(plain) + of(sdk));
    report.exactly("closed", both(|tally| tally.closed()), 0.0);
    report.exactly("refused_connects", count(testimony.visits.refusals()), 0.0);
    report.exactly("lost_replies", both(|tally| tally.lost), 0.0);
    report.exactly("doubled_replies", both(|tally| tally.doubled), 0.0);
    report.exactly("answers_not_ok", both(|tally| tally.not_ok()), 0.0);
    nothing_forged(testimony, report);
}

/// What must hold whatever dies: no byte that isn't what was sent, no push twice.
pub(super) fn nothing_forged(testimony: &Testimony, report: &mut Report) {
    let (plain, sdk) = (&testimony.plain, &testimony.sdk);
    let wrong = |tally: &crate::witness::tally::Tally| tally.forged + tally.torn + tally.foreign;
    report.exactly("forged_or_torn_frames", count(wrong(plain) + wrong(sdk)), 0.0);
    let repeated = plain.repeated_pushes + sdk.repeated_pushes;
    report.exactly("repeated_pushes", count(repeated), 0.0);
}

/// Latencies of the requests that were under way in these times.
pub(super) fn stall<W: Copy + Debug + Into<Window>>(
    testimony: &Testimony,
    kind: &str,
    windows: &[W],
    report: &mut Report,
) -> f64 {
    let stall = testimony.plain.stall(windows);
    report.figure(&format!("stall_{kind}_windows"), format!("{windows:.3?}"));
    report.figure(&format!("stall_{kind}_requests"), stall.count());
    let quantiles = [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)];
    for (name, share) in quantiles {
        report.figure(&format!("stall_{kind}_{name}_ms"), stall.quantile_ms(share));
    }
    stall.quantile_ms(0.99)
}

/// As [`stall`], with the goal for planned changes.
pub(super) fn short_stall<W: Copy + Debug + Into<Window>>(
    testimony: &Testimony,
    kind: &str,
    windows: &[W],
    report: &mut Report,
) {
    stall_within(testimony, kind, windows, STALL_MS, report);
}

/// As [`short_stall`], with a goal of the caller's, in milliseconds.
pub(super) fn stall_within<W: Copy + Debug + Into<Window>>(
    testimony: &Testimony,
    kind: &str,
    windows: &[W],
    goal: f64,
    report: &mut Report,
) {
    let p99 = stall(testimony, kind, windows, report);
    report.at_most(&format!("stall_{kind}_p99_ms"), p99, goal);
    // Half of them this late is no busy machine: something was held back that nobody let go.
    let p50 = testimony.plain.stall(windows).quantile_ms(0.5);
    report.always_at_most(&format!("stall_{kind}_p50_ms"), p50, HELD_BACK_MS);
}
