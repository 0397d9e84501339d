//! Each part a process of its own, started again with the same configuration, and so at the same addresses, when it
//! dies.
//!
//! A child ends with this process, however that ends: it reads a pipe whose other end only we hold. It is in a process
//! group of its own, so that Ctrl-C at the terminal reaches us alone and we decide who ends when.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use anyhow::Context;
use imaccess_common::drain::Drain;
use imaccess_common::telemetry::FILTER_VARIABLE;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::plan::{Plan, Planned};
use super::restarts::Restarts;
use super::{AFTER_DRAIN, Event, drain_of};
use crate::part::Kind;

/// The running parts, in the order of the plan.
pub(super) struct Processes {
    parts: Vec<(Drain, Option<JoinHandle<()>>)>,
}

/// How to start one part.
#[derive(Debug, Clone)]
struct Recipe {
    index: usize,
    name: String,
    executable: PathBuf,
    arguments: Vec<String>,
}

/// Starts all parts.
pub(super) fn start(
    plan: &Plan,
    directory: &Path,
    events: &mpsc::Sender<Event>,
    log_json: bool,
) -> anyhow::Result<Processes> {
    let executable = std::env::current_exe().context("can't find this program's file")?;
    let mut parts = Vec::with_capacity(plan.parts.len());
    for (index, part) in plan.parts.iter().enumerate() {
        let arguments = arguments(part, directory, log_json);
        let recipe = Recipe {
            index,
            name: part.name.clone(),
            executable: executable.clone(),
            arguments,
        };
        let drain = drain_of(part);
        let task = tokio::spawn(keep(recipe, drain.clone(), events.clone()));
        parts.push((drain, Some(task)));
    }
    Ok(Processes { parts })
}

impl Processes {
    /// Ends the parts of some kinds, and waits until they have.
    pub(super) async fn end(&mut self, plan: &Plan, of_wave: impl Fn(Kind) -> bool) {
        let mut ending = Vec::new();
        for ((drain, task), part) in self.parts.iter_mut().zip(&plan.parts) {
            if of_wave(part.config.kind()) {
                drain.begin();
                ending.extend(task.take());
            }
        }
        for task in ending {
            // Each has its own deadline; one that panicked has ended.
            let _ = task.await;
        }
    }
}

fn arguments(part: &Planned, directory: &Path, log_json: bool) -> Vec<String> {
    let mut arguments: Vec<String> = part
        .config
        .kind()
        .verb()
        .iter()
        .map(|word| (*word).to_owned())
        .collect();
    let file = directory.join(part.file()).to_string_lossy().into_owned();
    arguments.extend(["--config".to_owned(), file, "--exit-with-parent".to_owned()]);
    if log_json {
        arguments.push("--log-json".to_owned());
    }
    arguments
}

/// Keeps one part running until the drain.
async fn keep(recipe: Recipe, drain: Drain, events: mpsc::Sender<Event>) {
    let mut restarts = Restarts::new();
    while !drain.has_begun() {
        let started = Instant::now();
        match spawn(&recipe) {
            Ok(mut child) => {
                // Waiting for a child closes its input, which would end it: we hold it.
                let _held = child.stdin.take();
                let pid = child.id().unwrap_or_default();
                // A closed channel means that `up` is ending anyway.
                let _ = events
                    .send(Event::Started {
                        index: recipe.index,
                        pid,
                    })
                    .await;
                tokio::select! {
                    status = child.wait() => report(&recipe.name, status),
                    () = drain.begun() => return end(&recipe.name, &mut child, &drain).await,
                }
                let _ = events.send(Event::Ended { index: recipe.index }).await;
            }
            Err(error) => tracing::error!(part = recipe.name, %error, "can't be started"),
        }
        let pause = restarts.pause_after(started.elapsed());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = drain.begun() => return,
        }
    }
}

fn spawn(recipe: &Recipe) -> std::io::Result<Child> {
    let mut command = Command::new(&recipe.executable);
    command
        .args(&recipe.arguments)
        // Held open by us and never written: its end is ours.
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    if std::env::var_os(FILTER_VARIABLE).is_none() {
        command.env(FILTER_VARIABLE, "warn");
    }
    command.spawn()
}

fn report(name: &str, status: std::io::Result<ExitStatus>) {
    match status {
        Ok(status) => tracing::warn!(part = name, %status, "ended; starting it again"),
        Err(error) => tracing::error!(part = name, %error, "can't be waited for; starting it again"),
    }
}

async fn end(name: &str, child: &mut Child, drain: &Drain) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended this moment; then there is nothing to tell.
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(drain.remaining() + AFTER_DRAIN, child.wait())
        .await
        .is_err()
    {
        tracing::error!(part = name, "didn't end in time and is killed");
        // Fails only if it has ended meanwhile.
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::example;
    use super::*;

    #[test]
    fn children_are_told_by_verb_and_file() {
        let plan = example(1, Vec::new()).unwrap();
        let of = |name: &str| {
            let part = plan.parts.iter().find(|part| part.name == name).unwrap();
            arguments(part, Path::new("d"), false).join(" ")
        };
        assert_eq!(
            of("state-0"),
            "state --role session --config d/state-0.yaml --exit-with-parent"
        );
        assert_eq!(
            of("routing-0"),
            "state --role routing --config d/routing-0.yaml --exit-with-parent"
        );
        assert_eq!(
            of("gateway-0"),
            "gateway --config d/gateway-0.yaml --exit-with-parent"
        );
    }
}
