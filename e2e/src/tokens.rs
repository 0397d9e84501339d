//! Tokens from ipconfig, and clients that use them.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::cluster::GatewayView;
use crate::raw_client::{ANSWER, APP, RawClient};

/// Development tokens, from ipconfig.
#[derive(Clone, Debug)]
pub struct Tokens {
    client: reqwest::Client,
    ipconfig: String,
}

impl Tokens {
    /// Tokens of the cluster whose ipconfig this is.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(ipconfig: &str) -> Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(ANSWER)
            .build()
            .context("an HTTP client")?;
        Ok(Self {
            client,
            ipconfig: ipconfig.to_owned(),
        })
    }

    /// A token for this device.
    ///
    /// # Errors
    /// When ipconfig doesn't answer or issues none.
    pub async fn get(&self, device: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
        }
        let url = format!("{}/v1/endpoints?device={device}&app={APP}", self.ipconfig);
        let answer = self
            .client
            .get(&url)
            .send()
            .await
            .with_context(|| format!("{url} doesn't answer"))?;
        let text = answer.error_for_status()?.text().await?;
        let answer: Answer = serde_json::from_str(&text).with_context(|| format!("{url} answered {text}"))?;
        answer
            .token
            .with_context(|| format!("{url} issued no token: {text}"))
    }

    /// Connects this many devices, named `<prefix>-<number>`, spread over the gateways.
    ///
    /// # Errors
    /// When one of them can't log in.
    pub async fn clients(
        &self,
        gateways: &[GatewayView],
        prefix: &str,
        count: usize,
    ) -> Result<Vec<RawClient>> {
        let mut clients = Vec::with_capacity(count);
        for number in 0..count {
            let device = format!("{prefix}-{number}");
            let gateway = gateways
                .get(number % gateways.len().max(1))
                .context("the cluster has no gateway")?;
            clients.push(
                RawClient::online(&gateway.tcp, &device, &self.get(&device).await?)
                    .await?
                    .0,
            );
        }
        Ok(clients)
    }
}
