//! The gateways' control pages, which the operator asks with its own certificate of each cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use http::{Method, StatusCode};
use imaccess_common::generation;
use imaccess_common::handover::Handover;
use imaccess_common::http::ask;
use imaccess_common::tls::ClientTls;
use imaccess_operator_api::names::{Identity, Names, key};
use imaccess_operator_plan::Ask;
use imaccess_operator_plan::plan::Lease;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

/// The pages wait for nothing.
const ANSWER: Duration = Duration::from_secs(2);
/// A page has some hundred bytes.
const MOST: usize = 64 << 10;
/// As long as a gateway gives one.
const LEASE_SECONDS: u32 = 30;

/// Gateways of one cluster.
#[derive(Debug)]
pub struct Gateways {
    tls: ClientTls,
}

impl Gateways {
    /// With the certificate in `secret`, if there is one that can be used.
    pub(crate) fn of(names: &Names, secret: &Secret) -> Option<Gateways> {
        let value = |key: &str| secret.data.as_ref()?.get(key).map(|bytes| bytes.0.as_slice());
        let name = Identity::Gateway.dns_name(&names.cluster, &names.namespace);
        let tls = ClientTls::http_from_pem(
            value(key::AUTHORITY)?,
            value(key::CERTIFICATE)?,
            value(key::PRIVATE_KEY)?,
            &name,
        );
        match tls {
            Ok(tls) => Some(Gateways { tls }),
            Err(fault) => {
                tracing::warn!(%fault, "the operator's own certificate can't be used");
                None
            }
        }
    }

    /// `GET /handover` of each, all at once.
    pub(crate) async fn ask(&self, asks: &[Ask]) -> BTreeMap<String, Result<Handover, String>> {
        let answers = asks
            .iter()
            .map(async |ask| (ask.uid.clone(), self.page(&ask.address).await));
        join_all(answers).await.into_iter().collect()
    }

    async fn page(&self, address: &str) -> Result<Handover, String> {
        let (status, body) = self.send(address, Method::GET, "/handover", Vec::new()).await?;
        if status != StatusCode::OK {
            return Err(format!("{status}: {}", said(&body)));
        }
        serde_json::from_slice(&body).map_err(|fault| format!("its answer can't be read: {fault}"))
    }

    /// Takes the lease, or takes it again.
    pub(crate) async fn take(&self, lease: &Lease) -> Result<(), String> {
        let speaks = generation::spoken().lease;
        let wish = json!({
            "oldest_generation": speaks.oldest,
            "newest_generation": speaks.newest,
            "seconds": LEASE_SECONDS,
            "lease": lease.name,
        });
        let body = wish.to_string().into_bytes();
        let (status, body) = self.send(&lease.address, Method::POST, "/handover", body).await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("its gateway gives no handover lease: {}", said(&body)))
        }
    }

    /// Gives a lease back that isn't used.
    pub(crate) async fn give_back(&self, lease: &Lease) {
        let path = format!("/handover?lease={}", lease.name);
        if let Err(why) = self.send(&lease.address, Method::DELETE, &path, Vec::new()).await {
            tracing::warn!(
                pod = lease.pod,
                why,
                "the handover lease can't be given back; it ends by itself"
            );
        }
    }

    async fn send(
        &self,
        address: &str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Vec<u8>), String> {
        ask(&self.tls, address, method, path, body, ANSWER, MOST)
            .await
            .map_err(|fault| fault.to_string())
    }
}

/// The error that a page gave, or the page.
fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let error = value.as_ref().and_then(|value| value["error"].as_str());
    error.unwrap_or_else(|| text.trim()).to_owned()
}
