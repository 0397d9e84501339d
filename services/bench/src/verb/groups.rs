//! `bench groups`: what a membership costs.

use anyhow::bail;

use super::{first_push, steady};
use crate::cluster::{Cluster, ClusterArgs};
use crate::fleet::Fleet;
use crate::job::{Fanout, Group, Join, Message, Pace, Publisher};
use crate::report::{Progress, Report};
use crate::statistics::Slopes;

/// Arguments of `bench groups`.
#[derive(Clone, Debug, clap::Args)]
pub struct Groups {
    /// Connections, which become members of one group, and then of a second one
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(3..=18_000))]
    members: u64,
    /// Seconds for which is pushed to the group, one message after the other
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Bytes of payload
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Parts whose memory is reported.
const PARTS: [&str; 3] = ["gateway", "state", "routing"];

/// Memory at the steps of the run, per part.
struct Steps {
    /// Logged in, in no group.
    none: [u64; 3],
    /// A third of them joined.
    third: [u64; 3],
    /// All of them joined.
    all: [u64; 3],
    /// Some messages were pushed to them, and it is quiet again.
    pushed: [u64; 3],
    /// All of them joined a second group.
    second: [u64; 3],
}

pub(crate) fn run(arguments: &Groups) -> anyhow::Result<Report> {
    if !(8..=60_000).contains(&arguments.bytes) {
        bail!("a message has 8 to 60,000 bytes: its number, and what a frame takes");
    }
    let all = arguments.members;
    let third = all / 3;
    let progress = Progress::new(6);
    progress.step("starting the cluster");
    let cluster = Cluster::find_or_start(&arguments.cluster, 1)?;
    let mut fleet = Fleet::start(all)?;
    progress.step(format!("{all} connections"));
    let login = cluster.first_login(fleet.prefix(), None);
    fleet.connect_all(&cluster.gateways, all, Some(&login))?;
    // Both directions have been used by every connection: what that needs isn't taken for a membership.
    let pinged = fleet.exchange(Message::Ping, Pace::PerSecond(all as f64), 1.0)?;
    if pinged.answered != pinged.sent {
        bail!(
            "of {} pings {} were answered: {:?}",
            pinged.sent,
            pinged.answered,
            pinged.failures
        );
    }
    let memory = || steady(&cluster, &PARTS, Cluster::user);
    let (first, second) = (cluster.group()?, cluster.group()?);
    let join = |group: &Group, from: u64, count: u64| Join {
        group: group.clone(),
        first: from as usize,
        count: count as usize,
    };
    let none = memory()?;
    progress.step(format!("{third} join"));
    fleet.join_all(join(&first, 0, third))?;
    let at_third = memory()?;
    progress.step("the others join");
    fleet.join_all(join(&first, third, all - third))?;
    let joined = memory()?;
    progress.step("pushes to all");
    let publisher = Publisher::Push {
        url: cluster.push_url(),
        group: first,
    };
    let pushes = Fanout {
        publisher,
        outstanding: 1,
        bytes: arguments.bytes,
        seconds: arguments.seconds,
    };
    let done = first_push(|| fleet.fanout(pushes.clone()))?;
    let pushed = memory()?;
    progress.step("all join a second group");
    fleet.join_all(join(&second, 0, all))?;
    let steps = Steps {
        none,
        third: at_third,
        all: joined,
        pushed,
        second: memory()?,
    };
    drop(progress);

    let mut report = Report::new(format!("{all} connections in one group, and in a second"));
    report
        .count("members", all, "members")
        .count("messages", done.messages, "messages pushed to all of them")
        .count("lost", done.expected - done.received, "deliveries lost");
    for (index, part) in PARTS.iter().enumerate() {
        say_part(&mut report, part, index, &steps, third, all);
    }
    report
        .remark(format!(
            "Bytes per member: memory of the part's own (anonymous, PSS) at rest; the larger of the slope from {third} to \
             {all} members and of the growth from none to all ÷ {all}. After pushes: with what has grown since, ÷ {all}."
        ))
        .remark("Clients join by themselves, few at a time, so that what passes through is small beside what stays.")
        .failures("failures", &done.failures);
    report.detail("failures", done.failures.values().sum::<u64>());
    Ok(report)
}

/// The figures of one part.
fn say_part(report: &mut Report, part: &str, index: usize, steps: &Steps, third: u64, all: u64) {
    let slopes = Slopes::of(
        steps.none[index],
        steps.third[index],
        steps.all[index],
        third,
        all,
    );
    let growth = |from: &[u64; 3], to: &[u64; 3]| (to[index] as f64 - from[index] as f64) / all as f64;
    report
        .figure(
            &format!("{part}_bytes_per_member"),
            slopes.larger(),
            &format!("{part}: bytes per member"),
        )
        .figure(
            &format!("{part}_bytes_per_member_after_pushes"),
            slopes.larger() + growth(&steps.all, &steps.pushed).max(0.0),
            &format!("{part}: bytes per member, after pushes"),
        )
        .figure(
            &format!("{part}_bytes_per_second_membership"),
            growth(&steps.pushed, &steps.second),
            &format!("{part}: bytes per member for a second group"),
        )
        .detail(&format!("{part}_slope_upper"), slopes.upper)
        .detail(&format!("{part}_slope_whole"), slopes.whole)
        .detail(
            &format!("{part}_bytes"),
            serde_json::json!({
                "none": steps.none[index],
                "third": steps.third[index],
                "all": steps.all[index],
                "after_pushes": steps.pushed[index],
                "second": steps.second[index],
            }),
        );
}
