//! `GET /v1/scores` on the admin pages: how each gateway stands, for people and their commands.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::targets::EndpointTarget;

/// All gateways as of the last ranking.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Scores {
    /// The cluster.
    pub(crate) cluster: String,
    /// The ranking's version, as in answers to clients.
    pub(crate) version: u64,
    /// Where the figures come from: `scrape` or `prometheus`.
    pub(crate) source: &'static str,
    /// Whether more than half of the gateways can't be read, or the source is away: then the last picture stays.
    pub(crate) scraper_ill: bool,
    /// By the list's order: pods by name.
    pub(crate) gateways: Vec<Standing>,
}

/// How one gateway stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Standing {
    /// Its name.
    pub(crate) name: String,
    /// What it is to the list.
    pub(crate) state: State,
    /// Where clients reach it.
    pub(crate) endpoints: Vec<EndpointTarget>,
    /// Its scores and figures as of its last reading; none before the first.
    #[serde(flatten)]
    pub(crate) figures: Option<StandingFigures>,
}

/// What a gateway's place follows from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct StandingFigures {
    /// Dynamic score: remaining bandwidth in GB/s, to two decimals.
    pub(crate) dynamic: f64,
    /// Static score: remaining connections.
    #[serde(rename = "static")]
    pub(crate) static_: i64,
    /// Mean connections over the window.
    pub(crate) connections: f64,
    /// Connections it accepts.
    pub(crate) connection_limit: f64,
    /// Mean outbound bytes per second over the window.
    pub(crate) rate: f64,
    /// Declared outbound bytes per second.
    pub(crate) bandwidth: f64,
}

/// What a gateway is to the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Clients are sent there.
    Listed,
    /// It is going away.
    Draining,
    /// It couldn't be read for too long.
    Left,
    /// It was never read.
    Unseen,
}

/// The page.
pub(crate) fn router(scores: Arc<ArcSwap<Scores>>) -> Router {
    Router::new().route(
        "/v1/scores",
        get(async move || Json(serde_json::to_value(&**scores.load()).unwrap_or_default())),
    )
}
