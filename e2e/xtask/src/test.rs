//! `cargo xtask test`: the list of steps.
//!
//! **Nothing is compiled twice.** The step `build` compiles the whole workspace, tests included, with
//! `RUSTC_WORKSPACE_WRAPPER=clippy-driver`: clippy's driver is the compiler with lints added, and when it is
//! not asked for metadata only (which is what `cargo clippy` does) its output is a complete artefact. So the
//! linted artefacts are the ones that the later steps run. The wrapper applies to members of the workspace
//! alone: dependencies come from the same artefacts as `cargo run --release`. Price: clippy's driver turns
//! off the compiler's own MIR optimisations (not LLVM's), so figures are never taken from these binaries;
//! `cargo xtask accept` measures a plain release build.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use imaccess_cluster::Layout;

use crate::e2e::Cluster;
use crate::steps::{Steps, Tally, Verdict};
use crate::workspace::{Workspace, succeed, watch};
use crate::{e2e, fuzz, layering, programs, sharing, sizes, space};

/// What of `test` is to run.
#[derive(Args)]
pub(crate) struct Options {
    /// Run this step only (a tests step needs the artefacts of `build`, and makes them if they are stale).
    #[arg(long, value_name = "NAME", value_parser = NAMES)]
    step: Option<String>,
    /// Leave out the steps `cluster` and `e2e`, which need root and Go, and take a quarter of an hour.
    #[arg(long)]
    without_kubernetes: bool,
}

/// The steps that `--without-kubernetes` leaves out.
const ON_KUBERNETES: [&str; 2] = ["cluster", "e2e"];

/// Cheapest first: what a person mistypes is told in seconds, before anything is compiled.
const NAMES: [&str; 12] = [
    "space", "format", "sizes", "layering", "sharing", "build", "protocol", "test", "cluster", "e2e", "fuzz",
    "deny",
];

/// A fuzz target's share in `test`: enough to see that it builds and starts, no substitute for `fuzz`.
const FUZZ_SECONDS: u32 = 5;

/// Runs the steps.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let mut steps = Steps::default();
    let layout = Layout::new(&workspace.target);
    let mut cluster = None;
    let is_wanted = |name: &str| match options.step.as_deref() {
        Some(only) => only == name,
        None => !(options.without_kubernetes && ON_KUBERNETES.contains(&name)),
    };
    if ON_KUBERNETES.into_iter().any(is_wanted) {
        Cluster::check(&layout).context(
            "`--without-kubernetes` runs everything else; the steps cluster and e2e can't run here",
        )?;
    }
    for name in NAMES {
        if !is_wanted(name) {
            continue;
        }
        let good = steps.run(name, |steps| match name {
            "space" => space::check(workspace),
            "format" => format(workspace),
            "layering" => layering::check(workspace),
            "sharing" => sharing::check(workspace),
            "sizes" => sizes::check(workspace),
            "build" => build(workspace),
            "protocol" => protocol(workspace),
            "test" => test(workspace, steps),
            "cluster" => {
                cluster = Some(Cluster::find_or_create(workspace, &layout)?);
                Ok(Verdict::Passed)
            }
            "e2e" => {
                if cluster.is_none() {
                    cluster = Some(Cluster::find_or_create(workspace, &layout)?);
                }
                let cluster = cluster.as_ref().context("it was just found")?;
                e2e(workspace, &layout, cluster, steps)
            }
            "fuzz" => fuzz::small(workspace, FUZZ_SECONDS),
            "deny" => deny(workspace),
            other => bail!("no such step: {other}"),
        });
        if !good {
            println!("\n`cargo xtask test` stops at the failed step: {name}");
            break;
        }
    }
    if let Some(cluster) = &cluster {
        cluster.end(&layout)?;
    }
    Ok(if steps.close() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn format(workspace: &Workspace) -> Result<Verdict> {
    succeed(&mut workspace.cargo(["fmt", "--all", "--check"]))?;
    // The fuzz targets are a workspace of their own.
    succeed(&mut workspace.cargo([
        "fmt",
        "--check",
        "--manifest-path",
        "services/wire/fuzz/Cargo.toml",
    ]))?;
    Ok(Verdict::Passed)
}

/// Leaves cargo's report of what was compiled when in `target/cargo-timings`: most of a first run's time goes here.
fn build(workspace: &Workspace) -> Result<Verdict> {
    succeed(&mut linted(
        workspace,
        &["build", "--release", "--workspace", "--all-targets", "--timings"],
    ))?;
    Ok(Verdict::Passed)
}

/// A cargo command whose workspace members are compiled by clippy's driver, warnings being errors.
fn linted(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = workspace.cargo(arguments);
    command
        .env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver")
        .env("CLIPPY_ARGS", "-Dwarnings");
    command
}

/// The golden vectors, read by a second decoder that was written from the document alone.
fn protocol(workspace: &Workspace) -> Result<Verdict> {
    programs::python3()?;
    succeed(&mut workspace.command("python3", ["proto/vectors/decode.py"]))?;
    Ok(Verdict::Passed)
}

/// All tests of cargo, the end-to-end scenarios at their small size among them.
fn test(workspace: &Workspace, steps: &mut Steps) -> Result<Verdict> {
    let mut command = linted(workspace, &["test", "--release", "--workspace", "--no-fail-fast"]);
    command.env("IMACCESS_BINARY", workspace.binary("imaccess"));
    match programs::promtool(workspace) {
        Ok(path) => {
            command.env("PROMTOOL", path);
        }
        Err(error) => {
            println!("promtool can't be had, the metrics test uses our own parser alone: {error:#}");
        }
    }
    counted(&mut command, steps)
}

/// The tests that need a Kubernetes cluster, with the image of the binary that `build` made.
fn e2e(workspace: &Workspace, layout: &Layout, cluster: &Cluster, steps: &mut Steps) -> Result<Verdict> {
    succeed(&mut linted(
        workspace,
        &["build", "--release", "--workspace", "--all-targets"],
    ))?;
    cluster.load(workspace, layout)?;
    // The same selection as in `test`, or cargo would unite features otherwise and compile dependencies again.
    let mut command = linted(workspace, &["test", "--release", "--workspace"]);
    e2e::arguments(&mut command, &e2e::test_programs(workspace)?, None);
    cluster.environment(workspace, layout, &mut command)?;
    counted(&mut command, steps)
}

/// Runs `cargo test`, and counts what it ran.
fn counted(command: &mut Command, steps: &mut Steps) -> Result<Verdict> {
    let mut count = Count::default();
    let status = watch(command, |line| count.line(line))?;
    for (name, took) in count.binaries {
        steps.detail(name, took);
    }
    if !status.success() && count.tally.failed == 0 {
        bail!("cargo test failed without a failed test: see above ({status})");
    }
    Ok(Verdict::Counted(count.tally))
}

/// Licences, sources and known vulnerabilities. Its advisory database comes from the network, so that it is
/// checked where cargo-deny is installed, and no test depends on it.
fn deny(workspace: &Workspace) -> Result<Verdict> {
    if !programs::answers("cargo", &["deny", "--version"]) {
        return Ok(Verdict::Skipped(
            "cargo-deny is not installed (cargo install --locked cargo-deny)".into(),
        ));
    }
    succeed(&mut workspace.cargo(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    Ok(Verdict::Passed)
}

/// Reads what `cargo test` prints.
#[derive(Default)]
struct Count {
    tally: Tally,
    running: String,
    binaries: Vec<(String, Duration)>,
}

impl Count {
    fn line(&mut self, line: &str) {
        let line = line.trim_start();
        if let Some(rest) = line.strip_prefix("Running ") {
            self.running = binary_name(rest);
        } else if let Some(name) = line.strip_prefix("Doc-tests ") {
            self.running = format!("{name} (documentation)");
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            self.tally.passed += number_before(rest, " passed");
            self.tally.failed += number_before(rest, " failed");
            let took = rest
                .rsplit_once("finished in ")
                .and_then(|(_, text)| text.strip_suffix('s')?.parse().ok());
            self.binaries.push((
                std::mem::take(&mut self.running),
                Duration::from_secs_f64(took.unwrap_or(0.0)),
            ));
        } else if line.starts_with("error: test failed") || line.starts_with("error: doctest failed") {
            // A test binary that dies (abort, signal) prints no result of its own.
            self.tally.failed += u64::from(!self.running.is_empty());
            self.running.clear();
        }
    }
}

/// `tests/echo.rs (target/release/deps/echo-0123456789abcdef)` → `echo`; a unit test is named for its crate.
fn binary_name(rest: &str) -> String {
    let path = rest
        .rsplit_once('(')
        .map_or(rest, |(_, path)| path.trim_end_matches(')'));
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    file.rsplit_once('-').map_or(file, |(name, _)| name).to_owned()
}

fn number_before(text: &str, word: &str) -> u64 {
    let Some((before, _)) = text.split_once(word) else {
        return 0;
    };
    before
        .rsplit(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_closing_lines_of_cargo_test() {
        let mut count = Count::default();
        for line in [
            "     Running unittests src/lib.rs (target/release/deps/imaccess_wire-0123456789abcdef)",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.50s",
            "     Running tests/echo.rs (target/release/deps/echo-0123456789abcdef)",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.02s",
            "error: test failed, to rerun pass `-p imaccess-e2e --test echo`",
            "   Doc-tests imaccess_wire",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.20s",
        ] {
            count.line(line);
        }
        assert_eq!(
            count.tally,
            Tally {
                passed: 17,
                failed: 1
            }
        );
        assert_eq!(
            count.binaries[0],
            ("imaccess_wire".to_owned(), Duration::from_millis(1500))
        );
        assert_eq!(count.binaries[1].0, "echo");
    }

    #[test]
    fn counts_a_test_binary_that_died() {
        let mut count = Count::default();
        count.line("     Running tests/echo.rs (target/release/deps/echo-0123456789abcdef)");
        count.line("error: test failed, to rerun pass `-p imaccess-e2e --test echo`");
        assert_eq!(count.tally, Tally { passed: 0, failed: 1 });
    }
}
