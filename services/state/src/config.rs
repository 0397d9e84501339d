//! The sidecar's configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imaccess_common::business::{self, BusinessConfig};
use imaccess_common::config::{ByteSize, duration};
use imaccess_common::ticket::{MAX_KEY_ID, TicketKeys};
use imaccess_common::tls::TlsConfig;
use imaccess_common::token::{DevelopmentVerifier, PublicKey};
use serde::{Deserialize, Serialize};

/// Half of it is for the other side to answer.
const LEAST_SILENCE: Duration = Duration::from_millis(100);

/// Everything a sidecar can be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SidecarConfig {
    /// The cluster's id: part of tickets and tokens, told to businesses and routing.
    pub cluster: String,
    /// The directory with the gateway's sockets, `shard-<n>.sock`.
    pub socket_dir: PathBuf,
    /// A gateway that answers nothing on a link for this long, not even its pings, is taken for gone: it hangs, or its process is
    /// stopped. `custody_sockets` counts from then on.
    #[serde(with = "duration")]
    pub gateway_silence: Duration,
    /// Whether this sidecar keeps a second descriptor of the gateway's sockets and listeners, so that the gateway can be
    /// replaced, or killed, without closing a connection.
    pub custody: bool,
    /// Without a gateway for this long the held listeners are closed: they complete handshakes into nothing.
    #[serde(with = "duration")]
    pub custody_listeners: Duration,
    /// Without a gateway for this long the held sockets are shut down: shorter than the 100 s after which routing declares
    /// the instance dead.
    #[serde(with = "duration")]
    pub custody_sockets: Duration,
    /// Where routing replicas dial.
    pub route_listen: SocketAddr,
    /// This sidecar's certificate. With it routing replicas must have one too; without, routes are served in plain.
    pub tls: Option<TlsConfig>,
    /// Names of the certificates that may follow the routes; needed with `tls`.
    pub route_clients: Vec<String>,
    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub admin_listen: SocketAddr,
    /// Whether there is a routing layer to wait for before a device is said to be offline.
    pub routing: RoutingMode,
    /// Keys that seal and open tickets; the first seals. The same in the whole cluster.
    pub ticket_keys: Vec<TicketKeyConfig>,
    /// A file with more of them: a line each, `id key`.
    pub ticket_keys_file: Option<PathBuf>,
    /// Public keys of token issuers.
    pub token_keys: Vec<TokenKeyConfig>,
    /// A directory with more of them: `<key id>.pem` each.
    pub token_keys_dir: Option<PathBuf>,
    /// The business services.
    pub businesses: Vec<BusinessConfig>,
    /// A YAML list of more of them, read again when it changes.
    pub businesses_file: Option<PathBuf>,
    /// Seconds between a client's pings.
    #[serde(with = "duration")]
    pub ping_interval: Duration,
    /// How long a session without a connection may be resumed.
    #[serde(with = "duration")]
    pub resume_window: Duration,
    /// How long a ticket is good: the longest time a connection may last and still be resumed.
    #[serde(with = "duration")]
    pub ticket_lifetime: Duration,
    /// Requests in flight per session.
    pub max_in_flight: u16,
    /// Logins that may wait, per worker; more are refused with a retry-after.
    pub login_queue: usize,
    /// Token signatures checked per turn and worker, 60–100 µs each.
    pub token_checks_per_turn: usize,
    /// Replies kept for clients that repeat a request, per worker.
    pub reply_cache: ByteSize,
    /// How long, when the sidecar is replaced, requests in flight may take before they are answered retry; and then
    /// businesses to acknowledge events.
    #[serde(with = "duration")]
    pub drain_grace: Duration,
    /// When the gateway has gone before the sidecar, as at the end of a pod: how long sessions may take to go on elsewhere, or to be over
    /// and told. Without one: `resume_window` and 5 s. 0: the sidecar doesn't wait.
    #[serde(with = "duration::option")]
    pub end_grace: Option<Duration>,
    /// Events kept for a business that is away, per worker and business.
    pub event_backlog: ByteSize,
}

/// After this time without a word of an instance routing takes it for dead.
const INSTANCE_DEAD: Duration = Duration::from_secs(100);

/// Beyond the resume window, at the pod's end: for routing to confirm ends, and businesses to acknowledge them.
const END_MARGIN: Duration = Duration::from_secs(5);

/// How long leaving a gateway that goes on may take, every step at its limit.
const LEAVING: Duration = Duration::from_secs(5);

/// Whether there is a routing layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoutingMode {
    /// A device is offline only when a replica in sync says that nobody else has it.
    #[default]
    Required,
    /// A single pod: what it knows is all there is.
    None,
}

/// One ticket key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TicketKeyConfig {
    /// Names it in tickets; at most 127.
    pub id: u8,
    /// 32 bytes in hexadecimal.
    pub key: String,
}

/// One token issuer's public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenKeyConfig {
    /// The key id in tokens; empty: the key's thumbprint.
    #[serde(default)]
    pub id: String,
    /// The key in PEM.
    #[serde(default)]
    pub pem: String,
    /// A file with it, instead.
    #[serde(default)]
    pub file: Option<PathBuf>,
}

/// Why a sidecar can't be made from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum SidecarConfigError {
    /// A value that can't be used.
    #[error("{0}")]
    Invalid(String),
    /// A file or directory that can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Default for SidecarConfig {
    fn default() -> Self {
        Self {
            cluster: "local".to_owned(),
            socket_dir: PathBuf::from("/run/imaccess"),
            gateway_silence: Duration::from_secs(6),
            custody: true,
            custody_listeners: Duration::from_secs(10),
            custody_sockets: Duration::from_secs(90),
            route_listen: SocketAddr::from(([0, 0, 0, 0], 7_300)),
            tls: None,
            route_clients: Vec::new(),
            admin_listen: SocketAddr::from(([0, 0, 0, 0], 9_301)),
            routing: RoutingMode::Required,
            ticket_keys: Vec::new(),
            ticket_keys_file: None,
            token_keys: Vec::new(),
            token_keys_dir: None,
            businesses: Vec::new(),
            businesses_file: None,
            ping_interval: Duration::from_secs(60),
            resume_window: Duration::from_secs(30),
            ticket_lifetime: Duration::from_secs(7 * 24 * 3_600),
            max_in_flight: 64,
            login_queue: 8_192,
            token_checks_per_turn: 16,
            reply_cache: ByteSize(4 * 1024 * 1024),
            drain_grace: Duration::from_millis(300),
            end_grace: None,
            event_backlog: ByteSize(4 * 1024 * 1024),
        }
    }
}

impl SidecarConfig {
    /// Checks what can be checked without I/O.
    ///
    /// # Errors
    /// Says which value is wrong and how it should be.
    pub fn validate(&self) -> Result<(), SidecarConfigError> {
        let fault = |what: &str| Err(SidecarConfigError::Invalid(what.to_owned()));
        if self.cluster.is_empty() {
            return fault("cluster must not be empty");
        }
        if self.ping_interval < Duration::from_secs(1) {
            return fault("ping_interval must be at least 1s");
        }
        if self.gateway_silence < LEAST_SILENCE {
            return fault(
                "gateway_silence must be at least 100ms: a gateway that is merely busy would be taken for gone",
            );
        }
        if self.custody_listeners.is_zero() || self.custody_listeners >= self.custody_sockets {
            return fault(
                "custody_listeners must be above 0s and below custody_sockets: sockets are what a gateway that comes late \
                 still wants",
            );
        }
        if self.custody_sockets >= INSTANCE_DEAD {
            return fault(
                "custody_sockets must be below 100s: then routing takes the instance for dead, and its devices for offline",
            );
        }
        if self.max_in_flight == 0 || self.login_queue == 0 || self.token_checks_per_turn == 0 {
            return fault("max_in_flight, login_queue and token_checks_per_turn must be at least 1");
        }
        if self.tls.is_some() == self.route_clients.is_empty() {
            return fault(
                "tls and route_clients belong together: whose certificates may follow the routes must be said, and can only \
                 be proved with certificates",
            );
        }
        if self.businesses.len() > usize::from(u16::MAX) {
            return fault("there are more than 65,535 businesses");
        }
        business::validate_all(&self.businesses).map_err(SidecarConfigError::Invalid)
    }

    /// How long sessions may take at the pod's end.
    #[must_use]
    pub fn end_grace(&self) -> Duration {
        self.end_grace.unwrap_or(self.resume_window + END_MARGIN)
    }

    /// How long the end may take, whichever way it goes.
    #[must_use]
    pub fn drain_time(&self) -> Duration {
        LEAVING.max(self.end_grace() + Duration::from_secs(1))
    }

    /// The files and directories with keys.
    pub(crate) fn token_paths(&self) -> Vec<PathBuf> {
        let files = self.token_keys.iter().filter_map(|key| key.file.clone());
        files.chain(self.token_keys_dir.clone()).collect()
    }

    /// Reads the ticket keys. Without any, one is made up, good for this process only.
    /// When none `may_be_made_up`, that is a fault.
    pub(crate) fn load_ticket_keys(&self, may_be_made_up: bool) -> Result<TicketKeys, SidecarConfigError> {
        let mut keys = Vec::new();
        for key in &self.ticket_keys {
            keys.push((key.id, parse_key(&key.key)?));
        }
        if let Some(path) = &self.ticket_keys_file {
            for line in read(path)?.lines().map(str::trim).filter(|line| !line.is_empty()) {
                let (id, key) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
                let fault =
                    || SidecarConfigError::Invalid(format!("{}: a line must read: id key", path.display()));
                keys.push((id.parse().map_err(|_| fault())?, parse_key(key.trim())?));
            }
        }
        if let Some((id, _)) = keys.iter().find(|(id, _)| *id > MAX_KEY_ID) {
            return Err(SidecarConfigError::Invalid(format!(
                "ticket key id {id}: ids are 0 to {MAX_KEY_ID}, higher numbers are generations of tickets"
            )));
        }
        if keys.is_empty() && !may_be_made_up {
            return Err(SidecarConfigError::Invalid(
                "there is no ticket key any more".to_owned(),
            ));
        }
        if keys.is_empty() {
            tracing::warn!(
                "no ticket_keys: sessions can't be resumed after a restart, nor on another gateway"
            );
            let mut key = [0; 32];
            getrandom::fill(&mut key).map_err(|fault| {
                SidecarConfigError::Invalid(format!("no random key can be made: {fault}"))
            })?;
            keys.push((0, key));
        }
        Ok(TicketKeys::new(&self.cluster, keys))
    }

    /// Reads the token issuers' public keys.
    pub(crate) fn load_verifier(&self) -> Result<DevelopmentVerifier, SidecarConfigError> {
        let mut keys = Vec::new();
        for key in &self.token_keys {
            let pem = match &key.file {
                Some(path) => read(path)?,
                None => key.pem.clone(),
            };
            keys.push(public_key(&key.id, &pem)?);
        }
        if let Some(directory) = &self.token_keys_dir {
            let fault = |source| SidecarConfigError::Read {
                path: directory.clone(),
                source,
            };
            for entry in std::fs::read_dir(directory).map_err(fault)? {
                let path = entry.map_err(fault)?.path();
                if path.extension().is_some_and(|extension| extension == "pem") {
                    let id = path
                        .file_stem()
                        .and_then(|stem| stem.to_str())
                        .unwrap_or_default();
                    keys.push(public_key(id, &read(&path)?)?);
                }
            }
        }
        if keys.is_empty() {
            tracing::warn!("no token keys: nobody can log in for the first time");
        }
        Ok(DevelopmentVerifier::new(&self.cluster, keys))
    }
}

fn parse_key(text: &str) -> Result<[u8; 32], SidecarConfigError> {
    let mut key = [0; 32];
    // What is wrong is not shown: the text is a secret.
    hex::decode_to_slice(text, &mut key)
        .map_err(|_| SidecarConfigError::Invalid("a ticket key must be 64 hexadecimal digits".to_owned()))?;
    Ok(key)
}

fn public_key(id: &str, pem: &str) -> Result<PublicKey, SidecarConfigError> {
    let key = if id.is_empty() {
        PublicKey::from_pem_by_thumbprint(pem)
    } else {
        PublicKey::from_pem(id, pem)
    };
    key.map_err(|fault| SidecarConfigError::Invalid(format!("token key {id:?}: {fault}")))
}

fn read(path: &Path) -> Result<String, SidecarConfigError> {
    std::fs::read_to_string(path).map_err(|source| SidecarConfigError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_faults_are_named() {
        assert!(SidecarConfig::default().validate().is_ok());
        let bad = SidecarConfig {
            cluster: String::new(),
            ..SidecarConfig::default()
        };
        assert!(bad.validate().unwrap_err().to_string().contains("cluster"));
        let with = |listeners, sockets| SidecarConfig {
            custody_listeners: Duration::from_secs(listeners),
            custody_sockets: Duration::from_secs(sockets),
            ..SidecarConfig::default()
        };
        for (bad, named) in [
            (with(0, 9), "custody_listeners"),
            (with(9, 9), "custody_listeners"),
            (with(9, 100), "100s"),
        ] {
            let fault = bad.validate().unwrap_err().to_string();
            assert!(fault.contains(named), "{fault}");
        }
        assert!(with(9, 10).validate().is_ok());
        let half = SidecarConfig {
            route_clients: vec!["routing".to_owned()],
            ..SidecarConfig::default()
        };
        let fault = half.validate().unwrap_err().to_string();
        assert!(fault.contains("route_clients"), "{fault}");
        let bad = TicketKeyConfig {
            id: 1,
            key: "secret".to_owned(),
        };
        let bad = SidecarConfig {
            ticket_keys: vec![bad],
            ..SidecarConfig::default()
        };
        let fault = bad.load_ticket_keys(true).unwrap_err().to_string();
        assert!(fault.contains("64") && !fault.contains("secret"), "{fault}");
        let high = TicketKeyConfig {
            id: 128,
            key: "ab".repeat(32),
        };
        let bad = SidecarConfig {
            ticket_keys: vec![high],
            ..SidecarConfig::default()
        };
        let fault = bad.load_ticket_keys(true).unwrap_err().to_string();
        assert!(fault.contains("128") && fault.contains("127"), "{fault}");
    }

    #[test]
    fn keys_come_from_files_too() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tickets");
        std::fs::write(&file, format!("1 {}\n\n2 {}\n", "ab".repeat(32), "cd".repeat(32))).unwrap();
        let config = SidecarConfig {
            ticket_keys_file: Some(file),
            token_keys_dir: Some(directory.path().to_owned()),
            ..SidecarConfig::default()
        };
        assert_eq!(format!("{:?}", config.load_ticket_keys(true).unwrap()), "[1, 2]");
        assert!(config.load_verifier().is_ok());
        std::fs::write(directory.path().join("bad.pem"), "no key").unwrap();
        assert!(config.load_verifier().is_err());
    }
}
