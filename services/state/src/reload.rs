//! What a sidecar takes from files that may change while it runs: businesses, and the keys of tickets and tokens.

use std::path::PathBuf;
use std::sync::Arc;

use imaccess_common::business::{self, BusinessConfig};
use imaccess_common::config::watched::{Follow, Loaded, Reloads, Stamp, fingerprint};
use imaccess_common::ticket::TicketKeys;
use imaccess_common::token::{DevelopmentVerifier, TokenVerifier};
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{SidecarConfig, SidecarConfigError};

/// What is in effect, now and later.
#[derive(Clone)]
pub(crate) struct Reloaded {
    pub(crate) businesses: watch::Receiver<Arc<Vec<BusinessConfig>>>,
    pub(crate) keys: Keys,
}

/// The keys in effect.
#[derive(Clone)]
pub(crate) struct Keys {
    tickets: watch::Receiver<Arc<TicketKeys>>,
    tokens: watch::Receiver<Arc<DevelopmentVerifier>>,
}

impl Keys {
    /// Those of now.
    pub(crate) fn current(&self) -> (Arc<TicketKeys>, Arc<dyn TokenVerifier>) {
        let tokens: Arc<DevelopmentVerifier> = Arc::clone(&self.tokens.borrow());
        (Arc::clone(&self.tickets.borrow()), tokens)
    }

    /// Waits until there are others; for ever if nobody follows their files. Cancel-safe.
    pub(crate) async fn changed(&mut self) {
        let changed = tokio::select! {
            changed = self.tickets.changed() => changed,
            changed = self.tokens.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The files, read once.
pub(crate) struct SidecarReloads {
    pub(crate) now: Reloaded,
    of_businesses: Follow<Vec<BusinessConfig>>,
    of_tickets: Follow<TicketKeys>,
    of_tokens: Follow<DevelopmentVerifier>,
}

impl SidecarReloads {
    /// Reads them.
    ///
    /// # Errors
    /// [`SidecarConfigError`], for the first that can't be used.
    pub(crate) fn begin(config: &SidecarConfig, registry: &Registry) -> Result<Self, SidecarConfigError> {
        let reloads = Reloads::register(registry);
        let of = config.clone();
        let (of_businesses, businesses) = Follow::begin(
            "businesses",
            config.businesses_file.iter().cloned().collect(),
            &reloads,
            move || business::load_all(&of.businesses, of.businesses_file.as_deref()),
        )
        .map_err(SidecarConfigError::Invalid)?;
        let of = config.clone();
        let paths: Vec<PathBuf> = config.ticket_keys_file.iter().cloned().collect();
        let files = paths.clone();
        let mut is_first = true;
        let load = move || {
            // Seals and opens nothing of the others: at the start a development cluster may, later it would be a broken file.
            let may_make_up = std::mem::replace(&mut is_first, false);
            let generation = generation_of(&files)?;
            let value = of
                .load_ticket_keys(may_make_up)
                .map_err(|fault| in_full(&fault))?;
            Ok(Loaded { value, generation })
        };
        let (of_tickets, tickets) =
            Follow::begin("ticket_keys", paths, &reloads, load).map_err(SidecarConfigError::Invalid)?;
        let of = config.clone();
        let paths = config.token_paths();
        let files = paths.clone();
        let load = move || {
            let generation = generation_of(&files)?;
            let value = of.load_verifier().map_err(|fault| in_full(&fault))?;
            Ok(Loaded { value, generation })
        };
        let (of_tokens, tokens) =
            Follow::begin("token_keys", paths, &reloads, load).map_err(SidecarConfigError::Invalid)?;
        let keys = Keys { tickets, tokens };
        Ok(Self {
            now: Reloaded { businesses, keys },
            of_businesses,
            of_tickets,
            of_tokens,
        })
    }

    /// From now on they are looked at, until `stop`.
    pub(crate) fn follow(self, stop: &CancellationToken) -> Reloaded {
        tokio::spawn(self.of_businesses.run(stop.clone()));
        tokio::spawn(self.of_tickets.run(stop.clone()));
        tokio::spawn(self.of_tokens.run(stop.clone()));
        self.now
    }
}

/// The fingerprint of one file, of several, or of the PEM files in a directory, in the order of their names.
fn generation_of(paths: &[PathBuf]) -> Result<i64, String> {
    let mut bytes = Vec::new();
    for path in paths {
        let fault = |error: std::io::Error| format!("can't read {}: {error}", path.display());
        if path.is_dir() {
            for name in Stamp::of(path).map_err(fault)?.names() {
                let file = path.join(name);
                if file.extension().is_some_and(|extension| extension == "pem") {
                    bytes.extend(std::fs::read(&file).map_err(fault)?);
                }
            }
        } else {
            bytes.extend(std::fs::read(path).map_err(fault)?);
        }
    }
    Ok(if paths.is_empty() { 0 } else { fingerprint(&bytes) })
}

fn in_full(fault: &SidecarConfigError) -> String {
    match fault {
        SidecarConfigError::Read { source, .. } => format!("{fault}: {source}"),
        SidecarConfigError::Invalid(_) => fault.to_string(),
    }
}
