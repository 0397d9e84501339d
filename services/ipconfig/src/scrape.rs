//! Reads the gateways' metrics pages: all at the same time, each with a deadline and a bound on its size.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use imaccess_common::gateway_page::{GatewayPage, PageError};
use reqwest::{Client, StatusCode, redirect};

use crate::targets::GatewayTarget;

/// Bytes of a page at most: a gateway's has about 20 KiB.
const MAX_PAGE: usize = 1 << 20;

/// Why a page wasn't read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScrapeError {
    /// It took longer than the deadline.
    #[error("no answer in time")]
    Timeout,
    /// The connection or the response failed.
    #[error("not reachable")]
    Unreachable(#[source] reqwest::Error),
    /// The answer wasn't 200.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// The page has more than [`MAX_PAGE`] bytes.
    #[error("the page is too long")]
    TooLong,
    /// The page isn't a gateway's.
    #[error("not a gateway's page")]
    Page(#[from] PageError),
}

impl ScrapeError {
    /// The metric's label.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            ScrapeError::Timeout => "timeout",
            ScrapeError::Unreachable(_) => "unreachable",
            ScrapeError::Status(_) => "status",
            ScrapeError::TooLong => "too_long",
            ScrapeError::Page(_) => "malformed",
        }
    }
}

/// What a round brought: a result per target.
pub(crate) type Round = Vec<(Arc<GatewayTarget>, Result<GatewayPage, ScrapeError>)>;

/// The HTTP client of the scrapes. Connections are kept: one per gateway.
#[derive(Debug, Clone)]
pub(crate) struct Scraper {
    client: Client,
    timeout: Duration,
}

impl Scraper {
    /// A scraper that waits `timeout` for a page.
    pub(crate) fn new(timeout: Duration) -> reqwest::Result<Scraper> {
        // Gateways are asked directly: a proxy from the environment is for the world outside.
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(1);
        Ok(Scraper {
            client: client.build()?,
            timeout,
        })
    }

    /// Asks every target. It ends when all have answered, or after the timeout.
    pub(crate) async fn round(self, targets: Vec<Arc<GatewayTarget>>) -> Round {
        let scrapes: FuturesUnordered<_> = targets
            .into_iter()
            .map(|target| async {
                let result = self.scrape(&target.metrics).await;
                (target, result)
            })
            .collect();
        scrapes.collect().await
    }

    async fn scrape(&self, address: &str) -> Result<GatewayPage, ScrapeError> {
        let page = tokio::time::timeout(self.timeout, self.page(address)).await;
        let page = page.unwrap_or(Err(ScrapeError::Timeout))?;
        Ok(GatewayPage::parse(&String::from_utf8_lossy(&page))?)
    }

    async fn page(&self, address: &str) -> Result<Vec<u8>, ScrapeError> {
        let request = self.client.get(format!("http://{address}/metrics"));
        let mut response = request.send().await.map_err(ScrapeError::Unreachable)?;
        if response.status() != StatusCode::OK {
            return Err(ScrapeError::Status(response.status()));
        }
        let mut page = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(ScrapeError::Unreachable)? {
            if page.len() + chunk.len() > MAX_PAGE {
                return Err(ScrapeError::TooLong);
            }
            page.extend_from_slice(&chunk);
        }
        Ok(page)
    }
}
