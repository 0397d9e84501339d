//! Gateway pods as clients and ipconfig see them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_operator_api::names::{Part, SLOT_LABEL, port};
use imaccess_sdk::Endpoint;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;

use super::installation::is_serving;
use super::{Installation, Kubernetes};
use crate::Page;
use crate::raw_client::ANSWER;
use crate::wait::Seen;

/// Where gateways of these scenarios take clients.
pub const CLIENTS: u16 = 7_000;

/// One gateway pod that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The pod's name, which is the gateway's.
    pub name: String,
    /// The pod's UID, which is the gateway's instance.
    pub uid: String,
    /// The pod's address.
    pub ip: IpAddr,
    /// Its node.
    pub node: String,
    /// Its slot, once it has one.
    pub slot: Option<u32>,
}

impl Gateway {
    fn of(pod: &Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let slot = metadata.labels.as_ref().and_then(|labels| labels.get(SLOT_LABEL));
        Some(Self {
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            ip: pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?,
            node: pod.spec.as_ref()?.node_name.clone()?,
            slot: slot.and_then(|slot| slot.parse().ok()),
        })
    }

    /// `ip:port` of one of its ports.
    #[must_use]
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip, port)
    }

    /// Where clients connect, for those who aren't sent by ipconfig.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.at(CLIENTS))
    }

    /// Its metrics page.
    ///
    /// # Errors
    /// When it doesn't answer.
    pub async fn page(&self) -> Result<Page> {
        Page::scrape(&self.at(number(port::GATEWAY_PAGES)).to_string()).await
    }

    /// How many connections it has.
    ///
    /// # Errors
    /// When its page doesn't answer.
    pub async fn connections(&self) -> Result<usize> {
        let sum = self.page().await?.sum("imaccess_gateway_connections", &[]);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count that is far below 2^53"
        )]
        let count = sum as usize;
        Ok(count)
    }
}

impl Installation {
    /// The gateways that serve, by slot.
    ///
    /// # Errors
    /// When the API server doesn't list them.
    pub async fn gateways(&self) -> Result<Vec<Gateway>> {
        let pods = self.pods(Part::Gateway).await?;
        let serving = pods.iter().filter(|pod| is_serving(pod));
        let mut gateways: Vec<_> = serving.filter_map(Gateway::of).collect();
        gateways.sort_by(|a, b| (a.slot, &a.name).cmp(&(b.slot, &b.name)));
        Ok(gateways)
    }

    /// Waits until so many gateways serve, each with its slot, and ipconfig lists exactly them.
    ///
    /// # Errors
    /// When they don't within the deadline.
    pub async fn gateways_listed(
        &self,
        kubernetes: &Kubernetes,
        count: usize,
        deadline: Duration,
    ) -> Result<Vec<Gateway>> {
        let url = self.ipconfig_url().await?;
        kubernetes
            .until(&format!("{count} gateways are listed"), deadline, async || {
                let gateways = self.gateways().await?;
                let mut listed = match listed(&url).await {
                    Ok(listed) => listed,
                    Err(error) => return Ok(Seen::NotYet(format!("{error:#}"))),
                };
                listed.sort();
                let mut names: Vec<_> = gateways.iter().map(|gateway| gateway.name.clone()).collect();
                names.sort();
                let slots = gateways.iter().all(|gateway| gateway.slot.is_some());
                Ok(if gateways.len() == count && slots && names == listed {
                    Seen::Yes(gateways)
                } else {
                    Seen::NotYet(format!("serving {gateways:?}, listed {listed:?}"))
                })
            })
            .await
    }
}

/// The names in one answer of ipconfig, best first.
///
/// # Errors
/// When it doesn't answer, or with no endpoints.
pub async fn listed(ipconfig: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Answer {
        endpoints: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    let url = format!("{ipconfig}/v1/endpoints?k=20");
    let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build()?;
    let answer = http
        .get(&url)
        .send()
        .await
        .with_context(|| format!("{url} doesn't answer"))?;
    let text = answer.error_for_status()?.text().await?;
    let answer: Answer = serde_json::from_str(&text).with_context(|| format!("{url} answered {text}"))?;
    Ok(answer
        .endpoints
        .into_iter()
        .map(|endpoint| endpoint.name)
        .collect())
}

/// A port of the names' table as sockets take it.
#[must_use]
pub fn number(port: i32) -> u16 {
    u16::try_from(port).unwrap_or_default()
}
