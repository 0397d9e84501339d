//! A part that runs by itself on a host: found by its pid file, ended by a signal, and started again by us, or by the
//! service manager that looks after it.

mod process;

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::process::Signal;
use tokio::process::{Child, Command};

use self::process::{End, check, is_running};
use super::place::{Ending, Started, with_said};
use super::report::milliseconds;
use crate::part::{Config, Kind, PartArgs, PidFile, Running};

/// For a service manager to start the next process: its pause, and the part's own start.
const SUPERVISOR: Duration = Duration::from_secs(15);
/// After a part's own time, as `up` gives it.
const AFTER_DRAIN: Duration = Duration::from_secs(2);
/// Between two looks.
const STEP: Duration = Duration::from_millis(5);
/// Of what the new process said.
const LAST_LINES: u64 = 4 << 10;

/// A part on this host.
pub(super) struct Host {
    kind: Kind,
    config_file: PathBuf,
    socket_dir: PathBuf,
    deadline: Duration,
    log: Option<PathBuf>,
    supervised: bool,
    /// The process that we started.
    child: Option<Child>,
    /// Whether we have ended one: there may be none any more, and still one to start.
    has_ended_one: bool,
    /// Where the first one ran: paths in its configuration may be relative.
    directory: Option<PathBuf>,
    /// Where the log ended before the process that we started.
    log_from: u64,
}

impl Host {
    /// The part with this configuration, and the address of its admin pages.
    pub(super) fn new(
        kind: Kind,
        config_file: &Path,
        log: Option<PathBuf>,
        supervised: bool,
    ) -> anyhow::Result<(Self, String)> {
        let arguments = PartArgs {
            config: Some(config_file.to_owned()),
            ..PartArgs::default()
        };
        let config = kind.load(&arguments)?;
        let admin = fixed_admin(&config, config_file)?;
        let socket_dir = config.socket_dir().context("it has no socket directory")?;
        let host = Self {
            kind,
            config_file: std::path::absolute(config_file)?,
            socket_dir: socket_dir.to_owned(),
            deadline: config.drain() + AFTER_DRAIN,
            log,
            supervised,
            child: None,
            has_ended_one: false,
            directory: None,
            log_from: 0,
        };
        Ok((host, admin))
    }

    pub(super) fn copy(&self) -> PathBuf {
        self.socket_dir.join(format!("{}.previous", self.kind.name()))
    }

    pub(super) fn running(&self) -> anyhow::Result<Running> {
        let file = PidFile::in_directory(&self.socket_dir, self.kind);
        let path = file.path().display();
        let running = file.read().with_context(|| format!("{path} can't be read"))?;
        let running = running.with_context(|| {
            format!(
                "there is no {path}: either no {} with this configuration runs, or its version is from before upgrades",
                self.kind.name()
            )
        })?;
        check(running.pid).map_err(|why| anyhow!("{path} names process {}: {why}", running.pid))?;
        Ok(running)
    }

    pub(super) fn neighbour(&self) -> Option<Running> {
        let kind = match self.kind {
            Kind::Gateway => Kind::Sidecar,
            _ => Kind::Gateway,
        };
        let running = PidFile::in_directory(&self.socket_dir, kind).read().ok()??;
        check(running.pid).ok()?;
        Some(running)
    }

    pub(super) fn no_way_back(&self) -> Option<String> {
        let why = "what is started is the service manager's to decide: put the previous binary back where its unit \
                   names it, and upgrade to that one in the same way";
        self.supervised.then(|| why.to_owned())
    }

    pub(super) async fn replace(&mut self, binary: &Path, ending: Ending) -> anyhow::Result<Started> {
        let since = Instant::now();
        let (previous, status) = match self.running() {
            Ok(running) => {
                if self.directory.is_none() {
                    self.directory = fs::read_link(format!("/proc/{}/cwd", running.pid)).ok();
                }
                let status = self.end(running.pid, ending).await?;
                (running.pid, status)
            }
            // It has died, or has got no further than its start.
            Err(_) if self.has_ended_one => (0, self.end_child().await),
            Err(error) => return Err(error),
        };
        self.has_ended_one = true;
        let pid = if self.supervised {
            self.wait_for_supervisor(previous).await?
        } else {
            self.start(binary)?
        };
        Ok(Started {
            pid,
            status,
            stopped_ms: milliseconds(since.elapsed()),
        })
    }

    pub(super) fn ended(&mut self, pid: u32) -> anyhow::Result<Option<String>> {
        if let Some(child) = &mut self.child {
            let status = child.try_wait().context("the new process can't be waited for")?;
            return Ok(status.map(|status| with_said(&status.to_string(), &self.said())));
        }
        Ok((!is_running(pid)).then(|| "its service manager's log says how".to_owned()))
    }

    /// The end of the log, from where the new process began.
    pub(super) fn said(&self) -> String {
        let read = || -> io::Result<String> {
            let Some(log) = &self.log else {
                return Ok(String::new());
            };
            let mut file = fs::File::open(log)?;
            let length = file.metadata()?.len();
            let from = self.log_from.max(length.saturating_sub(LAST_LINES));
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(LAST_LINES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    async fn end(&mut self, pid: u32, ending: Ending) -> anyhow::Result<String> {
        let end = End::of(pid)?;
        end.signal(match ending {
            Ending::Asked => Signal::TERM,
            Ending::Killed => Signal::KILL,
        })?;
        let mut how = "it ended";
        if !end.within(self.deadline).await? {
            end.signal(Signal::KILL)?;
            how = "it didn't end in time and was killed";
            if !end.within(AFTER_DRAIN).await? {
                bail!("process {pid} doesn't end, even by SIGKILL");
            }
        }
        match &self.child {
            Some(child) if child.id() == Some(pid) => Ok(self.end_child().await),
            _ => Ok(how.to_owned()),
        }
    }

    /// Reaps the process that we started, killing it if it hasn't got as far as its pid file.
    async fn end_child(&mut self) -> String {
        let Some(mut child) = self.child.take() else {
            return "none ran".to_owned();
        };
        // Fails only if it has ended.
        let _ = child.start_kill();
        child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    fn start(&mut self, binary: &Path) -> anyhow::Result<u32> {
        let mut command = Command::new(binary);
        command
            .args(self.kind.verb())
            .arg("--config")
            .arg(&self.config_file)
            .arg("--own-session")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some(log) = &self.log {
            let file = OpenOptions::new().append(true).create(true).open(log);
            let file = file.with_context(|| format!("can't write {}", log.display()))?;
            self.log_from = file.metadata()?.len();
            command.stdout(file.try_clone()?).stderr(file);
        }
        let child = command.spawn();
        let child = child.with_context(|| format!("{} can't be started", binary.display()))?;
        let pid = child.id().unwrap_or_default();
        self.child = Some(child);
        Ok(pid)
    }

    async fn wait_for_supervisor(&self, previous: u32) -> anyhow::Result<u32> {
        let begun = Instant::now();
        while begun.elapsed() < SUPERVISOR {
            if let Ok(running) = self.running()
                && running.pid != previous
            {
                return Ok(running.pid);
            }
            tokio::time::sleep(STEP).await;
        }
        bail!(
            "nobody has started the {} again within {} s: a service manager must do so after every end, also after one \
             with status 0 (Restart=always)",
            self.kind.name(),
            SUPERVISOR.as_secs()
        )
    }
}

/// Where the admin pages are, which must be the same before and after.
fn fixed_admin(config: &Config, file: &Path) -> anyhow::Result<String> {
    let mut address = config.admin().context("it has no admin pages")?;
    if address.port() == 0 {
        bail!(
            "admin_listen in {} is {address}: with port 0 it is another port at each start, and nobody can ask there. \
             Set a fixed one",
            file.display()
        );
    }
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address.to_string())
}

#[cfg(test)]
mod tests;
