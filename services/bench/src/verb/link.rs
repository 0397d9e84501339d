//! `bench link`: the Unix socket between gateway and state alone.

use crate::child::Child;
use crate::helper::link::Measured;
use crate::report::{Progress, Report};
use crate::statistics::median;

/// Arguments of `bench link`.
#[derive(Clone, Debug, clap::Args)]
pub struct Link {
    /// Events in a batch
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// Bytes of an event's frame
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    bytes: u64,
    /// Batches under way
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_024))]
    outstanding: u64,
    /// Rounds; figures are medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Seconds of each round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

pub(crate) fn run(arguments: &Link) -> anyhow::Result<Report> {
    let progress = Progress::new(1 + arguments.rounds);
    progress.step("starting both ends");
    let directory = tempfile::Builder::new().prefix("imaccess-bench-").tempdir()?;
    let socket = directory.path().join("link.sock");
    let socket = socket.to_string_lossy();
    let Link {
        batch,
        bytes,
        outstanding,
        rounds,
        seconds,
    } = arguments;
    let numbers = [batch, bytes, outstanding, rounds].map(ToString::to_string);
    let mut gateway = Child::helper(&[
        "link-gateway",
        "--socket",
        &socket,
        "--batch",
        &numbers[0],
        "--bytes",
        &numbers[1],
        "--under-way",
        &numbers[2],
        "--rounds",
        &numbers[3],
        "--seconds",
        &seconds.to_string(),
    ])?;
    let _bound: String = gateway.receive()?;
    let mut state = Child::helper(&["link-state", "--socket", &socket])?;
    let _attached: String = state.receive()?;
    let mut measured = Vec::new();
    for number in 1..=*rounds {
        progress.step(format!("round {number}"));
        measured.push(gateway.receive::<Measured>()?);
    }
    drop(progress);

    let of = |value: fn(&Measured) -> f64| median(measured.iter().map(value));
    let mut report = Report::new(format!(
        "gateway ⇄ state link, batches of {batch} events of {bytes} bytes"
    ));
    report
        .figure("events_per_second", of(|m| m.events as f64 / m.seconds), "events per second, both directions")
        .figure(
            "cpu_us_per_event",
            of(|m| (m.gateway_us + m.state_us) / m.events.max(1) as f64),
            "CPU of both ends, µs per event",
        )
        .figure("gateway_cpu_us_per_event", of(|m| m.gateway_us / m.events.max(1) as f64), "of that the gateway's end, µs")
        .figure("state_cpu_us_per_event", of(|m| m.state_us / m.events.max(1) as f64), "of that the state's end, µs")
        .detail("batch", *batch)
        .detail("bytes", *bytes)
        .detail("outstanding", *outstanding)
        .detail("rounds", *rounds)
        .remark(
            "An event is one frame carried one way; the state's end answers each. Both ends build and walk their \
             batches, and do nothing else.",
        );
    Ok(report)
}
