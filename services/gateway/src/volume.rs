//! What the gateways of one pod share over time: an instance id, and a count of their starts.
//!
//! Both live in the socket directory. A lost volume is a new instance, which is what routing must believe.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use imaccess_common::identity::InstanceId;

/// Who this gateway is.
#[derive(Clone, Debug)]
pub(crate) struct Incarnation {
    /// The pod.
    pub(crate) instance: InstanceId,
    /// The how-manieth gateway of it, from 1; part of every ConnId born here.
    pub(crate) number: u32,
}

/// Holds the directory for one gateway process: two would read the same sockets.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Unlocked when it is closed, however the process ends.
    _file: File,
}

/// Waits until no other gateway has the directory, at most this long.
///
/// # Errors
/// The file system's; `WouldBlock` when another gateway goes on running.
pub(crate) async fn lock(directory: &Path, patience: Duration) -> io::Result<Lock> {
    make(directory)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(directory.join("gateway.lock"))?;
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if tokio::time::Instant::now() >= deadline => {
                return Err(io::Error::new(
                    io::ErrorKind::WouldBlock,
                    "another gateway runs in this directory: end it, or give this one a directory of its own",
                ));
            }
            // The one before is about to end: its exit unlocks the file.
            Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Makes the directory, for this user alone. One that is somebody else's, as a volume is the kubelet's, keeps its mode: what is
/// made in it is for this user alone.
fn make(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    match fs::set_permissions(directory, fs::Permissions::from_mode(0o700)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Reads and advances the volume's files, and makes the directory if it isn't there.
///
/// # Errors
/// The file system's.
pub(crate) fn next_incarnation(directory: &Path, configured: &str) -> io::Result<Incarnation> {
    make(directory)?;
    let instance = if configured.is_empty() {
        match fs::read_to_string(directory.join("instance")) {
            Ok(text) if !text.trim().is_empty() => InstanceId(text.trim().to_owned()),
            _ => InstanceId::random(),
        }
    } else {
        InstanceId(configured.to_owned())
    };
    replace(directory, "instance", instance.as_str())?;
    let number = fs::read_to_string(directory.join("incarnation"))
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok())
        .unwrap_or(0)
        .wrapping_add(1)
        // The serial has room for 24 bits of it.
        & 0x00FF_FFFF;
    replace(directory, "incarnation", &number.to_string())?;
    Ok(Incarnation { instance, number })
}

/// Writes a file so that a crash leaves either the old or the new one.
fn replace(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let fresh = directory.join(format!("{name}.new"));
    fs::write(&fresh, text)?;
    fs::rename(fresh, directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_stays_and_the_incarnation_rises() {
        let directory = tempfile::tempdir().unwrap();
        let first = next_incarnation(directory.path(), "").unwrap();
        let second = next_incarnation(directory.path(), "").unwrap();
        assert_eq!(first.instance.as_str(), second.instance.as_str());
        assert_eq!(second.number, first.number + 1);
        let named = next_incarnation(directory.path(), "pod-7").unwrap();
        assert_eq!(named.instance.as_str(), "pod-7");
    }

    #[tokio::test]
    async fn one_gateway_at_a_time_has_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let first = lock(directory.path(), Duration::ZERO).await.unwrap();
        let second = lock(directory.path(), Duration::ZERO).await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        let waiting = lock(directory.path(), Duration::from_secs(20));
        let (waited, ()) = tokio::join!(waiting, async { drop(first) });
        assert!(waited.is_ok());
    }

    #[test]
    fn a_lost_volume_is_a_new_instance() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = next_incarnation(one.path(), "").unwrap();
        let second = next_incarnation(other.path(), "").unwrap();
        assert_ne!(first.instance.as_str(), second.instance.as_str());
    }
}
