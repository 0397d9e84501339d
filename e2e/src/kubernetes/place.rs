//! A cluster on Kubernetes as the place of a witness's load.

use anyhow::{Context, Result};
use imaccess_common::token::DevelopmentIssuer;
use imaccess_operator_api::names::{Identity, key};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;

use super::Installation;
use super::gateways::{CLIENTS, Gateway};
use crate::mesh::Caller;
use crate::witness::Place;

impl Installation {
    /// These gateways, by their pods' addresses; pushes come with the certificate that the operator made for businesses.
    ///
    /// # Errors
    /// When the cluster has no development tokens, no ipconfig, or no push API.
    pub async fn place(&self, business: u32, gateways: &[Gateway]) -> Result<Place> {
        let caller = Caller::Certified(self.certificate(Identity::Push).await?);
        Ok(Place {
            business,
            cluster: self.names.id(),
            gateways: gateways.iter().map(|gateway| gateway.at(CLIENTS)).collect(),
            ipconfig: self.ipconfig_url().await?,
            push: self.push_door().await?.grpc(&caller).await?,
            issuer: self.issuer().await?,
        })
    }

    /// Makes the tokens that ipconfig gives to anyone who asks.
    ///
    /// # Errors
    /// When the operator made no key for them.
    async fn issuer(&self) -> Result<DevelopmentIssuer> {
        let name = self.names.development_tokens();
        let secrets: Api<Secret> = self.namespace.api();
        let secret = secrets.get(&name).await;
        let secret = secret.with_context(|| format!("no Secret {name}: the cluster has tokens of others"))?;
        let data = secret.data.unwrap_or_default();
        // The other key is the public one, under its id.
        let mut ids = data.keys().filter(|name| *name != key::SIGNING);
        let id = ids.find_map(|name| name.strip_suffix(".pem"));
        let id = id.with_context(|| format!("the Secret {name} has no public key"))?;
        let pem = data.get(key::SIGNING);
        let pem = &pem
            .with_context(|| format!("the Secret {name} has no private key"))?
            .0;
        let pem = std::str::from_utf8(pem).context("a key in PEM")?;
        Ok(DevelopmentIssuer::from_pem(id, pem)?)
    }
}
