//! Another process on this host, which isn't our child: whether it is what it should be, and its end.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Between two looks.
const STEP: Duration = Duration::from_millis(2);

/// Refuses a process that can't be ours: a pid file may be left from a crash, and the number another one's by now.
pub(super) fn check(pid: u32) -> Result<(), String> {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return Err("which has ended; the file was left behind by a crash".to_owned());
    };
    let words: Vec<String> = line
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    judge(&exe, &words)
}

fn judge(exe: &Path, words: &[String]) -> Result<(), String> {
    let names = |path: &Path| {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy())
            .unwrap_or_default();
        name.contains("imaccess")
    };
    // A script's process has its interpreter first.
    if !names(exe) && !words.iter().take(2).any(|word| names(Path::new(word))) {
        return Err(format!(
            "which is {}, and not imaccess; the file was left behind by a crash",
            exe.display()
        ));
    }
    if words.iter().any(|word| word == "--exit-with-parent") {
        let why = "which `imaccess up` keeps running: name its directory by --dir, instead of --config";
        return Err(why.to_owned());
    }
    Ok(())
}

/// Whether it lives, and not as a zombie.
pub(super) fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// A process that is to end. The descriptor means this process, whatever its number means later.
#[derive(Debug)]
pub(super) struct End(OwnedFd);

impl End {
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let id = id.with_context(|| format!("{pid} is no process id"))?;
        let descriptor = pidfd_open(id, PidfdFlags::empty());
        descriptor
            .map(Self)
            .with_context(|| format!("process {pid} can't be looked at"))
    }

    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        match pidfd_send_signal(&self.0, signal) {
            // It has ended by itself.
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => sent.context("the process can't be signalled: run this as its user"),
        }
    }

    /// Waits for its end; whether it came in time.
    pub(super) async fn within(&self, time: Duration) -> anyhow::Result<bool> {
        let begun = Instant::now();
        loop {
            let mut watched = [PollFd::new(&self.0, PollFlags::IN)];
            let at_once = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            if poll(&mut watched, Some(&at_once)).context("the process can't be watched")? > 0 {
                return Ok(true);
            }
            if begun.elapsed() >= time {
                return Ok(false);
            }
            tokio::time::sleep(STEP).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_imaccess_by_itself_is_taken_for_ours() {
        let judge = |exe: &str, line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            judge(Path::new(exe), &words)
        };
        for (exe, line) in [
            ("/usr/bin/imaccess", "imaccess gateway --config f"),
            ("/usr/bin/imaccess-2 (deleted)", "gateway"),
            ("/bin/sh", "/bin/sh /opt/imaccess.sh gateway"),
        ] {
            assert_eq!(judge(exe, line), Ok(()), "{exe} {line}");
        }
        for (exe, line, part) in [
            ("/bin/sleep", "sleep 1000", "/bin/sleep, and not imaccess"),
            ("/bin/vi", "vi /etc/x /etc/imaccess.yaml", "not imaccess"),
            (
                "/usr/bin/imaccess",
                "imaccess gateway --config f --exit-with-parent",
                "--dir",
            ),
        ] {
            let fault = judge(exe, line).unwrap_err();
            assert!(fault.contains(part), "{fault}");
        }
        assert!(check(u32::MAX).unwrap_err().contains("has ended"));
    }

    #[tokio::test]
    async fn an_end_is_seen() {
        let mut child = tokio::process::Command::new("sleep")
            .arg("1000")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        let end = End::of(pid).unwrap();
        assert!(is_running(pid));
        assert!(!end.within(Duration::ZERO).await.unwrap());
        end.signal(Signal::TERM).unwrap();
        assert!(end.within(Duration::from_secs(60)).await.unwrap());
        // A zombie until we wait for it.
        assert!(!is_running(pid));
        child.wait().await.unwrap();
        end.signal(Signal::TERM).unwrap();
    }
}
