//! The directory of one `up`: locked while it runs, files written whole, secrets readable by their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;
use tempfile::TempDir;

/// Where `up` keeps its directory unless told otherwise.
pub(crate) const DEFAULT: &str = ".imaccess";

/// A directory that is this `up`'s alone.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// Unlocked when it is closed, however this process ends.
    _lock: File,
    removal: Removal,
}

#[derive(Debug)]
enum Removal {
    Keep,
    /// A directory that was given, for an ephemeral cluster.
    Given,
    Temporary(#[expect(dead_code, reason = "it is removed when this is dropped")] TempDir),
}

impl Directory {
    /// Makes and locks it. Fails if another `up` has it.
    pub(super) fn take(given: Option<&Path>, ephemeral: bool) -> anyhow::Result<Self> {
        let (path, removal) = match (given, ephemeral) {
            (Some(path), false) => (path.to_owned(), Removal::Keep),
            // What was there before is not ours to remove.
            (Some(path), true) => (
                path.to_owned(),
                if path.exists() {
                    Removal::Keep
                } else {
                    Removal::Given
                },
            ),
            (None, false) => (PathBuf::from(DEFAULT), Removal::Keep),
            (None, true) => {
                let directory = tempfile::Builder::new().prefix("imaccess-").tempdir();
                let directory = directory.context("can't make a temporary directory")?;
                (directory.path().to_owned(), Removal::Temporary(directory))
            }
        };
        super::check_socket_path(&path)?;
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("can't make the directory {}", path.display()))?;
        let lock = lock(&path)?;
        Ok(Self {
            path,
            _lock: lock,
            removal,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its path from the root, for whoever is elsewhere.
    pub(super) fn absolute(&self) -> PathBuf {
        fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone())
    }

    /// Makes a directory in it.
    pub(super) fn make(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path.join(name);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.with_context(|| format!("can't make the directory {}", path.display()))
    }

    /// Writes a file that only its owner may read, whole: a reader sees the old one or the new one.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let (path, fresh) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            // A rest of a crash may have other permissions.
            let _ = fs::remove_file(&fresh);
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&fresh)?;
            file.write_all(content)?;
            fs::rename(&fresh, &path)
        };
        write().with_context(|| format!("can't write {}", path.display()))
    }

    /// As [`write`](Self::write), as JSON on one line.
    pub(super) fn write_json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(value).context("JSON")?;
        text.push(b'\n');
        self.write(name, &text)
    }

    /// Writes a file unless it is there: what its owner has put into it stays.
    pub(super) fn write_once(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        match self.read(name)? {
            Some(_) => Ok(()),
            None => self.write(name, content),
        }
    }

    /// A file's content; `None` if there is none.
    pub(super) fn read(&self, name: &str) -> anyhow::Result<Option<String>> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if matches!(self.removal, Removal::Given) {
            // Nothing is lost if it stays.
            let _ = fs::remove_dir_all(&self.path);
        } else {
            // It describes what runs; nothing does any more.
            let _ = fs::remove_file(self.path.join("cluster.json"));
        }
    }
}

fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let open = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    let file = open.with_context(|| format!("can't write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!(
            "another `imaccess up` runs in {}; end that one, or give this one a directory of its own by --dir",
            directory.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("can't lock {}", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_up_is_refused_until_the_first_has_ended() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("up");
        let first = Directory::take(Some(&path), false).unwrap();
        let refused = Directory::take(Some(&path), false).unwrap_err().to_string();
        assert!(
            refused.contains("another `imaccess up`") && refused.contains("--dir"),
            "{refused}"
        );
        drop(first);
        assert!(Directory::take(Some(&path), false).is_ok());
        assert!(path.exists());
    }

    #[test]
    fn files_are_whole_and_private_and_an_ephemeral_directory_goes() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("up");
        let directory = Directory::take(Some(&path), true).unwrap();
        assert_eq!(directory.read("key").unwrap(), None);
        directory.write("key", b"one").unwrap();
        directory.write("key", b"two").unwrap();
        directory.write_once("key", b"three").unwrap();
        assert_eq!(directory.read("key").unwrap().as_deref(), Some("two"));
        assert_eq!(
            fs::metadata(path.join("key")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_at_once() {
        let long = PathBuf::from("/tmp").join("x".repeat(100));
        assert!(
            Directory::take(Some(&long), false)
                .unwrap_err()
                .to_string()
                .contains("shorter")
        );
    }
}
