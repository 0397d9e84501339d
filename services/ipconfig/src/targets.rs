//! Which gateways there are: a list in the configuration, or a file that is read again when it changes.
//!
//! The file is JSON or YAML: `{gateways: [{name, metrics: "host:port", endpoints: [{protocol, host, port, server_name?}]}]}`.
//! Who writes it writes a new file and renames it over the old one. A file that can't be read or understood changes
//! nothing: the last good list stays.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Gateways at most: each is a connection and a page per scrape.
const MAX_GATEWAYS: usize = 4_096;
/// Protocols a gateway offers at most; bounds an answer.
const MAX_ENDPOINTS: usize = 8;
/// Bytes of the file at most: four thousand gateways with eight endpoints each.
const MAX_FILE: u64 = 8 << 20;

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
        if gateway.endpoints.is_empty() || gateway.endpoints.len() > MAX_ENDPOINTS {
            return fault(&format!("`endpoints` must have 1 to {MAX_ENDPOINTS} entries"));
        }
        let usable = |end: &EndpointTarget| !end.protocol.is_empty() && !end.host.is_empty() && end.port != 0;
        if !gateway.endpoints.iter().all(usable) {
            return fault("each of `endpoints` needs a protocol, a host and a port");
        }
    }
    Ok(())
}

/// The source of the list.
#[derive(Debug)]
pub(crate) struct Targets {
    current: Vec<Arc<GatewayTarget>>,
    file: Option<WatchedFile>,
}

#[derive(Debug)]
struct WatchedFile {
    path: PathBuf,
    /// What the file looked like when it was last read, well or badly.
    seen: Option<Stamp>,
}

/// Changes whenever the file is replaced or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

/// What a look at the source found.
#[derive(Debug)]
pub(crate) enum Change {
    /// Nothing new.
    None,
    /// Another list: see [`Targets::current`].
    List,
    /// A file that can't be used; the last list stays. Reported once per change of the file.
    Fault(String),
}

impl Targets {
    /// A list that doesn't change.
    pub(crate) fn fixed(gateways: Vec<GatewayTarget>) -> Targets {
        Targets {
            current: gateways.into_iter().map(Arc::new).collect(),
            file: None,
        }
    }

    /// The list in a file, empty until the first [`refresh`](Targets::refresh).
    pub(crate) fn file(path: PathBuf) -> Targets {
        Targets {
            current: Vec::new(),
            file: Some(WatchedFile { path, seen: None }),
        }
    }

    /// The last good list.
    pub(crate) fn current(&self) -> &[Arc<GatewayTarget>] {
        &self.current
    }

    /// Looks whether the file has changed, and reads it if so. A `stat` a second, and a read of a local file when
    /// there is something new: short enough to do in place.
    pub(crate) fn refresh(&mut self) -> Change {
        let Some(file) = &mut self.file else {
            return Change::None;
        };
        let metadata = match fs::metadata(&file.path) {
            Ok(metadata) => metadata,
            // Gone for the moment of a replacement, or for good: either way nothing is known to have changed.
            Err(_) if file.seen.is_none() => return Change::None,
            Err(fault) => {
                file.seen = None;
                return Change::Fault(format!("{}: {fault}", file.path.display()));
            }
        };
        let stamp = Stamp::of(&metadata);
        if file.seen == Some(stamp) {
            return Change::None;
        }
        file.seen = Some(stamp);
        match read(file) {
            Ok(list) => {
                self.current = list.gateways.into_iter().map(Arc::new).collect();
                Change::List
            }
            Err(fault) => Change::Fault(format!("{}: {fault}", file.path.display())),
        }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

fn read(file: &WatchedFile) -> Result<TargetFile, String> {
    if file.seen.is_some_and(|seen| seen.length > MAX_FILE) {
        return Err(format!("it is larger than {MAX_FILE} bytes"));
    }
    let text = fs::read_to_string(&file.path).map_err(|fault: io::Error| fault.to_string())?;
    // JSON is YAML, too.
    let list: TargetFile = serde_yaml::from_str(&text).map_err(|fault| fault.to_string())?;
    validate(&list.gateways)?;
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"gateways": [{"name": "g1", "metrics": "10.0.0.1:9100",
        "endpoints": [{"protocol": "tcp", "host": "10.0.0.1", "port": 7000}]}]}"#;
    const TWO: &str = "
gateways:
- {name: g1, metrics: '10.0.0.1:9100', endpoints: [{protocol: tcp, host: 10.0.0.1, port: 7000}]}
- name: g2
  metrics: '[::1]:9100'
  endpoints: [{protocol: tls, host: g2.example, port: 443, server_name: g2.example}]
";

    fn names(targets: &Targets) -> Vec<&str> {
        targets
            .current()
            .iter()
            .map(|target| target.name.as_str())
            .collect()
    }

    #[test]
    fn a_file_is_read_when_it_changes_and_kept_when_it_is_bad() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("targets");
        // A new file renamed over the old one, as a writer should.
        let replace = |text: &str| {
            fs::write(directory.path().join("new"), text).unwrap();
            fs::rename(directory.path().join("new"), &path).unwrap();
        };
        let mut targets = Targets::file(path.clone());
        assert!(
            matches!(targets.refresh(), Change::None),
            "a file that isn't there yet is awaited"
        );
        replace(ONE);
        assert!(matches!(targets.refresh(), Change::List));
        assert!(matches!(targets.refresh(), Change::None));
        assert_eq!(names(&targets), ["g1"]);
        replace(TWO);
        assert!(matches!(targets.refresh(), Change::List));
        assert_eq!(names(&targets), ["g1", "g2"]);
        assert_eq!(
            targets.current()[1].endpoints[0].server_name.as_deref(),
            Some("g2.example")
        );

        replace("{gateways: [");
        assert!(matches!(targets.refresh(), Change::Fault(fault) if fault.contains("targets")));
        assert!(matches!(targets.refresh(), Change::None), "a fault is told once");
        fs::remove_file(&path).unwrap();
        assert!(matches!(targets.refresh(), Change::Fault(_)));
        assert!(matches!(targets.refresh(), Change::None));
        assert_eq!(names(&targets), ["g1", "g2"]);
        replace("{gateways: []}");
        assert!(matches!(targets.refresh(), Change::List));
        assert!(targets.current().is_empty());
    }

    #[test]
    fn lists_that_can_not_be_used_are_refused() {
        let good: TargetFile = serde_yaml::from_str(TWO).unwrap();
        assert_eq!(validate(&good.gateways), Ok(()));
        type Case = (&'static str, fn(&mut GatewayTarget));
        let table: [Case; 9] = [
            ("name", |target| target.name.clear()),
            ("two gateways", |target| target.name = "g1".to_owned()),
            ("host:port", |target| target.metrics = "10.0.0.1".to_owned()),
            ("host:port", |target| target.metrics = "10.0.0.1:0".to_owned()),
            ("host:port", |target| target.metrics = ":9100".to_owned()),
            ("endpoints", |target| target.endpoints.clear()),
            ("endpoints", |target| {
                target.endpoints = vec![target.endpoints[0].clone(); MAX_ENDPOINTS + 1];
            }),
            ("port", |target| target.endpoints[0].port = 0),
            ("host", |target| target.endpoints[0].host.clear()),
        ];
        for (expected, change) in table {
            let mut bad = good.gateways.clone();
            change(&mut bad[1]);
            let fault = validate(&bad).unwrap_err();
            assert!(fault.contains(expected), "{fault:?} should say {expected}");
        }
        assert!(validate(&vec![good.gateways[0].clone(); MAX_GATEWAYS + 1]).is_err());
        assert!(serde_yaml::from_str::<TargetFile>("{gateways: [], more: 1}").is_err());
    }
}
