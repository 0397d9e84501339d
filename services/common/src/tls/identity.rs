//! Who this part is, for as long as it runs: the certificate in use, and the authorities it believes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::files::{self, Look};
use super::metrics::TlsMetrics;
use super::{TlsConfig, TlsError, provider};

/// How often the files are looked at: three `stat` calls, and Kubernetes itself takes up to a minute to bring a Secret.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What new connections are made with.
pub(super) struct Loaded {
    pub(super) own: Arc<SingleCertAndKey>,
    /// Judges servers that are dialled.
    pub(super) servers: Arc<WebPkiServerVerifier>,
    /// Judges clients, each of which must have a certificate.
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    /// Judges clients that may come without.
    pub(super) guests: Arc<dyn ClientCertVerifier>,
    own_ends: i64,
    authority_ends: i64,
}

/// How the three files looked when they were last read.
type Looks = [Option<Look>; 3];

/// A certificate with its key and its authorities, read again when the files change.
///
/// A pair that doesn't fit, or a file that can't be read, changes nothing: what was in use stays in use, one warning is
/// logged per change, and a metric counts it.
pub struct Identity {
    config: TlsConfig,
    metrics: TlsMetrics,
    loaded: ArcSwap<Loaded>,
    looked: Mutex<Looks>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

// === impl Identity ===

impl Identity {
    /// Reads the files for the first time. They are read again only while [`watch`](Self::watch) runs.
    ///
    /// # Errors
    /// [`TlsError`], naming the file: a part doesn't start without a certificate that it was told to have.
    pub fn load(config: TlsConfig, metrics: TlsMetrics) -> Result<Arc<Identity>, TlsError> {
        let looks = looks(&config);
        let loaded = load(&config)?;
        metrics.set_not_after(loaded.own_ends, loaded.authority_ends);
        Ok(Arc::new(Identity {
            config,
            metrics,
            loaded: ArcSwap::from_pointee(loaded),
            looked: Mutex::new(looks),
        }))
    }

    /// Looks at the files once a second, until `stop`.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => {}
            }
            self.refresh();
        }
    }

    /// Looks at the files, and reads them if they changed. Returns whether another certificate is in use now.
    pub fn refresh(&self) -> bool {
        let before = looks(&self.config);
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if *looked == before {
            return false;
        }
        let read = load(&self.config);
        if looks(&self.config) != before {
            // They change at this moment: what was read may be of two generations. The next look sees them at rest.
            return false;
        }
        *looked = before;
        drop(looked);
        match read {
            Ok(loaded) => {
                tracing::info!(
                    certificate = %self.config.certificate.display(),
                    not_after_unix_s = loaded.own_ends,
                    "new connections use the certificate and authorities that were read just now"
                );
                self.metrics.reloaded(true);
                self.metrics.set_not_after(loaded.own_ends, loaded.authority_ends);
                self.loaded.store(Arc::new(loaded));
                true
            }
            Err(fault) => {
                self.metrics.reloaded(false);
                let cause = std::error::Error::source(&fault).map(ToString::to_string);
                tracing::warn!(
                    %fault,
                    cause,
                    "the certificate files changed and can't be used; the former certificate stays in use"
                );
                false
            }
        }
    }

    pub(super) fn loaded(&self) -> Arc<Loaded> {
        self.loaded.load_full()
    }

    pub(super) fn metrics(&self) -> &TlsMetrics {
        &self.metrics
    }
}

fn looks(config: &TlsConfig) -> Looks {
    [&config.certificate, &config.key, &config.authority].map(|path| files::look(path))
}

fn load(config: &TlsConfig) -> Result<Loaded, TlsError> {
    let own = own(config)?;
    let own_ends = files::not_after(&config.certificate, &own.cert[0])?;
    let (roots, authority_ends) = files::authorities(&config.authority)?;
    let roots = Arc::new(roots);
    let fault = |fault: rustls::server::VerifierBuilderError| TlsError::Content {
        path: config.authority.clone(),
        fault: fault.to_string(),
    };
    let clients = |roots: &Arc<RootCertStore>| {
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
    };
    Ok(Loaded {
        own: Arc::new(SingleCertAndKey::from(own)),
        clients: clients(&roots).build().map_err(fault)?,
        guests: clients(&roots).allow_unauthenticated().build().map_err(fault)?,
        servers: WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(fault)?,
        own_ends,
        authority_ends,
    })
}

/// The certificate with its key, which must be of one pair.
pub(super) fn own(config: &TlsConfig) -> Result<CertifiedKey, TlsError> {
    let chain = files::certificates(&config.certificate)?;
    let key = files::key(&config.key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|fault| match fault {
        rustls::Error::InconsistentKeys(_) => TlsError::Pair {
            certificate: config.certificate.clone(),
            key: config.key.clone(),
        },
        fault => TlsError::Content {
            path: config.key.clone(),
            fault: fault.to_string(),
        },
    })
}
