//! Which instances live: said by a membership source, not by who has been heard of.
//!
//! A list that can't be read leaves the last one standing; before the first one nothing is known, and the replica
//! calls no device offline. In Kubernetes the pods are the members: one that is terminating stays until it is gone,
//! because it has sessions until then; one that was deleted, or has ended, is known gone.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use imaccess_pods::{ConnectError, PodSource, PodWatch, Pods, WatchHealth};
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
    /// The pods of a Kubernetes cluster.
    Pods(PodMembership),
}

/// The pod watch, and what was last said of it.
#[derive(Debug)]
pub(crate) struct PodMembership {
    watch: PodWatch,
    routes_port: u16,
    said: Option<Vec<Member>>,
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
    /// The source that the configuration names. It fails only if nothing says where the Kubernetes API is.
    pub(crate) async fn connect(config: &MembersConfig) -> Result<Membership, ConnectError> {
        if let Some(pods) = &config.pods {
            let source = PodSource {
                namespace: pods.namespace.clone(),
                selector: pods.selector.clone(),
                kubeconfig: pods.kubeconfig.clone(),
            };
            let watch = PodWatch::connect(&source).await?;
            return Ok(Membership::Pods(PodMembership::new(watch, pods.routes_port)));
        }
        Ok(match &config.file {
            None => Membership::Fixed(Some(config.fixed.clone())),
            Some(path) => Membership::File(FileMembership {
                path: path.clone(),
                interval: config.file_interval.max(Duration::from_millis(1)),
                seen: None,
                fault: None,
            }),
        })
    }

    /// How the pod watch is doing, if there is one.
    pub(crate) fn health(&self) -> Option<&WatchHealth> {
        match self {
            Membership::Pods(pods) => Some(pods.watch.health()),
            Membership::Fixed(_) | Membership::File(_) => None,
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
            Membership::Pods(pods) => pods.next().await,
        }
    }
}

impl PodMembership {
    fn new(watch: PodWatch, routes_port: u16) -> PodMembership {
        PodMembership {
            watch,
            routes_port,
            said: None,
        }
    }

    /// Most changes of a pod don't change the members: those are waited out.
    async fn next(&mut self) -> Vec<Member> {
        loop {
            self.watch.changed().await;
            let members = self.watch.latest().map(|pods| members(&pods, self.routes_port));
            if members.is_some() && members != self.said {
                self.said.clone_from(&members);
                return members.unwrap_or_default();
            }
        }
    }
}

/// The pods as members; ready or not, terminating or not.
fn members(pods: &Pods, routes_port: u16) -> Vec<Member> {
    pods.iter()
        .map(|pod| Member {
            name: pod.name.clone(),
            instance: pod.uid.clone(),
            routes: SocketAddr::new(pod.ip, routes_port).to_string(),
        })
        .collect()
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
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use futures_util::FutureExt;
    use imaccess_pods::{Phase, Pod};
    use tokio::sync::watch;

    use super::*;
    use crate::routing::PodMembersConfig;

    fn member(name: &str) -> Member {
        Member {
            name: name.to_owned(),
            instance: format!("i-{name}"),
            routes: "127.0.0.1:1".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_fixed_list_is_said_once() {
        let config = MembersConfig {
            fixed: vec![member("a")],
            ..MembersConfig::default()
        };
        let mut source = Membership::connect(&config).await.unwrap();
        assert_eq!(source.next().await, [member("a")]);
        assert!(source.next().now_or_never().is_none());
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
        let mut source = Membership::connect(&config).await.unwrap();
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

    fn pod(name: &str, ip: &str, terminating: bool) -> Pod {
        Pod {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            ip: ip.parse().unwrap(),
            node: String::new(),
            host_ip: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            ready: false,
            terminating,
            phase: Phase::Running,
        }
    }

    #[tokio::test]
    async fn pods_are_members_until_they_are_gone() {
        let (publish, snapshot) = watch::channel(None);
        let mut source = Membership::Pods(PodMembership::new(PodWatch::of(snapshot), 7_300));
        assert_eq!(source.health().unwrap().faults(), 0);
        assert!(source.next().now_or_never().is_none(), "nothing is known yet");
        let publish = |pods: Vec<Pod>| publish.send_replace(Some(Arc::new(Pods::from_iter(pods))));
        publish(vec![pod("b", "fd00::2", false), pod("a", "10.0.0.1", false)]);
        let said = |name: &str, routes: &str| Member {
            name: name.to_owned(),
            instance: format!("uid-{name}"),
            routes: routes.to_owned(),
        };
        let both = [said("a", "10.0.0.1:7300"), said("b", "[fd00::2]:7300")];
        assert_eq!(source.next().await, both);
        // Its end has begun: it still has its sessions.
        publish(vec![pod("a", "10.0.0.1", true), pod("b", "fd00::2", false)]);
        assert!(source.next().now_or_never().is_none(), "no other members");
        publish(vec![pod("b", "fd00::2", false)]);
        assert_eq!(source.next().await, both[1..]);
        publish(Vec::new());
        assert_eq!(source.next().await, [], "an empty list is a list");
    }

    #[tokio::test]
    async fn what_can_not_be_watched_is_an_error_at_the_start() {
        let pods: PodMembersConfig =
            serde_json::from_str(r#"{"selector": "app=x", "kubeconfig": "/nowhere/kubeconfig"}"#).unwrap();
        assert_eq!(pods.routes_port, 7_300);
        let config = MembersConfig {
            pods: Some(pods),
            ..MembersConfig::default()
        };
        let fault = Membership::connect(&config).await.unwrap_err().to_string();
        assert!(fault.contains("/nowhere/kubeconfig"), "{fault}");
    }
}
