//! What ipconfig is told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use imaccess_common::config::duration;
use imaccess_common::telemetry::LogFormat;
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
        if self.targets_file.is_some() && !self.gateways.is_empty() {
            return Err("give either `targets_file` or `gateways`, not both".to_owned());
        }
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
