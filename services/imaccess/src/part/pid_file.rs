//! `gateway.pid` and `state.pid` in the socket directory: which process runs there, and from which file.
//!
//! Two lines, the process id and the executable's path. It is there from when the part has its addresses until its
//! orderly end; what a crash leaves behind names a process that may by now be another's, so readers check it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Config, Kind};

/// A part's pid file.
#[derive(Debug, Clone)]
pub(crate) struct PidFile {
    path: PathBuf,
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// The process.
    pub(crate) pid: u32,
    /// What it was started from.
    pub(crate) binary: PathBuf,
}

impl PidFile {
    /// That of the part with this configuration; `None` for parts without a socket directory.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        config
            .socket_dir()
            .map(|path| Self::in_directory(path, config.kind()))
    }

    /// That of the gateway or the sidecar of a socket directory.
    pub(crate) fn in_directory(directory: &Path, kind: Kind) -> Self {
        Self {
            path: directory.join(format!("{}.pid", kind.name())),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Names this process. Failing costs only that `upgrade --config` doesn't find it.
    pub(crate) fn write(&self) {
        let whole = || {
            let text = format!("{}\n{}\n", std::process::id(), std::env::current_exe()?.display());
            // A reader sees the old one or the new one.
            let fresh = self.path.with_extension("pid.new");
            let _ = fs::remove_file(&fresh);
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&fresh)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&fresh, &self.path)
        };
        let written: io::Result<()> = whole();
        if let Err(error) = written {
            tracing::warn!(file = %self.path.display(), %error, "the pid file can't be written");
        }
    }

    /// What it says now; `None` if there is none.
    pub(crate) fn read(&self) -> io::Result<Option<Running>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut lines = text.lines();
        let pid = lines.next().and_then(|line| line.trim().parse().ok());
        match (pid, lines.next()) {
            (Some(pid), Some(binary)) if !binary.is_empty() => Ok(Some(Running {
                pid,
                binary: binary.into(),
            })),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it doesn't say a process id and a path",
            )),
        }
    }

    /// Removes it, if it still names this process.
    pub(crate) fn remove(&self) {
        if matches!(self.read(), Ok(Some(running)) if running.pid == std::process::id()) {
            // What stays behind is found out by its reader.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_this_process_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let file = PidFile::in_directory(directory.path(), Kind::Sidecar);
        assert!(file.path().ends_with("state.pid"));
        assert_eq!(file.read().unwrap(), None);
        file.remove();
        file.write();
        let running = file.read().unwrap().unwrap();
        assert_eq!(running.pid, std::process::id());
        assert_eq!(running.binary, std::env::current_exe().unwrap());
        file.remove();
        assert_eq!(file.read().unwrap(), None);
    }

    #[test]
    fn another_ones_stays_and_nonsense_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = PidFile::in_directory(directory.path(), Kind::Gateway);
        fs::write(file.path(), "1\n/sbin/init\n").unwrap();
        file.remove();
        assert_eq!(file.read().unwrap().unwrap().pid, 1);
        for nonsense in ["", "x\n/a\n", "1\n", "1\n\n"] {
            fs::write(file.path(), nonsense).unwrap();
            assert!(file.read().is_err(), "{nonsense:?}");
        }
    }
}
