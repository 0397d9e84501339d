//! The handover file: written whole at a planned exit, read by the next gateway, removed before it touches a socket.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use imaccess_common::generation;
use imaccess_proto::v1::{HandedEnded, HandedOver, HandoverFile};
use prost::Message;

use crate::volume::Incarnation;

const PREFIX: &str = "handover.";

/// What a file said.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) incarnation: u32,
    pub(crate) connections: Vec<HandedOver>,
    pub(crate) ended: Vec<HandedEnded>,
    pub(crate) path: PathBuf,
    /// When its gateway stopped reading, in Unix milliseconds; 0 when it doesn't say.
    pub(crate) stopped_unix_ms: u64,
}

/// Writes the file so that it is there whole or not at all.
///
/// # Errors
/// The file system's.
pub(crate) fn write(
    directory: &Path,
    identity: &Incarnation,
    connections: Vec<HandedOver>,
    ended: Vec<HandedEnded>,
    stopped_unix_ms: u64,
) -> io::Result<usize> {
    let content = HandoverFile {
        generation: generation::spoken().volume.newest,
        instance: identity.instance.as_str().to_owned(),
        incarnation: identity.number,
        connections,
        ended,
        stopped_unix_ms,
    }
    .encode_to_vec();
    let path = directory.join(format!("{PREFIX}{}", identity.number));
    let fresh = directory.join(format!("{PREFIX}{}.new", identity.number));
    // Frames and tickets are in it. It stays in memory: no sync, for what it outlives is the process, not the machine.
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)?;
    if let Err(error) = file.write_all(&content) {
        // A full volume must not stay full for the sake of half a file.
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    fs::rename(fresh, path)?;
    Ok(content.len())
}

/// The latest file in the directory, if there is one that is this instance's.
///
/// # Errors
/// The file system's; a file that can't be understood, or of a generation that this build doesn't speak.
pub(crate) fn read(directory: &Path, identity: &Incarnation) -> io::Result<Option<Handed>> {
    let mut newest: Option<(u32, PathBuf)> = None;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with(PREFIX) && name.ends_with(".new") {
            // Of a process that was killed while it wrote.
            let _ = fs::remove_file(&path);
        }
        if let Some(number) = name.strip_prefix(PREFIX)
            && let Ok(incarnation) = number.parse::<u32>()
            && newest.as_ref().is_none_or(|(other, _)| *other < incarnation)
        {
            newest = Some((incarnation, path));
        }
    }
    let Some((incarnation, path)) = newest else {
        return Ok(None);
    };
    let strange = |what: String| io::Error::other(format!("{}: {what}", path.display()));
    let content = HandoverFile::decode(&fs::read(&path)?[..])
        .map_err(|fault| strange(format!("can't be understood: {fault}")))?;
    let spoken = generation::spoken().volume;
    if !spoken.contains(content.generation) {
        return Err(strange(format!(
            "generation {}, and this gateway speaks {spoken}: start a version that speaks both",
            content.generation
        )));
    }
    if content.instance != identity.instance.as_str() || content.incarnation != incarnation {
        tracing::warn!(path = %path.display(), "a handover file of another gateway is left alone");
        return Ok(None);
    }
    Ok(Some(Handed {
        incarnation,
        connections: content.connections,
        ended: content.ended,
        path,
        stopped_unix_ms: content.stopped_unix_ms,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use imaccess_common::identity::InstanceId;

    fn identity(number: u32) -> Incarnation {
        Incarnation {
            instance: InstanceId::from("pod-1"),
            number,
        }
    }

    #[test]
    fn what_is_written_is_read_and_strangers_are_not_taken_for_ours() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path(), &identity(2)).unwrap().is_none());
        let connection = HandedOver {
            serial: 7,
            partial: vec![1, 2, 3].into(),
            ..HandedOver::default()
        };
        write(
            directory.path(),
            &identity(1),
            vec![connection.clone()],
            Vec::new(),
            1_700_000_000_123,
        )
        .unwrap();
        let handed = read(directory.path(), &identity(2)).unwrap().unwrap();
        assert_eq!(handed.stopped_unix_ms, 1_700_000_000_123);
        assert_eq!((handed.incarnation, handed.connections), (1, vec![connection]));
        let other = Incarnation {
            instance: InstanceId::from("pod-2"),
            number: 2,
        };
        assert!(read(directory.path(), &other).unwrap().is_none());
        // The later one counts.
        write(directory.path(), &identity(3), Vec::new(), Vec::new(), 0).unwrap();
        assert_eq!(
            read(directory.path(), &identity(4)).unwrap().unwrap().incarnation,
            3
        );
    }

    #[test]
    fn an_unknown_generation_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let content = HandoverFile {
            generation: 99,
            ..HandoverFile::default()
        };
        fs::write(directory.path().join("handover.1"), content.encode_to_vec()).unwrap();
        let fault = read(directory.path(), &identity(2)).unwrap_err().to_string();
        assert!(fault.contains("generation 99"), "{fault}");
        fs::write(directory.path().join("handover.1"), b"\xff\xff\xff").unwrap();
        assert!(read(directory.path(), &identity(2)).is_err());
    }
}
