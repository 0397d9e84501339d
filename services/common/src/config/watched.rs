//! Files that may change while a part runs: what of them has changed, what they hold now, and whether that can be used.
//!
//! A file is looked at once a second by its stamp, of what its path resolves to: the kubelet changes a mounted ConfigMap or Secret
//! by swapping a symbolic link, of which no watch on the file itself would tell. What can't be read or used changes nothing: the part
//! goes on with what it had, says so once per change, and a metric shows it until a usable one comes.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::metrics::{counter_vec, gauge_vec};

/// How often files are looked at: well below the 10 s in which a change is to reach running pods, for one `stat` each.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// What tells a file, or a directory's files, from what was there before: no look at the content is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(Vec<(OsString, FileStamp)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl FileStamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Stamp {
    /// The names of a directory's files, in order; of a file one that is empty.
    pub fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.0.iter().map(|(name, _)| name.as_os_str())
    }

    /// The stamp of a file, or of all that is directly in a directory; links are followed.
    ///
    /// # Errors
    /// The file system's.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_dir() {
            return Ok(Self(vec![(OsString::new(), FileStamp::of(&metadata))]));
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // One that goes meanwhile shows in the next look.
            if let Ok(metadata) = fs::metadata(entry.path()) {
                files.push((entry.file_name(), FileStamp::of(&metadata)));
            }
        }
        // A directory has no order of its own.
        files.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(Self(files))
    }
}

/// Some files and directories, and how they were when they were looked at last.
#[derive(Debug)]
pub struct Watched {
    paths: Vec<PathBuf>,
    seen: Vec<Result<Stamp, io::ErrorKind>>,
}

impl Watched {
    /// As they are now.
    #[must_use]
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let seen = stamps(&paths);
        Self { paths, seen }
    }

    /// Whether any of them has changed since the last look: come, gone, replaced or written. The stamp is taken before anybody reads,
    /// so a change between the two is seen by the next look.
    pub fn has_changed(&mut self) -> bool {
        let now = stamps(&self.paths);
        std::mem::replace(&mut self.seen, now) != self.seen
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Result<Stamp, io::ErrorKind>> {
    let stamp = |path: &PathBuf| Stamp::of(path).map_err(|error| error.kind());
    paths.iter().map(stamp).collect()
}

/// What outsiders see of a configuration that is in effect: the first 48 bits of the SHA-256 of its bytes, which a gauge shows exactly.
/// `sha256sum FILE | cut -c 1-12` in decimal is the same number.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> i64 {
    let hash = digest(&SHA256, bytes);
    let first = hash.as_ref().iter().take(6);
    first.fold(0, |sum, byte| sum << 8 | i64::from(*byte))
}

/// Metrics of all that a part reloads. Registered once per part.
#[derive(Debug, Clone)]
pub struct Reloads {
    failures: IntCounterVec,
    successful: IntGaugeVec,
    generation: IntGaugeVec,
}

impl Reloads {
    /// Registers them.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        Self {
            failures: counter_vec(
                registry,
                "imaccess_configuration_reload_failures_total",
                "Changed files that couldn't be used; what was there before stays in effect.",
                &["what"],
            ),
            successful: gauge_vec(
                registry,
                "imaccess_configuration_last_reload_successful",
                "1 when the file is in effect as it is now, 0 while what was there before is.",
                &["what"],
            ),
            generation: gauge_vec(
                registry,
                "imaccess_configuration_generation",
                "What is in effect: the first 48 bits of the SHA-256 of the file.",
                &["what"],
            ),
        }
    }

    fn of(&self, what: &str) -> (IntCounter, IntGauge, IntGauge) {
        (
            self.failures.with_label_values(&[what]),
            self.successful.with_label_values(&[what]),
            self.generation.with_label_values(&[what]),
        )
    }
}

/// What was read, and the bytes it was read from.
#[derive(Debug)]
pub struct Loaded<T> {
    /// What it says.
    pub value: T,
    /// [`fingerprint`] of it.
    pub generation: i64,
}

type Load<T> = Box<dyn FnMut() -> Result<Loaded<T>, String> + Send>;

/// Follows some files: whoever has the receiver gets what they say, and all later versions that can be used.
pub struct Follow<T> {
    what: &'static str,
    watched: Watched,
    load: Load<T>,
    sender: watch::Sender<Arc<T>>,
    failures: IntCounter,
    successful: IntGauge,
    generation: IntGauge,
}

impl<T> Follow<T> {
    /// Reads them for the first time. `what` names them in logs and metrics.
    ///
    /// # Errors
    /// What `load` says: at the start there is nothing to go on with.
    pub fn begin(
        what: &'static str,
        paths: Vec<PathBuf>,
        reloads: &Reloads,
        mut load: impl FnMut() -> Result<Loaded<T>, String> + Send + 'static,
    ) -> Result<(Self, watch::Receiver<Arc<T>>), String> {
        let watched = Watched::new(paths);
        let loaded = load()?;
        let (failures, successful, generation) = reloads.of(what);
        successful.set(1);
        generation.set(loaded.generation);
        let (sender, receiver) = watch::channel(Arc::new(loaded.value));
        let follow = Self {
            what,
            watched,
            load: Box::new(load),
            sender,
            failures,
            successful,
            generation,
        };
        Ok((follow, receiver))
    }

    /// Looks once; whether something new is in effect.
    pub fn look(&mut self) -> bool {
        if !self.watched.has_changed() {
            return false;
        }
        match (self.load)() {
            Ok(loaded) => {
                self.successful.set(1);
                // Written anew, or mounted anew, with the same content.
                if self.generation.get() == loaded.generation {
                    return false;
                }
                self.generation.set(loaded.generation);
                tracing::info!(what = self.what, generation = loaded.generation, "reloaded");
                self.sender.send_replace(Arc::new(loaded.value));
                true
            }
            Err(fault) => {
                self.failures.inc();
                self.successful.set(0);
                tracing::warn!(
                    what = self.what,
                    fault,
                    "a changed file can't be used; what was there before stays"
                );
                false
            }
        }
    }

    /// Looks every second until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut looks = tokio::time::interval(INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = looks.tick() => drop(self.look()),
            }
        }
    }
}

/// Reads files one after the other, for a [`Loaded`] of several: their bytes, and the fingerprint of them all.
///
/// # Errors
/// Names the file.
pub fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("can't read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(path: &Path) -> (Follow<u32>, watch::Receiver<Arc<u32>>, Registry) {
        let registry = Registry::new();
        let file = path.to_owned();
        let load = move || {
            let text = read(&file)?;
            let value = text.trim().parse().map_err(|_| "no number".to_owned())?;
            let generation = fingerprint(text.as_bytes());
            Ok(Loaded { value, generation })
        };
        let reloads = Reloads::register(&registry);
        let (follow, receiver) = Follow::begin("number", vec![path.to_owned()], &reloads, load).unwrap();
        (follow, receiver, registry)
    }

    fn sample(registry: &Registry, name: &str) -> f64 {
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metric = &family.get_metric()[0];
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }

    #[test]
    fn a_swapped_link_is_seen_and_a_bad_file_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        // As the kubelet lays out a volume: file → ..data/file, ..data → a directory per version.
        let version = |name: &str, text: &str| {
            let version = directory.path().join(name);
            fs::create_dir(&version).unwrap();
            fs::write(version.join("file"), text).unwrap();
            let (new, data) = (directory.path().join("..new"), directory.path().join("..data"));
            std::os::unix::fs::symlink(name, &new).unwrap();
            fs::rename(new, data).unwrap();
        };
        version("one", "1");
        let path = directory.path().join("file");
        std::os::unix::fs::symlink("..data/file", &path).unwrap();
        let (mut follow, receiver, registry) = follow(&path);
        assert_eq!(**receiver.borrow(), 1);
        assert!(!follow.look());
        version("two", "2");
        assert!(follow.look());
        assert_eq!(**receiver.borrow(), 2);
        assert_eq!(
            sample(&registry, "imaccess_configuration_generation"),
            fingerprint(b"2") as f64
        );
        version("three", "three");
        assert!(!follow.look() && !follow.look());
        assert_eq!(**receiver.borrow(), 2);
        // Told once per change.
        assert_eq!(
            sample(&registry, "imaccess_configuration_reload_failures_total"),
            1.0
        );
        assert_eq!(
            sample(&registry, "imaccess_configuration_last_reload_successful"),
            0.0
        );
        fs::remove_file(directory.path().join("three/file")).unwrap();
        assert!(!follow.look());
        // Back to what is in effect: nobody is told anything anew.
        version("four", "2");
        assert!(!follow.look());
        assert_eq!(
            sample(&registry, "imaccess_configuration_last_reload_successful"),
            1.0
        );
        assert!(!receiver.has_changed().unwrap_or(true) || **receiver.borrow() == 2);
    }

    #[test]
    fn a_directory_changes_with_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut watched = Watched::new(vec![directory.path().to_owned(), directory.path().join("none")]);
        assert!(!watched.has_changed());
        fs::write(directory.path().join("a.pem"), "a").unwrap();
        assert!(watched.has_changed() && !watched.has_changed());
        fs::write(directory.path().join("a.pem"), "longer").unwrap();
        assert!(watched.has_changed() && !watched.has_changed());
        fs::remove_file(directory.path().join("a.pem")).unwrap();
        assert!(watched.has_changed() && !watched.has_changed());
    }

    #[test]
    fn a_fingerprint_is_what_a_shell_computes() {
        // printf 'businesses\n' | sha256sum | cut -c 1-12
        let expected = i64::from_str_radix(&hex::encode(digest(&SHA256, b"businesses\n"))[..12], 16).unwrap();
        assert_eq!(fingerprint(b"businesses\n"), expected);
        assert!(fingerprint(b"") < 1 << 48);
    }
}
