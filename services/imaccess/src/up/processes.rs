//! Each part a process of its own, started again with the same configuration, and so at the same addresses, when it
//! dies. [`super::keeper`] keeps one of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use imaccess_common::drain::Drain;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

use super::keeper::{Keeper, Order, Recipe, Status};
use super::plan::{Plan, Planned};
use super::{AFTER_DRAIN, Event, drain_of};
use crate::control::{ListedPart, Replaced};
use crate::part::Kind;

/// The running parts, in the order of the plan.
pub(super) struct Processes {
    parts: Vec<(Drain, Option<JoinHandle<()>>)>,
    pub(super) handles: Arc<[Handle]>,
}

/// By which one part is looked at and replaced.
#[derive(Debug)]
pub(super) struct Handle {
    name: String,
    kind: Kind,
    admin: Option<String>,
    deadline: Duration,
    status: Status,
    /// Held while the part is replaced: one order at a time, so the channel's single place is always free.
    orders: Mutex<mpsc::Sender<Order>>,
}

/// Starts all parts from `executable`.
pub(super) fn start(
    plan: &Plan,
    executable: &Path,
    directory: &Path,
    events: &mpsc::Sender<Event>,
    log_json: bool,
) -> Processes {
    let (mut parts, mut handles) = (Vec::new(), Vec::new());
    for (index, part) in plan.parts.iter().enumerate() {
        let deadline = part.config.drain() + AFTER_DRAIN;
        let recipe = Recipe {
            index,
            name: part.name.clone(),
            kind: part.config.kind(),
            arguments: arguments(part, directory, log_json),
            deadline,
        };
        let drain = drain_of(part);
        let status = Status::new(executable.to_owned());
        let (orders, to_follow) = mpsc::channel(1);
        handles.push(Handle {
            name: recipe.name.clone(),
            kind: recipe.kind,
            admin: part.config.admin().map(|address| address.to_string()),
            deadline,
            status: status.clone(),
            orders: Mutex::new(orders),
        });
        let keeper = Keeper {
            recipe,
            status,
            drain: drain.clone(),
            events: events.clone(),
            orders: to_follow,
        };
        parts.push((drain, Some(tokio::spawn(keeper.run()))));
    }
    Processes {
        parts,
        handles: handles.into(),
    }
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

impl Handle {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What runs now.
    pub(super) fn listed(&self) -> ListedPart {
        ListedPart {
            name: self.name.clone(),
            kind: self.kind.name().to_owned(),
            pid: self.status.pid(),
            binary: self.status.binary(),
            admin: self.admin.clone(),
            deadline_ms: u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX),
            stderr: self.status.stderr(),
            last: self.status.last(),
        }
    }

    /// Puts `binary` in its place; returns when that runs, or the error.
    pub(super) async fn replace(&self, binary: &Path, kill: bool) -> Result<Replaced, String> {
        check_executable(binary)?;
        let Ok(orders) = self.orders.try_lock() else {
            return Err(format!(
                "{} is being replaced already: try again when that is done",
                self.name
            ));
        };
        let (answer, answered) = oneshot::channel();
        let order = Order {
            binary: binary.to_owned(),
            kill,
            answer,
        };
        let ending = || "the cluster is ending".to_owned();
        orders.send(order).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?
    }
}

/// Before anything is ended for it.
fn check_executable(binary: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;

    let named = |fault: &str| format!("{}: {fault}", binary.display());
    if !binary.is_absolute() {
        return Err(named("the binary's path must begin with /"));
    }
    let metadata = std::fs::metadata(binary).map_err(|error| named(&error.to_string()))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(named("this is no program that can be run"));
    }
    Ok(())
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

    #[test]
    fn only_a_program_is_started() {
        assert_eq!(check_executable(Path::new("/bin/sh")), Ok(()));
        for (path, part) in [
            ("sh", "begin with /"),
            ("/no/such/program", "No such file"),
            ("/etc/passwd", "no program"),
            ("/tmp", "no program"),
        ] {
            let fault = check_executable(Path::new(path)).unwrap_err();
            assert!(fault.contains(part) && fault.contains(path), "{fault}");
        }
    }
}
