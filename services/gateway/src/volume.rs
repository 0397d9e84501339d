//! What the gateways of one pod share over time: an instance id, and a count of their starts.
//!
//! Both live in the socket directory. A lost volume is a new instance, which is what routing must believe.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use imaccess_common::identity::InstanceId;

/// Who this gateway is.
#[derive(Clone, Debug)]
pub(crate) struct Incarnation {
    /// The pod.
    pub(crate) instance: InstanceId,
    /// The how-manieth gateway of it, from 1; part of every ConnId born here.
    pub(crate) number: u32,
}

/// Reads and advances the volume's files, and makes the directory if it isn't there.
///
/// # Errors
/// The file system's.
pub(crate) fn next_incarnation(directory: &Path, configured: &str) -> io::Result<Incarnation> {
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
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

    #[test]
    fn a_lost_volume_is_a_new_instance() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = next_incarnation(one.path(), "").unwrap();
        let second = next_incarnation(other.path(), "").unwrap();
        assert_ne!(first.instance.as_str(), second.instance.as_str());
    }
}
