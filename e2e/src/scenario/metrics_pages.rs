//! Every part's page, read by Prometheus's own checker.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::latency::{self, Load};
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::{Cluster, Options, Page};

const PARTS: [&str; 4] = ["gateway", "state", "routing", "ipconfig"];
const CHECK: Duration = Duration::from_secs(30);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let cluster = Cluster::start(Options {
        gateways: 2,
        processes: true,
        ..Options::default()
    })
    .await?;
    let echo = cluster.business("echo")?;
    // Some traffic first: a page of zeros hides malformed labels and histograms.
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let mut clients = tokens.clients(&cluster.view.gateways, "device", 4).await?;
    let load = Load {
        interval: Duration::from_millis(100),
        length: Duration::from_millis(500),
        business: echo,
        payload: 64,
    };
    latency::round(&mut clients, load).await?;

    let mut report = Report::new("metrics-pages", size, seed);
    let (mut pages, mut findings) = (0, 0);
    for part in PARTS {
        let entries = cluster.parts(part);
        if entries.is_empty() {
            bail!("the cluster has no part {part}");
        }
        for entry in entries {
            let address = entry
                .metrics
                .with_context(|| format!("{} has no metrics page", entry.name))?;
            let page = Page::scrape(&address).await?;
            pages += 1;
            if let Some(found) = promtool(&page.text).await? {
                findings += 1;
                report.figure(&format!("promtool_on_{}", entry.name), found);
            }
        }
    }
    report.figure("pages", pages);
    report.figure("checked_by_promtool", std::env::var_os("PROMTOOL").is_some());
    report.exactly("pages_with_findings", f64::from(findings), 0.0);
    drop(clients);
    cluster.stop(&[]).await?;
    Ok(report)
}

/// What `promtool check metrics` says about a page; nothing if it is content, or isn't there.
async fn promtool(page: &str) -> Result<Option<String>> {
    let Some(program) = std::env::var_os("PROMTOOL") else {
        return Ok(None);
    };
    let mut command = Command::new(program);
    command
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .kill_on_drop(true)
        .spawn()
        .context("cannot start promtool")?;
    let mut input = child.stdin.take().context("standard input is piped")?;
    input.write_all(page.as_bytes()).await?;
    drop(input);
    let output = timeout(CHECK, child.wait_with_output())
        .await
        .context("promtool doesn't end")??;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Ok((!output.status.success() || !said.is_empty()).then_some(said))
}
