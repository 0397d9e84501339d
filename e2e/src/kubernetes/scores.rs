//! What ipconfig thinks of the gateways, by its page for people: looking at it changes nothing, unlike asking as a client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_operator_api::names::{Part, port};
use serde::Deserialize;

use super::Installation;
use super::gateways::number;
use super::installation::is_serving;

/// A page that takes longer is a finding.
const ANSWER: Duration = Duration::from_secs(5);

/// All gateways at one moment.
#[derive(Clone, Debug, Deserialize)]
pub struct Scores {
    /// Where the figures come from: `scrape` or `prometheus`.
    pub source: String,
    /// Each gateway.
    pub gateways: Vec<Score>,
}

/// One gateway.
#[derive(Clone, Debug, Deserialize)]
pub struct Score {
    /// The pod's name.
    pub name: String,
    /// `listed`, or why not.
    pub state: String,
    /// Remaining bandwidth in GB/s, to two decimals; nothing before the first reading.
    #[serde(default)]
    pub dynamic: Option<f64>,
    /// Mean outbound bytes per second.
    #[serde(default)]
    pub rate: Option<f64>,
}

/// Where the page of one ipconfig replica is.
#[derive(Clone, Debug)]
pub struct ScoresPage {
    url: String,
    http: reqwest::Client,
}

impl Installation {
    /// The page of the first ipconfig replica that serves.
    ///
    /// # Errors
    /// When none serves.
    pub async fn scores(&self) -> Result<ScoresPage> {
        let pods = self.pods(Part::Ipconfig).await?;
        let serving = pods
            .iter()
            .find(|pod| is_serving(pod))
            .context("no ipconfig serves")?;
        let ip = serving.status.as_ref().and_then(|status| status.pod_ip.as_ref());
        let ip = ip.context("a pod that serves has an address")?.parse()?;
        let address = SocketAddr::new(ip, number(port::IPCONFIG_PAGES));
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build()?;
        Ok(ScoresPage {
            url: format!("http://{address}/v1/scores"),
            http,
        })
    }
}

impl ScoresPage {
    /// Reads it.
    ///
    /// # Errors
    /// When it doesn't answer, or with something else.
    pub async fn read(&self) -> Result<Scores> {
        let answer = self.http.get(&self.url).send().await;
        let answer = answer.with_context(|| format!("{} doesn't answer", self.url))?;
        let text = answer.error_for_status()?.text().await?;
        serde_json::from_str(&text).with_context(|| format!("{} answered {text}", self.url))
    }
}

impl Scores {
    /// Dynamic scores by gateway, of those that have one.
    #[must_use]
    pub fn dynamic(&self) -> BTreeMap<&str, f64> {
        let scored = self.gateways.iter();
        scored
            .filter_map(|gateway| Some((gateway.name.as_str(), gateway.dynamic?)))
            .collect()
    }

    /// A gateway's mean outbound rate in MB/s, if it was read.
    #[must_use]
    pub fn megabytes_per_second(&self, name: &str) -> Option<f64> {
        let gateway = self.gateways.iter().find(|gateway| gateway.name == name)?;
        Some(gateway.rate? / 1e6)
    }
}
