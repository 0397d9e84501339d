//! What a part must know of a business service: where it is, how much of it may be in flight, what happens when
//! one of its receivers is slow.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::watched::{self, Loaded};
use crate::config::{ByteSize, duration};

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
    /// Where its gRPC server listens: `http://host:port`.
    pub endpoint: String,
    /// A request not answered in this time gets a timeout code.
    #[serde(default = "default_timeout", with = "duration")]
    pub timeout: Duration,
    /// Requests in flight per worker; more are refused at once, so that a slow business costs a bounded amount.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Connections to the server per worker.
    #[serde(default = "default_connections")]
    pub connections: u32,
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
    /// Pushed devices a second per routing replica; group pushes and broadcasts count 1. Left out: as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push_rate: Option<u32>,
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
            timeout: default_timeout(),
            concurrency: default_concurrency(),
            connections: default_connections(),
            events: false,
            client_groups: false,
            queue_bytes: default_queue_bytes(),
            slow_consumer: SlowConsumer::default(),
            pushers: Vec::new(),
            push_rate: None,
        }
    }

    fn validate(&self) -> Result<(), String> {
        let fault = |what: &str| Err(format!("business {:?} (id {}): {what}", self.name, self.id));
        if self.id == 0 {
            return fault("the id must not be 0; give it a number of its own");
        }
        if self.name.is_empty() {
            return fault("the name must not be empty");
        }
        if !is_http_endpoint(&self.endpoint) {
            return fault(&format!(
                "the endpoint {:?} must read http://host:port",
                self.endpoint
            ));
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
        if self.push_rate == Some(0) {
            return fault("push_rate must be at least 1; leave it out for no limit");
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

fn is_http_endpoint(endpoint: &str) -> bool {
    let Ok(uri) = endpoint.parse::<axum::http::Uri>() else {
        return false;
    };
    let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/") && uri.query().is_none();
    plain && uri.host().is_some_and(|host| !host.is_empty()) && uri.port_u16().is_some_and(|port| port != 0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_fields_are_enough() {
        let read: BusinessConfig =
            serde_yaml::from_str("{id: 1, name: echo, endpoint: 'http://127.0.0.1:7001'}").unwrap();
        assert_eq!(read, BusinessConfig::new(1, "echo", "http://127.0.0.1:7001"));
        let written = serde_yaml::to_string(&read).unwrap();
        assert!(
            written.contains("timeout: 10s") && written.contains("queue_bytes: 64KiB"),
            "{written}"
        );
        assert!(written.contains("slow_consumer: drop-oldest"), "{written}");
        assert_eq!(serde_yaml::from_str::<BusinessConfig>(&written).unwrap(), read);
    }

    #[test]
    fn a_file_adds_to_what_is_fixed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("businesses.yaml");
        let fixed = [BusinessConfig::new(1, "echo", "http://127.0.0.1:7001")];
        let load = |text: &str| {
            std::fs::write(&file, text).unwrap();
            load_all(&fixed, Some(&file))
        };
        let pushers = "[{namespace: chat, service_account: server}]";
        let chat =
            format!("- {{id: 2, name: chat, endpoint: 'http://chat.chat.svc:9000', pushers: {pushers}}}");
        let loaded = load(&chat).unwrap();
        assert_eq!(loaded.value.len(), 2);
        assert_eq!(loaded.value[1].pushers[0].service_account, "server");
        assert_eq!(loaded.generation, watched::fingerprint(chat.as_bytes()));
        assert_eq!(load("# none yet\n").unwrap().value, fixed);
        for (text, expected) in [
            ("- {id: 1, name: x, endpoint: 'http://x:1'}", "have the id 1"),
            (
                "- {id: 2, name: x, endpoint: 'http://x:1', tiemout: 1s}",
                "tiemout",
            ),
            ("businesses: []", "businesses.yaml"),
        ] {
            let fault = load(text).unwrap_err();
            assert!(fault.contains(expected), "{fault}");
        }
    }

    #[test]
    fn faults_are_named() {
        let echo = BusinessConfig::new(1, "echo", "http://127.0.0.1:7001");
        assert_eq!(validate_all(std::slice::from_ref(&echo)), Ok(()));
        let with = |change: fn(&mut BusinessConfig)| {
            let mut other = BusinessConfig::new(2, "other", "http://[::1]:7002");
            change(&mut other);
            validate_all(&[echo.clone(), other])
        };
        assert_eq!(with(|_| ()), Ok(()));
        type Case = (fn(&mut BusinessConfig), &'static str);
        let faults: [Case; 10] = [
            (|b| b.id = 0, "must not be 0"),
            (|b| b.id = 1, "have the id 1"),
            (|b| b.name = "echo".to_owned(), "have the name \"echo\""),
            (|b| b.name.clear(), "name must not be empty"),
            (|b| b.endpoint = "127.0.0.1:7001".to_owned(), "http://host:port"),
            (|b| b.endpoint = "http://host".to_owned(), "http://host:port"),
            (|b| b.timeout = Duration::ZERO, "timeout"),
            (|b| b.concurrency = 0, "concurrency"),
            (|b| b.push_rate = Some(0), "push_rate"),
            (
                |b| {
                    let pusher = "{namespace: shop, service_account: ''}";
                    b.pushers = vec![serde_yaml::from_str(pusher).unwrap()];
                },
                "service_account",
            ),
        ];
        for (change, expected) in faults {
            let fault = with(change).unwrap_err();
            assert!(fault.contains(expected), "{fault:?} should say {expected:?}");
        }
    }
}
