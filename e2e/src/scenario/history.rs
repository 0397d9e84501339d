//! Devices, callers and faults at random, and a history that must be one that may have been.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_common::business::BusinessConfig;

use super::verdict::count;
use crate::history::drive::business::Listener;
use crate::history::drive::{self, Mix, Outcome, Plan};
use crate::history::record::{Ending, FaultKind, Part, Presence, Told};
use crate::history::rules::Rule;
use crate::history::{History, Limits, Verdict, judge, kept, story};
use crate::report::{Report, Size};
use crate::{Cluster, Options};

/// The business that is told of devices, and pushes to them.
const BUSINESS: u32 = 2;
/// The program with the broken fence; `cargo xtask accept` builds it.
const BROKEN_BINARY: &str = "IMACCESS_BROKEN_BINARY";
/// Rounds in which a broken fence may show.
const ROUNDS: u64 = 6;
/// Stories that are told of violations.
const STORIES: usize = 3;

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("history", size, seed);
    if let Some(path) = std::env::var_os(kept::JUDGE) {
        let history = kept::read(Path::new(&path))?;
        judged(&history, &mut report);
        return Ok(report);
    }
    let plan = Plan {
        seed,
        devices: size.pick(100, 1_000),
        busy: size.pick(Duration::from_secs(25), Duration::from_secs(540)),
        pushes: size.pick(60.0, 250.0),
        questions: size.pick(5.0, 15.0),
        kicks: size.pick(1.0, 4.0),
        fault_gap: size.pick(Duration::from_millis(1_200), Duration::from_millis(1_500)),
        mix: Mix::Everything,
        limits: Limits::default(),
    };
    let outcome = drive_one(plan, size.pick(2, 4), None).await?;
    note(&outcome, &mut report);
    let verdict = judged(&outcome.history, &mut report);
    report.exactly("unsettled_in_the_end", count(outcome.unsettled.len() as u64), 0.0);
    if !outcome.unsettled.is_empty() {
        report.figure("unsettled", outcome.unsettled.clone());
    }
    let happened = something_happened(&outcome, &verdict, size);
    if !verdict.violations.is_empty() || !outcome.unsettled.is_empty() || happened.is_err() {
        keep(&outcome.history)?;
    }
    happened?;
    Ok(report)
}

/// The checker's own check: a state that takes whoever has the place of a session for that session must be found out.
pub(super) async fn broken_fence(size: Size, seed: u64) -> Result<Report> {
    let binary = std::env::var_os(BROKEN_BINARY).map(PathBuf::from).with_context(|| {
        format!(
            "{BROKEN_BINARY} names no program: run this by `cargo xtask accept history-broken-fence`, which builds one"
        )
    })?;
    let mut report = Report::new("history-broken-fence", size, seed);
    let (mut wrong, mut rounds) = (0, 0);
    while wrong == 0 && rounds < ROUNDS {
        rounds += 1;
        let plan = Plan {
            seed: seed.wrapping_add(rounds),
            devices: 300,
            busy: Duration::from_secs(30),
            pushes: 300.0,
            questions: 0.0,
            kicks: 0.0,
            fault_gap: Duration::from_millis(300),
            mix: Mix::RoutingPauses,
            limits: Limits::default(),
        };
        let outcome = drive_one(plan, 2, Some(binary.clone())).await?;
        let verdict = judge(&outcome.history);
        wrong = verdict.count(Rule::WrongDevice);
        report.figure("pushes", outcome.history.pushes.len());
        let example = verdict.examples().find(|found| found.rule == Rule::WrongDevice);
        if let Some(example) = example {
            report.figure("example", example.to_string());
        }
    }
    report.figure("rounds", rounds);
    report.figure("pushes_at_a_wrong_device", wrong);
    report.exactly("broken_fence_found", f64::from(u8::from(wrong > 0)), 1.0);
    Ok(report)
}

async fn drive_one(plan: Plan, pods: usize, binary: Option<PathBuf>) -> Result<Outcome> {
    let listener = Listener::start().await?;
    // The program with the fault says so.
    let expected: &[&str] = if binary.is_some() {
        &["it is there to be found out"]
    } else {
        &[]
    };
    let mut business = BusinessConfig::new(BUSINESS, "history", &format!("http://{}", listener.address));
    business.events = true;
    let cluster = Cluster::start(Options {
        binary,
        gateways: pods,
        processes: true,
        businesses: vec![business],
        arguments: ["--routing", "2", "--shards", "2", "--no-chat"]
            .map(Into::into)
            .into(),
        environment: environment(&plan.limits),
        ..Options::default()
    })
    .await?;
    let outcome = drive::run(&cluster, listener, BUSINESS, plan).await?;
    cluster.stop(expected).await?;
    Ok(outcome)
}

/// The limits as parts are told them.
fn environment(limits: &Limits) -> Vec<(&'static str, String)> {
    let ms = |time: Duration| format!("{}ms", time.as_millis());
    vec![
        ("IMACCESS_STATE__RESUME_WINDOW", ms(limits.resume_window)),
        ("IMACCESS_STATE__GATEWAY_SILENCE", ms(limits.suspect_after)),
        ("IMACCESS_STATE__CUSTODY_LISTENERS", ms(limits.dead_man / 2)),
        ("IMACCESS_STATE__CUSTODY_SOCKETS", ms(limits.dead_man)),
        (
            "IMACCESS_GATEWAY__DEADLINES__STATE_SILENCE",
            ms(limits.suspect_after),
        ),
        ("IMACCESS_GATEWAY__DEADLINES__WITHOUT_STATE", ms(limits.dead_man)),
        ("IMACCESS_ROUTING__RESUME_WINDOW", ms(limits.resume_window)),
        ("IMACCESS_ROUTING__SUSPECT_AFTER", ms(limits.suspect_after)),
        ("IMACCESS_ROUTING__DEAD_AFTER", ms(limits.dead_after)),
        ("IMACCESS_ROUTING__RECEIPT_TIMEOUT", ms(Duration::from_secs(3))),
    ]
}

/// Judges, and tells what was found.
fn judged(history: &History, report: &mut Report) -> Verdict {
    let verdict = judge(history);
    for rule in Rule::ALL {
        report.exactly(rule.name(), count(verdict.count(*rule) as u64), 0.0);
    }
    for (what, times) in &verdict.judged {
        report.figure(&format!("judged_{what}"), *times);
    }
    for (why, times) in &verdict.excused {
        report.figure(&format!("excused_{why}"), *times);
    }
    report.figure("longest_ghost_s", verdict.longest_ghost.as_secs_f64());
    report.figure(
        "longest_until_told_offline_s",
        verdict.longest_until_told.as_secs_f64(),
    );
    report.figure("longest_recovery_s", verdict.longest_recovery.as_secs_f64());
    let examples: Vec<String> = verdict.examples().map(ToString::to_string).collect();
    if !examples.is_empty() {
        report.figure("violations", examples);
    }
    let mut told = BTreeMap::new();
    for violation in verdict.examples() {
        told.entry(violation.rule).or_insert(violation);
    }
    for violation in told.values().take(STORIES) {
        let device = violation.device.unwrap_or_default();
        eprintln!("{violation}\n{}", story::of(history, device, violation.at));
    }
    verdict
}

/// What was done and seen, as figures.
fn note(outcome: &Outcome, report: &mut Report) {
    let history = &outcome.history;
    report.figure("seconds", history.end.0 / 1_000_000);
    let connections = &history.connections;
    let logged_in = || connections.iter().filter_map(|one| one.login);
    report.figure("connects", connections.len());
    report.figure("logins", logged_in().count());
    report.figure(
        "logins_resumed",
        logged_in().filter(|login| login.resumed).count(),
    );
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for end in connections.iter().filter_map(|one| one.end) {
        let name = match end.how {
            Ending::Closed { code, .. } => format!("closed_{}", code_name(code)),
            Ending::Refused { code } => format!("refused_{}", code_name(code)),
            other => format!("{other:?}").to_lowercase(),
        };
        *ends.entry(name).or_default() += 1;
    }
    for (name, times) in ends {
        report.figure(&format!("ended_{name}"), times);
    }
    let mut said: BTreeMap<String, u64> = BTreeMap::new();
    for push in &history.pushes {
        for place in 0..push.devices.len() {
            let answer = push.answers.as_ref().and_then(|answers| answers.get(place));
            let name = answer.map_or_else(
                || "not_answered".to_owned(),
                |said| format!("{said:?}").to_lowercase(),
            );
            *said.entry(format!("pushes_{name}")).or_default() += 1;
        }
    }
    for kick in &history.kicks {
        let name = kick.answer.map_or_else(
            || "not_answered".to_owned(),
            |said| format!("{said:?}").to_lowercase(),
        );
        *said.entry(format!("kicks_{name}")).or_default() += 1;
    }
    for heard in &history.heard {
        let name = match heard.told {
            Told::Offline { reason } => format!("events_offline_{}", code_name(reason)),
            other => format!("events_{other:?}").to_lowercase(),
        };
        *said.entry(name).or_default() += 1;
    }
    for fault in &history.faults {
        let part = match fault.part {
            Part::Gateway(_) => "gateway",
            Part::State(_) => "state",
            Part::Routing(_) => "routing",
        };
        let kind = match fault.kind {
            FaultKind::Kill => "killed",
            FaultKind::Pause => "paused",
        };
        *said.entry(format!("faults_{part}_{kind}")).or_default() += 1;
    }
    for (name, times) in said {
        report.figure(&name, times);
    }
    report.figure("pushes_seen", history.sightings.len());
    report.figure("questions", history.queries.len());
    report.figure("kicks_served", outcome.served.kicks);
    report.figure("questions_served", outcome.served.questions);
    for (what, times) in &outcome.failed_calls {
        report.figure(&format!("failed_{}", what.replace(' ', "_")), *times);
    }
}

fn code_name(code: u16) -> String {
    imaccess_wire::Code::from_u16(code).map_or_else(|| code.to_string(), |code| code.name().to_owned())
}

/// A history in which nothing happened is no evidence.
fn something_happened(outcome: &Outcome, verdict: &Verdict, size: Size) -> Result<()> {
    let history = &outcome.history;
    ensure!(
        outcome.served.kicks && outcome.served.questions,
        "kicks or questions aren't served: {:?}",
        outcome.served
    );
    let faults = size.pick(5, 150);
    ensure!(
        history.faults.len() >= faults,
        "only {} faults, not {faults}",
        history.faults.len()
    );
    for part in ["gateway", "state", "routing"] {
        let struck = history
            .faults
            .iter()
            .any(|fault| fault.part.to_string().starts_with(part));
        ensure!(struck || size == Size::Small, "no {part} was at fault");
    }
    let seen = history.sightings.len();
    ensure!(seen >= size.pick(300, 20_000), "only {seen} pushes came");
    let offline = history
        .heard
        .iter()
        .filter(|heard| matches!(heard.told, Told::Offline { .. }));
    let offline = offline.count();
    ensure!(offline >= size.pick(50, 2_000), "only {offline} ends were told");
    // Who answers "retry" to everything is never wrong. Busy clusters may do so often, most of all for whom nobody knows.
    let asked = |wanted: Presence| {
        let answers = history.queries.iter().filter_map(|query| query.answers.as_ref());
        answers.flatten().filter(|said| **said == wanted).count()
    };
    let (online, offline) = (asked(Presence::Online), asked(Presence::Offline));
    ensure!(
        online >= size.pick(200, 5_000),
        "only {online} questions were answered online"
    );
    ensure!(
        offline >= size.pick(50, 1_000),
        "only {offline} questions were answered offline"
    );
    let judged = |what: &str| verdict.judged.get(what).copied().unwrap_or_default();
    let gone = judged("offline_answers_for_devices_without_a_session");
    ensure!(
        gone >= size.pick(50, 1_000),
        "only {gone} offline answers could be judged"
    );
    let there = judged("online_answers_for_devices_with_a_connection");
    ensure!(
        there >= size.pick(200, 5_000),
        "only {there} online answers could be judged"
    );
    Ok(())
}

fn keep(history: &History) -> Result<()> {
    let Some(path) = std::env::var_os(kept::KEEP) else {
        eprintln!("{}=FILE keeps the history of a run that fails", kept::KEEP);
        return Ok(());
    };
    kept::write(history, Path::new(&path))
}
