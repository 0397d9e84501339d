//! The binary's verbs, run as a user runs them.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::logs::Logs;
use crate::wait::{Seen, wait_until};

/// The exit status that says "try again": sysexits' EX_TEMPFAIL.
pub const EXIT_RETRY: i32 = 75;

/// Where `imaccess` is: `IMACCESS_BINARY`, else beside the running executable (tests are one directory deeper).
///
/// # Errors
/// When it is in neither place.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("IMACCESS_BINARY") {
        return Ok(path.into());
    }
    let here = std::env::current_exe().context("the running executable's path")?;
    let candidates = here
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("imaccess"));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        anyhow!("imaccess isn't built: run the tests by `cargo xtask test`, or build it in release first")
    })
}

/// A command of the binary; it ends with the future that waits for it.
///
/// # Errors
/// When the binary is missing.
pub fn imaccess<I, S>(arguments: I) -> Result<Command>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(binary()?);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// Runs a verb to its end, against a cluster if it needs one.
///
/// # Errors
/// When it can't be started or doesn't end in time. How it ended is the caller's to judge.
pub async fn run<I, S>(ipconfig: Option<&str>, arguments: I, deadline: Duration) -> Result<Output>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = imaccess(arguments)?;
    command.envs(ipconfig.map(|url| ("IMACCESS_IPCONFIG", url)));
    let shown = format!("{:?}", command.as_std());
    let output = timeout(deadline, command.output()).await;
    output
        .map_err(|_| anyhow!("{shown} didn't end within {deadline:?}"))?
        .with_context(|| format!("cannot run {shown}"))
}

/// As [`run`], but it must succeed; returns what it printed.
///
/// # Errors
/// Also when it fails; with what it said.
pub async fn output_of<I, S>(ipconfig: Option<&str>, arguments: I, deadline: Duration) -> Result<String>
where
    I: IntoIterator<Item = S> + Clone,
    S: AsRef<OsStr>,
{
    let shown: Vec<String> = arguments
        .clone()
        .into_iter()
        .map(|part| part.as_ref().to_string_lossy().into_owned())
        .collect();
    let output = run(ipconfig, arguments, deadline).await?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "imaccess {} ended with {}: {printed}{said}",
            shown.join(" "),
            output.status
        );
    }
    Ok(printed)
}

/// A verb that goes on, such as `connect`: lines in, lines out.
#[derive(Debug)]
pub struct Session {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    logs: Logs,
}

impl Session {
    /// Starts it as it is written: the words say which cluster.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_words(words: &[String]) -> Result<Self> {
        Self::start(None, words)
    }

    /// Starts it against a cluster, if the words name none.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start<I, S>(ipconfig: Option<&str>, arguments: I) -> Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = imaccess(arguments)?;
        command.envs(ipconfig.map(|url| ("IMACCESS_IPCONFIG", url)));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start imaccess")?;
        let logs = Logs::default();
        logs.follow(child.stderr.take().context("standard error is piped")?);
        let input = child.stdin.take().context("standard input is piped")?;
        let output = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
        Ok(Self {
            child,
            input,
            output,
            logs,
        })
    }

    /// Writes one line to it.
    ///
    /// # Errors
    /// When it has closed its input.
    pub async fn say(&mut self, line: &str) -> Result<()> {
        self.input
            .write_all(format!("{line}\n").as_bytes())
            .await
            .context("it doesn't read any more")?;
        self.input.flush().await.context("it doesn't read any more")
    }

    /// Reads lines until one contains `text`, and returns it.
    ///
    /// # Errors
    /// When it ends or the deadline passes before; with what it printed instead.
    pub async fn expect(&mut self, text: &str, deadline: Duration) -> Result<String> {
        let mut others = Vec::new();
        let search = async {
            while let Some(line) = self.output.next_line().await? {
                if line.contains(text) {
                    return Ok(line);
                }
                others.push(line);
            }
            Err(anyhow!("it ended"))
        };
        let found = timeout(deadline, search)
            .await
            .unwrap_or_else(|_| Err(anyhow!("not within {deadline:?}")));
        found.with_context(|| {
            format!(
                "no line with {text:?}; but: {others:?}; and on its log: {}",
                self.logs.tail(10)
            )
        })
    }

    /// Waits until it says on standard error that it is online. A second call returns at once.
    ///
    /// # Errors
    /// When it doesn't within the deadline.
    pub async fn online(&self, deadline: Duration) -> Result<()> {
        wait_until("the connection is online", deadline, async || {
            let online = self
                .logs
                .lines()
                .iter()
                .any(|line| line.to_lowercase().contains("online"));
            Ok(if online {
                Seen::Yes(())
            } else {
                Seen::NotYet(self.logs.tail(5))
            })
        })
        .await
    }

    /// Everything it said on standard error.
    #[must_use]
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it can't be ended.
    pub async fn end(mut self) -> Result<()> {
        self.child.kill().await.context("cannot end it")
    }
}
