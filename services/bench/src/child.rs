//! Processes that the bench starts: itself under another verb, and the cluster.
//!
//! Every measured part is a process of its own, so that its memory and CPU are seen alone. A child is told to end
//! when its standard input ends, is asked by signal after that, and is never left behind: Ctrl-C, an error and the
//! normal end all go through the same drop.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Processes that we started and that have not ended, for the interrupt.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Whether Ctrl-C came.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How long a child may take to end by itself before it is told to by signal.
const BY_ITSELF: Duration = Duration::from_secs(2);

/// How long it may take after the signal: longer than the cluster's own drain deadline.
const AFTER_SIGNAL: Duration = Duration::from_secs(20);

/// One process of ours, with its standard input and output.
pub(crate) struct Child {
    process: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// For messages.
    what: String,
    /// Whether the end of its input ends it.
    listens: bool,
}

impl Child {
    /// Starts this executable as `bench <arguments>`: a load worker, a bare server and the like.
    pub(crate) fn helper(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut all = vec!["bench"];
        all.extend(arguments);
        Self::start(&all, true)
    }

    /// Starts this executable with these arguments; such a process ends by signal.
    pub(crate) fn cluster(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start(arguments, false)
    }

    /// Starts one part of a cluster, which ends with us.
    pub(crate) fn part(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut all = arguments.to_vec();
        all.push("--exit-with-parent");
        Self::start(&all, true)
    }

    fn start(arguments: &[&str], listens: bool) -> anyhow::Result<Self> {
        let what = arguments.join(" ");
        let executable = std::env::current_exe().context("find this executable")?;
        let mut process = Command::new(executable)
            .args(arguments)
            .stdin(if listens { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start `{what}`"))?;
        lock().push(process.id());
        let output = process.stdout.take().context("its output is piped")?;
        Ok(Self {
            input: process.stdin.take(),
            output: BufReader::new(output),
            process,
            what,
            listens,
        })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends one JSON line.
    pub(crate) fn send(&mut self, message: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let input = self.input.as_mut().context("its input is piped")?;
        input
            .write_all(&line)
            .with_context(|| format!("tell `{}`", self.what))
    }

    /// Receives one JSON line.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        let len = self
            .output
            .read_line(&mut line)
            .with_context(|| format!("hear `{}`", self.what))?;
        check_interrupt()?;
        if len == 0 {
            bail!("`{}` ended", self.what);
        }
        serde_json::from_str(&line).with_context(|| format!("understand `{}`: {line}", self.what))
    }

    /// Receives one JSON object that may span lines and follow others that are not JSON.
    pub(crate) fn receive_object<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut text = String::new();
        loop {
            let before = text.len();
            let len = self
                .output
                .read_line(&mut text)
                .with_context(|| format!("hear `{}`", self.what))?;
            check_interrupt()?;
            if len == 0 {
                bail!("`{}` ended before it was ready", self.what);
            }
            if before == 0 && !text.trim_start().starts_with('{') {
                text.clear();
                continue;
            }
            match serde_json::from_str(&text) {
                Ok(object) => return Ok(object),
                Err(error) if error.is_eof() => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("understand `{}`: {text}", self.what));
                }
            }
        }
    }

    /// Waits for its end until `deadline`.
    fn ends_by(&mut self, deadline: Instant) -> bool {
        loop {
            match self.process.try_wait() {
                Ok(None) if Instant::now() < deadline => nap(Duration::from_millis(5)),
                Ok(None) => return false,
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.input.take());
        if !(self.listens && self.ends_by(Instant::now() + BY_ITSELF)) {
            signal(self.pid(), Signal::TERM);
            if !self.ends_by(Instant::now() + AFTER_SIGNAL) {
                // It had its time. Killing and reaping can only fail when it has ended meanwhile.
                let _ = self.process.kill();
                let _ = self.process.wait();
            }
        }
        lock().retain(|pid| *pid != self.process.id());
    }
}

/// Ends this process when the one that started it ends, however that ends.
pub(crate) fn end_with_parent() {
    // Without it, the end of the standard input ends a helper between two jobs.
    let _ = set_parent_process_death_signal(Some(Signal::TERM));
}

/// From now on, Ctrl-C and SIGTERM end our children, by which the run ends with an error.
pub(crate) fn watch_interrupt() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut terminate = {
        let _context = runtime.enter();
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?
    };
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = tokio::signal::ctrl_c() => {}
                        _ = terminate.recv() => {}
                    }
                    INTERRUPTED.store(true, Ordering::SeqCst);
                    for pid in lock().iter() {
                        signal(*pid, Signal::TERM);
                    }
                }
            });
        })?;
    Ok(())
}

/// Fails once the run was interrupted.
pub(crate) fn check_interrupt() -> anyhow::Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Whether the run was interrupted.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Sleeps, unless interrupted.
pub(crate) fn pause(time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    loop {
        check_interrupt()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        nap(left.min(Duration::from_millis(50)));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the bench's own thread, which serves nobody"
)]
fn nap(time: Duration) {
    std::thread::sleep(time);
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // A process that has ended needs no signal.
        let _ = kill_process(pid, signal);
    }
}

fn lock() -> std::sync::MutexGuard<'static, Vec<u32>> {
    // A list of numbers is whole whatever a panicking thread did.
    RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
