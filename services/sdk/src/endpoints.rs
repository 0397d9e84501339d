//! Where to connect: what ipconfig serves, what is remembered when it doesn't answer, and in which order to try.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use imaccess_wire::frame::NetworkType;
use serde::Deserialize;
use tokio::time::Instant;

use crate::error::ConnectError;

/// Networks whose working protocol is remembered: far more than a device uses in a day.
const MAX_NETWORKS: usize = 64;
/// Longest answer of ipconfig that is read: hundreds of endpoints fit.
const MAX_ANSWER: usize = 256 * 1024;

/// One way to reach one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Endpoint {
    /// The gateway's name; empty if it isn't known.
    #[serde(default)]
    pub name: String,
    /// The cluster that it belongs to; empty if it isn't known.
    #[serde(default)]
    pub cluster: String,
    /// `tcp` is what this client speaks; others are skipped.
    pub protocol: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Name to verify in its certificate; empty: none.
    #[serde(default)]
    pub server_name: Option<String>,
}

impl Endpoint {
    /// A TCP endpoint.
    #[must_use]
    pub fn tcp(host: &str, port: u16) -> Self {
        Self {
            name: String::new(),
            cluster: String::new(),
            protocol: "tcp".to_owned(),
            host: host.to_owned(),
            port,
            server_name: None,
        }
    }

    fn is_spoken(&self) -> bool {
        self.protocol.eq_ignore_ascii_case("tcp")
    }

    /// Whether both lead to the same place, whatever it is called.
    pub(crate) fn is_same(&self, other: &Endpoint) -> bool {
        self.key() == other.key()
    }

    /// What identifies it among others; the name may change.
    fn key(&self) -> (&str, &str, u16) {
        (&self.protocol, &self.host, self.port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::tcp(&address.ip().to_string(), address.port())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An IPv6 address is told from its port by brackets.
        if self.host.contains(':') {
            write!(f, "{}://[{}]:{}", self.protocol, self.host, self.port)
        } else {
            write!(f, "{}://{}:{}", self.protocol, self.host, self.port)
        }
    }
}

/// How the device is connected, as far as the application knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Network {
    /// Its [`NetworkType`] as a word; empty if it isn't known.
    pub(crate) kind: &'static str,
    pub(crate) carrier: String,
}

impl Network {
    pub(crate) fn new(network: NetworkType, carrier: &str) -> Self {
        let kind = match network {
            NetworkType::Unknown => "",
            NetworkType::Wifi => "wifi",
            NetworkType::Ethernet => "ethernet",
            NetworkType::Cellular2g => "2g",
            NetworkType::Cellular3g => "3g",
            NetworkType::Cellular4g => "4g",
            NetworkType::Cellular5g => "5g",
        };
        Self {
            kind,
            carrier: carrier.to_owned(),
        }
    }

    /// The question with this network's attributes.
    fn named(&self, url: &reqwest::Url) -> reqwest::Url {
        let mut url = url.clone();
        let attributes = [("network", self.kind), ("carrier", self.carrier.as_str())];
        url.query_pairs_mut()
            .extend_pairs(attributes.iter().filter(|(_, value)| !value.is_empty()));
        url
    }
}

/// ipconfig's answer to `GET /v1/endpoints`; fields that aren't known here are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Answer {
    #[serde(default)]
    pub(crate) ttl_s: f64,
    /// First wait of the backoff, when the cluster wants another than the client's; 0: none.
    #[serde(default)]
    pub(crate) retry_after_s: f64,
    pub(crate) endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub(crate) token: Option<String>,
}

/// Where endpoints come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// ipconfig: the URL of the question, with the attributes that don't change.
    Ipconfig {
        url: reqwest::Url,
        http: reqwest::Client,
    },
    /// Given by the application.
    Fixed(Vec<Endpoint>),
}

/// Finds endpoints and remembers: the last answer, what failed of it, which protocol worked on which network.
#[derive(Debug)]
pub(crate) struct Finder {
    source: Source,
    last: Option<(Answer, Instant)>,
    /// Endpoints that failed since something last worked: they are tried last.
    failed: Vec<Endpoint>,
    /// Protocol by network.
    worked: HashMap<Network, String>,
}

impl Finder {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            last: None,
            failed: Vec::new(),
            worked: HashMap::new(),
        }
    }

    /// The endpoints to try, best first. Asks ipconfig unless its last answer still holds and has endpoints that
    /// didn't fail; when it can't be asked the last answer serves.
    pub(crate) async fn find(&mut self, network: &Network) -> Result<Vec<Endpoint>, ConnectError> {
        let served = match &self.source {
            Source::Fixed(endpoints) => endpoints,
            Source::Ipconfig { url, http } => {
                let now = Instant::now();
                let fresh = self.last.as_ref().is_some_and(|(answer, at)| {
                    now < *at + seconds(answer.ttl_s)
                        && answer
                            .endpoints
                            .iter()
                            .any(|endpoint| !self.failed.contains(endpoint))
                });
                if !fresh {
                    match ask(http, network.named(url)).await {
                        Ok(answer) => self.last = Some((answer, now)),
                        Err(why) if self.last.is_none() => {
                            return Err(ConnectError::Ipconfig {
                                url: origin(url),
                                why,
                            });
                        }
                        Err(why) => tracing::debug!(%why, "ipconfig didn't answer; its last answer serves"),
                    }
                }
                self.last
                    .as_ref()
                    .map_or(&[][..], |(answer, _)| &answer.endpoints)
            }
        };
        let ordered = order(served, &self.failed, self.worked.get(network).map(String::as_str));
        if ordered.is_empty() {
            Err(ConnectError::NoEndpoint(served.len()))
        } else {
            Ok(ordered)
        }
    }

    /// The token that came with the last answer.
    pub(crate) fn token(&self) -> Option<&str> {
        self.last.as_ref()?.0.token.as_deref()
    }

    /// The served first wait of the backoff.
    pub(crate) fn retry_base(&self) -> Option<Duration> {
        let served = self.last.as_ref()?.0.retry_after_s;
        (served > 0.0).then(|| seconds(served))
    }

    /// Whether ipconfig is asked at all.
    pub(crate) fn asks_ipconfig(&self) -> bool {
        matches!(self.source, Source::Ipconfig { .. })
    }

    /// The next [`find`](Self::find) asks ipconfig, whatever the last answer's age.
    pub(crate) fn expire(&mut self) {
        if let Some((answer, _)) = &mut self.last {
            answer.ttl_s = 0.0;
        }
    }

    /// This endpoint works: nothing that failed before counts any more.
    pub(crate) fn worked(&mut self, network: &Network, endpoint: &Endpoint) {
        self.failed.clear();
        if self.worked.len() < MAX_NETWORKS || self.worked.contains_key(network) {
            self.worked.insert(network.clone(), endpoint.protocol.clone());
        }
    }

    /// This endpoint didn't work: the others go first until something works.
    pub(crate) fn failed(&mut self, endpoint: &Endpoint) {
        if !self.failed.contains(endpoint) {
            // Bounded by what an answer can hold, also if every answer names others.
            if self.failed.len() >= 256 {
                self.failed.remove(0);
            }
            self.failed.push(endpoint.clone());
        }
    }
}

/// The usable endpoints of `served` in its order, but those that just failed last, and within that the protocol that
/// worked on this network first.
fn order(served: &[Endpoint], failed: &[Endpoint], worked: Option<&str>) -> Vec<Endpoint> {
    let mut usable: Vec<&Endpoint> = served.iter().filter(|endpoint| endpoint.is_spoken()).collect();
    let has_failed = |endpoint: &Endpoint| failed.iter().any(|other| other.is_same(endpoint));
    // Stable: what doesn't differ stays in the served order, which is the cluster's ranking.
    usable.sort_by_key(|endpoint| (has_failed(endpoint), worked != Some(endpoint.protocol.as_str())));
    usable.into_iter().cloned().collect()
}

async fn ask(http: &reqwest::Client, url: reqwest::Url) -> Result<Answer, String> {
    let mut response = http.get(url).send().await.map_err(|error| root_cause(&error))?;
    if !response.status().is_success() {
        return Err(format!("it answered {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| root_cause(&error))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(format!("its answer is longer than {MAX_ANSWER} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&body).map_err(|error| format!("its answer can't be read: {error}"))
}

/// reqwest's own text repeats the URL; the innermost cause is what helps.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it didn't answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

/// The URL without the question, which names the device.
fn origin(url: &reqwest::Url) -> String {
    url.origin().ascii_serialization()
}

/// A served number of seconds, kept within a day whatever was served.
fn seconds(served: f64) -> Duration {
    Duration::try_from_secs_f64(served.min(86_400.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(protocol: &str, port: u16) -> Endpoint {
        Endpoint {
            protocol: protocol.to_owned(),
            ..Endpoint::tcp("gateway", port)
        }
    }

    fn ports(endpoints: &[Endpoint]) -> Vec<u16> {
        endpoints.iter().map(|endpoint| endpoint.port).collect()
    }

    #[test]
    fn the_question_names_the_network() {
        let url = reqwest::Url::parse("http://127.0.0.1:8000/v1/endpoints?app=demo").unwrap();
        assert_eq!(Network::default().named(&url), url);
        let named = Network::new(NetworkType::Cellular4g, "a&b").named(&url);
        assert_eq!(named.query(), Some("app=demo&network=4g&carrier=a%26b"));
    }

    #[test]
    fn the_served_order_holds_but_failures_go_last() {
        let served = [
            endpoint("tcp", 1),
            endpoint("quic", 2),
            endpoint("tcp", 3),
            endpoint("tcp", 4),
        ];
        assert_eq!(ports(&order(&served, &[], None)), [1, 3, 4]);
        assert_eq!(
            ports(&order(&served, &[endpoint("tcp", 1)], Some("tcp"))),
            [3, 4, 1]
        );
        let renamed = Endpoint {
            name: "other".to_owned(),
            ..endpoint("tcp", 3)
        };
        assert_eq!(ports(&order(&served, &[renamed], None)), [1, 4, 3]);
    }

    #[test]
    fn an_answer_with_only_endpoints_is_enough_and_more_is_ignored() {
        let answer: Answer = serde_json::from_str(
            r#"{"version":1,"cluster":"c","later":{},"endpoints":[{"protocol":"tcp","host":"::1","port":7000}]}"#,
        )
        .unwrap();
        assert_eq!(answer.endpoints[0].to_string(), "tcp://[::1]:7000");
        assert_eq!(
            Endpoint::from("[::1]:7000".parse::<SocketAddr>().unwrap()).key(),
            answer.endpoints[0].key()
        );
        assert_eq!(answer.token, None);
        assert_eq!(seconds(f64::MAX), Duration::from_secs(86_400));
        assert_eq!(seconds(f64::NAN), Duration::from_secs(86_400));
        assert_eq!(seconds(-1.0), Duration::ZERO);
    }

    #[tokio::test]
    async fn fixed_endpoints_need_no_ipconfig() {
        let network = Network::default();
        let mut finder = Finder::new(Source::Fixed(vec![endpoint("tcp", 1), endpoint("tcp", 2)]));
        assert_eq!(ports(&finder.find(&network).await.unwrap()), [1, 2]);
        finder.failed(&endpoint("tcp", 1));
        assert_eq!(ports(&finder.find(&network).await.unwrap()), [2, 1]);
        finder.worked(&network, &endpoint("tcp", 2));
        assert_eq!(ports(&finder.find(&network).await.unwrap()), [1, 2]);
        let mut none = Finder::new(Source::Fixed(vec![endpoint("ws", 1)]));
        assert!(matches!(
            none.find(&network).await,
            Err(ConnectError::NoEndpoint(1))
        ));
    }
}
