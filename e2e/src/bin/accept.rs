//! Runs scenarios at full size; `cargo xtask accept` builds what they need and starts this.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use imaccess_e2e::{Report, Size, scenario};

/// Run promised behaviours and print their figures.
#[derive(Parser)]
struct Arguments {
    /// The scenario's name; `all` for those that need no Kubernetes, `k8s-all` for those that do.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Name every scenario and what it shows.
    #[arg(long)]
    list: bool,
    /// Seed of everything random.
    #[arg(long)]
    seed: Option<u64>,
    /// Print one JSON object per scenario.
    #[arg(long)]
    json: bool,
    /// Run at the size of the tests.
    #[arg(long)]
    small: bool,
}

fn on_kubernetes(wanted: bool) -> Vec<&'static str> {
    let names = scenario::ALL.iter().map(|scenario| scenario.name);
    names.filter(|name| name.starts_with("k8s-") == wanted).collect()
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let Some(wanted) = arguments.name.as_deref().filter(|_| !arguments.list) else {
        for scenario in scenario::ALL {
            println!("{:<24} {}", scenario.name, scenario.shows);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let size = if arguments.small { Size::Small } else { Size::Full };
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let names: Vec<&str> = match wanted {
        "all" => on_kubernetes(false),
        "k8s-all" => on_kubernetes(true),
        one => vec![one],
    };
    let mut failed = Vec::new();
    for name in &names {
        let report = runtime
            .block_on(scenario::run(name, size, seed))
            .unwrap_or_else(|error| {
                eprintln!("{name}: {error:#}");
                let mut report = Report::new(name, size, seed);
                report.passed = false;
                report.figure("error", format!("{error:#}"));
                report
            });
        if arguments.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            println!("{}", report.table());
        }
        if !report.passed {
            failed.push(*name);
        }
    }
    if names.len() > 1 && !arguments.json {
        println!(
            "{} of {} passed; failed: {}",
            names.len() - failed.len(),
            names.len(),
            failed.join(", ")
        );
    }
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
