//! `bench beside`: pushes to single devices, alone and beside pushes to many.
//!
//! In each round, in turn: what a bare server delivers to as many sockets as the group has members; unicasts alone;
//! unicasts beside pushes to the group, and to everybody, at a share of the bare rate; and beside an overload of them.
//! Ours are pushed at their own pace (open loop), whatever becomes of them.

mod ledger;
mod stage;

use std::time::{Duration, Instant};

use anyhow::bail;

use self::ledger::Ledger;
use self::stage::{Beating, Phase, Stage};
use super::bare_side::{BareLoad, BareSide};
use super::say_bare;
use crate::child;
use crate::cluster::ClusterArgs;
use crate::job::Failures;
use crate::report::{Progress, Report};
use crate::statistics::{median, ratio};
use crate::worker::{UNIMPLEMENTED, is_sent};

/// Of the bare rate, what is pushed to many where nothing may be lost.
const STEADY: f64 = 0.4;

/// For routing to learn of the group.
const FIRST_PUSH: Duration = Duration::from_secs(15);

/// Arguments of `bench beside`.
#[derive(Clone, Debug, clap::Args)]
pub struct Beside {
    /// Members of the group
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(1..=17_000))]
    members: u64,
    /// Further devices, in no group, to which the unicasts go
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    singles: u64,
    /// Unicasts a second, one a call
    #[arg(long, default_value_t = 1_000.0)]
    unicasts: f64,
    /// What is pushed to many beside them
    #[arg(long, value_enum, default_value = "both")]
    what: What,
    /// How many times the bare rate an overload is
    #[arg(long, default_value_t = 2.0)]
    overload: f64,
    /// Bytes of payload
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Seconds of each measurement, of which a round has up to six
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Rounds, in which all measurements alternate; figures are medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Which pushes to many are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// To a group
    Group,
    /// To every device, at low priority
    Broadcast,
    /// One after the other
    Both,
}

/// To whom is pushed beside the unicasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Many {
    Group,
    Everybody,
}

impl What {
    fn many(self) -> &'static [Many] {
        match self {
            Self::Group => &[Many::Group],
            Self::Broadcast => &[Many::Everybody],
            Self::Both => &[Many::Group, Many::Everybody],
        }
    }
}

impl Many {
    /// In figures' names.
    fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Everybody => "broadcast",
        }
    }
}

/// One kind of pushes to many, round by round.
struct Course {
    many: Many,
    steady: Vec<Phase>,
    overload: Vec<Phase>,
    /// Of each round: p99 of the unicasts beside these, less that of the unicasts alone.
    added_us: Vec<f64>,
}

pub(crate) fn run(arguments: &Beside) -> anyhow::Result<Report> {
    if !(8..=60_000).contains(&arguments.bytes) {
        bail!("a message has 8 to 60,000 bytes: its number, and what a frame takes");
    }
    let kinds = arguments.what.many().len() as u64;
    let progress = Progress::new(2 + arguments.rounds * (2 + 2 * kinds));
    progress.step("starting the cluster");
    let mut stage = Stage::start(arguments)?;
    progress.step("warming up");
    let (mut courses, frame_bytes) = served(&mut stage, arguments.what)?;
    let load = BareLoad {
        members: arguments.members,
        outstanding: 1,
        bytes: arguments.bytes,
        frame_bytes,
        seconds: arguments.seconds,
    };
    let mut bare = BareSide::start("send", load, arguments.seconds.min(1.0))?;

    let mut alone = Vec::new();
    for number in 1..=arguments.rounds {
        progress.step(format!("round {number}: bare"));
        let bare_rate = bare.round()?;
        progress.step(format!("round {number}: unicasts alone"));
        let calm = stage.phase(None)?;
        for course in &mut courses {
            let name = course.many.name();
            let beating = |share: f64| Beating {
                many: course.many,
                per_second: share * bare_rate / stage.receivers(course.many) as f64,
            };
            let (steady, overload) = (beating(STEADY), beating(arguments.overload));
            if steady.per_second * arguments.seconds < 1.0 {
                bail!("not one push fits {} s: measure for longer", arguments.seconds);
            }
            progress.step(format!("round {number}: beside a {name}"));
            let beside = stage.phase(Some(steady))?;
            course.added_us.push(beside.p99_us - calm.p99_us);
            course.steady.push(beside);
            progress.step(format!("round {number}: beside an overload of a {name}"));
            course.overload.push(stage.phase(Some(overload))?);
        }
        alone.push(calm);
    }
    drop(progress);

    let mut report = Report::new(format!(
        "{} unicasts a second to {} devices, beside pushes to {} members of a group and to everybody",
        arguments.unicasts, arguments.singles, arguments.members
    ));
    report
        .count("members", arguments.members, "members")
        .count("singles", arguments.singles, "devices that get unicasts")
        .figure("unicasts_per_second", arguments.unicasts, "unicasts per second")
        .figure(
            "bare_deliveries_per_second",
            median(bare.rates.clone()),
            "bare epoll: deliveries per second",
        );
    say_unicasts(&mut report, "unicast", "alone", &alone);
    for course in &courses {
        say_course(&mut report, course);
    }
    say_totals(&mut report, &alone, &courses);
    if courses.iter().all(|course| course.many == Many::Group) && arguments.what == What::Both {
        report
            .detail("broadcast_unimplemented", true)
            .remark("The push API answers UNIMPLEMENTED to broadcasts: nothing was measured beside them.");
    }
    report
        .detail("rounds", arguments.rounds)
        .detail("seconds", arguments.seconds)
        .detail("overload", arguments.overload)
        .detail("frame_bytes", frame_bytes)
        .remark(format!(
            "Medians of {} rounds; what is added to p99 is the median of the rounds' differences. Unicast latencies are from \
             when a call was due to the arrival at the device's socket (open loop). An overload is {} × the bare rate.",
            arguments.rounds, arguments.overload
        ))
        .remark(
            "The load shares this machine's cores: reading the members' messages, which costs as much as a part of the \
             cluster does, is in the bare rate and in every figure beside pushes to many, and not in those of unicasts alone.",
        );
    say_bare(&mut report, "bare send", bare.counts, bare.deliveries);
    Ok(report)
}

/// The kinds that this cluster serves, and how long a frame to many is.
fn served(stage: &mut Stage, what: What) -> anyhow::Result<(Vec<Course>, usize)> {
    let (mut courses, mut frame_bytes) = (Vec::new(), 0);
    for &many in what.many() {
        let deadline = Instant::now() + FIRST_PUSH;
        // Routing learns of a new group a moment after its members have joined.
        let tried = loop {
            let tried = stage.try_out(many)?;
            let settled = is_sent(&tried.answers) && tried.ledger.missed() == 0;
            if settled || tried.answers.contains_key(UNIMPLEMENTED) || Instant::now() > deadline {
                break tried;
            }
            child::pause(Duration::from_millis(200))?;
        };
        if tried.answers.contains_key(UNIMPLEMENTED) {
            if what != What::Both {
                bail!(
                    "the push API answers UNIMPLEMENTED to a {}: this cluster's version doesn't serve it",
                    many.name()
                );
            }
            continue;
        }
        if tried.ledger.missed() > 0 {
            bail!(
                "a first push to a {} doesn't reach everybody: {} of {} deliveries came; answers {:?}, {}; {:?}",
                many.name(),
                tried.ledger.received,
                tried.ledger.expected,
                tried.answers,
                tried.fault.as_deref().unwrap_or("no fault"),
                tried.failures
            );
        }
        if frame_bytes == 0 {
            frame_bytes = tried.frame_bytes;
        }
        courses.push(Course {
            many,
            steady: Vec::new(),
            overload: Vec::new(),
            added_us: Vec::new(),
        });
    }
    Ok((courses, frame_bytes))
}

fn median_of(phases: &[Phase], figure: impl Fn(&Phase) -> f64) -> f64 {
    median(phases.iter().map(figure))
}

fn sum_of(phases: &[Phase], figure: impl Fn(&Phase) -> u64) -> u64 {
    phases.iter().map(figure).sum()
}

fn sum_of_answers<'a>(answers: impl Iterator<Item = &'a Failures>) -> Failures {
    let mut sum = Failures::new();
    for (answer, count) in answers.flatten() {
        *sum.entry(answer.clone()).or_default() += count;
    }
    sum
}

/// Latency and completeness of the unicasts of some phases.
fn say_unicasts(report: &mut Report, name: &str, when: &str, phases: &[Phase]) {
    let each: Vec<f64> = phases.iter().map(|phase| phase.p99_us.round()).collect();
    report
        .figure(
            &format!("{name}_p50_us"),
            median_of(phases, |phase| phase.p50_us),
            &format!("unicast p50 {when}, µs"),
        )
        .figure(
            &format!("{name}_p99_us"),
            median_of(phases, |phase| phase.p99_us),
            &format!("unicast p99 {when}, µs"),
        )
        .detail(&format!("{name}_p99_us_by_round"), each)
        .detail(
            &format!("{name}_late_p99_us"),
            median_of(phases, |phase| phase.late_p99_us).round(),
        )
        .detail(
            &format!("{name}_server_cpu_percent"),
            median_of(phases, |phase| phase.server_percent).round(),
        )
        .detail(
            &format!("{name}_load_cpu_percent"),
            median_of(phases, |phase| phase.load_percent).round(),
        )
        .detail(
            &format!("{name}_answers"),
            serde_json::json!(sum_of_answers(phases.iter().map(|phase| &phase.unicast_answers))),
        );
}

/// What came of one kind of pushes to many, and of the unicasts beside it.
fn say_course(report: &mut Report, course: &Course) {
    let name = course.many.name();
    let steady = &course.steady;
    report
        .figure(
            &format!("{name}_pushes_per_second"),
            median_of(steady, |phase| phase.per_second),
            &format!("{name} pushes per second, at 40 % of bare"),
        )
        .figure(
            &format!("{name}_deliveries_per_second"),
            median_of(steady, |phase| phase.deliveries_per_second),
            &format!("{name} deliveries per second"),
        )
        .figure(
            &format!("{name}_delivery_p99_us"),
            median_of(steady, |phase| phase.delivery_p99_us),
            &format!("{name} push to a member, p99, µs"),
        );
    say_unicasts(
        report,
        &format!("{name}_unicast"),
        &format!("beside {name} pushes"),
        steady,
    );
    report
        .figure(
            &format!("{name}_p99_added_us"),
            median(course.added_us.iter().copied()),
            &format!("added to unicast p99 by {name} pushes, µs"),
        )
        .count(
            &format!("{name}_lost"),
            sum_of(steady, |phase| phase.ledger.missed()),
            &format!("{name} deliveries lost"),
        )
        .detail(
            &format!("{name}_expected"),
            sum_of(steady, |phase| phase.ledger.expected),
        )
        .detail(
            &format!("{name}_answers"),
            serde_json::json!(sum_of_answers(steady.iter().map(|phase| &phase.answers))),
        );
    say_overload(report, name, &course.overload);
}

/// The same beside more than there is time for.
fn say_overload(report: &mut Report, name: &str, overload: &[Phase]) {
    let mut ledger = Ledger::default();
    overload.iter().for_each(|phase| ledger.add(&phase.ledger));
    let unexplained = sum_of(overload, |phase| phase.ledger.unexplained());
    let sent = sum_of(overload, |phase| phase.unicasts);
    let received = sum_of(overload, |phase| phase.unicasts_received);
    let prefix = format!("{name}_overload");
    report
        .figure(
            &format!("{prefix}_pushes_per_second"),
            median_of(overload, |phase| phase.per_second),
            &format!("{name} pushes per second, in overload"),
        )
        .figure(
            &format!("{prefix}_deliveries_per_second"),
            median_of(overload, |phase| phase.deliveries_per_second),
            &format!("{name} deliveries per second then"),
        );
    say_unicasts(
        report,
        &format!("{prefix}_unicast"),
        &format!("beside an overload of {name} pushes"),
        overload,
    );
    report
        .figure(
            &format!("{prefix}_unicasts_received_share"),
            ratio(received as f64, sent as f64),
            &format!("share of unicasts received beside an overload of {name} pushes"),
        )
        .count(
            &format!("{prefix}_missed"),
            ledger.missed(),
            &format!("{name} deliveries that didn't come then"),
        )
        .count(
            &format!("{prefix}_unexplained"),
            unexplained,
            "of these, neither told nor counted as dropped",
        )
        .detail(&format!("{prefix}_expected"), ledger.expected)
        .detail(&format!("{prefix}_told"), ledger.told)
        .detail(&format!("{prefix}_unicasts_lost"), ledger.unicasts_lost)
        .detail(
            &format!("{prefix}_dropped_from_queues"),
            ledger.counted.from_queues,
        )
        .detail(
            &format!("{prefix}_dropped_before_turn"),
            ledger.counted.before_turn,
        )
        .detail(&format!("{prefix}_dropped_in_state"), ledger.counted.in_state)
        .detail(
            &format!("{prefix}_answers"),
            serde_json::json!(sum_of_answers(overload.iter().map(|phase| &phase.answers))),
        );
    if ledger.counted.before_turn > 0 && ledger.counted.missed_before_turn.is_none() {
        report.remark(format!(
            "The gateway dropped {} {name} frames for whole shards and doesn't say for how many members: they explain up to all of them.",
            ledger.counted.before_turn
        ));
    }
}

/// What must not be, over everything but the overload.
fn say_totals(report: &mut Report, alone: &[Phase], courses: &[Course]) {
    let calm = || {
        alone
            .iter()
            .chain(courses.iter().flat_map(|course| &course.steady))
    };
    let all = || calm().chain(courses.iter().flat_map(|course| &course.overload));
    let sent: u64 = calm().map(|phase| phase.unicasts).sum();
    let received: u64 = calm().map(|phase| phase.unicasts_received).sum();
    let lost: u64 = calm().map(|phase| phase.unicasts_lost).sum();
    let failures = sum_of_answers(all().map(|phase| &phase.failures));
    report
        .count("unicasts", sent, "unicasts, but for those beside an overload")
        .count("unicasts_lost", lost, "of these, said to have gone out and lost")
        .count("unicasts_not_received", sent - received, "of these, not received")
        .count(
            "failures",
            failures.values().sum(),
            "connections lost, pushes doubled or misdirected",
        )
        .failures("failures", &failures);
    let faults = courses
        .iter()
        .flat_map(|course| course.steady.iter().chain(&course.overload));
    if let Some(fault) = faults.filter_map(|phase| phase.fault.as_deref()).next() {
        report.remark(format!("A push to many was refused: {fault}"));
    }
}
