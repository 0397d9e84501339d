//! Unicasts beside pushes to many, and what a membership costs: `imaccess bench`, held to its limits.

use std::time::Duration;

use anyhow::Result;

use crate::bench::Figures;
use crate::report::{Report, Size};

/// Five rounds of four measurements of five seconds each, what is on its way after each, and 30,000 connections.
const DEADLINE: Duration = Duration::from_secs(590);

/// What pushes to many may add to the unicasts' p99, µs.
const ADDED_US: f64 = 5_000.0;

/// "Unicasts still flow" beside more pushes than there is time for: of all of them, this share arrives.
const FLOW: f64 = 0.99;

/// Bytes of the gateway's memory that a membership may take.
const MEMBERSHIP: f64 = 16.0;

/// Beside pushes to a group.
pub(super) async fn group(size: Size, seed: u64) -> Result<Report> {
    beside("group", size, seed).await
}

/// Beside broadcasts.
pub(super) async fn broadcast(size: Size, seed: u64) -> Result<Report> {
    beside("broadcast", size, seed).await
}

async fn beside(what: &str, size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new(&format!("{what}-beside-unicasts"), size, seed);
    let mut arguments = vec!["beside", "--what", what];
    if size == Size::Small {
        arguments.extend(["--members", "300", "--singles", "50", "--unicasts", "200"]);
        arguments.extend(["--rounds", "1", "--seconds", "1"]);
    }
    let figures = Figures::measure(&arguments, DEADLINE).await?;
    figures.note("", &mut report);
    let number = |name: &str| figures.number(&format!("{what}_{name}"));
    report.exactly("members", figures.number("members")?, size.pick(300.0, 15_000.0));
    // Alone and beside in every round.
    let unicasts = size.pick(2.0 * 200.0, 5.0 * 2.0 * 5_000.0);
    report.exactly("unicasts", figures.number("unicasts")?, unicasts);
    report.exactly("unicasts_lost", figures.number("unicasts_lost")?, 0.0);
    report.exactly("failures", figures.number("failures")?, 0.0);
    report.exactly(&format!("{what}_lost"), number("lost")?, 0.0);
    report.exactly(
        &format!("{what}_overload_unexplained"),
        number("overload_unexplained")?,
        0.0,
    );
    // Nothing lost of nothing would be no news.
    for name in ["expected", "overload_expected"] {
        let missing = f64::from(u8::from(number(name)? <= 0.0));
        report.exactly(&format!("{what}_{name}_missing"), missing, 0.0);
    }
    // A push that is answered retry isn't lost; where there is time for all of them, there is no reason for it.
    report.at_most(
        "unicasts_not_received",
        figures.number("unicasts_not_received")?,
        0.0,
    );
    report.at_most(&format!("{what}_p99_added_us"), number("p99_added_us")?, ADDED_US);
    report.at_least(
        &format!("{what}_overload_unicasts_received_share"),
        number("overload_unicasts_received_share")?,
        FLOW,
    );
    flood(what, &mut report).await?;
    Ok(report)
}

/// Messages so long that no two share a write: at twice the bare rate most can't arrive. Nothing of that may go uncounted.
async fn flood(what: &str, report: &mut Report) -> Result<()> {
    let mut arguments = vec!["beside", "--what", what, "--members", "300", "--singles", "50"];
    arguments.extend([
        "--unicasts",
        "200",
        "--bytes",
        "16000",
        "--rounds",
        "1",
        "--seconds",
        "3",
    ]);
    let figures = Figures::measure(&arguments, DEADLINE).await?;
    figures.note("flood_", report);
    report.exactly("flood_failures", figures.number("failures")?, 0.0);
    let name = format!("{what}_overload_unexplained");
    report.exactly(&format!("flood_{name}"), figures.number(&name)?, 0.0);
    Ok(())
}

/// `bench groups`: bytes of memory per membership.
pub(super) async fn memory(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("group-memory", size, seed);
    let mut arguments = vec!["groups", "--members", size.pick("300", "15000")];
    if size == Size::Small {
        arguments.extend(["--seconds", "1"]);
    }
    let figures = Figures::measure(&arguments, DEADLINE).await?;
    figures.note("", &mut report);
    report.exactly("members", figures.number("members")?, size.pick(300.0, 15_000.0));
    report.exactly("lost", figures.number("lost")?, 0.0);
    report.exactly("failures", figures.number("failures")?, 0.0);
    let silent = f64::from(u8::from(figures.number("messages")? <= 0.0));
    report.exactly("messages_missing", silent, 0.0);
    for name in [
        "gateway_bytes_per_member",
        "gateway_bytes_per_member_after_pushes",
    ] {
        report.at_most(name, figures.number(name)?, MEMBERSHIP);
    }
    figures.number("gateway_bytes_per_second_membership")?;
    Ok(report)
}
