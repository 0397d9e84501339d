//! How people's verbs find a cluster and its businesses.

use std::time::Duration;

use anyhow::{Context, anyhow};
use imaccess_sdk::{Client, ClientBuilder, ConnectError};
use serde::Deserialize;

use crate::exit::{FAILED, RETRY, WithStatus, retry_if};

/// Where `up` puts ipconfig unless told otherwise.
pub(crate) const DEFAULT_IPCONFIG: &str = "http://127.0.0.1:8000";
/// The app that people's verbs belong to.
pub(crate) const DEFAULT_APP: &str = "demo";

/// How long ipconfig may take to name the businesses.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a verb tries to come online: a person waits.
const CONNECT: Duration = Duration::from_secs(8);

/// Which cluster.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClusterArgs {
    /// Address of ipconfig
    #[arg(long, value_name = "URL", env = "IMACCESS_IPCONFIG", default_value = DEFAULT_IPCONFIG)]
    pub(crate) ipconfig: String,
    /// The app that the device belongs to
    #[arg(long, default_value = DEFAULT_APP)]
    pub(crate) app: String,
}

#[derive(Deserialize)]
struct Businesses {
    businesses: Vec<Business>,
}

#[derive(Deserialize)]
struct Business {
    id: u32,
    name: String,
}

impl ClusterArgs {
    /// A client of `device`, not connected yet.
    pub(crate) fn client(&self, device: &str) -> ClientBuilder {
        let builder = Client::builder(&self.ipconfig, &self.app, device).connect_within(CONNECT);
        builder.platform("cli", env!("CARGO_PKG_VERSION"))
    }

    /// The id of a business: numbers are ids, names are looked up at ipconfig.
    pub(crate) async fn business(&self, name: &str) -> anyhow::Result<u32> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }
        let known = self.businesses().await.or_exit(RETRY)?;
        match known.iter().find(|business| business.name == name) {
            Some(business) => Ok(business.id),
            None => {
                let names: Vec<&str> = known.iter().map(|business| business.name.as_str()).collect();
                let names = if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                };
                Err(anyhow!("there is no business {name:?}; the cluster has: {names}")).or_exit(FAILED)
            }
        }
    }

    async fn businesses(&self) -> anyhow::Result<Vec<Business>> {
        let url = format!("{}/v1/businesses", self.ipconfig.trim_end_matches('/'));
        let nobody = || {
            format!(
                "can't ask {} for the businesses; is the cluster up? (`imaccess up`)",
                self.ipconfig
            )
        };
        let http = http(ANSWER)?;
        let response = http
            .get(&url)
            .send()
            .await
            .map_err(reqwest::Error::without_url)
            .with_context(nobody)?;
        let response = response
            .error_for_status()
            .map_err(reqwest::Error::without_url)
            .with_context(nobody)?;
        let answer: Businesses = response.json().await.with_context(nobody)?;
        Ok(answer.businesses)
    }
}

/// An HTTP client that goes straight: what it asks is named by address.
pub(crate) fn http(timeout: Duration) -> anyhow::Result<reqwest::Client> {
    let client = reqwest::Client::builder().no_proxy().timeout(timeout).build();
    client.context("can't make an HTTP client")
}

/// Gives a failed connect its exit status.
pub(crate) fn connected(result: Result<Client, ConnectError>) -> anyhow::Result<Client> {
    result
        .map_err(|error| {
            let status = retry_if(error.is_retryable());
            (status, error)
        })
        .or_else(|(status, error)| Err(error).or_exit(status))
}
