//! `bench capacity`: many long connections that each send 500 bytes a minute and receive them back.

use std::time::Duration;

use anyhow::Context;

use super::SERVER;
use crate::child;
use crate::cluster::{Cluster, ClusterArgs, slab_bytes};
use crate::fleet::{Fleet, PER_PROCESS};
use crate::job::{Failures, Message, Pace};
use crate::latency::Latency;
use crate::report::{Progress, Report};
use crate::statistics::cpu_percent;

/// Arguments of `bench capacity`.
#[derive(Clone, Debug, clap::Args)]
pub struct Capacity {
    /// Connections; 18,000 fit a gateway process and a load process each
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    connections: u64,
    /// Seconds for which they talk; the test means at least 180
    #[arg(long, default_value_t = 180.0)]
    seconds: f64,
    /// Bytes of payload
    #[arg(long, default_value_t = 500)]
    bytes: usize,
    /// Seconds between two messages of a connection
    #[arg(long, default_value_t = 60.0)]
    interval: f64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Everything that a host of this test runs: also the business, which is small.
const ALL: [&str; 4] = ["gateway", "state", "routing", "ipconfig"];

pub(crate) fn run(arguments: &Capacity) -> anyhow::Result<Report> {
    let connections = arguments.connections;
    let progress = Progress::new(3);
    progress.step("starting the cluster");
    let cluster = Cluster::find_or_start(&arguments.cluster, connections.div_ceil(PER_PROCESS))?;
    let mut fleet = Fleet::start(connections)?;
    let slab_start = slab_bytes()?;
    let login = cluster.first_login(fleet.prefix(), None);
    progress.step(format!("{connections} logins"));
    let connected = fleet.connect(&cluster.gateways, connections, Some(&login), None)?;
    cluster.settle(&ALL)?;

    progress.step(format!(
        "{} bytes every {} s, for {} s",
        arguments.bytes, arguments.interval, arguments.seconds
    ));
    eprintln!(
        "{} connections are up; another client may join them: {}",
        connected.count,
        cluster.addresses()
    );
    let message = Message::Request {
        business: cluster.echo()?,
        bytes: arguments.bytes,
    };
    let pace = Pace::PerSecond(connected.count as f64 / arguments.interval);
    let cpu = cluster.cpu(&SERVER)?;
    let all_cpu = cluster.cpu(&ALL)?;
    let (talked, plain) = std::thread::scope(|scope| {
        // A client by hand, in the middle of it.
        let plain = scope.spawn(|| {
            child::pause(Duration::from_secs_f64(arguments.seconds / 2.0))?;
            cluster.plain_client()
        });
        let talked = fleet.exchange(message, pace, arguments.seconds);
        (
            talked,
            plain
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("the plain client panicked"))),
        )
    });
    let (talked, plain) = (talked?, plain.context("a plain client, meanwhile")?);
    let window = Duration::from_secs_f64(talked.seconds);
    let server_percent = cpu_percent(cluster.cpu(&SERVER)? - cpu, window);
    let all_percent = cpu_percent(cluster.cpu(&ALL)? - all_cpu, window);
    let pss = cluster.pss(&ALL)?;
    // Of both ends; the other half is the load's.
    let kernel = slab_bytes()?.saturating_sub(slab_start) / 2;
    drop(progress);

    let failed = |failures: &Failures| failures.values().sum::<u64>();
    let failures = failed(&connected.failures) + talked.sent - talked.answered;
    let latency: Latency = [&talked.latency].into_iter().collect();
    let mut report = Report::new(format!(
        "{connections} connections, {} bytes every {} s each, echoed",
        arguments.bytes, arguments.interval
    ));
    report
        .count("connections", connected.count, "connections")
        .figure(
            "seconds",
            talked.seconds,
            "seconds, from the first message to the last echo",
        )
        .count("sent", talked.sent, "messages sent")
        .count("echoed", talked.answered, "messages echoed")
        .count("failures", failures, "failures (logins, lost or wrong echoes)")
        .figure(
            "server_cpu_percent",
            server_percent,
            "server CPU (gateways + sidecars), % of a core",
        )
        .figure(
            "all_cpu_percent",
            all_percent,
            "with routing and ipconfig, % of a core",
        )
        .count("server_bytes", pss + kernel, "server memory in total, bytes")
        .count(
            "server_user_bytes",
            pss,
            "of that: PSS of gateways, sidecars, routing and ipconfig",
        )
        .count(
            "server_kernel_bytes",
            kernel,
            "of that: kernel, half of what the slabs grew by",
        )
        .figure("p50_us", latency.us(0.5), "p50, µs")
        .figure("p99_us", latency.us(0.99), "p99, µs")
        .figure("p999_us", latency.us(0.999), "p99.9, µs")
        .figure("login_seconds", connected.seconds, "login of all, s")
        .figure(
            "plain_client_us",
            plain.as_secs_f64() * 1e6,
            "a plain client meanwhile: login and echo, µs",
        )
        .count("gateways", cluster.gateways.len() as u64, "gateway processes")
        .remark(
            "Latencies from the intended time of sending (open loop). Load and servers share this machine.",
        )
        .failures("logins failed", &connected.failures)
        .failures("messages failed", &talked.failures);
    Ok(report)
}
