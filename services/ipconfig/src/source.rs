//! Where the gateways' figures come from: their own pages, or a Prometheus server that reads those.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use imaccess_common::clock::CoarseInstant;

use crate::config::IpconfigConfig;
use crate::promapi::{Asker, Figures, Judge, QueryError};
use crate::reading::{Reading, Unread};
use crate::scrape::{self, Scraper};
use crate::targets::GatewayTarget;

/// The source.
#[derive(Debug)]
pub(crate) enum Source {
    /// Every gateway's page.
    Pages(Scraper),
    /// A Prometheus server.
    Prometheus {
        /// Asks it.
        asker: Box<Asker>,
        /// Weighs its answers.
        judge: Judge,
    },
}

/// What a round brought, not yet weighed.
pub(crate) enum Brought {
    /// A result per gateway.
    Pages(scrape::Round),
    /// An answer, or none, to what was asked for these.
    Answer(
        Vec<Arc<GatewayTarget>>,
        Result<HashMap<String, Figures>, QueryError>,
    ),
}

/// What a round says.
pub(crate) enum Verdict {
    /// Readings of those that could be judged.
    Readings(Vec<(Arc<GatewayTarget>, Result<Reading, Unread>)>),
    /// The source itself is away: its fault, and the metric's label for it.
    Away(String, &'static str),
}

impl Source {
    /// The source that the configuration names. An error is the HTTP client's.
    pub(crate) fn new(config: &IpconfigConfig) -> reqwest::Result<Source> {
        let server = config
            .prometheus
            .as_ref()
            .and_then(|prometheus| Some((prometheus, prometheus.query_url().ok()?)));
        Ok(match server {
            None => Source::Pages(Scraper::new(config.scrape_timeout)?),
            Some((prometheus, url)) => Source::Prometheus {
                asker: Box::new(Asker::new(prometheus, url, config.window)?),
                judge: Judge::new(config.absence, prometheus.scrape_interval),
            },
        })
    }

    /// What people call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Source::Pages(_) => "scrape",
            Source::Prometheus { .. } => "prometheus",
        }
    }

    /// How often it is to be asked.
    pub(crate) fn interval(config: &IpconfigConfig) -> Duration {
        let prometheus = config.prometheus.as_ref();
        prometheus.map_or(config.scrape_interval, |prometheus| prometheus.interval)
    }

    /// Asks it about `targets`.
    pub(crate) fn ask(&self, targets: Vec<Arc<GatewayTarget>>) -> BoxFuture<'static, Brought> {
        match self {
            Source::Pages(scraper) => scraper.clone().round(targets).map(Brought::Pages).boxed(),
            Source::Prometheus { asker, .. } => {
                let asking = Asker::clone(asker).ask();
                asking.map(|answer| Brought::Answer(targets, answer)).boxed()
            }
        }
    }

    /// Weighs what a round, begun at `at`, brought.
    pub(crate) fn weigh(&mut self, at: CoarseInstant, brought: Brought) -> Verdict {
        match (self, brought) {
            (Source::Prometheus { judge, .. }, Brought::Answer(targets, Ok(answer))) => {
                Verdict::Readings(judge.judge(at, targets, &answer))
            }
            (Source::Prometheus { judge, .. }, Brought::Answer(_, Err(fault))) => {
                judge.away();
                Verdict::Away(sentence(&fault), fault.label())
            }
            (_, Brought::Pages(round)) => {
                let read = |(target, result): (_, Result<_, scrape::ScrapeError>)| {
                    (target, result.map(Reading::from).map_err(Unread::from))
                };
                Verdict::Readings(round.into_iter().map(read).collect())
            }
            // Only a Prometheus answers: nothing was asked.
            (Source::Pages(_), Brought::Answer(..)) => Verdict::Readings(Vec::new()),
        }
    }
}

/// A fault with its cause, of which the HTTP client's own sentences say little.
fn sentence(fault: &QueryError) -> String {
    let mut text = fault.to_string();
    let mut below = fault.source();
    while let Some(cause) = below {
        text = format!("{text}: {cause}");
        below = cause.source();
    }
    text
}
