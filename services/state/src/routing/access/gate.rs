//! Stands before every push call.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use imaccess_common::business::BusinessConfig;
use imaccess_common::metrics::{counter_vec, gauge};
use imaccess_common::telemetry::Seldom;
use imaccess_common::tls::Peer;
use prometheus::{IntCounterVec, IntGauge, Registry};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};

use super::keys::Keys;
use super::{Caller, Refusal, Table, authorize};
use crate::routing::config::RoutingConfig;

/// What is counted of access to the push API.
#[derive(Debug, Clone)]
pub(crate) struct GateMetrics {
    refused: IntCounterVec,
    fetches: IntCounterVec,
    keys: IntGauge,
}

impl GateMetrics {
    pub(crate) fn register(registry: &Registry) -> GateMetrics {
        GateMetrics {
            refused: counter_vec(
                registry,
                "imaccess_routing_push_refused_total",
                "Push calls refused because of who made them, by reason.",
                &["reason"],
            ),
            fetches: counter_vec(
                registry,
                "imaccess_routing_push_key_fetches_total",
                "Fetches of the key set that verifies push tokens.",
                &["result"],
            ),
            keys: gauge(
                registry,
                "imaccess_routing_push_keys",
                "Keys that verify push tokens.",
            ),
        }
    }
}

/// Marks a call that was let through for a business: whoever asks again further in asks no one. It is put into a call's extensions
/// here and nowhere else; nothing that comes over the wire becomes an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Admitted {
    business: u32,
}

/// Lets push calls through, or says why not.
pub(crate) struct Gate {
    /// `None`: everyone may push.
    table: Option<ArcSwap<Table>>,
    clients: Vec<String>,
    keys: Option<Arc<Keys>>,
    refused: IntCounterVec,
    seldom: Seldom,
}

// === impl Gate ===

impl Gate {
    /// As configured: with neither `push_clients` nor `push_tokens` everyone may push.
    pub(crate) fn new(config: &RoutingConfig, metrics: GateMetrics) -> Gate {
        let keys = config
            .push_tokens
            .clone()
            .map(|tokens| Arc::new(Keys::new(tokens, metrics.fetches, metrics.keys)));
        let closed = keys.is_some() || !config.push_clients.is_empty();
        let table = || ArcSwap::from_pointee(Table::new(&config.push_clients, &config.businesses));
        Gate {
            table: closed.then(table),
            clients: config.push_clients.clone(),
            keys,
            refused: metrics.refused,
            seldom: Seldom::default(),
        }
    }

    /// Takes other businesses, with their pushers, from the next call on.
    pub(crate) fn set_businesses(&self, businesses: &[BusinessConfig]) {
        if let Some(table) = &self.table {
            table.store(Arc::new(Table::new(&self.clients, businesses)));
        }
    }

    /// Keeps the key set fresh, until `stop`.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        if let Some(keys) = &self.keys {
            Arc::clone(keys).keep(stop).await;
        }
    }

    /// Whether the caller, known by its connection and the call's metadata, may push for `business`.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if it isn't known who calls, `PERMISSION_DENIED` if it is and may not, `UNAVAILABLE` if that can't
    /// be found out now. Each is counted.
    pub(crate) async fn admit(
        &self,
        extensions: &Extensions,
        metadata: &MetadataMap,
        business: u32,
    ) -> Result<(), Status> {
        let Some(table) = &self.table else {
            return Ok(());
        };
        if extensions.get() == Some(&Admitted { business }) {
            return Ok(());
        }
        let names = extensions
            .get::<Peer>()
            .map(|peer| Arc::clone(&peer.names))
            .unwrap_or_default();
        let verdict = self.judge(table, names, bearer(metadata), business).await;
        verdict.map_err(|refusal| {
            self.refused.with_label_values(&[refusal.label()]).inc();
            if self.seldom.may(Instant::now()) {
                tracing::info!(business, reason = refusal.label(), %refusal, "a push is refused");
            }
            status(&refusal)
        })
    }

    /// Marks a call that was let through for `business`, so that it is judged and counted once, however many ask.
    pub(crate) fn mark(extensions: &mut Extensions, business: u32) {
        extensions.insert(Admitted { business });
    }

    async fn judge(
        &self,
        table: &ArcSwap<Table>,
        names: Arc<[String]>,
        bearer: Option<&str>,
        business: u32,
    ) -> Result<(), Refusal> {
        let mut caller = Caller { names, account: None };
        // A certificate that is enough spares the token's check.
        let enough = table.load().knows(&caller.names);
        if let (Some(keys), Some(token), false) = (&self.keys, bearer, enough) {
            caller.account = Some(keys.account(token).await?);
        }
        authorize(&caller, business, &table.load())
    }
}

/// The token of `authorization: Bearer …`. The scheme's name is read in any case.
fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}

fn status(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::Unknown | Refusal::Token(_) => Status::unauthenticated(text),
        Refusal::NoKeys => Status::unavailable(text),
        Refusal::Certificate { .. } | Refusal::Account { .. } => Status::permission_denied(text),
    }
}
