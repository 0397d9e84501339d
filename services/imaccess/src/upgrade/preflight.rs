//! Before anything is touched: asks binaries what they speak, and sees to it that the one that runs can be gone back to.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use imaccess_common::compat::Compat;
use tokio::process::Command;

use super::plan::{Program, program};

/// It only prints: longer means that it hangs, or that its disk does.
const START: Duration = Duration::from_secs(10);

/// Runs `BINARY compat --json`.
pub(super) async fn ask(binary: &Path) -> anyhow::Result<Compat> {
    let what = || format!("`{} compat --json`", binary.display());
    let mut command = Command::new(binary);
    command
        .args(["compat", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(START, command.output()).await;
    let output = output
        .with_context(|| format!("{} didn't end within {} s", what(), START.as_secs()))?
        .with_context(|| format!("{} can't be started", binary.display()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", what(), output.status, stderr.trim());
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{} doesn't say what it speaks: is it imaccess?", what()))
}

/// The program of a running process, as something that can be run now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Runs it, as long as the process lives.
    pub(super) now: PathBuf,
    /// Whether only the process still has it.
    in_memory: bool,
}

/// Finds the program of `pid`, which was started from `listed`.
pub(super) fn find(pid: u32, listed: &Path) -> anyhow::Result<Found> {
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    let exe = fs::read_link(&link).with_context(|| format!("can't see what process {pid} runs"))?;
    let resolved = fs::canonicalize(listed).ok();
    Ok(match program(resolved.as_deref(), is_script(listed), &exe) {
        Program::Listed => Found {
            now: listed.to_owned(),
            in_memory: false,
        },
        Program::Elsewhere(path) => Found {
            now: path,
            in_memory: false,
        },
        Program::InMemory => Found {
            now: link,
            in_memory: true,
        },
    })
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *b"#!"
}

impl Found {
    /// Where it will be when the process has ended: itself, or a copy at `copy`.
    pub(super) fn keep(&self, copy: &Path) -> anyhow::Result<PathBuf> {
        if !self.in_memory {
            return Ok(self.now.clone());
        }
        let whole = || -> io::Result<()> {
            let fresh = copy.with_extension("previous.new");
            let _ = fs::remove_file(&fresh);
            let mut options = fs::OpenOptions::new();
            let mut to = options.write(true).create_new(true).mode(0o700).open(&fresh)?;
            io::copy(&mut fs::File::open(&self.now)?, &mut to)?;
            drop(to);
            fs::rename(&fresh, copy)
        };
        let copied = whole();
        copied.with_context(|| {
            format!(
                "the file of the program that runs was overwritten, and it can't be copied to {} to go back to",
                copy.display()
            )
        })?;
        Ok(copy.to_owned())
    }

    /// Whether [`Self::keep`] makes a copy.
    pub(super) fn is_copied(&self) -> bool {
        self.in_memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::testing::script;

    const SAYS: &str = r#"echo '{"version":"9","speaks":{"link":{"oldest":1,"newest":2},"custody":{"oldest":1,"newest":1},"volume":{"oldest":1,"newest":1},"lease":{"oldest":1,"newest":1},"ticket":{"oldest":1,"newest":2}}}'"#;

    #[tokio::test]
    async fn a_binary_says_what_it_speaks_or_why_it_cant() {
        let directory = tempfile::tempdir().unwrap();
        let said = ask(&script(directory.path(), "good", SAYS)).await.unwrap();
        assert_eq!(said.version, "9");
        for (name, text, part) in [
            ("old", "echo unrecognized subcommand >&2; exit 64", "unrecognized"),
            ("other", "echo hello", "is it imaccess?"),
        ] {
            let fault = ask(&script(directory.path(), name, text)).await.unwrap_err();
            assert!(format!("{fault:#}").contains(part), "{fault:#}");
        }
        let fault = ask(Path::new("/no/such")).await.unwrap_err();
        assert!(format!("{fault:#}").contains("/no/such can't be started"));
    }

    #[tokio::test]
    async fn an_overwritten_program_is_copied_from_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        // By a process of its own, so that no other test's fork holds it open for writing.
        let copied = std::process::Command::new("cp")
            .arg("/bin/sleep")
            .arg(&program)
            .status();
        assert!(copied.unwrap().success());
        let mut child = Command::new(&program)
            .arg("1000")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        let copy = directory.path().join("copy.previous");
        let found = find(pid, &program).unwrap();
        assert_eq!(found.keep(&copy).unwrap(), program);
        assert!(!copy.exists());
        fs::remove_file(&program).unwrap();
        fs::write(&program, "the next version").unwrap();
        let found = find(pid, &program).unwrap();
        assert_eq!(found.keep(&copy).unwrap(), copy);
        assert_eq!(fs::read(&copy).unwrap(), fs::read("/bin/sleep").unwrap());
        child.kill().await.unwrap();
        assert!(find(pid, &program).is_err());
    }
}
