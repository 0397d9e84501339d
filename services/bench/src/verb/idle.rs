//! `bench idle`: what a connection costs that does nothing but ping.

use std::time::Duration;

use anyhow::bail;

use super::{Bare, SERVER, say_bare, steady};
use crate::cluster::{Cluster, ClusterArgs, slab_bytes};
use crate::fleet::{Fleet, PER_PROCESS};
use crate::job::{Message, Pace};
use crate::latency::Latency;
use crate::report::{Progress, Report};
use crate::statistics::{Slopes, cpu_percent, ratio};

/// Arguments of `bench idle`.
#[derive(Clone, Debug, clap::Args)]
pub struct Idle {
    /// Connections, each in one group
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(3..=1_000_000))]
    connections: u64,
    /// Seconds over which CPU is measured, of ours and of the bare server
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Seconds between two pings of a connection [default: what the server asks for]
    #[arg(long)]
    ping_interval: Option<u32>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Parts whose memory is reported.
const PARTS: [&str; 3] = ["gateway", "state", "routing"];

pub(crate) fn run(arguments: &Idle) -> anyhow::Result<Report> {
    let all = arguments.connections;
    let third = all / 3;
    let progress = Progress::new(6);
    progress.step("starting the cluster");
    let cluster = Cluster::find_or_start(&arguments.cluster, all.div_ceil(PER_PROCESS))?;
    // All processes that map this executable run before the first sample: their number divides its pages.
    let mut fleet = Fleet::start(all)?;
    let mut bare_fleet = Fleet::start(all)?;
    let mut bare = (0..all.div_ceil(PER_PROCESS))
        .map(|_| Bare::start(&["bare-echo"]))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let login = cluster.first_login(fleet.prefix(), Some(cluster.group()?));
    let start = steady(&cluster, &PARTS, Cluster::pss)?;
    let slab_start = slab_bytes()?;

    progress.step(format!("{third} connections"));
    fleet.connect_all(&cluster.gateways, third, Some(&login))?;
    let at_third = steady(&cluster, &PARTS, Cluster::pss)?;
    progress.step(format!("{all} connections"));
    let connected = fleet.connect_all(&cluster.gateways, all - third, Some(&login))?;
    let at_all = steady(&cluster, &PARTS, Cluster::pss)?;
    let slab_all = slab_bytes()?;

    let interval = arguments.ping_interval.unwrap_or(connected.ping_interval_s);
    if interval == 0 {
        bail!("the server asks for no pings; give --ping-interval");
    }
    let pace = Pace::PerSecond(all as f64 / f64::from(interval));
    progress.step(format!("a ping every {interval} s, ours"));
    let parts = PARTS.map(|part| cluster.cpu(&[part]));
    let pinged = fleet.exchange(Message::Ping, pace, arguments.seconds)?;
    let window = Duration::from_secs_f64(pinged.seconds);
    let mut cpu = Vec::new();
    for (part, before) in PARTS.iter().zip(parts) {
        cpu.push(cpu_percent(cluster.cpu(&[part])? - before?, window));
    }
    if pinged.answered != pinged.sent {
        bail!(
            "of {} pings {} were answered: {:?}",
            pinged.sent,
            pinged.answered,
            pinged.failures
        );
    }
    fleet.close()?;
    drop(fleet);
    cluster.settle(&SERVER)?;

    progress.step(format!("a ping every {interval} s, bare"));
    let targets: Vec<_> = bare.iter().map(|bare| bare.started.address).collect();
    bare_fleet.connect_all(&targets, all, None)?;
    let mut counts = crate::bare::Counts::default();
    let before = bare
        .iter_mut()
        .map(Bare::counts)
        .collect::<anyhow::Result<Vec<_>>>()?;
    let bare_before = bare.iter().map(Bare::cpu).sum::<anyhow::Result<Duration>>()?;
    let bare_pinged = bare_fleet.exchange(Message::Ping, pace, arguments.seconds)?;
    let bare_cpu = bare.iter().map(Bare::cpu).sum::<anyhow::Result<Duration>>()? - bare_before;
    for (bare, before) in bare.iter_mut().zip(before) {
        let done = bare.counts()?.since(before);
        counts.reads += done.reads;
        counts.writes += done.writes;
        counts.waits += done.waits;
        counts.short_writes += done.short_writes;
    }
    let bare_percent = cpu_percent(bare_cpu, Duration::from_secs_f64(bare_pinged.seconds));
    drop(progress);

    let mut report = Report::new(format!("{all} idle connections, each in one group"));
    report.count("connections", all, "connections");
    for (index, part) in PARTS.iter().enumerate() {
        let slopes = Slopes::of(start[index], at_third[index], at_all[index], third, all);
        report
            .figure(
                &format!("{part}_bytes_per_connection"),
                slopes.larger(),
                &format!("{part}: bytes per connection"),
            )
            .detail(&format!("{part}_slope_upper"), slopes.upper.round())
            .detail(&format!("{part}_slope_whole"), slopes.whole.round())
            .count(
                &format!("{part}_pss_start"),
                start[index],
                &format!("{part}: PSS at the start, bytes"),
            )
            .detail(&format!("{part}_pss_third"), at_third[index])
            .detail(&format!("{part}_pss_all"), at_all[index]);
    }
    let latency: Latency = [&pinged.latency].into_iter().collect();
    let server_percent = cpu[0] + cpu[1];
    report
        .figure(
            "kernel_bytes_per_connection",
            (slab_all as f64 - slab_start as f64) / all as f64,
            "kernel slab, both ends: bytes per connection",
        )
        .figure("cpu_percent", server_percent, "server CPU (gateway + state) with pings, % of a core")
        .figure("bare_cpu_percent", bare_percent, "bare epoll ping server CPU, % of a core")
        .figure("limit_ratio", ratio(server_percent, bare_percent), "ours ÷ bare (lower is better)")
        .figure("routing_cpu_percent", cpu[2], "routing CPU beside it, % of a core")
        .count("ping_interval_s", interval.into(), "seconds between two pings of a connection")
        .figure("ping_p99_us", latency.us(0.99), "ping to pong, p99, µs")
        .detail("pings", pinged.sent)
        .detail("seconds", arguments.seconds)
        .remark(format!(
            "Bytes per connection: PSS, mapped files included; the larger of the slope from {third} to {all} \
             connections and of (PSS at {all} − PSS at the start) ÷ {all}; both are in --json."
        ))
        .remark("Kernel bytes are of both ends of each connection, for both are on this machine; about half is the server's.");
    say_bare(&mut report, "bare pings", counts, bare_pinged.answered);
    Ok(report)
}
