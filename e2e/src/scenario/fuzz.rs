//! Every fuzz target for a minute.

use anyhow::Result;

use super::clean_checkout::{workspace, xtask};
use crate::report::{Report, Size};

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("fuzz", size, seed);
    let seconds = size.pick("5", "60");
    let output = xtask(&workspace()?, &["fuzz", "--seconds", seconds], None).await?;
    report.figure("seconds_per_target", seconds);
    report.figure("result", output.lines().last().unwrap_or_default());
    Ok(report)
}
