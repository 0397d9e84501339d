//! 50,000 connections, each sending 500 bytes a minute and receiving them back; and a plain client meanwhile.

use std::time::Duration;

use anyhow::Result;

use crate::bench::Figures;
use crate::report::{Report, Size};

const DEADLINE: Duration = Duration::from_secs(590);
/// The host of the capacity test has 8 GB; "well under" is read as half of it.
const MEMORY: f64 = 4e9;

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("capacity", size, seed);
    let arguments = size.pick(
        &["capacity", "--connections", "300", "--seconds", "3"][..],
        &["capacity", "--connections", "50000", "--seconds", "180"][..],
    );
    let figures = Figures::measure(arguments, DEADLINE).await?;
    figures.note("", &mut report);
    report.exactly(
        "connections",
        figures.number("connections")?,
        size.pick(300.0, 50_000.0),
    );
    report.exactly("failures", figures.number("failures")?, 0.0);
    report.exactly("lost", figures.number("sent")? - figures.number("echoed")?, 0.0);
    report.at_least("seconds", figures.number("seconds")?, 180.0);
    report.at_most("server_bytes", figures.number("server_bytes")?, MEMORY);
    for name in ["server_cpu_percent", "p99_us"] {
        figures.number(name)?;
    }
    Ok(report)
}
