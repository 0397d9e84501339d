//! What one look at one gateway showed, from whichever source.

use std::time::Duration;

use imaccess_common::gateway_page::GatewayPage;

use crate::scrape::ScrapeError;

/// A gateway's figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    /// The figures of its page.
    pub(crate) page: GatewayPage,
    /// How old they were when they were asked for.
    pub(crate) age: Duration,
    /// The means over the window, from a source that computes them itself; else they follow from the pages.
    pub(crate) means: Option<ReadMeans>,
}

/// Means over the window that the source computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ReadMeans {
    /// Mean number of connections.
    pub(crate) connections: f64,
    /// Mean outbound bytes per second.
    pub(crate) rate: f64,
}

impl From<GatewayPage> for Reading {
    /// A page that was just read.
    fn from(page: GatewayPage) -> Reading {
        Reading {
            page,
            age: Duration::ZERO,
            means: None,
        }
    }
}

/// Why there is no reading of a gateway.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unread {
    /// Its page couldn't be read.
    #[error(transparent)]
    Scrape(#[from] ScrapeError),
    /// Prometheus has no present figures of it: it doesn't know it (yet), or couldn't scrape it the last time.
    #[error("Prometheus has no present figures of it")]
    Absent,
    /// What Prometheus scraped last is too old.
    #[error("what Prometheus has of it is {0:?} old")]
    Stale(Duration),
    /// A figure is missing among the others or is no quantity.
    #[error("its {0} is missing or no quantity")]
    Malformed(&'static str),
}

impl Unread {
    /// The metric's label.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Unread::Scrape(fault) => fault.label(),
            Unread::Absent => "absent",
            Unread::Stale(_) => "stale",
            Unread::Malformed(_) => "malformed",
        }
    }
}
