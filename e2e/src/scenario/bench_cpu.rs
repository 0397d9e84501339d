//! What one message, delivery, login or answer costs: `imaccess bench`, held to its limits.

use std::time::Duration;

use anyhow::Result;

use crate::bench::Figures;
use crate::report::{Report, Size};

/// A bench alternates five rounds with a bare server; a test's size ends within seconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(540);

/// `bench ipconfig`: answers per second and core.
pub(super) async fn ipconfig(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("ipconfig", size, seed);
    let endpoints = size.pick("50", "1000");
    let mut arguments = vec!["ipconfig", "--endpoints", endpoints];
    arguments.extend(shorter(size));
    let figures = Figures::measure(&arguments, DEADLINE).await?;
    figures.note("", &mut report);
    report.exactly("endpoints", figures.number("endpoints")?, size.pick(50.0, 1000.0));
    report.always_at_most(
        "answers_missing",
        f64::from(u8::from(figures.number("answers_per_second")? <= 0.0)),
        0.0,
    );
    report.at_least(
        "answers_per_second_and_core",
        per_core(figures.number("server_cpu_us_per_answer")?),
        50_000.0,
    );
    Ok(report)
}

/// `bench login`: logins per second and core.
pub(super) async fn login(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("login", size, seed);
    let mut arguments = vec!["login", "--connections", size.pick("300", "10000")];
    arguments.extend(shorter(size));
    let figures = Figures::measure(&arguments, DEADLINE).await?;
    figures.note("", &mut report);
    let logins = size.pick(300.0, 10_000.0) * figures.number("rounds")?;
    report.exactly("logins", figures.number("logins")?, logins);
    report.exactly("resumes", figures.number("resumes")?, logins);
    report.exactly("not_resumed", figures.number("not_resumed")?, 0.0);
    report.at_least(
        "first_logins_per_second_and_core",
        per_core(figures.number("server_cpu_us_per_login")?),
        5_000.0,
    );
    report.at_least(
        "resumes_per_second_and_core",
        per_core(figures.number("server_cpu_us_per_resume")?),
        10_000.0,
    );
    Ok(report)
}

/// `bench echo`: gateway + state against a bare epoll echo.
pub(super) async fn echo(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("echo", size, seed);
    let connections = size.pick("50", "1000");
    let mut arguments = vec!["echo", "--connections", connections];
    arguments.extend(shorter(size));
    let figures = Figures::measure(&arguments, DEADLINE).await?;
    figures.note("", &mut report);
    report.exactly(
        "connections",
        figures.number("connections")?,
        size.pick(50.0, 1000.0),
    );
    for name in [
        "messages_per_second",
        "business_cpu_us_per_message",
        "p50_us",
        "p99_us",
        "p999_us",
    ] {
        report.always_at_most(
            &format!("{name}_missing"),
            f64::from(u8::from(figures.number(name)? <= 0.0)),
            0.0,
        );
    }
    report.exactly("failures", figures.number("failures")?, 0.0);
    let ratio = figures.number("server_cpu_us_per_message")? / figures.number("bare_cpu_us_per_message")?;
    report.at_most("cpu_ratio_to_bare", ratio, 3.0);
    report.at_most("limit_ratio", figures.number("limit_ratio")?, 3.0);
    Ok(report)
}

/// `bench fanout`: at two sizes, with one and with eight messages outstanding.
pub(super) async fn fanout(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("fanout", size, seed);
    for members in size.pick(&["100"][..], &["1000", "10000"][..]) {
        for outstanding in ["1", "8"] {
            let mut arguments = vec!["fanout", "--members", members, "--outstanding", outstanding];
            arguments.extend(shorter(size));
            let figures = Figures::measure(&arguments, DEADLINE).await?;
            let prefix = format!("{members}x{outstanding}_");
            figures.note(&prefix, &mut report);
            report.exactly(&format!("{prefix}lost"), figures.number("lost")?, 0.0);
            report.exactly(&format!("{prefix}failures"), figures.number("failures")?, 0.0);
            let ours = figures.number("server_cpu_us_per_delivery")?;
            let bare = figures.number("bare_cpu_us_per_delivery")?;
            let gathered = figures.number("bare_gathered_cpu_us_per_delivery")?;
            if outstanding == "1" {
                report.at_most(&format!("{prefix}ratio_to_bare"), ours / bare, 1.3);
            } else {
                report.at_most(&format!("{prefix}ratio_to_bare"), ours / bare, 1.0);
                report.at_most(&format!("{prefix}ratio_to_gathered"), ours / gathered, 2.0);
            }
        }
    }
    Ok(report)
}

/// Arguments that shorten a bench to a test's length.
fn shorter(size: Size) -> &'static [&'static str] {
    size.pick(&["--rounds", "1", "--seconds", "1"], &[])
}

/// Operations per second of one core; none if nothing was measured, which must not look like infinite speed.
fn per_core(cpu_us: f64) -> f64 {
    if cpu_us > 0.0 { 1e6 / cpu_us } else { 0.0 }
}
