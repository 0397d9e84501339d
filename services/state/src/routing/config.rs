//! What a routing replica can be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use imaccess_common::business::{self, BusinessConfig};
use imaccess_common::config::{ByteSize, duration};
use imaccess_common::tls::TlsConfig;
use serde::{Deserialize, Serialize};

use super::membership::Member;

/// Configuration of the routing role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoutingConfig {
    /// The cluster's id; a sidecar of another cluster is refused.
    pub cluster: String,
    /// Where the push API listens: gRPC and HTTP/JSON.
    pub push_listen: SocketAddr,
    /// Where metrics, health and readiness are served.
    pub admin_listen: SocketAddr,
    /// This replica's certificate: for the push API, which is plain without it, and for dialling sidecars.
    pub tls: Option<TlsConfig>,
    /// The name that every sidecar's certificate has; needed with `tls`.
    pub sidecar_name: Option<String>,
    /// Names of client certificates that may push for any business. With neither these nor `push_tokens` everyone may
    /// push for any business.
    pub push_clients: Vec<String>,
    /// How service accounts' tokens are verified; whose may push for which business is said by the businesses'
    /// `pushers`.
    pub push_tokens: Option<PushTokensConfig>,
    /// The business services; of them, `id`, `pushers` and `push_rate` matter here.
    pub businesses: Vec<BusinessConfig>,
    /// A YAML list of more of them, read again when it changes.
    pub businesses_file: Option<PathBuf>,
    /// Which instances live.
    pub members: MembersConfig,
    /// A stream without a sign of life for this long is broken, and its instance suspect. A stream that breaks by
    /// itself makes its instance suspect at once.
    #[serde(with = "duration")]
    pub suspect_after: Duration,
    /// A suspect instance is dead after this long: longer than both dead-man timers (90 s) of a pod, so that no
    /// client can still be connected there.
    #[serde(with = "duration")]
    pub dead_after: Duration,
    /// How long the sessions of a dead instance may resume elsewhere before its devices are offline; the same as the
    /// sidecars'.
    #[serde(with = "duration")]
    pub resume_window: Duration,
    /// A push without a receipt for this long answers retry.
    #[serde(with = "duration")]
    pub receipt_timeout: Duration,
    /// Longest pause between two attempts to reach a sidecar.
    #[serde(with = "duration")]
    pub reconnect_max: Duration,
    /// Pushed devices that may wait for receipts; more answer retry. About 100 bytes each.
    pub pushes_in_flight: usize,
    /// Bytes that may wait to be sent to one instance; what exceeds it answers retry.
    pub instance_queue: ByteSize,
}

/// How the tokens of Kubernetes service accounts are verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushTokensConfig {
    /// The issuer that tokens must name. Left out: that of the token in `token`, which the API server issued.
    #[serde(default)]
    pub issuer: Option<String>,
    /// Where the API server's key set is: an address, such as
    /// `https://kubernetes.default.svc/openid/v1/jwks`, or a file.
    pub jwks: String,
    /// The audience that tokens must be for. One of its own keeps tokens for other services out, the API server's own
    /// among them.
    pub audience: String,
    /// Certificates of those who may have issued the API server's; needed for `https`.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// This pod's own token, sent when the key set is fetched by `https`. Read again each time.
    #[serde(default)]
    pub token: Option<PathBuf>,
}

impl PushTokensConfig {
    /// Whether the key set is fetched, not read from a file.
    pub(crate) fn jwks_is_url(&self) -> bool {
        self.jwks.starts_with("https://") || self.jwks.starts_with("http://")
    }

    fn check(&self) -> Result<(), String> {
        let fault = |text: &str| Err(format!("push_tokens.{text}"));
        if self.audience.is_empty() {
            return fault("audience: must not be empty");
        }
        if self.jwks.is_empty() {
            return fault("jwks: name an address or a file with the API server's key set");
        }
        if self.jwks.starts_with("https://") && self.ca.is_none() {
            return fault("ca: must name the API server's authority, as jwks is fetched by https");
        }
        if self.issuer.is_none() && self.token.is_none() {
            return fault("issuer: must be given, or a token that tells it");
        }
        Ok(())
    }
}

impl RoutingConfig {
    /// Whether what belongs together is there: nothing may be open that was meant to be closed.
    pub(crate) fn check_access(&self) -> Result<(), String> {
        let closed = !self.push_clients.is_empty() || self.push_tokens.is_some();
        if let Some(tokens) = &self.push_tokens {
            tokens.check()?;
        }
        match &self.tls {
            None if !self.push_clients.is_empty() => {
                Err("push_clients: needs `tls`, as names are proved by certificates".to_owned())
            }
            None if closed => {
                Err("push_tokens: needs `tls`, as a token on a plain connection is anyone's".to_owned())
            }
            None if self.sidecar_name.is_some() => {
                Err("sidecar_name: needs `tls`, as names are proved by certificates".to_owned())
            }
            Some(_) if self.sidecar_name.is_none() => Err(
                "sidecar_name: must be given with `tls`: the name in the sidecars' certificates".to_owned(),
            ),
            Some(_) if !closed => Err(
                "push_clients: with `tls` it must be said who may push, by push_clients or push_tokens"
                    .to_owned(),
            ),
            _ => business::validate_all(&self.businesses).map_err(|fault| format!("businesses: {fault}")),
        }
    }
}

/// Where to learn which instances live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MembersConfig {
    /// A JSON file, read again when it changes: `{"gateways": [{"name", "instance", "routes"}]}`. Written whole and
    /// renamed into place. Takes precedence over `fixed`.
    pub file: Option<PathBuf>,
    /// How often the file is looked at.
    #[serde(with = "duration")]
    pub file_interval: Duration,
    /// The instances themselves, where they don't change.
    pub fixed: Vec<Member>,
    /// The pods of a Kubernetes cluster; instead of `file` and `fixed`.
    pub pods: Option<PodMembersConfig>,
}

/// Gateway pods as members: a pod's UID is its instance id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodMembersConfig {
    /// Their namespace; by default the service account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Their labels, as in `kubectl -l`.
    pub selector: String,
    /// Where each pod's sidecar serves its routes.
    #[serde(default = "routes_port")]
    pub routes_port: u16,
    /// How to reach the API server from outside a pod; by default what `KUBECONFIG` names, else the service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
}

/// The sidecars' usual route feed.
fn routes_port() -> u16 {
    7_300
}

impl Default for RoutingConfig {
    fn default() -> RoutingConfig {
        RoutingConfig {
            cluster: "default".to_owned(),
            push_listen: SocketAddr::from(([127, 0, 0, 1], 8100)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8101)),
            tls: None,
            sidecar_name: None,
            push_clients: Vec::new(),
            push_tokens: None,
            businesses: Vec::new(),
            businesses_file: None,
            members: MembersConfig::default(),
            suspect_after: Duration::from_secs(10),
            dead_after: Duration::from_secs(100),
            resume_window: Duration::from_secs(30),
            receipt_timeout: Duration::from_secs(5),
            reconnect_max: Duration::from_millis(500),
            pushes_in_flight: 1_000_000,
            instance_queue: ByteSize(32 << 20),
        }
    }
}

impl Default for MembersConfig {
    fn default() -> MembersConfig {
        MembersConfig {
            file: None,
            file_interval: Duration::from_millis(200),
            fixed: Vec::new(),
            pods: None,
        }
    }
}
