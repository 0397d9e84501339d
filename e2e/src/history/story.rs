//! All that happened to one device, in the order of time, for people.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::record::{Device, History, Moment, Part};

/// Lines of one device's story: for a failure's message, the last of them.
const LINES: usize = 80;

/// The story of a device, with the faults of the pods that it was at and of routing, as far as they were within `LINES` lines before
/// and around `at`.
#[must_use]
pub fn of(history: &History, device: Device, at: Moment) -> String {
    let mut lines: Vec<(Moment, String)> = Vec::new();
    let mut pods = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for one in history.connections.iter().filter(|one| one.device == device) {
        pods.insert(one.pod);
        numbers.insert(one.number);
        let number = one.number;
        let presented = one
            .presented
            .map_or_else(String::new, |session| format!(", ticket of {session:?}"));
        lines.push((
            one.begun,
            format!("connection {number}: to gateway-{}{presented}", one.pod),
        ));
        if let Some(sent) = one.login_sent {
            lines.push((sent, format!("connection {number}: LOGIN")));
        }
        if let Some(login) = one.login {
            let resumed = if login.resumed { ", resumed" } else { "" };
            lines.push((
                login.at,
                format!(
                    "connection {number}: LOGIN_OK session {:?} epoch {}{resumed}",
                    login.session, login.epoch
                ),
            ));
        }
        if let Some(end) = one.end {
            lines.push((
                end.from,
                format!("connection {number}: ended, {:?}, by {}", end.how, end.at),
            ));
        }
    }
    for push in history
        .pushes
        .iter()
        .filter(|push| push.devices.contains(&device))
    {
        let said = push
            .said(device)
            .map_or_else(|| "no answer".to_owned(), |said| format!("{said:?}"));
        let to = push.span.to;
        lines.push((
            push.span.from,
            format!("push {} by replica {}: {said} at {to}", push.id, push.replica),
        ));
    }
    for seen in history
        .sightings
        .iter()
        .filter(|seen| numbers.contains(&seen.connection))
    {
        let push = seen
            .push
            .map_or_else(|| "no push of ours".to_owned(), |id| format!("push {id}"));
        lines.push((seen.at, format!("connection {}: read {push}", seen.connection)));
    }
    for kick in history.kicks.iter().filter(|kick| kick.device == device) {
        lines.push((
            kick.span.from,
            format!(
                "kick by replica {}: {:?} at {}",
                kick.replica, kick.answer, kick.span.to
            ),
        ));
    }
    for query in history
        .queries
        .iter()
        .filter(|query| query.devices.contains(&device))
    {
        let place = query
            .devices
            .iter()
            .position(|one| *one == device)
            .unwrap_or_default();
        let said = query.answers.as_ref().and_then(|answers| answers.get(place));
        lines.push((
            query.span.from,
            format!("asked replica {}: {said:?} at {}", query.replica, query.span.to),
        ));
    }
    for heard in history.heard.iter().filter(|heard| heard.device == device) {
        let dialler = history
            .streams
            .get(heard.stream as usize)
            .map_or("nobody", String::as_str);
        lines.push((
            heard.at,
            format!(
                "business: {:?}, session {:?} epoch {}, from {dialler} ({}, {})",
                heard.told, heard.session, heard.epoch, heard.stream, heard.sequence
            ),
        ));
    }
    for fault in &history.faults {
        let here = match fault.part {
            Part::Gateway(pod) | Part::State(pod) => pods.contains(&pod),
            Part::Routing(_) => true,
        };
        if here {
            lines.push((
                fault.from,
                format!(
                    "{:?} of {} until {}, whole at {}",
                    fault.kind, fault.part, fault.until, fault.settled
                ),
            ));
        }
    }
    lines.sort();
    let after = lines.partition_point(|(when, _)| *when <= at);
    let to = (after + LINES / 4).min(lines.len());
    let from = to.saturating_sub(LINES);
    let mut text = format!("device {device}:\n");
    for (when, line) in &lines[from..to] {
        // Writing to a string can't fail.
        let _ = writeln!(text, "  {when} {line}");
    }
    text
}
