//! Asks a Prometheus server for the gateways' figures: one query a round, for all of them at the same moment.
//!
//! [`query`] says what is asked and why in this way, [`answer`] reads the response, [`judge`] decides what it is worth.
//! All three are pure; here is the HTTP.

mod answer;
mod judge;
mod query;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url, header, redirect};

pub(crate) use self::answer::Figures;
use self::answer::{AnswerError, parse};
pub(crate) use self::judge::Judge;
use crate::config::PrometheusConfig;

/// Bytes of an answer at most: four thousand gateways with seven figures of about 120 bytes each.
const MAX_ANSWER: usize = 8 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueryError {
    /// It took longer than the deadline.
    #[error("no answer in time")]
    Timeout,
    /// The connection or the response failed.
    #[error("not reachable")]
    Unreachable(#[source] reqwest::Error),
    /// The answer wasn't 200, and didn't say why.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// The answer has more than [`MAX_ANSWER`] bytes.
    #[error("the answer is too long")]
    TooLong,
    /// The token's file can't be read.
    #[error("the token can't be read: {0}")]
    Token(String),
    /// It isn't an answer, or says why there is none.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

impl QueryError {
    /// The metric's label.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            QueryError::Timeout => "timeout",
            QueryError::Unreachable(_) => "unreachable",
            QueryError::Status(_) => "status",
            QueryError::TooLong => "too_long",
            QueryError::Token(_) => "token",
            QueryError::Answer(AnswerError::Refused(_)) => "refused",
            QueryError::Answer(_) => "malformed",
        }
    }
}

/// The HTTP client of the queries, with one connection.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    client: Client,
    url: Url,
    pod_label: String,
    token_file: Option<PathBuf>,
    timeout: Duration,
}

impl Asker {
    /// An asker for the configured server and figures over `window`. An error is the HTTP client's; the URL was
    /// checked with the configuration.
    pub(crate) fn new(config: &PrometheusConfig, url: Url, window: Duration) -> reqwest::Result<Asker> {
        let mut url = url;
        let query = query::figures(config, window);
        tracing::debug!(query, "what Prometheus is asked");
        url.query_pairs_mut().append_pair("query", &query);
        // It is asked directly: a proxy from the environment is for the world outside.
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(1)
            .build()?;
        Ok(Asker {
            client,
            url,
            pod_label: config.pod_label.clone(),
            token_file: config.token_file.clone(),
            timeout: config.timeout,
        })
    }

    /// The figures of all gateways that Prometheus has any of, by the value of the pod label.
    pub(crate) async fn ask(self) -> Result<HashMap<String, Figures>, QueryError> {
        let answer = tokio::time::timeout(self.timeout, self.body()).await;
        let (status, body) = answer.unwrap_or(Err(QueryError::Timeout))?;
        match parse(&body, &self.pod_label) {
            // A page of something between, not Prometheus's.
            Err(AnswerError::Malformed(_)) if status != StatusCode::OK => Err(QueryError::Status(status)),
            parsed => Ok(parsed?),
        }
    }

    async fn body(&self) -> Result<(StatusCode, Vec<u8>), QueryError> {
        let mut request = self.client.get(self.url.clone());
        if let Some(path) = &self.token_file {
            let token = tokio::fs::read_to_string(path).await;
            let token = token.map_err(|fault| QueryError::Token(format!("{}: {fault}", path.display())))?;
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        let mut response = request.send().await.map_err(QueryError::Unreachable)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(QueryError::Unreachable)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(QueryError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status(), body))
    }
}
