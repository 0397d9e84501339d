//! Memory of a connection that does nothing but ping, with custody and without.

use std::time::Duration;

use anyhow::Result;

use crate::bench::Figures;
use crate::report::{Report, Size};

/// PSS of a part before the first connection, in bytes.
const START: f64 = 24e6;
const DEADLINE: Duration = Duration::from_secs(540);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("idle", size, seed);
    let connections = size.pick("300", "15000");
    let mut arguments = vec!["idle", "--connections", connections];
    if size == Size::Small {
        arguments.extend(["--seconds", "2", "--ping-interval", "2"]);
    }
    // With custody, as it runs, and without, so that its price is seen.
    let figures = Figures::measure(&arguments, DEADLINE).await?;
    arguments.extend(["--custody", "off"]);
    let without = Figures::measure(&arguments, DEADLINE).await?;
    without.note("without_custody_", &mut report);
    for part in ["gateway", "state"] {
        let name = format!("{part}_bytes_per_connection");
        let price = figures.number(&name)? - without.number(&name)?;
        report.figure(&format!("custody_bytes_per_connection_in_{part}"), price);
    }
    figures.note("", &mut report);
    report.exactly(
        "connections",
        figures.number("connections")?,
        size.pick(300.0, 15_000.0),
    );
    for (part, bound) in [("gateway", 320.0), ("state", 384.0), ("routing", 128.0)] {
        let name = format!("{part}_bytes_per_connection");
        report.at_most(&name, figures.number(&name)?, bound);
        // A large empty process would hide in neither slope.
        let name = format!("{part}_pss_start");
        report.at_most(&name, figures.number(&name)?, START);
    }
    let ratio = figures.number("cpu_percent")? / figures.number("bare_cpu_percent")?;
    report.figure("cpu_ratio_to_bare", ratio);
    for name in ["kernel_bytes_per_connection", "ping_interval_s"] {
        figures.number(name)?;
    }
    Ok(report)
}
