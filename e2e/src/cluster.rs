//! A running `imaccess up`: started on free ports in a directory of its own, and ended with its parts.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use imaccess_common::business::BusinessConfig;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::command::binary;
use crate::logs::Logs;
use crate::page::Page;
use crate::wait::{Seen, wait_until};

/// From start to `ready`. Generous: a test machine may run several clusters at once on two cores.
const READY: Duration = Duration::from_secs(60);
/// From SIGTERM to the end of the process; `up` has a deadline of its own within it.
const END: Duration = Duration::from_secs(30);

/// How to start a cluster.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Another program than the one that is under test.
    pub binary: Option<PathBuf>,
    /// Gateways; 0 leaves the number to `up`.
    pub gateways: usize,
    /// Each part a process of its own.
    pub processes: bool,
    /// Nobody holds the gateways' sockets beside them; as it is anyway where the parts share a process.
    pub no_custody: bool,
    /// Businesses beside `echo`.
    pub businesses: Vec<BusinessConfig>,
    /// Further arguments of `up`.
    pub arguments: Vec<OsString>,
    /// Environment variables for all parts.
    pub environment: Vec<(&'static str, String)>,
}

/// What `up --json` prints.
#[derive(Clone, Debug, Deserialize)]
pub struct View {
    /// ipconfig's address, `http://…`.
    pub ipconfig: String,
    /// The push API's address, `http://…`: the first replica's.
    pub push_grpc: String,
    /// All routing replicas.
    #[serde(default)]
    pub routing: Vec<RoutingView>,
    /// Where clients connect.
    pub gateways: Vec<GatewayView>,
    /// All parts.
    #[serde(default)]
    pub processes: Vec<PartView>,
    /// The businesses that devices can reach.
    #[serde(default)]
    pub businesses: Vec<BusinessView>,
    /// Where sockets, keys and `cluster.json` are.
    pub directory: PathBuf,
}

impl View {
    /// What `up` keeps current in its directory: addresses and pids change when a part is restarted.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join("cluster.json");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no view", path.display()))
    }

    /// The push API's addresses, one per replica.
    #[must_use]
    pub fn push_addresses(&self) -> Vec<String> {
        if self.routing.is_empty() {
            return vec![self.push_grpc.clone()];
        }
        self.routing
            .iter()
            .map(|replica| replica.push_grpc.clone())
            .collect()
    }
}

/// One routing replica.
#[derive(Clone, Debug, Deserialize)]
pub struct RoutingView {
    /// Its name.
    pub name: String,
    /// Its push API's address, `http://…`.
    pub push_grpc: String,
}

/// One gateway.
#[derive(Clone, Debug, Deserialize)]
pub struct GatewayView {
    /// Its name.
    pub name: String,
    /// Its TCP address.
    pub tcp: String,
}

/// One part.
#[derive(Clone, Debug, Deserialize)]
pub struct PartView {
    /// `gateway`, `state`, `routing`, `ipconfig` or `echo`.
    pub part: String,
    /// Its name.
    pub name: String,
    /// The process that it runs in, at present; 0 while it doesn't.
    pub pid: i32,
    /// The address of its metrics page.
    #[serde(default)]
    pub metrics: Option<String>,
}

/// One business.
#[derive(Clone, Debug, Deserialize)]
pub struct BusinessView {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// A running cluster. Dropping it ends its processes.
#[derive(Debug)]
pub struct Cluster {
    /// Addresses and processes, as of the start or the last [`Cluster::refresh`].
    pub view: View,
    /// All that `up` and its parts logged.
    pub logs: Logs,
    child: Child,
    killed: Vec<PartView>,
    /// Removed when the cluster is dropped.
    _directory: TempDir,
}

impl Cluster {
    /// Starts `imaccess up` and waits until it is ready.
    ///
    /// # Errors
    /// When the binary is missing, ends early, or isn't ready in time; with the end of its log.
    pub async fn start(options: Options) -> Result<Self> {
        // A short path: socket names are limited to 107 bytes.
        let directory = tempfile::Builder::new()
            .prefix("imac-")
            .tempdir()
            .context("a directory for the cluster")?;
        let program = match options.binary {
            Some(binary) => binary,
            None => binary()?,
        };
        let mut command = Command::new(program);
        command
            .args(["up", "--ephemeral", "--json", "--dir"])
            .arg(directory.path().join("up"));
        if options.gateways > 0 {
            command.args(["--gateways", &options.gateways.to_string()]);
        }
        if options.processes {
            command.arg("--processes");
        }
        if options.no_custody {
            command.arg("--no-custody");
        }
        if !options.businesses.is_empty() {
            command
                .arg("--business-config")
                .arg(write_businesses(directory.path(), &options.businesses)?);
        }
        command
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(key, value)| (key, value)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start imaccess up")?;
        let logs = Logs::default();
        logs.follow(child.stderr.take().context("standard error is piped")?);
        let mut lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        let mut starting = Starting { child: Some(child) };
        let view = async {
            while let Some(line) = lines.next_line().await? {
                if line.trim_start().starts_with('{') {
                    return serde_json::from_str::<View>(&line)
                        .with_context(|| format!("up printed: {line}"));
                }
            }
            Err(anyhow!("imaccess up ended before it was ready"))
        };
        let view = timeout(READY, view)
            .await
            .unwrap_or_else(|_| Err(anyhow!("imaccess up wasn't ready within {READY:?}")))
            .with_context(|| format!("its log ends with:\n{}", logs.tail(30)))?;
        logs.follow(lines.into_inner());
        let child = starting.child.take().context("it is taken once")?;
        Ok(Self {
            view,
            logs,
            child,
            killed: Vec::new(),
            _directory: directory,
        })
    }

    /// Reads `cluster.json` again: pids change when a part is restarted.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn refresh(&mut self) -> Result<()> {
        self.view = View::read(&self.view.directory)?;
        Ok(())
    }

    /// Address of the first gateway.
    #[must_use]
    pub fn gateway(&self) -> &str {
        self.view.gateways.first().map_or("", |gateway| &gateway.tcp)
    }

    /// The parts of one kind.
    #[must_use]
    pub fn parts(&self, part: &str) -> Vec<PartView> {
        self.view
            .processes
            .iter()
            .filter(|entry| entry.part == part)
            .cloned()
            .collect()
    }

    /// Scrapes the pages of all parts of one kind and adds up what they say.
    ///
    /// # Errors
    /// When a page can't be read.
    pub async fn sum(&self, part: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let mut sum = 0.0;
        for entry in self.parts(part) {
            let address = entry
                .metrics
                .with_context(|| format!("{} has no metrics page", entry.name))?;
            sum += Page::scrape(&address).await?.sum(name, labels);
        }
        Ok(sum)
    }

    /// What signals single parts, also while others use the cluster.
    ///
    /// # Errors
    /// When `up` has ended.
    pub fn signals(&self) -> Result<Signals> {
        let up = self.child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Signals {
            directory: self.view.directory.clone(),
            up: up.context("up has ended")?,
        })
    }

    /// Kills the parts of one kind with SIGKILL, and names them.
    ///
    /// # Errors
    /// When there is no such part, or it runs in `up`'s own process.
    pub fn kill(&mut self, part: &str) -> Result<Vec<PartView>> {
        self.refresh()?;
        let parts = self.parts(part);
        if parts.is_empty() {
            bail!("the cluster has no part {part}");
        }
        self.killed.clone_from(&parts);
        for entry in &parts {
            if self
                .child
                .id()
                .is_some_and(|up| i64::from(up) == i64::from(entry.pid))
            {
                bail!("{} isn't a process of its own", entry.name);
            }
            let pid = Pid::from_raw(entry.pid).with_context(|| format!("{} has no pid", entry.name))?;
            kill_process(pid, Signal::KILL).with_context(|| format!("cannot kill {}", entry.name))?;
        }
        Ok(parts)
    }

    /// Waits until `up` has started others in place of the parts that were killed last.
    ///
    /// # Errors
    /// When it hasn't within the deadline.
    pub async fn wait_for_restart(&mut self, part: &str, deadline: Duration) -> Result<Vec<PartView>> {
        let before = self.killed.clone();
        wait_until(&format!("{part} is restarted"), deadline, async || {
            // The file is replaced while it is read: what can't be parsed now is read again.
            if let Err(error) = self.refresh() {
                return Ok(Seen::NotYet(format!("{error:#}")));
            }
            let now = self.parts(part);
            let fresh = now.len() == before.len()
                && now
                    .iter()
                    .all(|new| new.pid != 0 && before.iter().all(|old| old.pid != new.pid));
            Ok(if fresh {
                Seen::Yes(now)
            } else {
                Seen::NotYet(format!("{now:?}"))
            })
        })
        .await
    }

    /// The id of a business.
    ///
    /// # Errors
    /// When none has this name.
    pub fn business(&self, name: &str) -> Result<u32> {
        let found = self.view.businesses.iter().find(|business| business.name == name);
        Ok(found
            .with_context(|| format!("the cluster has no business {name}"))?
            .id)
    }

    /// Ends the cluster as Ctrl-C does, and checks that it ended well and logged no unexpected error.
    ///
    /// # Errors
    /// When it doesn't end in time, ends with a failure, leaves a process behind, or logged an ERROR that
    /// contains none of `expected`.
    pub async fn stop(mut self, expected: &[&str]) -> Result<()> {
        // A part that was restarted has another pid than at the start.
        let _ = self.refresh();
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?))
            .context("up has ended before")?;
        kill_process(pid, Signal::TERM).context("cannot signal up")?;
        let status = timeout(END, self.child.wait()).await.map_err(|_| {
            anyhow!(
                "up didn't end within {END:?} of SIGTERM; its log ends with:\n{}",
                self.logs.tail(30)
            )
        })??;
        if !status.success() {
            bail!(
                "up ended with {status}; its log ends with:\n{}",
                self.logs.tail(30)
            );
        }
        for entry in &self.view.processes {
            if entry.pid != pid.as_raw_nonzero().get() && is_running(entry.pid) {
                bail!("up left {} (process {}) behind", entry.name, entry.pid);
            }
        }
        let errors = self.logs.errors(expected);
        if !errors.is_empty() {
            bail!(
                "{} unexpected ERROR line(s):\n{}",
                errors.len(),
                errors.join("\n")
            );
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.refresh();
        let up = self.child.id().and_then(|id| i32::try_from(id).ok());
        if up.is_none() {
            // It has ended, and its parts' pids may belong to others by now.
            return;
        }
        // Not stopped means that the scenario failed: what the parts said may tell why.
        eprintln!("the cluster's log ends with:\n{}", self.logs.tail(30));
        let _ = self.child.start_kill();
        for entry in self.view.processes.iter().filter(|entry| Some(entry.pid) != up) {
            if let Some(pid) = Pid::from_raw(entry.pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Signals to the parts of one cluster.
#[derive(Clone, Debug)]
pub struct Signals {
    directory: PathBuf,
    up: i32,
}

impl Signals {
    /// The process that a part runs in now; 0 while it doesn't.
    ///
    /// # Errors
    /// When the cluster has no such part, or its view can't be read just now.
    pub fn pid(&self, name: &str) -> Result<i32> {
        let view = View::read(&self.directory)?;
        let part = view.processes.iter().find(|part| part.name == name);
        Ok(part.with_context(|| format!("the cluster has no {name}"))?.pid)
    }

    /// Signals a part, and returns its process.
    ///
    /// # Errors
    /// When it has none of its own, or can't be signalled.
    pub fn send(&self, name: &str, signal: Signal) -> Result<i32> {
        let pid = self.pid(name)?;
        self.send_to(pid, signal)
            .with_context(|| format!("cannot signal {name}"))?;
        Ok(pid)
    }

    /// Signals a process, if it is one that `up` has started and still waits for.
    ///
    /// # Errors
    /// When it isn't, or can't be signalled.
    pub fn send_to(&self, pid: i32, signal: Signal) -> Result<()> {
        if parent(pid) != Some(self.up) {
            bail!("process {pid} isn't one of this cluster's parts");
        }
        let pid = Pid::from_raw(pid).context("there is no process")?;
        kill_process(pid, signal)?;
        Ok(())
    }
}

/// The process that has started this one, while both live.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // `pid (name) state parent …`; the name may hold anything.
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(1)?.parse().ok()
}

/// Ends `up` when the start fails half-way.
struct Starting {
    child: Option<Child>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        let pid = self
            .child
            .as_ref()
            .and_then(|child| Pid::from_raw(i32::try_from(child.id()?).ok()?));
        if let Some(pid) = pid {
            // Its parts are not known yet: asked politely, it ends them itself.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

fn is_running(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// A YAML list; JSON is YAML, so that no text needs quoting by hand.
fn write_businesses(directory: &Path, businesses: &[BusinessConfig]) -> Result<PathBuf> {
    let path = directory.join("businesses.yaml");
    std::fs::write(&path, serde_json::to_vec(businesses)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
