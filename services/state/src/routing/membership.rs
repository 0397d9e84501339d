//! Which instances live: said by a membership source, not by who has been heard of.
//!
//! A list that can't be read leaves the last one standing; before the first one nothing is known, and the replica
//! calls no device offline.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::fs;

use super::config::MembersConfig;

/// Longest membership file: 10,000 gateways at 1 KB each, with room.
const FILE_LIMIT: u64 = 16 << 20;

/// A live instance and where its sidecar serves its routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What people call it.
    pub name: String,
    /// Its instance id.
    pub instance: String,
    /// `host:port` of its sidecar's `RouteFeed`.
    pub routes: String,
}

/// The file's form; fields for others are skipped.
#[derive(Deserialize)]
struct File {
    gateways: Vec<Member>,
}

/// A membership source, read by whoever owns it.
#[derive(Debug)]
pub(crate) enum Membership {
    /// Said once.
    Fixed(Option<Vec<Member>>),
    /// A file that somebody else writes.
    File(FileMembership),
}

/// The file, and what it was when last read.
#[derive(Debug)]
pub(crate) struct FileMembership {
    path: PathBuf,
    interval: Duration,
    seen: Option<Stamp>,
    /// The fault is logged once per change of its text.
    fault: Option<String>,
}

/// What changes when a file is written or replaced.
type Stamp = (u64, u64, i64, i64);

impl Membership {
    pub(crate) fn new(config: &MembersConfig) -> Membership {
        match &config.file {
            None => Membership::Fixed(Some(config.fixed.clone())),
            Some(path) => Membership::File(FileMembership {
                path: path.clone(),
                interval: config.file_interval.max(Duration::from_millis(1)),
                seen: None,
                fault: None,
            }),
        }
    }

    /// Waits for the next list; the first one comes at once if it can be had. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Vec<Member> {
        match self {
            Membership::Fixed(list) => match list.take() {
                Some(list) => list,
                None => std::future::pending().await,
            },
            Membership::File(file) => loop {
                match file.read_if_changed().await {
                    Ok(Some(list)) => {
                        file.fault = None;
                        return list;
                    }
                    Ok(None) => (),
                    Err(fault) => file.report(&fault),
                }
                tokio::time::sleep(file.interval).await;
            },
        }
    }
}

impl FileMembership {
    async fn read_if_changed(&mut self) -> io::Result<Option<Vec<Member>>> {
        let metadata = fs::metadata(&self.path).await?;
        let stamp = (
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        );
        if self.seen == Some(stamp) {
            return Ok(None);
        }
        if metadata.len() > FILE_LIMIT {
            return Err(io::Error::other(format!("it is longer than {FILE_LIMIT} bytes")));
        }
        let bytes = fs::read(&self.path).await?;
        let file: File = serde_json::from_slice(&bytes)?;
        if let Some(fault) = fault_in(&file.gateways) {
            return Err(io::Error::other(fault));
        }
        self.seen = Some(stamp);
        Ok(Some(file.gateways))
    }

    fn report(&mut self, fault: &io::Error) {
        let text = fault.to_string();
        if self.fault.as_ref() != Some(&text) {
            tracing::warn!(file = %self.path.display(), fault = text, "the membership file can't be used; the last list stands");
            self.fault = Some(text);
        }
    }
}

/// What makes a list unusable.
pub(crate) fn fault_in(members: &[Member]) -> Option<String> {
    let mut seen = std::collections::HashSet::new();
    for member in members {
        if member.instance.is_empty() {
            return Some(format!("the gateway {:?} has no instance id", member.name));
        }
        if member.routes.is_empty() {
            return Some(format!("the gateway {:?} has no routes address", member.name));
        }
        if !seen.insert(&member.instance) {
            return Some(format!("the instance {} is there twice", member.instance));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Member {
        Member {
            name: name.to_owned(),
            instance: format!("i-{name}"),
            routes: "127.0.0.1:1".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_fixed_list_is_said_once() {
        let mut source = Membership::new(&MembersConfig {
            fixed: vec![member("a")],
            ..MembersConfig::default()
        });
        assert_eq!(source.next().await, [member("a")]);
        assert!(futures_util::FutureExt::now_or_never(source.next()).is_none());
    }

    #[tokio::test]
    async fn a_file_is_read_when_it_changes_and_stands_when_it_is_broken() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("members.json");
        let config = MembersConfig {
            file: Some(path.clone()),
            file_interval: Duration::from_millis(1),
            ..MembersConfig::default()
        };
        let mut source = Membership::new(&config);
        let write = |text: &str| {
            let new = directory.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &path).unwrap();
        };
        let later = tokio::spawn(async move {
            let first = source.next().await;
            (source, first)
        });
        write(
            r#"{"version": 1, "gateways": [{"name": "a", "instance": "i-a", "routes": "127.0.0.1:1", "tcp": "x"}]}"#,
        );
        let (mut source, first) = later.await.unwrap();
        assert_eq!(first, [member("a")]);
        for broken in [
            "{",
            r#"{"gateways": [{"name": "b", "instance": "", "routes": "x:1"}]}"#,
        ] {
            write(broken);
            let Membership::File(file) = &mut source else {
                unreachable!()
            };
            file.read_if_changed().await.unwrap_err();
        }
        write(r#"{"gateways": []}"#);
        assert_eq!(source.next().await, []);
    }
}
