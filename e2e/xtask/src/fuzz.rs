//! Fuzz targets of the wire protocol: a workspace of their own, because they need a nightly compiler and
//! sanitizer flags, which would otherwise rebuild everything else.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::programs::answers;
use crate::steps::Verdict;
use crate::workspace::{Workspace, shown, succeed};

/// How long to look for input that breaks something.
#[derive(Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
}

/// `cargo xtask fuzz`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    if !nightly() {
        bail!("fuzzing needs a nightly compiler: `rustup toolchain install nightly --profile minimal`");
    }
    if !cargo_fuzz() {
        println!("cargo-fuzz is missing: installing it from crates.io");
        succeed(&mut workspace.cargo(["install", "--locked", "cargo-fuzz"]))
            .context("cargo-fuzz is needed")?;
    }
    let mut targets = targets(workspace)?;
    if let Some(only) = &options.target {
        targets.retain(|target| target == only);
        if targets.is_empty() {
            bail!("no fuzz target is named {only}");
        }
    }
    fuzz(workspace, &targets, options.seconds)?;
    println!(
        "{} target(s), {} s each: nothing found",
        targets.len(),
        options.seconds
    );
    Ok(ExitCode::SUCCESS)
}

/// The share of `cargo xtask test`: runs the targets shortly where the tools are there already.
pub(crate) fn small(workspace: &Workspace, seconds: u32) -> Result<Verdict> {
    if !nightly() || !cargo_fuzz() {
        let why = "no nightly compiler with cargo-fuzz here; the committed corpus was replayed by the tests";
        return Ok(Verdict::Skipped(why.into()));
    }
    fuzz(workspace, &targets(workspace)?, seconds)?;
    Ok(Verdict::Passed)
}

fn nightly() -> bool {
    answers("cargo", &["+nightly", "--version"])
}

fn cargo_fuzz() -> bool {
    answers("cargo", &["fuzz", "--version"])
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.root.join("services/wire/fuzz")
}

/// Every file in `fuzz_targets` is a target: one that nobody runs can't be forgotten in a list.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let directory = directory(workspace).join("fuzz_targets");
    let entries =
        fs::read_dir(&directory).with_context(|| format!("no fuzz targets in {}", directory.display()))?;
    let mut targets: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    targets.sort();
    if targets.is_empty() {
        bail!("no fuzz targets in {}", directory.display());
    }
    Ok(targets)
}

fn fuzz(workspace: &Workspace, targets: &[String], seconds: u32) -> Result<()> {
    succeed(&mut cargo_fuzz_command(workspace, "build")).context("the fuzz targets don't build")?;
    for target in targets {
        println!("--- {target}: {seconds} s");
        let seeds = directory(workspace).join("corpus").join(target);
        // New inputs go to a directory of the build; the committed corpus is read only.
        let found = workspace.target.join("fuzz-corpus").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot create {}", found.display()))?;
        let mut command = cargo_fuzz_command(workspace, "run");
        command.arg(target).arg(&found);
        if seeds.is_dir() {
            command.arg(&seeds);
        }
        command
            .args(["--", "-timeout=10", "-verbosity=0"])
            .arg(format!("-max_total_time={seconds}"));
        // libFuzzer prints pages that matter only when it has found something.
        let output = command
            .output()
            .with_context(|| format!("cannot start {}", shown(&command)))?;
        if !output.status.success() {
            println!("{}", String::from_utf8_lossy(&output.stdout));
            println!("{}", String::from_utf8_lossy(&output.stderr));
            bail!("fuzz target {target} found something: see above");
        }
    }
    Ok(())
}

/// `cargo fuzz <verb>` on our targets, with artefacts beside the main workspace's.
fn cargo_fuzz_command(workspace: &Workspace, verb: &str) -> Command {
    let mut command = workspace.cargo(["+nightly", "fuzz", verb, "--fuzz-dir"]);
    command.arg(directory(workspace));
    // The rest of the environment (a wrapper, another target directory) belongs to the main workspace.
    command
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("CARGO_TARGET_DIR", workspace.target.join("fuzz"));
    command
}
