//! A gateway's `/handover` page, and whether a replacement of a gateway or a sidecar went well. Pure: what was seen goes in, a
//! verdict comes out. `imaccess upgrade` and the operator judge by the same rules.

use serde::{Deserialize, Serialize};

/// Longest that a gateway may take to serve again before its former version is put back. The custodian closes the listeners after
/// 10 s without a gateway and the sockets after 90 s: by then the former version must be there.
pub const GATEWAY_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);
/// The same of a sidecar; a gateway closes its clients after 90 s without one.
pub const STATE_LIMIT: std::time::Duration = std::time::Duration::from_secs(40);

/// What a gateway's `GET /handover` says. What a version leaves out is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Handover {
    /// Whether there is a custodian at all.
    pub custody: bool,
    /// Whether the custodian holds all that the gateway has.
    pub complete: bool,
    /// Links to state that are up.
    pub links: u32,
    /// Shards; each has a link.
    pub shards: u32,
    /// Client connections that are open.
    pub connections: u64,
    /// Descriptors that the custodian holds.
    pub held: u64,
    /// Whether somebody holds the handover lease.
    pub lease: bool,
    /// Of this process: higher than any before it in this pod.
    pub incarnation: u32,
    /// Connections that this process has closed for faults: of frames, of sessions that were lost, or its own. Clients of a
    /// version that misreads them show here.
    pub faults: u64,
    /// How it began.
    pub takeover: Takeover,
}

/// How a gateway process began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Takeover {
    /// `none`, `planned` or `crashed`.
    pub kind: String,
    /// Connections that go on.
    pub adopted: u64,
    /// Connections that were closed by it.
    pub closed: u64,
    /// Listeners that were taken over.
    pub listeners: u64,
    /// For how long the takeover itself took.
    pub milliseconds: u64,
    /// From when the former process read its last byte until this one read its first; 0 when it isn't known, as after a crash.
    pub stall_milliseconds: u64,
}

/// One look at a new process, and at the gateway that is, or is beside, it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// How the process ended, if it has.
    pub ended: Option<String>,
    /// Of the gateway.
    pub handover: Result<Handover, String>,
    /// `/readyz` of the part itself.
    pub ready: Result<(), String>,
    /// Of the takeover's closed connections, those that had ended by themselves.
    pub left: u64,
}

/// What to make of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Good,
    /// Not yet: look again. Why, in case that it stays so.
    Wait(String),
    /// It won't get better.
    Bad(String),
}

/// Which takeovers will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// A planned one that closed nothing.
    Planned,
    /// Any: on the way back what could be kept is kept.
    Any,
}

/// Of a new gateway, which must have an incarnation above `above`.
pub fn of_gateway(seen: &Seen, above: u32, wanted: Wanted) -> Verdict {
    if let Some(how) = &seen.ended {
        return Verdict::Bad(format!("the new process ended: {how}"));
    }
    let handover = match &seen.handover {
        Ok(handover) => handover,
        Err(why) => return Verdict::Wait(format!("its admin page: {why}")),
    };
    if handover.incarnation <= above {
        let incarnation = handover.incarnation;
        return Verdict::Wait(format!(
            "incarnation {incarnation} answers, and not one above {above}"
        ));
    }
    let Takeover { kind, closed, .. } = &handover.takeover;
    match (kind.as_str(), wanted) {
        ("planned", Wanted::Planned) => {
            let broken = closed.saturating_sub(seen.left);
            if broken > 0 {
                return Verdict::Bad(format!("{broken} connections were closed by the takeover"));
            }
        }
        // On the way back there is nothing that could be done about it.
        (_, Wanted::Any) => {}
        ("crashed", Wanted::Planned) => {
            return Verdict::Bad("it took over as after a crash, without the handover".to_owned());
        }
        _ => return Verdict::Bad("it took nothing over".to_owned()),
    }
    whole(handover, &seen.ready)
}

/// Of a new sidecar; the handover is that of its gateway, if that is known.
pub fn of_state(seen: &Seen, gateway_known: bool) -> Verdict {
    if let Some(how) = &seen.ended {
        return Verdict::Bad(format!("the new process ended: {how}"));
    }
    match &seen.handover {
        Ok(handover) => whole(handover, &seen.ready),
        Err(why) if gateway_known => Verdict::Wait(format!("the gateway's admin page: {why}")),
        Err(_) => ready(&seen.ready),
    }
}

/// Whether a replacement has cost connections, by what the gateway had `before` and has now, and by those closed for `faults` since,
/// which a few coming and going don't explain: a sentence, if it has. A takeover says itself what it closed; this is for what it doesn't
/// see.
#[must_use]
pub fn losses(now: &Handover, before: u64, faults: u64) -> Option<String> {
    let Handover { connections, .. } = now;
    let least = before.saturating_sub(before / 10 + 50);
    if *connections < least {
        return Some(format!(
            "there were {before} connections, and {connections} are left"
        ));
    }
    // Scanners and broken clients are always about.
    let most = before / 100 + 20;
    (faults > most).then(|| format!("{faults} connections were closed for faults since then"))
}

/// Whether gateway, sidecar and custody are together again.
fn whole(handover: &Handover, is_ready: &Result<(), String>) -> Verdict {
    let Handover { links, shards, .. } = handover;
    if links != shards {
        return Verdict::Wait(format!(
            "{links} of {shards} links between gateway and state are up"
        ));
    }
    if !handover.complete {
        let Handover {
            held, connections, ..
        } = handover;
        return Verdict::Wait(format!(
            "custody isn't complete: {held} descriptors are held of {connections} connections"
        ));
    }
    ready(is_ready)
}

fn ready(is_ready: &Result<(), String>) -> Verdict {
    match is_ready {
        Ok(()) => Verdict::Good,
        Err(why) => Verdict::Wait(format!("it isn't ready: {why}")),
    }
}

/// Why nothing should be begun; `None`: all is well.
pub fn obstacle(handover: &Handover) -> Option<String> {
    if !handover.custody {
        let why = "custody is off (`up --no-custody`, or `custody: false` in a configuration): nobody holds the \
                   connections meanwhile, so they would all be closed";
        return Some(why.to_owned());
    }
    match whole(handover, &Ok(())) {
        Verdict::Good => None,
        Verdict::Wait(why) | Verdict::Bad(why) => Some(why),
    }
}

/// From a gateway's metrics: how many of those that a takeover didn't adopt had ended by themselves.
pub fn left_by_themselves(page: &str) -> u64 {
    let of = |result: &str| {
        let name = format!("imaccess_gateway_takeover_connections_total{{result=\"{result}\"}}");
        let value = page.lines().find_map(|line| line.strip_prefix(&name));
        value
            .and_then(|value| value.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    of("peer_gone") + of("closing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Seen {
        Seen {
            ended: None,
            handover: Ok(Handover {
                custody: true,
                complete: true,
                links: 2,
                shards: 2,
                connections: 10,
                held: 12,
                incarnation: 5,
                lease: false,
                faults: 0,
                takeover: Takeover {
                    kind: "planned".to_owned(),
                    adopted: 10,
                    closed: 0,
                    ..Takeover::default()
                },
            }),
            ready: Ok(()),
            left: 0,
        }
    }

    fn with(change: impl FnOnce(&mut Seen, &mut Handover)) -> Seen {
        let mut seen = good();
        let mut handover = seen.handover.clone().unwrap();
        change(&mut seen, &mut handover);
        if seen.handover.is_ok() {
            seen.handover = Ok(handover);
        }
        seen
    }

    /// The kind of verdict and a part of its text.
    fn check(verdict: &Verdict, expected: (&str, &str), what: &str) {
        let (kind, text) = match verdict {
            Verdict::Good => ("good", ""),
            Verdict::Wait(text) => ("wait", text.as_str()),
            Verdict::Bad(text) => ("bad", text.as_str()),
        };
        assert_eq!(kind, expected.0, "{what}: {text}");
        assert!(text.contains(expected.1), "{what}: {text}");
    }

    #[test]
    fn a_gateway_is_judged_by_its_takeover_links_custody_and_readiness() {
        let kind = |kind: &str| with(|_, handover| handover.takeover.kind = kind.to_owned());
        let closed = |closed, left| {
            with(|seen, handover| {
                handover.takeover.closed = closed;
                seen.left = left;
            })
        };
        // What is seen; the verdict on a new binary; the one on the way back.
        let table = [
            ("all well", good(), ("good", ""), ("good", "")),
            (
                "ended",
                with(|seen, _| seen.ended = Some("exit status: 1".to_owned())),
                ("bad", "exit status: 1"),
                ("bad", "exit status: 1"),
            ),
            (
                "no page",
                with(|seen, _| seen.handover = Err("refused".to_owned())),
                ("wait", "refused"),
                ("wait", "refused"),
            ),
            (
                "the old one",
                with(|_, handover| handover.incarnation = 4),
                ("wait", "above 4"),
                ("wait", "above 4"),
            ),
            (
                "crashed",
                kind("crashed"),
                ("bad", "as after a crash"),
                ("good", ""),
            ),
            ("none", kind("none"), ("bad", "nothing"), ("good", "")),
            ("closed", closed(3, 0), ("bad", "3 connections"), ("good", "")),
            (
                "some had left",
                closed(3, 1),
                ("bad", "2 connections"),
                ("good", ""),
            ),
            ("all had left", closed(3, 3), ("good", ""), ("good", "")),
            (
                "a link is missing",
                with(|_, handover| handover.links = 1),
                ("wait", "1 of 2 links"),
                ("wait", "1 of 2 links"),
            ),
            (
                "incomplete",
                with(|_, handover| handover.complete = false),
                ("wait", "12 descriptors"),
                ("wait", "12 descriptors"),
            ),
            (
                "not ready",
                with(|seen, _| seen.ready = Err("no link".to_owned())),
                ("wait", "no link"),
                ("wait", "no link"),
            ),
        ];
        for (what, seen, new, back) in table {
            check(&of_gateway(&seen, 4, Wanted::Planned), new, what);
            check(&of_gateway(&seen, 4, Wanted::Any), back, what);
        }
    }

    #[test]
    fn a_sidecar_is_judged_by_its_readiness_and_its_gateway() {
        let table = [
            ("all well", good(), ("good", ""), ("good", "")),
            (
                "the takeover was long ago",
                with(|_, handover| handover.takeover.kind = "crashed".to_owned()),
                ("good", ""),
                ("good", ""),
            ),
            (
                "ended",
                with(|seen, _| seen.ended = Some("signal: 9".to_owned())),
                ("bad", "signal: 9"),
                ("bad", "signal: 9"),
            ),
            (
                "no gateway",
                with(|seen, _| seen.handover = Err("refused".to_owned())),
                ("wait", "refused"),
                ("good", ""),
            ),
            (
                "not ready",
                with(|seen, _| seen.ready = Err("no link".to_owned())),
                ("wait", "no link"),
                ("wait", "no link"),
            ),
            (
                "incomplete",
                with(|_, handover| handover.complete = false),
                ("wait", "custody"),
                ("wait", "custody"),
            ),
        ];
        for (what, seen, known, unknown) in table {
            check(&of_state(&seen, true), known, what);
            check(&of_state(&seen, false), unknown, what);
        }
    }

    #[test]
    fn what_a_few_clients_coming_and_going_do_not_explain_is_a_loss() {
        let of = |connections, before, faults| {
            let now = Handover {
                connections,
                ..Handover::default()
            };
            losses(&now, before, faults)
        };
        assert_eq!(of(10_000, 10_000, 0), None);
        assert_eq!(of(9_000, 10_000, 100), None);
        assert!(of(8_000, 10_000, 0).unwrap().contains("8000"));
        assert!(of(10_000, 10_000, 200).unwrap().contains("200"));
        assert_eq!(of(0, 10, 0), None, "too few to tell");
    }

    #[test]
    fn nothing_is_begun_where_it_would_close_connections() {
        let obstacle = |seen: Seen| obstacle(&seen.handover.unwrap());
        assert_eq!(obstacle(good()), None);
        let off = obstacle(with(|_, handover| handover.custody = false)).unwrap();
        assert!(off.contains("--no-custody"), "{off}");
        let down = obstacle(with(|_, handover| handover.links = 0)).unwrap();
        assert!(down.contains("0 of 2"), "{down}");
        let incomplete = obstacle(with(|_, handover| handover.complete = false)).unwrap();
        assert!(incomplete.contains("complete"), "{incomplete}");
    }

    #[test]
    fn who_had_left_stands_in_the_metrics() {
        let page = "# HELP x y\n\
                    imaccess_gateway_takeover_connections_total{result=\"peer_gone\"} 2\n\
                    imaccess_gateway_takeover_connections_total{result=\"closing\"} 1\n\
                    imaccess_gateway_takeover_connections_total{result=\"mid_frame\"} 4\n";
        assert_eq!(left_by_themselves(page), 3);
        assert_eq!(left_by_themselves(""), 0);
    }

    #[test]
    fn a_page_with_more_or_less_in_it_is_read() {
        let read = |text| serde_json::from_str::<Handover>(text).unwrap();
        assert_eq!(read("{}"), Handover::default());
        let page = read(
            r#"{"custody":true,"lease":false,"incarnation":3,"takeover":{"kind":"planned","listeners":2},"x":1}"#,
        );
        assert_eq!((page.incarnation, page.takeover.kind.as_str()), (3, "planned"));
    }
}
