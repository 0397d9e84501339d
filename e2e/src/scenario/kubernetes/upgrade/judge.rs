//! What must hold of a load in whose pods containers were replaced.

use std::collections::BTreeSet;

use super::live::Ended;
use crate::events::{offline, wrongly_offline};
use crate::report::Report;
use crate::scenario::verdict::{self, count};

/// A new connection's login, the connect included.
const LOGIN_P99_MS: f64 = 1_000.0;
/// As [`LOGIN_P99_MS`], of the slowest.
const LOGIN_LONGEST_MS: f64 = 3_000.0;

/// Nothing was noticed by anybody, but for requests that took longer.
pub(super) fn unnoticed(ended: &Ended, report: &mut Report) {
    let testimony = &ended.testimony;
    verdict::note(testimony, report);
    verdict::nothing_lost(testimony, report);
    report.exactly(
        "online_in_the_end",
        count(ended.online as u64),
        count(ended.present.len() as u64),
    );
    let visits = &testimony.visits;
    report.at_most("login_p99_ms", visits.login_quantile_ms(0.99), LOGIN_P99_MS);
    report.at_most("login_longest_ms", visits.longest_login_ms(), LOGIN_LONGEST_MS);
    pushes(ended, report);
    events(ended, report);
}

/// Every push that was taken for a device came to it, and every one that was said to reach the whole group to each member. While a
/// sidecar is replaced, pushes to its devices are answered `retry`, and those to groups say that a gateway isn't in sync.
fn pushes(ended: &Ended, report: &mut Report) {
    let testimony = &ended.testimony;
    let (plain, sdk) = (&testimony.plain, &testimony.sdk);
    let to_all = testimony.pushed.to_all.len() as u64;
    report.figure("pushed_to_group_at_all_gateways", to_all);
    report.exactly("group_pushes_lost", count(testimony.lost_group_pushes()), 0.0);
    // Or there would be nothing to miss.
    let none = u64::from(plain.group_pushes == 0 || to_all == 0);
    report.exactly("no_group_push_came", count(none), 0.0);
    let taken = ["written", "acknowledged", "queued"];
    let taken = taken
        .iter()
        .filter_map(|outcome| testimony.pushed.to_devices.get(*outcome));
    let taken: u64 = taken.sum();
    let came = plain.device_pushes + sdk.device_pushes;
    report.figure("device_pushes_taken", taken);
    report.exactly("device_pushes_lost", count(taken.saturating_sub(came)), 0.0);
}

/// Who left is told as offline once; nobody else is; everybody was told as online.
pub(super) fn events(ended: &Ended, report: &mut Report) {
    let present: BTreeSet<String> = ended.present.iter().cloned().collect();
    let wrong = wrongly_offline(&ended.events, &present);
    let examples: Vec<String> = wrong.iter().take(5).map(|event| format!("{event:?}")).collect();
    if !examples.is_empty() {
        report.figure("wrong_offline_events_examples", examples);
    }
    report.exactly("wrong_offline_events", count(wrong.len() as u64), 0.0);
    let told = offline(&ended.events);
    let once = ended
        .left
        .iter()
        .filter(|device| told.get(device.as_str()) == Some(&1));
    report.exactly(
        "leavers_told_as_offline_once",
        count(once.count() as u64),
        count(ended.left.len() as u64),
    );
    let online = ended.events.iter().filter(|event| event.kind == "online");
    let online: BTreeSet<_> = online.map(|event| event.device.as_str()).collect();
    let heard = present.iter().filter(|device| online.contains(device.as_str()));
    // Or the other two would hold because nothing was recorded at all.
    report.exactly(
        "devices_told_as_online",
        count(heard.count() as u64),
        count(present.len() as u64),
    );
}
