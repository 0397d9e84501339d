//! Memory of a connection that does nothing but ping.

use std::time::Duration;

use anyhow::Result;

use crate::bench::Figures;
use crate::report::{Report, Size};

const DEADLINE: Duration = Duration::from_secs(540);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("idle", size, seed);
    let connections = size.pick("300", "15000");
    let figures = Figures::measure(&["idle", "--connections", connections], DEADLINE).await?;
    figures.note("", &mut report);
    report.exactly(
        "connections",
        figures.number("connections")?,
        size.pick(300.0, 15_000.0),
    );
    report.at_most(
        "gateway_bytes_per_connection",
        figures.number("gateway_bytes_per_connection")?,
        320.0,
    );
    report.at_most(
        "state_bytes_per_connection",
        figures.number("state_bytes_per_connection")?,
        384.0,
    );
    report.at_most(
        "routing_bytes_per_connection",
        figures.number("routing_bytes_per_connection")?,
        128.0,
    );
    for name in [
        "kernel_bytes_per_connection",
        "cpu_percent",
        "bare_cpu_percent",
        "ping_interval_s",
    ] {
        figures.number(name)?;
    }
    Ok(report)
}
