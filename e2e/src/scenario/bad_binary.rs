//! Upgrades to binaries that can't take the old one's place: the old one must be back, with all its connections.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::Instant;

use crate::raw_client::RawClient;
use crate::replace::{upgrade, whole};
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until};
use crate::{Cluster, Options, command};

const BACK: Duration = Duration::from_secs(60);
/// Generations that nobody speaks.
const FOREIGN: &str = "IMACCESS_CLAIM_GENERATIONS=link=8-9,custody=8-9,volume=8-9,lease=8-9";

/// One binary that won't do.
struct Bad {
    name: &'static str,
    path: PathBuf,
    /// One of these must be in what is said.
    says: &'static [&'static str],
}

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut cluster = Cluster::start(Options {
        gateways: 1,
        processes: true,
        arguments: vec!["--shards".into(), "2".into()],
        ..Options::default()
    })
    .await?;
    whole(&cluster, 0, BACK).await?;
    let echo = cluster.business("echo")?;
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let mut clients = tokens
        .clients(&cluster.view.gateways, "device", size.pick(20, 500))
        .await?;
    let directory = tempfile::tempdir()?;
    let mut report = Report::new("bad-binary", size, seed);
    for bad in binaries(directory.path())? {
        for part in ["gateway", "state"] {
            let what = format!("{} as {part}", bad.name);
            let begun = Instant::now();
            let upgraded = upgrade(&cluster, part, Some(&bad.path)).await?;
            report.figure(
                &format!("seconds_of_{}_as_{part}", bad.name),
                begun.elapsed().as_secs_f64(),
            );
            ensure!(
                upgraded.status == 1,
                "{what}: exit status {} instead of 1: {}",
                upgraded.status,
                upgraded.text
            );
            let said = upgraded.text.to_lowercase();
            ensure!(
                bad.says.iter().any(|word| said.contains(word)),
                "{what}: none of {:?} is said, but: {}",
                bad.says,
                upgraded.text
            );
            old_binary_runs(&mut cluster, part)
                .await
                .with_context(|| what.clone())?;
            whole(&cluster, 0, BACK).await.with_context(|| what.clone())?;
            for client in &mut clients {
                answers(client, echo).await.with_context(|| what.clone())?;
            }
        }
    }
    report.exactly(
        "connections_still_answering",
        super::verdict::count(clients.len() as u64),
        size.pick(20.0, 500.0),
    );
    // And one that will do still does.
    let upgraded = upgrade(&cluster, "gateway", None).await?;
    ensure!(upgraded.status == 0, "a good one afterwards: {}", upgraded.text);
    for client in &mut clients {
        answers(client, echo).await.context("after a good one")?;
    }
    drop(clients);
    // What bad binaries say when they are refused is theirs to say.
    cluster.stop(&["generation"]).await?;
    Ok(report)
}

fn binaries(directory: &Path) -> Result<[Bad; 4]> {
    let real = std::path::absolute(command::binary()?)?;
    let real = real.display();
    let script = |name: &str, text: String| -> Result<PathBuf> {
        let path = directory.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).context("cannot write a script")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    };
    let as_compat = format!("if [ \"$1\" = compat ]; then exec {real} \"$@\"; fi");
    Ok([
        Bad {
            name: "one_that_is_not_there",
            path: directory.join("nothing"),
            says: &["no such file", "not found", "isn't there", "can't be"],
        },
        Bad {
            name: "one_that_crashes",
            path: script("crashes", format!("{as_compat}\necho 'it crashes' >&2\nexit 1"))?,
            says: &["ended", "exit status"],
        },
        Bad {
            name: "one_of_foreign_generations",
            path: script("foreign", format!("{FOREIGN} exec {real} \"$@\""))?,
            says: &["generation"],
        },
        Bad {
            name: "one_that_lies_about_generations",
            path: script("lies", format!("{as_compat}\n{FOREIGN} exec {real} \"$@\""))?,
            says: &["generation", "ended", "link", "took nothing over", "custody"],
        },
    ])
}

/// Waits until the part's processes run the binary that the cluster was started from.
async fn old_binary_runs(cluster: &mut Cluster, part: &str) -> Result<()> {
    let old = std::fs::canonicalize(command::binary()?)?;
    wait_until("the old binary runs again", BACK, async || {
        if cluster.refresh().is_err() {
            return Ok(Seen::NotYet(Vec::new()));
        }
        let parts = cluster.parts(part).into_iter();
        let running: Vec<_> = parts
            .map(|part| std::fs::read_link(format!("/proc/{}/exe", part.pid)).ok())
            .collect();
        let back = running.iter().all(|exe| exe.as_ref() == Some(&old));
        Ok(if back {
            Seen::Yes(())
        } else {
            Seen::NotYet(running)
        })
    })
    .await
}

/// One echo; the answer may be "try again" while parts find each other.
async fn answers(client: &mut RawClient, echo: u32) -> Result<()> {
    let id = client.next_message_id();
    for _ in 0..100 {
        let (code, payload) = client.call(echo, id, b"still here?").await?;
        let known = imaccess_wire::Code::nearest(code);
        if known == imaccess_wire::Code::Ok {
            ensure!(payload == b"still here?", "the echo is {payload:?}");
            return Ok(());
        }
        ensure!(known.retryable(), "answered with {known}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("answered `retry` a hundred times")
}
