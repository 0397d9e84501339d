//! What `up --processes` can be asked over `control.sock` in its directory, and how it is asked.
//!
//! One connection is one JSON line in and one out. The socket is 0600, and `up` looks at who dials besides.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The socket's name in the directory.
pub(crate) const SOCKET: &str = "control.sock";
/// Longest request: two names.
pub(crate) const LONGEST_REQUEST: u64 = 16 << 10;
/// Longest answer: a hundred gateways, each with its sidecar and 4 KiB of what each of them said, escaped.
const LONGEST_ANSWER: u64 = 8 << 20;
/// For an answer that waits for no process.
const ANSWER: Duration = Duration::from_secs(5);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Request {
    /// End a part's process, and start another binary in its place with the same arguments. Restarts use that
    /// binary from then on.
    Replace {
        part: String,
        binary: PathBuf,
        /// By SIGKILL instead of SIGTERM: for a gateway that would otherwise tell its clients to go.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        kill: bool,
    },
    /// What runs.
    List {},
}

/// Answers [`Request::Replace`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replaced {
    /// The new process.
    pub(crate) pid: u32,
    /// The one before; 0 if none was running.
    pub(crate) previous_pid: u32,
    pub(crate) previous_binary: PathBuf,
    /// How the one before ended.
    pub(crate) status: String,
    /// From the signal until the new process was started.
    pub(crate) stopped_ms: u64,
    /// The last lines of the one before.
    #[serde(default)]
    pub(crate) stderr: String,
}

/// Answers [`Request::List`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) parts: Vec<ListedPart>,
}

/// One part that `up` keeps running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedPart {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// 0 while it doesn't run.
    pub(crate) pid: u32,
    /// What it is started from.
    pub(crate) binary: PathBuf,
    /// Where its admin pages are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) admin: Option<String>,
    /// How long its end may take before it is killed.
    pub(crate) deadline_ms: u64,
    /// The last lines that it wrote to standard error.
    #[serde(default)]
    pub(crate) stderr: String,
    /// How the process before it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<LastExit>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastExit {
    pub(crate) pid: u32,
    pub(crate) status: String,
    pub(crate) stderr: String,
}

/// Instead of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub(crate) error: String,
}

/// Asks the `up` of a directory.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    path: PathBuf,
}

impl Control {
    pub(crate) fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join(SOCKET),
        }
    }

    pub(crate) async fn list(&self) -> anyhow::Result<Vec<ListedPart>> {
        let listed: Listed = self.ask(&Request::List {}, ANSWER).await?;
        Ok(listed.parts)
    }

    /// `within` is how long the part's end may take.
    pub(crate) async fn replace(&self, request: &Request, within: Duration) -> anyhow::Result<Replaced> {
        self.ask(request, within + ANSWER).await
    }

    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        request: &Request,
        within: Duration,
    ) -> anyhow::Result<T> {
        let line = timeout(within, self.exchange(request)).await;
        let line = line.with_context(|| format!("`up` didn't answer within {} s", within.as_secs()))??;
        if let Ok(refused) = serde_json::from_str::<Refused>(&line) {
            bail!("{}", refused.error);
        }
        serde_json::from_str(&line).context("`up`'s answer can't be read: is it another version?")
    }

    async fn exchange(&self, request: &Request) -> anyhow::Result<String> {
        let stream = UnixStream::connect(&self.path).await.with_context(|| {
            format!(
                "no `imaccess up --processes` answers at {}; name its directory by --dir, or a part's file by --config",
                self.path.display()
            )
        })?;
        let (reader, mut writer) = stream.into_split();
        let mut bytes = serde_json::to_vec(request).context("JSON")?;
        bytes.push(b'\n');
        let lost = "`up` has gone";
        writer.write_all(&bytes).await.context(lost)?;
        let mut line = String::new();
        let mut reader = BufReader::new(reader.take(LONGEST_ANSWER));
        reader.read_line(&mut line).await.context(lost)?;
        if !line.ends_with('\n') {
            bail!("{lost}");
        }
        Ok(line)
    }
}
