//! `/handover`, on the control address if there is one, else on the admin address: who wants to replace this process asks here first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use imaccess_common::generation::{self, Span};
use imaccess_common::handover as shown;
use serde::{Deserialize, Serialize};

use super::lease::{Handover, LONGEST};
use crate::limits::Admission;
use crate::metrics::Metrics;

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) handover: Arc<Handover>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) incarnation: u32,
    pub(crate) takeover: shown::Takeover,
    pub(crate) metrics: Metrics,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wish {
    oldest_generation: Option<u32>,
    newest_generation: Option<u32>,
    seconds: Option<u64>,
    /// A name for the lease; one is made up if it isn't given.
    lease: Option<String>,
}

#[derive(Debug, Serialize)]
struct Given {
    lease: String,
    generation: u32,
    seconds: u64,
    connections: usize,
    held: i64,
    incarnation: u32,
    shards: u32,
}

#[derive(Debug, Deserialize)]
struct Named {
    lease: String,
}

/// The page's routes.
pub(crate) fn router(page: Page) -> Router {
    Router::new()
        .route("/handover", get(show).post(take).delete(give_back))
        .with_state(Arc::new(page))
}

async fn show(State(page): State<Arc<Page>>) -> Response {
    let handover = &page.handover;
    Json(shown::Handover {
        custody: handover.custody(),
        complete: handover.is_complete(),
        links: handover.links.load(Ordering::Acquire),
        shards: handover.shards(),
        connections: page.admission.open() as u64,
        // Never below zero but for a moment between two counts.
        held: u64::try_from(handover.held.load(Ordering::Relaxed)).unwrap_or(0),
        lease: handover.is_leased(Instant::now()),
        incarnation: page.incarnation,
        faults: page.metrics.faults(),
        takeover: page.takeover.clone(),
    })
    .into_response()
}

async fn take(State(page): State<Arc<Page>>, body: axum::body::Bytes) -> Response {
    let wish = if body.is_empty() {
        Wish::default()
    } else {
        match serde_json::from_slice(&body) {
            Ok(wish) => wish,
            Err(fault) => return refusal(StatusCode::BAD_REQUEST, &format!("the body is no wish: {fault}")),
        }
    };
    let spoken = generation::spoken().lease;
    let oldest = wish.oldest_generation.unwrap_or(spoken.newest);
    let asked = Span::new(oldest, wish.newest_generation.unwrap_or(oldest));
    let Some(generation) = spoken.common(asked) else {
        let text = format!("the lease is asked for in generation {asked}, and this gateway speaks {spoken}");
        return refusal(StatusCode::BAD_REQUEST, &text);
    };
    let wished = wish.seconds.map_or(LONGEST, Duration::from_secs);
    let id = wish.lease.filter(|id| !id.is_empty()).unwrap_or_else(|| {
        imaccess_common::identity::InstanceId::random()
            .as_str()
            .to_owned()
    });
    match page.handover.take(wished, id.clone(), Instant::now()) {
        Ok(length) => {
            tracing::info!(seconds = length.as_secs(), "the handover lease is taken");
            Json(Given {
                lease: id,
                generation,
                seconds: length.as_secs(),
                connections: page.admission.open(),
                held: page.handover.held.load(Ordering::Relaxed),
                incarnation: page.incarnation,
                shards: page.handover.shards(),
            })
            .into_response()
        }
        Err(why) => refusal(StatusCode::CONFLICT, &why.to_string()),
    }
}

async fn give_back(State(page): State<Arc<Page>>, Query(named): Query<Named>) -> Response {
    if page.handover.give_back(&named.lease) {
        tracing::info!("the handover lease is given back");
        Json(serde_json::json!({})).into_response()
    } else {
        refusal(StatusCode::NOT_FOUND, "no such lease is held")
    }
}

fn refusal(status: StatusCode, error: &str) -> Response {
    (status, Json(serde_json::json!({ "error": error }))).into_response()
}
