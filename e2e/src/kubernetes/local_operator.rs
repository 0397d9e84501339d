//! The operator as a process beside the test, with the rights of the kubeconfig: one that ends itself where it is told to.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::time::timeout;

use super::{Kubernetes, Namespace};
use crate::command::imaccess;
use crate::logs::is_error;

/// The variable by which an operator kills itself after a step.
const END_AFTER: &str = "IMACCESS_OPERATOR_END_AFTER";
/// What is begun is ended first.
const ENDED: Duration = Duration::from_secs(60);
/// The signal that it sends to itself.
const KILL: i32 = 9;
/// Lines of its log that a failure shows.
const LINES: usize = 60;

/// A running operator.
pub struct LocalOperator {
    child: Child,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

/// The steps of an upgrade in place after which an operator can end itself, by name.
///
/// # Errors
/// When the binary doesn't list them.
pub async fn upgrade_steps() -> Result<Vec<String>> {
    let output = imaccess(["operator", "--list-upgrade-steps"])?
        .output()
        .await
        .context("cannot start the operator")?;
    ensure!(
        output.status.success(),
        "the operator lists no steps: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).context("the list of steps")?;
    let steps: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect();
    ensure!(!steps.is_empty(), "the list of steps is empty");
    Ok(steps)
}

impl Kubernetes {
    /// Starts an operator for a namespace; `end_after` names the step after which it kills itself.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn local_operator(&self, namespace: &Namespace, end_after: Option<&str>) -> Result<LocalOperator> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("operator.log");
        let file = File::create(&log).context("a log for the operator")?;
        let mut command = imaccess([
            "operator",
            "--namespace",
            &namespace.name,
            "--no-leader-election",
            "--pages",
            "127.0.0.1:0",
        ])?;
        command
            .env_remove(END_AFTER)
            .stdout(Stdio::from(file.try_clone()?))
            .stderr(Stdio::from(file));
        if let Some(step) = end_after {
            command.env(END_AFTER, step);
        }
        Ok(LocalOperator {
            child: command.spawn().context("cannot start the operator")?,
            log,
            _directory: directory,
        })
    }
}

impl LocalOperator {
    /// Waits until it has killed itself.
    ///
    /// # Errors
    /// When it hasn't in time, or has ended otherwise.
    pub async fn killed_itself(mut self, deadline: Duration) -> Result<()> {
        let status = self.ended(deadline).await?;
        if status.signal() != Some(KILL) {
            bail!(
                "the operator ended with {status}; its log ends with:\n{}",
                self.tail()
            );
        }
        self.no_errors()
    }

    /// Ends it as Kubernetes does, and checks that it logged no error.
    ///
    /// # Errors
    /// When it doesn't end in time or not well, or has logged an ERROR.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = pid.with_context(|| format!("the operator has ended before:\n{}", self.tail()))?;
        kill_process(pid, Signal::TERM).context("cannot signal the operator")?;
        let status = self.ended(ENDED).await?;
        ensure!(
            status.success(),
            "the operator ended with {status}; its log ends with:\n{}",
            self.tail()
        );
        self.no_errors()
    }

    async fn ended(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let status = timeout(deadline, self.child.wait()).await;
        let status = status.map_err(|_| {
            anyhow!(
                "the operator didn't end within {deadline:?}; its log ends with:\n{}",
                self.tail()
            )
        })?;
        Ok(status?)
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn no_errors(&self) -> Result<()> {
        let text = self.text();
        let errors: Vec<_> = text.lines().filter(|line| is_error(line)).collect();
        ensure!(
            errors.is_empty(),
            "the operator logged errors:\n{}",
            errors.join("\n")
        );
        Ok(())
    }
}
