//! What a part must know of a business service: where it is, how it is asked, how much of it may be in flight, what happens
//! when one of its receivers is slow.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use axum::http::Uri;
use serde::{Deserialize, Serialize};

use crate::config::watched::{self, Loaded};
use crate::config::{ByteSize, duration};

/// Endpoints that may be listed.
pub const MAX_ENDPOINTS: usize = 64;

/// Streams that are kept because there are as many endpoints or addresses; more only where `connections` says so. Every sidecar
/// begins at another place, so that together they reach more than this.
const MAX_SPREAD: u32 = 8;

/// How a business is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// gRPC, a stream that carries many requests: `Business` in `business.proto`.
    #[default]
    Grpc,
    /// gRPC, a call per request: `UnaryBusiness` in `business.proto`.
    GrpcUnary,
    /// HTTP/1.1, a POST of JSON per request.
    Http,
}

impl Protocol {
    fn is_grpc(&self) -> bool {
        *self == Self::Grpc
    }
}

/// What becomes of a message for a connection whose queue for this business is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlowConsumer {
    /// The oldest queued messages make room: right for live rooms, where only the latest counts.
    #[default]
    DropOldest,
    /// The new message is refused, and its sender told.
    DropNewest,
    /// The connection is closed with its own code; the client resumes.
    Close,
}

/// One business service behind the connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusinessConfig {
    /// The number in every data frame; never 0, never given to another business.
    pub id: u32,
    /// The name people and commands use.
    pub name: String,
    /// Where its server listens: `http://host:port`. A host with several addresses is spread over.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Where its servers listen, instead of `endpoint`, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// How it is asked. (Left out where it is the default, as all below that are newer than a part that may read this.)
    #[serde(default, skip_serializing_if = "Protocol::is_grpc")]
    pub protocol: Protocol,
    /// A request not answered in this time gets a timeout code.
    #[serde(default = "default_timeout", with = "duration")]
    pub timeout: Duration,
    /// Requests in flight per worker; more are refused at once, so that a slow business costs a bounded amount.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Streams to the server per worker; as many as there are endpoints or addresses, up to eight, if those are more.
    #[serde(default = "default_connections")]
    pub connections: u32,
    /// Requests and sends a second that a sidecar lets through to it, all its workers together, with bursts of one second; 0: any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub request_rate: u32,
    /// Devices a second that a routing replica takes pushes for, a push to a group or to all counting as one; 0: any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub push_rate: u32,
    /// Whether it wants to hear of online, offline and lost sessions.
    #[serde(default)]
    pub events: bool,
    /// Whether clients may join its groups on their own.
    #[serde(default)]
    pub client_groups: bool,
    /// Bytes of this business that may wait for one connection.
    #[serde(default = "default_queue_bytes")]
    pub queue_bytes: ByteSize,
    /// What happens when those are full.
    #[serde(default)]
    pub slow_consumer: SlowConsumer,
    /// Whose tokens may push for it, where the push API asks for tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pushers: Vec<ServiceAccount>,
}

/// A Kubernetes service account.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
}

impl BusinessConfig {
    /// A business with every default.
    #[must_use]
    pub fn new(id: u32, name: &str, endpoint: &str) -> BusinessConfig {
        BusinessConfig {
            id,
            name: name.to_owned(),
            endpoint: endpoint.to_owned(),
            endpoints: Vec::new(),
            protocol: Protocol::default(),
            timeout: default_timeout(),
            concurrency: default_concurrency(),
            connections: default_connections(),
            request_rate: 0,
            push_rate: 0,
            events: false,
            client_groups: false,
            queue_bytes: default_queue_bytes(),
            slow_consumer: SlowConsumer::default(),
            pushers: Vec::new(),
        }
    }

    /// Where its servers listen.
    #[must_use]
    pub fn all_endpoints(&self) -> &[String] {
        if self.endpoints.is_empty() {
            std::slice::from_ref(&self.endpoint)
        } else {
            &self.endpoints
        }
    }

    /// Streams that a worker keeps whatever hosts resolve to.
    #[must_use]
    pub fn least_streams(&self) -> u32 {
        let endpoints = u32::try_from(self.all_endpoints().len()).unwrap_or(u32::MAX);
        self.connections.max(endpoints.min(MAX_SPREAD))
    }

    /// Streams that a worker keeps if the hosts have as many addresses.
    #[must_use]
    pub fn most_streams(&self) -> u32 {
        let is_address =
            |endpoint: &String| host_and_port(endpoint).is_some_and(|(host, _)| is_address(&host));
        if self.all_endpoints().iter().all(is_address) {
            self.least_streams()
        } else {
            self.least_streams().max(MAX_SPREAD)
        }
    }

    /// Whether streams that were dialled for `other` do for this one too.
    #[must_use]
    pub fn is_reached_like(&self, other: &Self) -> bool {
        let streams = self.protocol == other.protocol
            && self.all_endpoints() == other.all_endpoints()
            && self.connections == other.connections;
        // Those that make calls bound them, and their time, themselves, and events have one of their own.
        let calls = self.concurrency == other.concurrency
            && self.timeout == other.timeout
            && self.events == other.events;
        streams && (calls || self.protocol.is_grpc())
    }

    fn validate(&self) -> Result<(), String> {
        let fault = |what: &str| Err(format!("business {:?} (id {}): {what}", self.name, self.id));
        if self.id == 0 {
            return fault("the id must not be 0; give it a number of its own");
        }
        if self.name.is_empty() {
            return fault("the name must not be empty");
        }
        if self.endpoint.is_empty() == self.endpoints.is_empty() {
            return fault("give it an endpoint, or a list of endpoints, and not both");
        }
        if self.endpoints.len() > MAX_ENDPOINTS {
            return fault(&format!("at most {MAX_ENDPOINTS} endpoints may be listed"));
        }
        let mut seen = HashSet::new();
        for endpoint in self.all_endpoints() {
            if endpoint.contains('@') {
                return fault("an endpoint must read http://host:port, without a user");
            }
            if host_and_port(endpoint).is_none() {
                return fault(&format!("the endpoint {endpoint:?} must read http://host:port"));
            }
            if !seen.insert(endpoint) {
                return fault(&format!("the endpoint {endpoint:?} is listed twice"));
            }
        }
        if self.timeout.is_zero() {
            return fault("the timeout must be longer than zero");
        }
        if self.concurrency == 0 || self.connections == 0 {
            return fault("concurrency and connections must be at least 1");
        }
        if self.queue_bytes.0 == 0 {
            return fault("queue_bytes must be at least 1");
        }
        let nameless =
            |pusher: &ServiceAccount| pusher.namespace.is_empty() || pusher.service_account.is_empty();
        if self.pushers.iter().any(nameless) {
            return fault("each of its pushers needs a namespace and a service_account");
        }
        Ok(())
    }
}

/// Businesses as a part is told them: those of its configuration, then those of a file that is read again when it changes. The
/// fingerprint is of the file.
///
/// # Errors
/// Says which file, business or key is wrong, and why.
pub fn load_all(
    fixed: &[BusinessConfig],
    file: Option<&Path>,
) -> Result<Loaded<Vec<BusinessConfig>>, String> {
    let mut value = fixed.to_vec();
    let mut generation = 0;
    if let Some(path) = file {
        let text = watched::read(path)?;
        let listed: Option<Vec<BusinessConfig>> = serde_yaml::from_str(&text)
            .map_err(|fault| format!("{} is no list of businesses: {fault}", path.display()))?;
        value.extend(listed.unwrap_or_default());
        generation = watched::fingerprint(text.as_bytes());
    }
    validate_all(&value)?;
    Ok(Loaded { value, generation })
}

/// Checks each business and that no two share an id or a name; the error says which and why.
pub fn validate_all(businesses: &[BusinessConfig]) -> Result<(), String> {
    let (mut ids, mut names) = (HashSet::new(), HashSet::new());
    for business in businesses {
        business.validate()?;
        if !ids.insert(business.id) {
            return Err(format!(
                "two businesses have the id {}; ids must differ",
                business.id
            ));
        }
        if !names.insert(business.name.as_str()) {
            return Err(format!(
                "two businesses have the name {:?}; names must differ",
                business.name
            ));
        }
    }
    Ok(())
}

/// Host and port of an endpoint, an IPv6 address in its brackets; `None` if it has another form than `http://host:port`.
#[must_use]
pub fn host_and_port(endpoint: &str) -> Option<(String, u16)> {
    let uri: Uri = endpoint.parse().ok()?;
    let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
    let host = uri.host().filter(|host| plain && !host.is_empty())?;
    let port = uri.port_u16().filter(|port| *port != 0)?;
    Some((host.to_owned(), port))
}

fn is_address(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok()
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_concurrency() -> u32 {
    1_024
}

fn default_connections() -> u32 {
    1
}

fn default_queue_bytes() -> ByteSize {
    ByteSize(64 * 1_024)
}
