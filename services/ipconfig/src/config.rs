//! What ipconfig is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use imaccess_common::config::duration;
use imaccess_common::telemetry::LogFormat;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::businesses;
use crate::targets::{GatewayTarget, validate};

/// ipconfig's configuration; the defaults run (and know no gateway).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IpconfigConfig {
    /// The cluster whose endpoints it answers, and the audience of development tokens.
    pub cluster: String,
    /// Where clients ask.
    pub listen: SocketAddr,
    /// Where metrics, health and readiness are.
    pub admin: SocketAddr,
    /// Threads that answer, each with a listener of its own.
    pub workers: usize,
    /// Client connections at a time and worker. From half of them on, new ones get one answer each.
    pub connections: usize,
    /// A file with the gateways, read again when it changes; instead of `gateways`.
    pub targets_file: Option<PathBuf>,
    /// The gateways, for good; instead of `targets_file`.
    pub gateways: Vec<GatewayTarget>,
    /// The gateways as pods of a Kubernetes cluster; instead of `targets_file` and `gateways`.
    pub pods: Option<PodsConfig>,
    /// A Prometheus server that scrapes the gateways and is asked for their figures; by default ipconfig reads their
    /// pages itself.
    pub prometheus: Option<PrometheusConfig>,
    /// How often the gateways' metrics pages are read.
    #[serde(with = "duration")]
    pub scrape_interval: Duration,
    /// How long one page may take: a round ends when the slowest is in, and the next one waits for it.
    #[serde(with = "duration")]
    pub scrape_timeout: Duration,
    /// A gateway that can't be scraped for this long leaves the list, unless more than half can't be.
    #[serde(with = "duration")]
    pub absence: Duration,
    /// Length of the sliding window behind the scores.
    #[serde(with = "duration")]
    pub window: Duration,
    /// Seconds for which a client may use an answer again.
    pub ttl_s: u32,
    /// Seconds a client should wait before it asks again when nothing in the answer worked.
    pub retry_after_s: u32,
    /// The businesses' numbers and names, for people's commands.
    pub businesses: Vec<BusinessName>,
    /// A YAML list with more of them, read again when it changes; what else it says of a business is for others.
    pub businesses_file: Option<PathBuf>,
    /// Private key (PEM) of development tokens. With it, anyone who can reach ipconfig gets a token for any device:
    /// never outside development.
    pub development_signing_key: Option<PathBuf>,
    /// The key's id in tokens; by default it follows from the key.
    pub development_key_id: Option<String>,
    /// How long a development token is good.
    #[serde(with = "duration")]
    pub development_token_ttl: Duration,
    /// How its log looks.
    pub log: LogFormat,
}

/// Gateways that are pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodsConfig {
    /// Their namespace; by default the service account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Their labels, as in `kubectl -l`.
    pub selector: String,
    /// Where each pod's metrics page is.
    #[serde(default = "metrics_port")]
    pub metrics_port: u16,
    /// What clients connect to at a pod's own address, best protocol first.
    #[serde(default)]
    pub listeners: Vec<PodListener>,
    /// Whether clients can't use the pods' own addresses: a pod without an annotation `imaccess.io/endpoints` isn't
    /// listed yet.
    #[serde(default)]
    pub annotated_only: bool,
    /// How to reach the API server from outside a pod; by default what `KUBECONFIG` names, else the service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
}

/// A protocol that every gateway pod offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodListener {
    /// `tcp`, `tls`, `ws`, `wss`, `quic`.
    pub protocol: String,
    /// The container's port.
    pub port: u16,
}

/// A Prometheus server and how it knows the gateways.
///
/// It must scrape each gateway's page with a label that says the pod's name (or the gateway's, outside Kubernetes).
/// Its scrape interval decides how fast the order follows the load: rates are taken over `window`, or twice the
/// interval if that is longer, and what it scraped is up to an interval old. With the usual 15 s or 30 s, gateways
/// that die are noticed by the pod watch first, and `absence` must be longer accordingly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrometheusConfig {
    /// Where it is: `http://prometheus.monitoring:9090`, with a path prefix if it has one.
    pub url: String,
    /// How often it is asked.
    #[serde(default = "one_second", with = "duration")]
    pub interval: Duration,
    /// How long it may take to answer.
    #[serde(default = "ask_timeout", with = "duration")]
    pub timeout: Duration,
    /// How often it scrapes the gateways.
    #[serde(default = "one_second", with = "duration")]
    pub scrape_interval: Duration,
    /// The label with the pod's name.
    #[serde(default = "pod_label")]
    pub pod_label: String,
    /// Labels that the gateways' series must have: their namespace, and the job if several scrape them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub matchers: BTreeMap<String, String>,
    /// A file with a bearer token, read for each query: tokens are renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// The gateways' usual page.
fn metrics_port() -> u16 {
    9_300
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}

fn ask_timeout() -> Duration {
    Duration::from_millis(800)
}

fn pod_label() -> String {
    "pod".to_owned()
}

/// A business as people name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusinessName {
    /// The number in data frames.
    pub id: u32,
    /// The name.
    pub name: String,
}

impl Default for IpconfigConfig {
    fn default() -> IpconfigConfig {
        IpconfigConfig {
            cluster: "local".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8_000)),
            admin: SocketAddr::from(([127, 0, 0, 1], 8_001)),
            workers: 1,
            connections: 8_192,
            targets_file: None,
            gateways: Vec::new(),
            pods: None,
            prometheus: None,
            scrape_interval: Duration::from_secs(1),
            scrape_timeout: Duration::from_millis(800),
            absence: Duration::from_secs(3),
            window: Duration::from_secs(5),
            ttl_s: 60,
            retry_after_s: 1,
            businesses: Vec::new(),
            businesses_file: None,
            development_signing_key: None,
            development_key_id: None,
            development_token_ttl: Duration::from_secs(3_600),
            log: LogFormat::Text,
        }
    }
}

impl IpconfigConfig {
    /// Checks what the types can't; the error says which key and what to do.
    pub fn validate(&self) -> Result<(), String> {
        if self.cluster.is_empty() {
            return Err("`cluster` must not be empty".to_owned());
        }
        let sources = [
            self.targets_file.is_some(),
            !self.gateways.is_empty(),
            self.pods.is_some(),
        ];
        if sources.into_iter().filter(|given| *given).count() > 1 {
            return Err("give one of `targets_file`, `gateways` and `pods`".to_owned());
        }
        self.pods.as_ref().map_or(Ok(()), PodsConfig::validate)?;
        if self.workers == 0 || self.workers > 64 {
            return Err("`workers` must be 1 to 64".to_owned());
        }
        if self.connections < 2 {
            return Err("`connections` must be at least 2".to_owned());
        }
        if self.scrape_interval < Duration::from_millis(20) {
            return Err("`scrape_interval` must be at least 20ms".to_owned());
        }
        if self.scrape_timeout.is_zero() {
            return Err("`scrape_timeout` must be longer than zero".to_owned());
        }
        if let Some(prometheus) = &self.prometheus {
            prometheus.validate()?;
            // Or a gateway could be given up before it was scraped a second time, and that seen.
            let seen_again = prometheus.scrape_interval + prometheus.interval + prometheus.timeout;
            if self.absence <= seen_again {
                return Err(format!(
                    "`absence` must be longer than `prometheus`'s `scrape_interval`, `interval` and `timeout` \
                     together ({seen_again:?})"
                ));
            }
        }
        // Or a gateway could be given up before its page was asked for a second time.
        if self.absence <= self.scrape_interval + self.scrape_timeout {
            return Err(
                "`absence` must be longer than `scrape_interval` and `scrape_timeout` together".to_owned(),
            );
        }
        if self.window < self.scrape_interval {
            return Err("`window` must not be shorter than `scrape_interval`".to_owned());
        }
        businesses::check(&self.businesses)?;
        validate(&self.gateways)
    }
}

impl PodsConfig {
    fn validate(&self) -> Result<(), String> {
        if self.selector.trim().is_empty() {
            return Err("`pods.selector` must not be empty, or every pod would be a gateway".to_owned());
        }
        if self.metrics_port == 0 {
            return Err("`pods.metrics_port` must not be 0".to_owned());
        }
        if self.listeners.is_empty() && !self.annotated_only {
            return Err(
                "`pods.listeners` must say what clients connect to, unless `annotated_only`".to_owned(),
            );
        }
        if self
            .listeners
            .iter()
            .any(|listener| listener.protocol.is_empty() || listener.port == 0)
        {
            return Err("each of `pods.listeners` needs a protocol and a port".to_owned());
        }
        Ok(())
    }
}

impl PrometheusConfig {
    fn validate(&self) -> Result<(), String> {
        self.query_url()?;
        for (key, value) in [
            ("interval", self.interval),
            ("scrape_interval", self.scrape_interval),
            ("timeout", self.timeout),
        ] {
            if value < Duration::from_millis(20) {
                return Err(format!("`prometheus.{key}` must be at least 20ms"));
            }
        }
        let names = self.matchers.keys().chain([&self.pod_label]);
        match names.into_iter().find(|name| !is_label(name)) {
            Some(name) => Err(format!("`prometheus`: {name:?} is no label name")),
            None => Ok(()),
        }
    }

    /// Where queries go.
    pub(crate) fn query_url(&self) -> Result<Url, String> {
        let fault = |what: &str| Err(format!("`prometheus.url` is {:?}: {what}", self.url));
        let Ok(mut url) = self.url.parse::<Url>() else {
            return fault("it must read http://host:port");
        };
        match url.scheme() {
            "http" => (),
            "https" => {
                return fault("https isn't supported; give a plain http address within the cluster");
            }
            _ => return fault("it must begin with http://"),
        }
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
            return fault("it must have no user, query or fragment; a token goes into `token_file`");
        }
        let path = format!("{}/api/v1/query", url.path().trim_end_matches('/'));
        url.set_path(&path);
        Ok(url)
    }
}

/// Whether Prometheus takes it as a label's name.
fn is_label(name: &str) -> bool {
    let letter = |char: char| char.is_ascii_alphabetic() || char == '_';
    name.starts_with(letter) && name.chars().all(|char| letter(char) || char.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_read_back() {
        let config = IpconfigConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let written = serde_yaml::to_string(&config).unwrap();
        assert_eq!(serde_yaml::from_str::<IpconfigConfig>(&written).unwrap(), config);
    }

    #[test]
    fn sources_have_defaults_and_read_back() {
        let text = "
pods: {selector: 'app=x', listeners: [{protocol: tcp, port: 7000}]}
prometheus: {url: 'http://p:9090/prefix/', matchers: {namespace: games}}
";
        let config: IpconfigConfig = serde_yaml::from_str(text).unwrap();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.pods.as_ref().unwrap().metrics_port, 9_300);
        let prometheus = config.prometheus.as_ref().unwrap();
        assert_eq!(
            (prometheus.interval, prometheus.pod_label.as_str()),
            (Duration::from_secs(1), "pod")
        );
        let url = prometheus.query_url().unwrap();
        assert_eq!(url.as_str(), "http://p:9090/prefix/api/v1/query");
        let written = serde_yaml::to_string(&config).unwrap();
        assert_eq!(serde_yaml::from_str::<IpconfigConfig>(&written).unwrap(), config);
    }

    #[test]
    fn sources_that_can_not_be_used_are_refused_with_the_key() {
        let table = [
            (
                "one of",
                "{targets_file: f, pods: {selector: a, annotated_only: true}}",
            ),
            ("selector", "{pods: {selector: ' ', annotated_only: true}}"),
            ("listeners", "{pods: {selector: a}}"),
            (
                "listeners",
                "{pods: {selector: a, listeners: [{protocol: '', port: 1}]}}",
            ),
            (
                "metrics_port",
                "{pods: {selector: a, metrics_port: 0, annotated_only: true}}",
            ),
            ("https", "{prometheus: {url: 'https://p'}}"),
            ("url", "{prometheus: {url: 'p:9090'}}"),
            ("url", "{prometheus: {url: ''}}"),
            ("token_file", "{prometheus: {url: 'http://u:p@h'}}"),
            ("interval", "{prometheus: {url: 'http://p', interval: 0s}}"),
            ("absence", "{prometheus: {url: 'http://p', scrape_interval: 15s}}"),
            ("a-b", "{prometheus: {url: 'http://p', pod_label: a-b}}"),
            ("1x", "{prometheus: {url: 'http://p', matchers: {1x: y}}}"),
        ];
        for (expected, text) in table {
            let config: IpconfigConfig = serde_yaml::from_str(text).unwrap();
            let fault = config.validate().unwrap_err();
            assert!(fault.contains(expected), "{fault:?} should name {expected}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let gateway = || serde_yaml::from_str("{name: g, metrics: 'h:1', endpoints: []}").unwrap();
        type Case = (&'static str, Box<dyn Fn(&mut IpconfigConfig)>);
        let table: [Case; 8] = [
            ("cluster", Box::new(|config| config.cluster.clear())),
            ("workers", Box::new(|config| config.workers = 0)),
            ("connections", Box::new(|config| config.connections = 0)),
            (
                "scrape_timeout",
                Box::new(|config| config.scrape_timeout = Duration::ZERO),
            ),
            (
                "absence",
                Box::new(|config| config.absence = config.scrape_interval),
            ),
            ("window", Box::new(|config| config.window = Duration::ZERO)),
            (
                "endpoints",
                Box::new(move |config| config.gateways = vec![gateway()]),
            ),
            (
                "businesses",
                Box::new(|config| {
                    config.businesses = vec![
                        BusinessName {
                            id: 1,
                            name: "a".to_owned()
                        };
                        2
                    ];
                }),
            ),
        ];
        for (expected, change) in table {
            let mut config = IpconfigConfig::default();
            change(&mut config);
            let fault = config.validate().unwrap_err();
            assert!(fault.contains(expected), "{fault:?} should name {expected}");
        }
    }
}
