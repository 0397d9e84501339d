//! Replacing parts of a running cluster, by `imaccess upgrade` and by `up`'s control socket, and looking at what holds.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use imaccess_common::handover::Handover;
use imaccess_common::process::ProcessSample;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::cluster::Cluster;
use crate::command;
use crate::wait::{Seen, wait_until};

/// A whole upgrade, with the way back. Decides nothing but when to give up.
const UPGRADE: Duration = Duration::from_secs(120);
/// One answer of the control socket: a part may take its whole drain to end.
const CONTROL: Duration = Duration::from_secs(60);
/// One answer of an admin page.
const PAGE: Duration = Duration::from_secs(5);

/// What the first gateway says of its custody (`GET /handover`).
///
/// # Errors
/// When its page doesn't answer, or is none.
pub async fn handover(cluster: &Cluster) -> Result<Handover> {
    let gateway = cluster.parts("gateway").into_iter().next();
    let address = gateway.and_then(|part| part.metrics);
    let client = reqwest::Client::builder().no_proxy().timeout(PAGE).build()?;
    handover_at(&client, &address.context("the gateway has no page")?).await
}

/// The same, of the gateway whose admin pages are there.
///
/// # Errors
/// When its page doesn't answer, or is none.
pub async fn handover_at(client: &reqwest::Client, address: &str) -> Result<Handover> {
    let url = format!("http://{address}/handover");
    let answer = client.get(&url).send().await;
    let answer = answer.with_context(|| format!("{url} doesn't answer"))?;
    let text = answer.error_for_status()?.text().await?;
    serde_json::from_str(&text).with_context(|| format!("{url} answers {text}"))
}

/// Whether gateway, state and custody are together.
#[must_use]
pub fn is_whole(seen: &Handover) -> bool {
    seen.complete && seen.links == seen.shards && seen.shards > 0
}

/// Waits until gateway, state and custody are together, in a gateway of an incarnation above `above`.
///
/// # Errors
/// When they aren't within the deadline.
pub async fn whole(cluster: &Cluster, above: u32, deadline: Duration) -> Result<Handover> {
    wait_until("links and custody are whole", deadline, async || {
        Ok(match handover(cluster).await {
            Ok(seen) if is_whole(&seen) && seen.incarnation > above => Seen::Yes(seen),
            Ok(seen) => Seen::NotYet(format!("{seen:?}")),
            Err(error) => Seen::NotYet(format!("{error:#}")),
        })
    })
    .await
}

/// How `imaccess upgrade` ended.
#[derive(Clone, Debug)]
pub struct Upgraded {
    /// Its exit status; -1 for a signal.
    pub status: i32,
    /// What it printed for scripts, if it can be read.
    pub outcome: Option<Value>,
    /// All that it printed.
    pub text: String,
}

impl Upgraded {
    /// From the signal until all was verified, if it says so.
    #[must_use]
    pub fn ready(&self) -> Option<Duration> {
        let found = find(self.outcome.as_ref()?, "ready_ms")?;
        found.as_u64().map(Duration::from_millis)
    }

    /// From the signal until the new process was started, in milliseconds, if it says so.
    #[must_use]
    pub fn stopped_ms(&self) -> Option<u64> {
        find(self.outcome.as_ref()?, "stopped_ms")?.as_u64()
    }
}

/// A field by its name, in an object or in the first of a list of them.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) => fields
            .get(name)
            .or_else(|| fields.values().find_map(|value| find(value, name))),
        Value::Array(values) => values.iter().find_map(|value| find(value, name)),
        _ => None,
    }
}

/// Upgrades `gateway` or `state` (all of them), to another binary if one is given.
///
/// # Errors
/// When the command can't be run or doesn't end. How it ended is the caller's to judge.
pub async fn upgrade(cluster: &Cluster, part: &str, binary: Option<&Path>) -> Result<Upgraded> {
    let directory = cluster.view.directory.to_string_lossy().into_owned();
    let mut arguments = vec![
        "upgrade".to_owned(),
        part.to_owned(),
        "--json".to_owned(),
        "--dir".to_owned(),
        directory,
    ];
    if let Some(binary) = binary {
        arguments.extend(["--binary".to_owned(), binary.to_string_lossy().into_owned()]);
    }
    let output = command::run(None, &arguments, UPGRADE).await?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let outcome = printed
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok());
    Ok(Upgraded {
        status: output.status.code().unwrap_or(-1),
        outcome,
        text: format!("{printed}{}", String::from_utf8_lossy(&output.stderr)),
    })
}

/// Has `up` start another binary in a part's place, by SIGKILL if `kill`.
///
/// # Errors
/// When `up` doesn't answer, or refuses.
pub async fn replace(cluster: &Cluster, part: &str, binary: &Path, kill: bool) -> Result<Value> {
    let path = cluster.view.directory.join("control.sock");
    let mut request = json!({"replace": {"part": part, "binary": binary}});
    if kill {
        request["replace"]["kill"] = json!(true);
    }
    let exchange = async {
        let stream = UnixStream::connect(&path).await?;
        let (reader, mut writer) = stream.into_split();
        writer.write_all(format!("{request}\n").as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).await?;
        anyhow::Ok(line)
    };
    let line = timeout(CONTROL, exchange)
        .await
        .with_context(|| format!("{} doesn't answer", path.display()))?;
    let line = line.with_context(|| format!("cannot ask {}", path.display()))?;
    let answer: Value = serde_json::from_str(&line).with_context(|| format!("up answers {line:?}"))?;
    if let Some(error) = answer.get("error") {
        bail!("up doesn't replace {part}: {error}");
    }
    Ok(answer)
}

/// The processes of one kind of part, as they are now.
fn pids(cluster: &mut Cluster, part: &str) -> Result<Vec<u32>> {
    cluster.refresh()?;
    let parts = cluster.parts(part).into_iter();
    parts
        .map(|part| u32::try_from(part.pid).with_context(|| format!("{} has no process", part.name)))
        .collect()
}

/// Memory of the parts of one kind: the anonymous part of PSS, in bytes. The rest is the program's file, of which each process
/// is charged a share that depends on how many others have it mapped just now.
///
/// # Errors
/// When a process has gone.
pub fn memory(cluster: &mut Cluster, part: &str) -> Result<u64> {
    let pids = pids(cluster, part)?;
    let samples = pids.into_iter().map(|pid| Ok(ProcessSample::of(pid)?.user_bytes));
    samples.sum()
}

/// Open descriptors of the parts of one kind.
///
/// # Errors
/// When a process has gone.
pub fn descriptors(cluster: &mut Cluster, part: &str) -> Result<u64> {
    let pids = pids(cluster, part)?;
    let counts = pids
        .into_iter()
        .map(|pid| Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64));
    counts.sum()
}
