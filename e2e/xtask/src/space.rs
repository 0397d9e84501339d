//! Whether there is room for what the steps write. A disk that fills half-way fails whatever wrote last, an hour later, and says nothing
//! of what it would have taken.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::steps::Verdict;
use crate::workspace::Workspace;

/// What a first run writes, with a quarter to spare, in bytes: measured on Debian 12 from an empty machine, 11.2 GB in all, of which 6.7 GB
/// in the target directory and the rest in the caches of Go and cargo.
const NEEDED: u64 = 14_000_000_000;

/// Fails when the disk of the target directory has less room than is needed besides what is there already.
pub(crate) fn check(workspace: &Workspace) -> Result<Verdict> {
    let target = &workspace.target;
    fs::create_dir_all(target).with_context(|| format!("cannot create {}", target.display()))?;
    let disk = rustix::fs::statvfs(target).with_context(|| format!("the disk of {}", target.display()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    match missing(free, size(target)) {
        0 => Ok(Verdict::Passed),
        missing => bail!(
            "{} has {} free, and a first run of the tests needs {}: free {}, or set CARGO_TARGET_DIR to a place on another disk",
            target.display(),
            gigabytes(free),
            gigabytes(NEEDED),
            gigabytes(missing),
        ),
    }
}

/// How many bytes must be freed, where `there` are written already.
fn missing(free: u64, there: u64) -> u64 {
    NEEDED.saturating_sub(there).saturating_sub(free)
}

/// Bytes of all files below; what can't be read counts for nothing.
fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(data) if data.is_dir() => size(&entry.path()),
            Ok(data) => data.len(),
            Err(_) => 0,
        })
        .sum()
}

fn gigabytes(bytes: u64) -> String {
    // Upwards: who frees what is said has enough.
    format!("{} GB", bytes.div_ceil(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_already_need_not_be_free() {
        assert_eq!(missing(NEEDED, 0), 0);
        assert_eq!(missing(NEEDED - 1, 0), 1);
        assert_eq!(missing(1_000, NEEDED - 1_000), 0);
        assert_eq!(missing(0, NEEDED * 2), 0);
    }

    #[test]
    fn files_below_count_and_links_are_not_followed() {
        let directory = std::env::temp_dir().join(format!("imaccess-space-{}", std::process::id()));
        fs::create_dir_all(directory.join("below")).unwrap();
        fs::write(directory.join("below/file"), [0; 1_000]).unwrap();
        std::os::unix::fs::symlink("/", directory.join("link")).unwrap();
        let size = size(&directory);
        fs::remove_dir_all(&directory).unwrap();
        assert!((1_000..2_000).contains(&size), "{size}");
    }
}
