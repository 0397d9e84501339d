//! `imaccess probe`: whether a page answers, from images that have no other program to ask with.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use imaccess_common::config::duration;

use crate::exit::{FAILED, USAGE, WithStatus};
use crate::{run, terminal};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// For one attempt.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Arguments of `probe`.
#[derive(Debug, clap::Args)]
pub(crate) struct ProbeArgs {
    /// The page, such as http://127.0.0.1:9300/readyz
    url: String,
    /// Ask again for this long until it answers well
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = duration::parse)]
    timeout: Duration,
}

/// Asks until the page answers 200, or the time is over; prints what it answered last.
pub(crate) fn run(arguments: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let plain = arguments.url.starts_with("http://");
    let checked = if plain {
        Ok(())
    } else {
        Err(anyhow::anyhow!("{:?} must begin with http://", arguments.url))
    };
    checked.or_exit(USAGE)?;
    run::quiet_runtime()?.block_on(probe(arguments))
}

async fn probe(arguments: &ProbeArgs) -> anyhow::Result<ExitCode> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(ATTEMPT)
        .build()
        .context("can't make the HTTP client")?;
    let begun = Instant::now();
    loop {
        let last = match client.get(&arguments.url).send().await {
            Ok(response) => {
                let status = response.status();
                let body = response.text().await.unwrap_or_default();
                if status.is_success() {
                    terminal::line(body.trim_end());
                    return Ok(ExitCode::SUCCESS);
                }
                anyhow::anyhow!("it answered {status}: {}", body.trim_end())
            }
            Err(error) => anyhow::Error::new(error),
        };
        if begun.elapsed() >= arguments.timeout {
            return Err(last.context(arguments.url.clone())).or_exit(FAILED);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
