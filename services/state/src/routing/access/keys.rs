//! The cluster's key set: fetched, kept, and fetched again when a token names a key that isn't in it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use imaccess_common::business::ServiceAccount;
use imaccess_common::clock::unix_s;
use imaccess_common::http::{self, FetchError};
use prometheus::{IntCounterVec, IntGauge};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::Refusal;
use super::token::{self, Expected, KeySet, TokenRefusal};
use crate::routing::config::PushTokensConfig;

/// For one fetch.
const FETCH: Duration = Duration::from_secs(5);
/// A key set has about 500 bytes a key, and few keys.
const LONGEST: usize = 1 << 20;
/// Fetches because of a key that isn't known are at least this far apart: anyone can make key ids up.
const PAUSE: Duration = Duration::from_secs(5);
/// How often it is fetched for no reason, so that a key that was withdrawn is forgotten.
const REFRESH: Duration = Duration::from_secs(600);

/// Why there is no key set.
#[derive(Debug, thiserror::Error)]
enum KeysFault {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("can't read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{0}")]
    Content(String),
    #[error("no issuer is configured, and the pod's own token doesn't tell one")]
    NoIssuer,
}

struct Known {
    keys: KeySet,
    expected: Expected,
}

/// When it was last tried, and how that went.
#[derive(Default)]
struct Tried {
    at: Option<Instant>,
    failed: bool,
}

/// The key set of one cluster.
pub(super) struct Keys {
    config: PushTokensConfig,
    known: ArcSwapOption<Known>,
    /// One fetches, the others wait for what it brings.
    tried: Mutex<Tried>,
    pause: Duration,
    fetches: IntCounterVec,
    count: IntGauge,
}

// === impl Keys ===

impl Keys {
    pub(super) fn new(config: PushTokensConfig, fetches: IntCounterVec, count: IntGauge) -> Keys {
        Keys {
            config,
            known: ArcSwapOption::empty(),
            tried: Mutex::default(),
            pause: PAUSE,
            fetches,
            count,
        }
    }

    /// The same for tests, which don't wait.
    #[cfg(test)]
    pub(super) fn with_pause(mut self, pause: Duration) -> Keys {
        self.pause = pause;
        self
    }

    /// Fetches it at once and every ten minutes, until `stop`. What can't be fetched leaves the last set in use.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let failed = {
                let mut tried = self.tried.lock().await;
                self.fetch(&mut tried).await;
                tried.failed
            };
            let pause = if failed { self.pause } else { REFRESH };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whose token it is.
    pub(super) async fn account(&self, token: &str) -> Result<ServiceAccount, Refusal> {
        let id = token::key_id(token)?;
        let known = self.known_with(&id).await?;
        Ok(token::verify(token, &known.keys, &known.expected, unix_s())?)
    }

    /// The set, which has this key.
    async fn known_with(&self, id: &str) -> Result<Arc<Known>, Refusal> {
        let with = || self.known.load_full().filter(|known| known.keys.has(id));
        if let Some(known) = with() {
            return Ok(known);
        }
        let mut tried = self.tried.lock().await;
        if let Some(known) = with() {
            return Ok(known);
        }
        if tried.at.is_none_or(|at| at.elapsed() >= self.pause) {
            self.fetch(&mut tried).await;
        }
        match with() {
            Some(known) => Ok(known),
            // It may be a new key that can't be fetched.
            None if tried.failed => Err(Refusal::NoKeys),
            None => Err(TokenRefusal::UnknownKey.into()),
        }
    }

    async fn fetch(&self, tried: &mut Tried) {
        let fetched = self.fetched().await;
        let failed_before = tried.failed;
        *tried = Tried {
            at: Some(Instant::now()),
            failed: fetched.is_err(),
        };
        let result = if fetched.is_ok() { "fetched" } else { "failed" };
        self.fetches.with_label_values(&[result]).inc();
        match fetched {
            Ok(known) => {
                self.count
                    .set(i64::try_from(known.keys.len()).unwrap_or(i64::MAX));
                self.known.store(Some(Arc::new(known)));
            }
            Err(fault) if failed_before => {
                tracing::debug!(%fault, "the key set can still not be fetched");
            }
            Err(fault) => tracing::warn!(
                %fault,
                jwks = self.config.jwks,
                kept = self.known.load().is_some(),
                "the key set that verifies push tokens can't be fetched"
            ),
        }
    }

    async fn fetched(&self) -> Result<Known, KeysFault> {
        // Read each time: the kubelet replaces it long before it expires.
        let own = match &self.config.token {
            Some(path) => Some(String::from_utf8_lossy(&read(path).await?).trim().to_owned()),
            None => None,
        };
        let issuer = match &self.config.issuer {
            Some(issuer) => issuer.clone(),
            None => own
                .as_deref()
                .and_then(token::issuer_of)
                .ok_or(KeysFault::NoIssuer)?,
        };
        let jwks = self.config.jwks.as_str();
        let text = if self.config.jwks_is_url() {
            // On a plain connection the token would be anyone's.
            let bearer = own.as_deref().filter(|_| jwks.starts_with("https://"));
            http::fetch(jwks, self.config.ca.as_deref(), bearer, FETCH, LONGEST).await?
        } else {
            read(Path::new(jwks)).await?
        };
        Ok(Known {
            keys: KeySet::parse(&text).map_err(KeysFault::Content)?,
            expected: Expected {
                audience: self.config.audience.clone(),
                issuer,
            },
        })
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, KeysFault> {
    tokio::fs::read(path).await.map_err(|source| KeysFault::Read {
        path: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests;
