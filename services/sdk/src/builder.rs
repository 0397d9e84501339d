//! Settings of a client, and their check.

use std::time::Duration;

use bytes::Bytes;
use imaccess_wire::frame::NetworkType;
use imaccess_wire::limits::{
    MAX_APP, MAX_CARRIER, MAX_DEVICE, MAX_INSTALL, MAX_LOGIN_GROUPS, MAX_PLATFORM, MAX_TOKEN, MAX_VERSION,
};

use crate::backoff::BackoffPolicy;
use crate::client::Client;
use crate::endpoints::{Endpoint, Finder, Source};
use crate::error::ConnectError;
use crate::message::GroupName;

/// How long ipconfig may take to answer.
const IPCONFIG_TIMEOUT: Duration = Duration::from_secs(3);

/// Makes a [`Client`]; see [`Client::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `connect`"]
pub struct ClientBuilder {
    pub(crate) settings: Settings,
    ipconfig_url: String,
    endpoints: Vec<Endpoint>,
}

/// What the connection's task needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) app: String,
    pub(crate) device: String,
    pub(crate) token: Bytes,
    pub(crate) install: Bytes,
    pub(crate) platform: String,
    pub(crate) version: String,
    pub(crate) network: NetworkType,
    pub(crate) carrier: String,
    pub(crate) groups: Vec<(u32, Bytes)>,
    pub(crate) backoff: BackoffPolicy,
    pub(crate) tcp_timeout: Duration,
    pub(crate) connect_within: Duration,
    pub(crate) push_queue: usize,
    pub(crate) max_in_flight: usize,
}

impl ClientBuilder {
    pub(crate) fn new(ipconfig_url: &str, app: &str, device: &str) -> Self {
        Self {
            settings: Settings {
                app: app.to_owned(),
                device: device.to_owned(),
                token: Bytes::new(),
                install: Bytes::new(),
                platform: String::new(),
                version: String::new(),
                network: NetworkType::Unknown,
                carrier: String::new(),
                groups: Vec::new(),
                backoff: BackoffPolicy::default(),
                tcp_timeout: Duration::from_secs(5),
                connect_within: Duration::from_secs(15),
                push_queue: 64,
                max_in_flight: 256,
            },
            ipconfig_url: ipconfig_url.to_owned(),
            endpoints: Vec::new(),
        }
    }

    /// Connects to these endpoints, in this order, instead of asking ipconfig.
    pub fn endpoints<E: Into<Endpoint>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// Proof of who the device is. Without one, the development token that ipconfig serves is used, if it serves any.
    pub fn token(mut self, token: impl Into<Bytes>) -> Self {
        self.settings.token = token.into();
        self
    }

    /// Names this installation of the app; at most 16 bytes.
    pub fn install(mut self, install: impl Into<Bytes>) -> Self {
        self.settings.install = install.into();
        self
    }

    /// The platform, such as `android`, and the app's version.
    pub fn platform(mut self, platform: &str, version: &str) -> Self {
        platform.clone_into(&mut self.settings.platform);
        version.clone_into(&mut self.settings.version);
        self
    }

    /// How the device is connected. Which protocol works is remembered per network.
    pub fn network(mut self, network: NetworkType, carrier: &str) -> Self {
        self.settings.network = network;
        carrier.clone_into(&mut self.settings.carrier);
        self
    }

    /// A group to be in from the login on; call once per group.
    pub fn group(mut self, business: u32, group: impl Into<Bytes>) -> Self {
        self.settings.groups.push((business, group.into()));
        self
    }

    /// How waits between attempts grow.
    pub fn backoff(mut self, policy: BackoffPolicy) -> Self {
        self.settings.backoff = policy;
        self
    }

    /// How long one TCP connection may take to be made (5 s).
    pub fn tcp_timeout(mut self, timeout: Duration) -> Self {
        self.settings.tcp_timeout = timeout;
        self
    }

    /// How long [`connect`](Self::connect) goes on trying before it gives up with the last error (15 s). A client that
    /// was online once tries for ever.
    pub fn connect_within(mut self, timeout: Duration) -> Self {
        self.settings.connect_within = timeout;
        self
    }

    /// How many pushes may wait for the application (64). See [`Client::pushes`] for what happens when they do.
    pub fn push_queue(mut self, pushes: usize) -> Self {
        self.settings.push_queue = pushes;
        self
    }

    /// How many requests, sends, joins and leaves may be unanswered (256); more wait, within their deadlines. No more than
    /// 64 of them are on their way at a time, as the protocol has it.
    pub fn max_in_flight(mut self, messages: usize) -> Self {
        self.settings.max_in_flight = messages;
        self
    }

    /// Connects, logs in, and returns once the client is online.
    ///
    /// Must be called in a tokio runtime. From then on the client keeps itself connected until it is closed or dropped.
    ///
    /// # Errors
    /// [`ConnectError`], at once when no later attempt can help (a setting, the token), else the last error when
    /// [`connect_within`](Self::connect_within) is over or the server's retry-after lies behind it.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        self.settings.check()?;
        let finder = self.finder()?;
        Client::start(self.settings, finder).await
    }

    fn finder(&self) -> Result<Finder, ConnectError> {
        let settings = &self.settings;
        if !self.endpoints.is_empty() {
            return Ok(Finder::new(Source::Fixed(self.endpoints.clone())));
        }
        let url = question(&self.ipconfig_url, settings)?;
        // No proxy: the connection that follows goes straight as well. No idle connections: the next question may be
        // days away.
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(IPCONFIG_TIMEOUT)
            .user_agent(concat!("imaccess-sdk/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ConnectError::Invalid(format!("no HTTP client can be made: {error}")))?;
        Ok(Finder::new(Source::Ipconfig { url, http }))
    }
}

impl Settings {
    fn check(&self) -> Result<(), ConnectError> {
        let bounds = [
            ("the device id", self.device.len(), 1, MAX_DEVICE),
            ("the app id", self.app.len(), 1, MAX_APP),
            ("the token", self.token.len(), 0, MAX_TOKEN),
            ("the install id", self.install.len(), 0, MAX_INSTALL),
            ("the platform", self.platform.len(), 0, MAX_PLATFORM),
            ("the version", self.version.len(), 0, MAX_VERSION),
            ("the carrier", self.carrier.len(), 0, MAX_CARRIER),
        ];
        for (what, length, least, most) in bounds {
            if !(least..=most).contains(&length) {
                return invalid(format!(
                    "{what} has {length} bytes; {least} to {most} are allowed"
                ));
            }
        }
        if self.groups.len() > MAX_LOGIN_GROUPS {
            return invalid(format!(
                "{} groups; at most {MAX_LOGIN_GROUPS} are allowed",
                self.groups.len()
            ));
        }
        for (business, group) in &self.groups {
            if let Err(error) = GroupName::new(*business, group.clone()) {
                return invalid(error.to_string());
            }
        }
        if self.push_queue == 0 || self.max_in_flight == 0 {
            return invalid("the push queue and the messages in flight must be at least 1".to_owned());
        }
        let backoff = self.backoff;
        if backoff.base.is_zero() || !backoff.factor.is_finite() || backoff.factor < 1.0 {
            return invalid("the backoff must start above zero and have a factor of at least 1".to_owned());
        }
        if !(0.0..=1.0).contains(&backoff.jitter) {
            return invalid("the backoff's jitter must be between 0 and 1".to_owned());
        }
        Ok(())
    }
}

fn invalid(what: String) -> Result<(), ConnectError> {
    Err(ConnectError::Invalid(what))
}

/// The URL to ask ipconfig: what doesn't change of the client, as query parameters.
fn question(base: &str, settings: &Settings) -> Result<reqwest::Url, ConnectError> {
    let wrong = || {
        ConnectError::Invalid(format!(
            "{base:?} is no address of ipconfig; it should look like http://127.0.0.1:8000"
        ))
    };
    let mut url = reqwest::Url::parse(base).map_err(|_| wrong())?;
    if url.scheme() != "http" || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    let path = format!("{}/v1/endpoints", url.path().trim_end_matches('/'));
    url.set_path(&path);
    let attributes = [
        ("app", settings.app.as_str()),
        ("device", &settings.device),
        ("platform", &settings.platform),
        ("version", &settings.version),
    ];
    url.query_pairs_mut()
        .extend_pairs(attributes.iter().filter(|(_, value)| !value.is_empty()));
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder(url: &str) -> ClientBuilder {
        ClientBuilder::new(url, "demo", "a b&c")
    }

    #[test]
    fn the_question_carries_what_is_known() {
        let settings = builder("")
            .platform("android", "")
            .network(NetworkType::Cellular4g, "")
            .settings;
        let url = question("http://127.0.0.1:8000/", &settings).unwrap();
        let expected = "http://127.0.0.1:8000/v1/endpoints?app=demo&device=a+b%26c&platform=android";
        assert_eq!(url.as_str(), expected);
        for wrong in ["", "127.0.0.1:8000", "https://host", "http://"] {
            assert!(
                matches!(question(wrong, &settings), Err(ConnectError::Invalid(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        let fault = |builder: ClientBuilder| builder.settings.check().unwrap_err().to_string();
        assert!(builder("").settings.check().is_ok());
        assert!(fault(ClientBuilder::new("", "demo", "")).contains("device id"));
        assert!(fault(ClientBuilder::new("", "a-far-too-long-app", "d")).contains("1 to 12"));
        assert!(fault(builder("").group(1, "g".repeat(65))).contains("group"));
        assert!(fault(builder("").push_queue(0)).contains("at least 1"));
        assert!(
            fault(builder("").backoff(BackoffPolicy {
                jitter: f64::NAN,
                ..Default::default()
            }))
            .contains("jitter")
        );
    }
}
