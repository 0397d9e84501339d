//! The admin pages that an upgrade asks: readiness, handover and its lease. Straight to an address, without proxies.

use std::time::Duration;

use anyhow::Context;
use imaccess_common::generation::Span;
use imaccess_common::handover::{Handover, left_by_themselves};
use reqwest::StatusCode;
use serde::Deserialize;

use crate::cluster::http;

/// One answer: the pages wait for nothing.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a lease is asked for: it is used within milliseconds.
const LEASE_SECONDS: u32 = 30;

/// Asks admin pages.
#[derive(Debug, Clone)]
pub(super) struct Admin {
    http: reqwest::Client,
}

/// A lease that was given.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Lease {
    pub(super) lease: String,
    #[serde(default)]
    pub(super) connections: u64,
    #[serde(default)]
    pub(super) held: u64,
}

/// Why there is no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoLease {
    /// It may be given soon.
    NotNow(String),
    /// It won't.
    Never(String),
}

#[derive(Deserialize)]
struct Fault {
    error: String,
}

impl Admin {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { http: http(ANSWER)? })
    }

    /// `GET /handover` of a gateway.
    pub(super) async fn handover(&self, address: &str) -> Result<Handover, String> {
        let (status, body) = self
            .send(self.http.get(format!("http://{address}/handover")))
            .await?;
        if status == StatusCode::NOT_FOUND {
            return Err("it knows no handover: it is a version from before custody".to_owned());
        }
        if !status.is_success() {
            return Err(format!("{status}: {}", said(&body)));
        }
        serde_json::from_str(&body).map_err(|fault| format!("its answer can't be read: {fault}"))
    }

    /// `GET /readyz`.
    pub(super) async fn ready(&self, address: &str) -> Result<(), String> {
        let (status, body) = self
            .send(self.http.get(format!("http://{address}/readyz")))
            .await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(body.trim().replace('\n', "; "))
        }
    }

    /// How many of those that a takeover closed had ended by themselves; 0 if it can't be known.
    pub(super) async fn left(&self, address: &str) -> u64 {
        let page = self
            .send(self.http.get(format!("http://{address}/metrics")))
            .await;
        page.map_or(0, |(_, page)| left_by_themselves(&page))
    }

    /// Takes the lease for a successor that speaks these generations of it.
    pub(super) async fn take_lease(&self, address: &str, speaks: Span) -> Result<Lease, NoLease> {
        let wish = serde_json::json!({
            "oldest_generation": speaks.oldest,
            "newest_generation": speaks.newest,
            "seconds": LEASE_SECONDS,
        });
        let request = self.http.post(format!("http://{address}/handover")).json(&wish);
        let (status, body) = self.send(request).await.map_err(NoLease::NotNow)?;
        match status {
            StatusCode::CONFLICT => Err(NoLease::NotNow(said(&body))),
            status if status.is_success() => serde_json::from_str(&body)
                .map_err(|fault| NoLease::Never(format!("the lease can't be read: {fault}"))),
            status => Err(NoLease::Never(format!("{status}: {}", said(&body)))),
        }
    }

    /// Gives a lease back that isn't used.
    pub(super) async fn give_back(&self, address: &str, lease: &str) -> anyhow::Result<()> {
        let request = self
            .http
            .delete(format!("http://{address}/handover?lease={lease}"));
        let (status, body) = self.send(request).await.map_err(anyhow::Error::msg)?;
        let given = status.is_success().then_some(());
        given.with_context(|| format!("{status}: {}", said(&body)))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<(StatusCode, String), String> {
        let response = request.send().await.map_err(|_| "not reachable".to_owned())?;
        let status = response.status();
        let body = response
            .text()
            .await
            .map_err(|_| "its answer was cut off".to_owned())?;
        Ok((status, body))
    }
}

/// The error that a page gave, or the page.
fn said(body: &str) -> String {
    serde_json::from_str(body).map_or_else(|_| body.trim().to_owned(), |fault: Fault| fault.error)
}
