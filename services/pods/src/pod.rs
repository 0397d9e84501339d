//! A pod, as far as anybody here needs it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1;

/// Annotations with other prefixes aren't kept: they are other people's, change for their reasons, and can be long.
const ANNOTATION_PREFIX: &str = "imaccess.io/";

/// A moment's pods, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pods {
    pods: Vec<Arc<Pod>>,
}

/// One pod that has an address and hasn't ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name, unlike any other's in the namespace at the same time.
    pub name: String,
    /// Its UID, unlike any other's ever.
    pub uid: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its node; empty if not told.
    pub node: String,
    /// Its node's address.
    pub host_ip: Option<IpAddr>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations under `imaccess.io/`.
    pub annotations: BTreeMap<String, String>,
    /// Whether its condition `Ready` holds.
    pub ready: bool,
    /// Whether its end has begun (it has a deletion timestamp). It may serve for as long as its grace lasts.
    pub terminating: bool,
    /// Where its life has got to.
    pub phase: Phase,
}

/// A pod's phase; ended ones aren't kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not all containers have been started.
    Pending,
    /// It runs.
    Running,
    /// Its node can't be asked, or a phase that this version doesn't know.
    Unknown,
}

/// What an object of the API says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A pod that counts.
    Pod(Box<Pod>),
    /// It has no address (yet).
    NoAddress {
        /// The pod's name.
        name: String,
        /// Its UID.
        uid: String,
        /// Whether its end has begun.
        terminating: bool,
    },
    /// It has ended (`Failed`, `Succeeded`): there is nothing behind its address any more.
    Ended {
        /// The pod's name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// It has no name or no UID, which the API server never says.
    Nameless,
}

impl Pods {
    pub(crate) fn new(pods: Vec<Arc<Pod>>) -> Pods {
        Pods { pods }
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().map(Arc::as_ref)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

impl FromIterator<Pod> for Pods {
    fn from_iter<I: IntoIterator<Item = Pod>>(pods: I) -> Pods {
        let by_name: BTreeMap<String, Arc<Pod>> = pods
            .into_iter()
            .map(|pod| (pod.name.clone(), Arc::new(pod)))
            .collect();
        Pods::new(by_name.into_values().collect())
    }
}

impl Seen {
    /// Reads an object.
    pub(crate) fn of(object: v1::Pod) -> Seen {
        let (metadata, status) = (object.metadata, object.status.unwrap_or_default());
        let (Some(name), Some(uid)) = (metadata.name, metadata.uid) else {
            return Seen::Nameless;
        };
        let phase = match status.phase.as_deref() {
            Some("Failed" | "Succeeded") => return Seen::Ended { name, uid },
            Some("Pending") | None => Phase::Pending,
            Some("Running") => Phase::Running,
            Some(_) => Phase::Unknown,
        };
        let terminating = metadata.deletion_timestamp.is_some();
        let address = |text: Option<String>| text.and_then(|text| text.parse::<IpAddr>().ok());
        let Some(ip) = address(status.pod_ip) else {
            return Seen::NoAddress {
                name,
                uid,
                terminating,
            };
        };
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.retain(|key, _| key.starts_with(ANNOTATION_PREFIX));
        let conditions = status.conditions.unwrap_or_default();
        Seen::Pod(Box::new(Pod {
            name,
            uid,
            ip,
            node: object.spec.and_then(|spec| spec.node_name).unwrap_or_default(),
            host_ip: address(status.host_ip),
            labels: metadata.labels.unwrap_or_default(),
            annotations,
            ready: conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            terminating,
            phase,
        }))
    }
}
