//! Which gateways there are: a list in the configuration, a file that is read again when it changes, or the pods of
//! a Kubernetes cluster. Whatever can't be read or understood changes nothing: the last good list stays.

mod file;
mod pods;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::file::WatchedFile;
pub(crate) use self::pods::{PodCounts, PodRules, PodTargets};

/// Gateways at most: each is a connection and a page per scrape.
const MAX_GATEWAYS: usize = 4_096;
/// Protocols a gateway offers at most; bounds an answer.
const MAX_ENDPOINTS: usize = 8;

/// The file's form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetFile {
    /// Every gateway of the cluster.
    pub gateways: Vec<GatewayTarget>,
}

/// One gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayTarget {
    /// Its name, unlike any other's.
    pub name: String,
    /// Where its metrics page is: `host:port`.
    pub metrics: String,
    /// Where clients connect, best protocol first.
    pub endpoints: Vec<EndpointTarget>,
    /// Whether it is known to be going away, whatever its page says: a pod that is terminating.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// One way to connect to a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointTarget {
    /// `tcp`, `tls`, `ws`, `wss`, `quic`.
    pub protocol: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The name in its certificate, where the protocol has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// Checks that names differ and addresses can be used.
pub(crate) fn validate(gateways: &[GatewayTarget]) -> Result<(), String> {
    if gateways.len() > MAX_GATEWAYS {
        return Err(format!(
            "{} gateways are more than {MAX_GATEWAYS}",
            gateways.len()
        ));
    }
    let mut names = HashSet::new();
    for gateway in gateways {
        let fault = |what: &str| Err(format!("gateway {:?}: {what}", gateway.name));
        if gateway.name.is_empty() {
            return fault("`name` must not be empty");
        }
        if !names.insert(gateway.name.as_str()) {
            return fault("two gateways have this `name`");
        }
        let host_and_port = gateway
            .metrics
            .rsplit_once(':')
            .map(|(host, port)| (host, port.parse::<u16>()));
        if !matches!(host_and_port, Some((host, Ok(1..))) if !host.is_empty()) {
            return fault(&format!(
                "`metrics` is {:?} and must read host:port",
                gateway.metrics
            ));
        }
        validate_endpoints(&gateway.endpoints).or_else(|what| fault(&what))?;
    }
    Ok(())
}

/// Checks that there are some, not too many, and each can be connected to.
fn validate_endpoints(endpoints: &[EndpointTarget]) -> Result<(), String> {
    if endpoints.is_empty() || endpoints.len() > MAX_ENDPOINTS {
        return Err(format!("`endpoints` must have 1 to {MAX_ENDPOINTS} entries"));
    }
    let usable = |end: &EndpointTarget| !end.protocol.is_empty() && !end.host.is_empty() && end.port != 0;
    if !endpoints.iter().all(usable) {
        return Err("each of `endpoints` needs a protocol, a host and a port".to_owned());
    }
    Ok(())
}

/// The source of the list.
#[derive(Debug)]
pub(crate) struct Targets {
    current: Vec<Arc<GatewayTarget>>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The list is what it is.
    Fixed,
    File(WatchedFile),
    Pods(PodTargets),
}

/// What a look at the source found.
#[derive(Debug)]
pub(crate) enum Change {
    /// Nothing new.
    None,
    /// Another list: see [`Targets::current`].
    List,
    /// A list that can't be used; the last one stays. Reported once per change of the source.
    Fault(String),
}

impl Targets {
    /// A list that doesn't change.
    pub(crate) fn fixed(gateways: Vec<GatewayTarget>) -> Targets {
        Targets {
            current: gateways.into_iter().map(Arc::new).collect(),
            source: Source::Fixed,
        }
    }

    /// The list in a file, empty until the first [`refresh`](Targets::refresh).
    pub(crate) fn file(path: PathBuf) -> Targets {
        Targets {
            current: Vec::new(),
            source: Source::File(WatchedFile::new(path)),
        }
    }

    /// The pods that a watch sees, none until the first [`refresh`](Targets::refresh) after its first list.
    pub(crate) fn pods(pods: PodTargets) -> Targets {
        Targets {
            current: Vec::new(),
            source: Source::Pods(pods),
        }
    }

    /// The last good list.
    pub(crate) fn current(&self) -> &[Arc<GatewayTarget>] {
        &self.current
    }

    /// What the pods' watch has seen, if there is one.
    pub(crate) fn pod_counts(&self) -> Option<PodCounts> {
        match &self.source {
            Source::Pods(pods) => Some(pods.counts()),
            Source::Fixed | Source::File(_) => None,
        }
    }

    /// Waits until a [`refresh`](Targets::refresh) is due at once; for ever where looking now and then is the way.
    /// Cancelling loses nothing.
    pub(crate) async fn changed(&mut self) {
        match &mut self.source {
            Source::Pods(pods) => pods.changed().await,
            Source::Fixed | Source::File(_) => std::future::pending().await,
        }
    }

    /// Looks whether the source says another list, and takes it if so.
    pub(crate) fn refresh(&mut self) -> Change {
        let read = match &mut self.source {
            Source::Fixed => None,
            Source::File(file) => file.refresh(),
            Source::Pods(pods) => pods.refresh(),
        };
        match read {
            None => Change::None,
            Some(Err(fault)) => Change::Fault(fault),
            Some(Ok(gateways)) => {
                let same = self.current.iter().map(Arc::as_ref).eq(&gateways);
                self.current = gateways.into_iter().map(Arc::new).collect();
                // A file that was written again is told, so that who wrote it sees that it was read.
                if same && matches!(self.source, Source::Pods(_)) {
                    Change::None
                } else {
                    Change::List
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
