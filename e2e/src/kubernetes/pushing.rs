//! The push API of a cluster, asked as businesses ask it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use imaccess_operator_api::names::{Identity, Part, port};
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{Outcome, PushDevicesRequest, PushGroupRequest};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::gateways::number;
use super::{Installation, Namespace};
use crate::mesh::{Caller, Certified, Door};
use crate::raw_client::APP;

/// Who pushes.
#[derive(Clone)]
pub struct Pusher {
    client: PushClient<Channel>,
    token: Option<String>,
}

impl Installation {
    /// The certificate that one of the parts has.
    ///
    /// # Errors
    /// When its Secret isn't there.
    pub async fn certificate(&self, identity: Identity) -> Result<Certified> {
        let name = self.names.certificate(identity);
        Ok(Certified {
            certificate: self.secret(&name, "tls.crt").await?,
            key: self.secret(&name, "tls.key").await?,
        })
    }

    /// One of a part's ports, as it is known to who trusts the cluster's authority.
    ///
    /// # Errors
    /// When the authority's Secret isn't there.
    pub async fn door(&self, identity: Identity, address: SocketAddr) -> Result<Door> {
        Ok(Door {
            address,
            name: identity.dns_name(self.name(), &self.names.namespace),
            authority: self
                .secret(&self.names.certificate(Identity::Push), "ca.crt")
                .await?,
        })
    }

    /// The push API by its Service, under the name that businesses in pods use.
    ///
    /// # Errors
    /// When the Service or the authority's Secret isn't there.
    pub async fn push_door(&self) -> Result<Door> {
        let service = self.names.part(Part::State);
        let address = self.service_address(&service).await?;
        let address = SocketAddr::new(address.parse().context("a cluster IP")?, number(port::PUSH));
        let mut door = self.door(Identity::State, address).await?;
        door.name = format!("{service}.{}.svc", self.names.namespace);
        Ok(door)
    }

    /// Who pushes with the certificate that the operator made for businesses.
    ///
    /// # Errors
    /// When no connection comes about.
    pub async fn pusher(&self) -> Result<Pusher> {
        let certificate = self.certificate(Identity::Push).await?;
        Pusher::dial(&self.push_door().await?, &Caller::Certified(certificate), None).await
    }
}

impl Namespace {
    /// Makes a service account.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn service_account(&self, name: &str) -> Result<()> {
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(name.to_owned());
        let api: Api<ServiceAccount> = self.api();
        api.create(&PostParams::default(), &account)
            .await
            .with_context(|| format!("cannot create the ServiceAccount {name}"))?;
        Ok(())
    }

    /// A token of a service account, bound to an audience.
    ///
    /// # Errors
    /// When the API server issues none.
    pub async fn token(&self, account: &str, audience: &str) -> Result<String> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![audience.to_owned()],
                expiration_seconds: Some(600),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = self.api();
        let answer = api
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("no token for {account}"))?;
        Ok(answer
            .status
            .context("a token request is answered with a token")?
            .token)
    }
}

impl Pusher {
    /// Connects.
    ///
    /// # Errors
    /// When no connection comes about.
    pub async fn dial(door: &Door, caller: &Caller, token: Option<String>) -> Result<Self> {
        let client = PushClient::new(door.grpc(caller).await?);
        Ok(Self { client, token })
    }

    fn request<T>(&self, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let value = MetadataValue::try_from(format!("Bearer {token}"))
                .map_err(|fault| Status::internal(fault.to_string()))?;
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }

    /// Pushes to devices; the outcomes by device.
    ///
    /// # Errors
    /// What the push API answers.
    pub async fn devices(
        &mut self,
        business: u32,
        devices: &[String],
        payload: &[u8],
    ) -> Result<BTreeMap<String, Outcome>, Status> {
        let request = self.request(PushDevicesRequest {
            business,
            app: APP.to_owned(),
            devices: devices.to_vec(),
            payload: payload.to_vec().into(),
            ..PushDevicesRequest::default()
        })?;
        let answer = self.client.push_devices(request).await?.into_inner();
        Ok(devices.iter().cloned().zip(answer.outcomes()).collect())
    }

    /// Pushes to a group; to how many gateways it went, and how many weren't in sync.
    ///
    /// # Errors
    /// What the push API answers.
    pub async fn group(&mut self, business: u32, group: &str, payload: &[u8]) -> Result<(u32, u32), Status> {
        let request = self.request(PushGroupRequest {
            business,
            group: group.as_bytes().to_vec().into(),
            payload: payload.to_vec().into(),
            ..PushGroupRequest::default()
        })?;
        let answer = self.client.push_group(request).await?.into_inner();
        Ok((answer.instances, answer.unsynced))
    }
}
