//! The push API's OpenAPI document against a validator, and the API against requests that a property-based fuzzer makes of it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::python::{Python, succeed};
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::{Cluster, Options};

/// For one of the programs.
const DEADLINE: Duration = Duration::from_secs(600);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/openapi.txt");
    let python = Python::with("openapi", &requirements).await?;
    let cluster = Cluster::start(Options {
        gateways: 1,
        processes: true,
        ..Options::default()
    })
    .await?;
    // Somebody to push to, so that answers aren't all of one kind.
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let clients = tokens.clients(&cluster.view.gateways, "device", 3).await?;
    let url = cluster.view.push_grpc.clone();
    let document = reqwest::get(format!("{url}/openapi.json"))
        .await?
        .error_for_status()?
        .text()
        .await
        .context("the document")?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("openapi.json");
    std::fs::write(&file, &document)?;

    let mut report = Report::new("openapi", size, seed);
    let mut validate = python.program("openapi-spec-validator");
    succeed(validate.arg(&file), DEADLINE)
        .await
        .context("the document isn't valid")?;
    report.figure("document_is_valid", true);
    report.figure("document_bytes", document.len());

    let examples = size.pick("15", "300");
    let mut fuzz = python.program("schemathesis");
    fuzz.current_dir(directory.path())
        .args(["run", "openapi.json", "--url", &url])
        .args(["--checks", "all", "--phases", "examples,coverage,fuzzing"])
        // A schema can't count the bytes of a text, nor know which idempotency keys were used: what it allows may be refused.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args([
            "--max-examples",
            examples,
            "--seed",
            &(seed % u64::from(u32::MAX)).to_string(),
        ])
        .args(["--continue-on-failure", "--workers", "1", "--no-color"]);
    let printed = succeed(&mut fuzz, DEADLINE)
        .await
        .context("the API doesn't do what its document says")?;
    for line in printed
        .lines()
        .filter(|line| line.contains("generated") || line.contains("Test cases"))
    {
        report.figure("fuzzer", line.trim());
    }
    drop(clients);
    cluster.stop(&[]).await?;
    Ok(report)
}
