//! `bench fanout`: one message to every member of a group, against bare servers in the same run.

use anyhow::bail;

use super::bare_side::{BareLoad, BareSide};
use super::{PUSH_SERVER, first_push, say_bare};
use crate::cluster::{Cluster, ClusterArgs};
use crate::fleet::Fleet;
use crate::job::{FannedOut, Fanout as Job, Group, Publisher};
use crate::latency::Latency;
use crate::report::{Progress, Report};
use crate::statistics::{median, ratio, us_per};

/// Arguments of `bench fanout`.
#[derive(Clone, Debug, clap::Args)]
pub struct Fanout {
    /// Members of the group, at most 18,000
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=18_000))]
    members: u64,
    /// Messages that not everyone has yet
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_024))]
    outstanding: u64,
    /// Bytes of payload
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Seconds of each measurement, of which a round has three
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds, in which ours and both bare servers alternate; figures are medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) fn run(arguments: &Fanout) -> anyhow::Result<Report> {
    if !(8..=60_000).contains(&arguments.bytes) {
        bail!("a message has 8 to 60,000 bytes: its number, and what a frame takes");
    }
    let progress = Progress::new(2 + 3 * arguments.rounds);
    progress.step("starting the cluster");
    let cluster = Cluster::find_or_start(&arguments.cluster, 1)?;
    let mut ours = Fleet::start(arguments.members)?;
    let group = cluster.group()?;
    let login = cluster.first_login(ours.prefix(), Some(group.clone()));
    ours.connect_all(&cluster.gateways, arguments.members, Some(&login))?;
    cluster.settle(&PUSH_SERVER)?;

    progress.step("warming up");
    let warm_up = arguments.seconds.min(1.0);
    let warm = first_push(|| ours.fanout(arguments.of_ours(&cluster, &group, warm_up)))?;
    if warm.frame_bytes == 0 {
        bail!("no member received anything: {:?}", warm.failures);
    }
    let load = BareLoad {
        members: arguments.members,
        outstanding: arguments.outstanding as usize,
        bytes: arguments.bytes,
        frame_bytes: warm.frame_bytes,
        seconds: arguments.seconds,
    };
    let mut bare = [
        BareSide::start("send", load, warm_up)?,
        BareSide::start("gather", load, warm_up)?,
    ];

    let mut total = FannedOut::default();
    // A member that was lost while warming up is lost.
    let mut failures = warm.failures.clone();
    let (mut us, mut gateway_us, mut rates, mut p50, mut p99) = (vec![], vec![], vec![], vec![], vec![]);
    for number in 1..=arguments.rounds {
        progress.step(format!("round {number}: ours"));
        let cpu = cluster.cpu(&PUSH_SERVER)?;
        let gateway = cluster.cpu(&["gateway"])?;
        let done = ours.fanout(arguments.of_ours(&cluster, &group, arguments.seconds))?;
        us.push(us_per(cluster.cpu(&PUSH_SERVER)? - cpu, done.received));
        gateway_us.push(us_per(cluster.cpu(&["gateway"])? - gateway, done.received));
        rates.push(done.rate());
        let latency: Latency = [&done.latency].into_iter().collect();
        p50.push(latency.us(0.5));
        p99.push(latency.us(0.99));
        total.messages += done.messages;
        total.expected += done.expected;
        total.received += done.received;
        for (kind, count) in done.failures {
            *failures.entry(kind).or_default() += count;
        }
        for side in &mut bare {
            progress.step(format!("round {number}: bare"));
            side.round()?;
        }
    }
    drop(progress);

    let ours_us = median(us);
    let [send_us, gathered_us] = [0, 1].map(|mode: usize| median(bare[mode].us.iter().copied()));
    let mut report = Report::new(format!(
        "fan-out of {} bytes to {} members, {} outstanding",
        arguments.bytes, arguments.members, arguments.outstanding
    ));
    report
        .count("members", arguments.members, "members")
        .count("outstanding", arguments.outstanding, "messages on their way to somebody")
        .figure("deliveries_per_second", median(rates), "deliveries per second")
        .count("lost", total.expected - total.received, "lost")
        .figure("server_cpu_us_per_delivery", ours_us, "server CPU (gateway + state + routing), µs per delivery")
        .figure("gateway_cpu_us_per_delivery", median(gateway_us), "of that the gateway, µs")
        .figure("bare_cpu_us_per_delivery", send_us, "bare epoll, a send per message: CPU, µs per delivery")
        .figure("bare_gathered_cpu_us_per_delivery", gathered_us, "bare epoll, gathered: CPU, µs per delivery")
        .figure("limit_ratio", ratio(ours_us, send_us), "ours ÷ bare, a send per message (lower is better)")
        .figure("gathered_ratio", ratio(ours_us, gathered_us), "ours ÷ bare, gathered (lower is better)")
        .figure("bare_deliveries_per_second", median(bare[0].rates.clone()), "bare: deliveries per second")
        .figure(
            "bare_gathered_deliveries_per_second",
            median(bare[1].rates.clone()),
            "bare, gathered: deliveries per second",
        )
        .figure("p50_us", median(p50), "push to last receipt, p50, µs")
        .figure("p99_us", median(p99), "push to last receipt, p99, µs")
        .detail("failures", failures.values().sum::<u64>())
        .detail("messages", total.messages)
        .detail("expected", total.expected)
        .detail("received", total.received)
        .detail("frame_bytes", warm.frame_bytes)
        .detail("rounds", arguments.rounds)
        .remark(format!(
            "CPU is user + system time ÷ deliveries, the kernel's TCP work included; medians of {} rounds, ours \
             and both bare servers alternating, all with frames of {} bytes.",
            arguments.rounds, warm.frame_bytes
        ))
        .failures("failures", &failures);
    for (side, name) in bare.iter().zip(["bare send", "bare gathered"]) {
        say_bare(&mut report, name, side.counts, side.deliveries);
    }
    Ok(report)
}

impl Fanout {
    fn of_ours(&self, cluster: &Cluster, group: &Group, seconds: f64) -> Job {
        let publisher = Publisher::Push {
            url: cluster.push_url(),
            group: group.clone(),
        };
        Job {
            publisher,
            outstanding: self.outstanding as usize,
            bytes: self.bytes,
            seconds,
        }
    }
}
