//! The push API as HTTP/JSON, on the port of the gRPC one: what a request says becomes a call of the same [`Push`] trait, and its
//! answer or refusal becomes JSON. `openapi.yaml` beside this is the contract.
//!
//! Invariants: who may call is asked before a body is read; every answer, also to nonsense, is JSON that the document describes;
//! nothing here decides about pushes.

mod answer;
mod body;
mod call;
mod document;
mod endpoint;
mod page;
mod place;
mod problem;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use imaccess_common::metrics::{counter_vec, histogram_vec};
use imaccess_common::telemetry::Seldom;
use imaccess_common::tls::Peer;
use imaccess_proto::v1::push_server::Push;
use prometheus::{HistogramVec, IntCounterVec, Registry};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};

use self::endpoint::Endpoint;
use self::problem::Problem;
use super::access::Gate;

/// The label of what is asked for at no path of the API, or by another method.
const NO_ROUTE: &str = "none";

/// What is counted of HTTP.
#[derive(Debug, Clone)]
pub(crate) struct HttpMetrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
}

impl HttpMetrics {
    pub(crate) fn register(registry: &Registry) -> HttpMetrics {
        HttpMetrics {
            requests: counter_vec(
                registry,
                "imaccess_routing_http_requests_total",
                "Requests of the push API by HTTP, by route and status.",
                &["route", "status"],
            ),
            seconds: histogram_vec(
                registry,
                "imaccess_routing_http_seconds",
                "From the head of a request of the push API by HTTP to its answer, by route.",
                &["route"],
            ),
        }
    }
}

/// What every request needs.
struct Api<P> {
    push: Arc<P>,
    gate: Arc<Gate>,
    metrics: HttpMetrics,
    seldom: Seldom,
}

/// The routes of the API, its document and the document's page. gRPC's own can be added to it.
pub(crate) fn router<P: Push>(push: Arc<P>, gate: Arc<Gate>, metrics: HttpMetrics) -> Router {
    let api = Arc::new(Api {
        push,
        gate,
        metrics,
        seldom: Seldom::default(),
    });
    let mut router = Router::new();
    for endpoint in Endpoint::ALL {
        let api = Arc::clone(&api);
        let handler = move |request: Request| {
            let api = Arc::clone(&api);
            async move { api.serve(endpoint, request).await }
        };
        router = router.route(endpoint.path(), on(endpoint.filter(), handler));
    }
    let (unknown, wrong) = (Arc::clone(&api), api);
    router
        .fallback(move |request: Request| {
            let api = Arc::clone(&unknown);
            async move { api.no_such_path(&request) }
        })
        .method_not_allowed_fallback(move |request: Request| {
            let api = Arc::clone(&wrong);
            // Which methods there are stands in the header `Allow`, which the router adds.
            async move { api.refuse(NO_ROUTE, Problem::wrong_method(request.method())) }
        })
}

// === impl Api ===

impl<P: Push> Api<P> {
    async fn serve(&self, endpoint: Endpoint, request: Request) -> Response {
        let start = Instant::now();
        let route = endpoint.label();
        let response = match self.answer(endpoint, request).await {
            Ok(response) => {
                self.count(route, &response);
                response
            }
            Err(problem) => self.refuse(route, problem),
        };
        self.metrics
            .seconds
            .with_label_values(&[route])
            .observe(start.elapsed().as_secs_f64());
        response
    }

    async fn answer(&self, endpoint: Endpoint, request: Request) -> Result<Response, Problem> {
        match endpoint {
            Endpoint::Document => return Ok(document::response()),
            Endpoint::Page => return Ok(page::response()),
            _ => (),
        }
        let (parts, body) = request.into_parts();
        let place = place::read(endpoint, &parts.uri)?;
        let mut caller = Caller::of(&parts.headers, &parts.extensions);
        self.gate
            .admit(&caller.extensions, &caller.metadata, place.business)
            .await?;
        Gate::mark(&mut caller.extensions, place.business);
        call::make(&*self.push, endpoint, place, caller, &parts.headers, body).await
    }

    fn no_such_path(&self, request: &Request) -> Response {
        // Who speaks gRPC reads nothing but gRPC.
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            return Status::unimplemented("there is no such method").into_http();
        }
        self.refuse(NO_ROUTE, Problem::no_such_path())
    }

    /// Counts and logs a refusal. What the caller sent isn't in the line: its text could have some of it.
    fn refuse(&self, route: &'static str, problem: Problem) -> Response {
        let (status, code) = (problem.status().as_u16(), problem.code());
        if problem.status().is_server_error() {
            if self.seldom.may(Instant::now()) {
                tracing::warn!(route, status, code, "an HTTP call to the push API has failed");
            }
        } else if self.seldom.may(Instant::now()) {
            tracing::info!(route, status, code, "an HTTP call to the push API is refused");
        }
        let response = problem.into_response();
        self.count(route, &response);
        response
    }

    fn count(&self, route: &str, response: &Response) {
        self.metrics
            .requests
            .with_label_values(&[route, response.status().as_str()])
            .inc();
    }
}

/// Who calls, as gRPC would know it.
#[derive(Debug)]
struct Caller {
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Caller {
    /// By the request's token, and by the certificate of its connection.
    fn of(headers: &HeaderMap<HeaderValue>, connection: &Extensions) -> Caller {
        let mut passed = HeaderMap::new();
        if let Some(token) = headers.get(header::AUTHORIZATION) {
            passed.insert(header::AUTHORIZATION, token.clone());
        }
        let mut extensions = Extensions::new();
        if let Some(peer) = connection.get::<Peer>() {
            extensions.insert(peer.clone());
        }
        Caller {
            metadata: MetadataMap::from_headers(passed),
            extensions,
        }
    }

    fn request<T>(self, message: T) -> tonic::Request<T> {
        tonic::Request::from_parts(self.metadata, self.extensions, message)
    }
}

impl Endpoint {
    fn filter(self) -> MethodFilter {
        match self {
            Endpoint::CreateGroup => MethodFilter::PUT,
            Endpoint::DestroyGroup => MethodFilter::DELETE,
            Endpoint::ListMembers | Endpoint::Document | Endpoint::Page => MethodFilter::GET,
            _ => MethodFilter::POST,
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
