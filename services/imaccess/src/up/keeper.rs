//! Keeps one part running: starts it, starts it again when it dies, and puts another binary in its place when told to.
//!
//! A child ends with this process, however that ends: it reads a pipe whose other end only we hold. It is in a process
//! group of its own, so that Ctrl-C at the terminal reaches us alone and we decide who ends when.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use imaccess_common::drain::Drain;
use imaccess_common::telemetry::FILTER_VARIABLE;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::restarts::Restarts;
use super::stderr::{Tail, pass_on};
use super::{AFTER_DRAIN, Event};
use crate::control::{LastExit, Replaced};
use crate::part::Kind;

/// For the last lines of a process that has ended to be passed on, before `up` itself ends.
const LAST_LINES: Duration = Duration::from_millis(500);

/// How to start one part.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) arguments: Vec<String>,
    /// How long its end may take.
    pub(super) deadline: Duration,
}

/// Puts another binary in a part's place.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) binary: PathBuf,
    pub(super) kill: bool,
    /// Dropped without an answer when the cluster ends.
    pub(super) answer: oneshot::Sender<Result<Replaced, String>>,
}

/// What runs now; clones are the same. Locked for a moment only, never over an await.
#[derive(Debug, Clone)]
pub(super) struct Status(Arc<Mutex<Now>>);

#[derive(Debug)]
struct Now {
    pid: u32,
    binary: PathBuf,
    stderr: Tail,
    last: Option<(u32, String, Tail)>,
}

impl Status {
    pub(super) fn new(binary: PathBuf) -> Self {
        Self(Arc::new(Mutex::new(Now {
            pid: 0,
            binary,
            stderr: Tail::default(),
            last: None,
        })))
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pid(&self) -> u32 {
        self.now().pid
    }

    pub(super) fn binary(&self) -> PathBuf {
        self.now().binary.clone()
    }

    /// The last lines of what runs now.
    pub(super) fn stderr(&self) -> String {
        self.now().stderr.text()
    }

    pub(super) fn last(&self) -> Option<LastExit> {
        let now = self.now();
        now.last.as_ref().map(|(pid, status, tail)| LastExit {
            pid: *pid,
            status: status.clone(),
            stderr: tail.text(),
        })
    }

    fn started(&self, pid: u32, stderr: Tail) {
        let mut now = self.now();
        now.pid = pid;
        now.stderr = stderr;
    }

    fn ended(&self, status: &std::io::Result<ExitStatus>) {
        let text = match status {
            Ok(status) => status.to_string(),
            Err(error) => format!("it can't be waited for: {error}"),
        };
        let mut now = self.now();
        let ended = (now.pid, text, std::mem::take(&mut now.stderr));
        now.last = Some(ended);
        now.pid = 0;
    }
}

/// The owner of one part's processes.
pub(super) struct Keeper {
    pub(super) recipe: Recipe,
    pub(super) status: Status,
    pub(super) drain: Drain,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) orders: mpsc::Receiver<Order>,
}

/// An order whose new process isn't there yet.
struct Pending {
    order: Order,
    previous_pid: u32,
    previous_binary: PathBuf,
    since: Instant,
}

struct Running {
    child: Child,
    /// Waiting for a child closes its input, which would end it: we hold it.
    _stdin: Option<tokio::process::ChildStdin>,
    passing: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Until the drain.
    pub(super) async fn run(mut self) {
        let mut restarts = Restarts::of(self.recipe.kind);
        let mut pending: Option<Pending> = None;
        while !self.drain.has_begun() {
            let started = Instant::now();
            match self.spawn() {
                Ok((running, pid)) => {
                    self.tell(self.event_of_start(pid)).await;
                    if let Some(pending) = pending.take() {
                        self.answer(pending, pid);
                    }
                    if let Some(order) = self.watch(running).await {
                        restarts = Restarts::of(self.recipe.kind);
                        pending = Some(order);
                        continue;
                    }
                    if self.drain.has_begun() {
                        return;
                    }
                    let index = self.recipe.index;
                    self.tell(Event::Ended { index }).await;
                }
                Err(error) => {
                    tracing::error!(part = self.recipe.name, %error, "can't be started");
                    if let Some(pending) = pending.take() {
                        self.go_back(pending, &error);
                        continue;
                    }
                }
            }
            let pause = restarts.pause_after(started.elapsed());
            tokio::select! {
                biased;
                () = self.drain.begun() => return,
                Some(order) = self.orders.recv() => {
                    restarts = Restarts::of(self.recipe.kind);
                    pending = Some(self.accept(order, 0));
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Tells `up`, which doesn't listen any more once it ends its parts.
    async fn tell(&self, event: Event) {
        tokio::select! {
            biased;
            () = self.drain.begun() => {}
            // Closed: as above.
            _ = self.events.send(event) => {}
        }
    }

    fn event_of_start(&self, pid: u32) -> Event {
        Event::Started {
            index: self.recipe.index,
            pid,
            binary: Some(self.status.binary()),
        }
    }

    /// Until it ends; the order if it was ended for one.
    async fn watch(&mut self, mut running: Running) -> Option<Pending> {
        tokio::select! {
            biased;
            () = self.drain.begun() => {
                self.end(&mut running, Signal::TERM, self.drain.remaining() + AFTER_DRAIN).await;
                if let Some(passing) = running.passing.take() {
                    // What a grandchild holds open never ends.
                    let _ = timeout(LAST_LINES, passing).await;
                }
                None
            }
            status = running.child.wait() => {
                let name = &self.recipe.name;
                match &status {
                    Ok(status) => tracing::warn!(part = name, %status, "ended; starting it again"),
                    Err(error) => tracing::error!(part = name, %error, "can't be waited for; starting it again"),
                }
                self.status.ended(&status);
                None
            }
            Some(order) = self.orders.recv() => {
                let signal = if order.kill { Signal::KILL } else { Signal::TERM };
                let pending = self.accept(order, running.child.id().unwrap_or_default());
                self.end(&mut running, signal, self.recipe.deadline).await;
                Some(pending)
            }
        }
    }

    /// From now on it is the new binary.
    fn accept(&self, order: Order, previous_pid: u32) -> Pending {
        let binary = order.binary.clone();
        let previous_binary = std::mem::replace(&mut self.status.now().binary, binary);
        Pending {
            order,
            previous_pid,
            previous_binary,
            since: Instant::now(),
        }
    }

    fn answer(&self, pending: Pending, pid: u32) {
        let last = self.status.last();
        let (status, stderr) = last.map_or_else(
            || ("it wasn't running".to_owned(), String::new()),
            |last| (last.status, last.stderr),
        );
        let replaced = Replaced {
            pid,
            previous_pid: pending.previous_pid,
            previous_binary: pending.previous_binary,
            status,
            stopped_ms: u64::try_from(pending.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            stderr,
        };
        // Who asked may have gone.
        let _ = pending.order.answer.send(Ok(replaced));
    }

    /// The new binary can't even be started: the previous one runs again.
    fn go_back(&self, pending: Pending, error: &std::io::Error) {
        let fault = format!(
            "{} can't be started: {error}; {} is started again",
            pending.order.binary.display(),
            pending.previous_binary.display()
        );
        self.status.now().binary = pending.previous_binary;
        // Who asked may have gone.
        let _ = pending.order.answer.send(Err(fault));
    }

    fn spawn(&self) -> std::io::Result<(Running, u32)> {
        let mut child = command(&self.status.binary(), &self.recipe.arguments).spawn()?;
        let pid = child.id().unwrap_or_default();
        let tail = Tail::default();
        self.status.started(pid, tail.clone());
        let stderr = child.stderr.take();
        let passing = stderr.map(|stderr| tokio::spawn(pass_on(stderr, tokio::io::stderr(), tail)));
        let running = Running {
            _stdin: child.stdin.take(),
            child,
            passing,
        };
        Ok((running, pid))
    }

    async fn end(&self, running: &mut Running, signal: Signal, within: Duration) {
        let child = &mut running.child;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended this moment; then there is nothing to tell.
            let _ = kill_process(pid, signal);
        }
        let status = match timeout(within, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                tracing::error!(part = self.recipe.name, "didn't end in time and is killed");
                // Fails only if it has ended meanwhile.
                let _ = child.start_kill();
                child.wait().await
            }
        };
        self.status.ended(&status);
    }
}

fn command(binary: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new(binary);
    command
        .args(arguments)
        // Held open by us and never written: its end is ours.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if std::env::var_os(FILTER_VARIABLE).is_none() {
        command.env(FILTER_VARIABLE, "warn");
    }
    command
}
