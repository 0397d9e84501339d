//! What clients ask: `GET /v1/endpoints` and `GET /v1/businesses`.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use imaccess_common::ticket::{MAX_APP, MAX_DEVICE};
use imaccess_common::token::DevelopmentIssuer;
use serde::Deserialize;
use serde_json::json;

use crate::answer::{Answers, DEFAULT_K, MAX_K};
use crate::config::BusinessName;
use crate::metrics::Metrics;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Answers differ from one to the next on purpose: nothing between may repeat one.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// What the handlers share.
pub(crate) struct Desk {
    pub(crate) published: Arc<ArcSwap<Answers>>,
    /// The body of `GET /v1/businesses`.
    pub(crate) businesses: Arc<ArcSwap<Bytes>>,
    pub(crate) retry_after_s: u32,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) metrics: Metrics,
}

/// The development mode.
pub(crate) struct Tokens {
    pub(crate) issuer: DevelopmentIssuer,
    pub(crate) cluster: String,
    pub(crate) ttl: Duration,
}

/// What a client may say that changes the answer; of its other attributes none does yet.
#[derive(Debug, Default, Deserialize)]
struct Asked {
    k: Option<String>,
    device: Option<String>,
    app: Option<String>,
}

/// The API.
pub(crate) fn router(desk: Arc<Desk>) -> Router {
    Router::new()
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/businesses", get(businesses))
        .fallback(async || {
            refusal(
                StatusCode::NOT_FOUND,
                "not_found",
                "ask /v1/endpoints or /v1/businesses",
            )
        })
        .method_not_allowed_fallback(async || {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "method", "only GET is answered")
        })
        .with_state(desk)
}

/// The body of `GET /v1/businesses`.
pub(crate) fn businesses_body(businesses: &[BusinessName]) -> Bytes {
    json!({ "businesses": businesses }).to_string().into()
}

async fn endpoints(State(desk): State<Arc<Desk>>, uri: Uri) -> Response {
    match desk.answer(&uri) {
        Ok(body) => ok(body),
        Err(refused) => refused.respond(&desk),
    }
}

async fn businesses(State(desk): State<Arc<Desk>>) -> Response {
    ok(Bytes::clone(&desk.businesses.load()))
}

enum Refused {
    /// The query is wrong: what, and how it should read.
    Query(String),
    /// No gateway is known.
    NoGateways,
}

impl Desk {
    fn answer(&self, uri: &Uri) -> Result<Bytes, Refused> {
        let asked = match uri.query() {
            None | Some("") => Asked::default(),
            Some(_) => {
                Query::<Asked>::try_from_uri(uri)
                    .map_err(|fault| Refused::Query(fault.body_text()))?
                    .0
            }
        };
        let k = match asked.k.as_deref().map(str::parse) {
            None => DEFAULT_K,
            Some(Ok(k @ 1..)) => MAX_K.min(k),
            Some(_) => return Err(Refused::Query(format!("`k` must be a number from 1 to {MAX_K}"))),
        };
        let answers = self.published.load();
        let body = match (&self.tokens, asked.device, asked.app) {
            (Some(tokens), Some(device), Some(app)) => {
                let token = tokens.issue(&app, &device)?;
                self.metrics.tokens.inc();
                answers.next_with_token(k, &token)
            }
            _ => answers.next(k),
        };
        body.ok_or(Refused::NoGateways)
    }
}

impl Tokens {
    fn issue(&self, app: &str, device: &str) -> Result<String, Refused> {
        let fits = |id: &str, most: usize| !id.is_empty() && id.len() <= most;
        if !fits(app, MAX_APP) || !fits(device, MAX_DEVICE) {
            let rule =
                format!("for a token, `app` must have 1 to {MAX_APP} bytes and `device` 1 to {MAX_DEVICE}");
            return Err(Refused::Query(rule));
        }
        Ok(self.issuer.issue(&self.cluster, app, device, self.ttl))
    }
}

impl Refused {
    fn respond(self, desk: &Desk) -> Response {
        match self {
            Refused::Query(message) => {
                desk.metrics.refused.with_label_values(&["query"]).inc();
                refusal(StatusCode::BAD_REQUEST, "query", &message)
            }
            Refused::NoGateways => {
                desk.metrics.refused.with_label_values(&["no_gateways"]).inc();
                let message = "no gateway is known yet; ask again";
                let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, "no_gateways", message);
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from(desk.retry_after_s));
                response
            }
        }
    }
}

fn ok(body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response
}

fn refusal(status: StatusCode, error: &str, message: &str) -> Response {
    let headers = [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, NO_STORE)];
    (
        status,
        headers,
        json!({ "error": error, "message": message }).to_string(),
    )
        .into_response()
}
