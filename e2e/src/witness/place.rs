//! Where a load goes: all that it knows of what it witnesses.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use imaccess_common::token::DevelopmentIssuer;
use tonic::transport::{Channel, Endpoint};

use crate::Cluster;

/// What `up` calls every cluster.
const LOCAL: &str = "local";

/// Gateways, and what belongs to them. On Kubernetes, `Installation::place` makes one.
pub struct Place {
    /// The business that is asked and that pushes.
    pub business: u32,
    /// The cluster's id, as tokens have it.
    pub cluster: String,
    /// Where clients without SDK connect: each always at the same of them, all at equally many.
    pub gateways: Vec<SocketAddr>,
    /// Where those of the SDK ask for gateways.
    pub ipconfig: String,
    /// The push API.
    pub push: Channel,
    /// Makes tokens: asking ipconfig for ten thousand would be a load of its own.
    pub issuer: DevelopmentIssuer,
}

impl Place {
    /// The first gateway of a cluster that `up` has started, with its echo business.
    ///
    /// # Errors
    /// When it has none, or its token key can't be read.
    pub fn of(cluster: &Cluster) -> Result<Self> {
        let pem = cluster.view.directory.join("token-signing-key.pem");
        let pem = std::fs::read_to_string(&pem).with_context(|| format!("cannot read {}", pem.display()))?;
        let gateway = cluster.gateway();
        let gateway = gateway
            .parse()
            .with_context(|| format!("{gateway} is no address"))?;
        Ok(Self {
            business: cluster.business("echo")?,
            cluster: LOCAL.to_owned(),
            gateways: vec![gateway],
            ipconfig: cluster.view.ipconfig.clone(),
            push: Endpoint::from_shared(cluster.view.push_grpc.clone())?.connect_lazy(),
            issuer: DevelopmentIssuer::from_pem_by_thumbprint(&pem)?,
        })
    }

    /// The gateway of the client with this number, by its place in the list.
    pub(super) fn gateway_of(&self, client: u32) -> usize {
        client as usize % self.gateways.len().max(1)
    }

    /// Where the client with this number connects.
    pub(super) fn address_of(&self, client: u32) -> SocketAddr {
        self.gateways[self.gateway_of(client)]
    }
}
