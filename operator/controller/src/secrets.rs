//! Carries out a plan's steps on Secrets: the only place where private keys are, for as long as a request takes.

use std::collections::BTreeMap;

use imaccess_common::token::DevelopmentIssuer;
use imaccess_operator_api::ImAccessCluster;
use imaccess_operator_api::names::{CONTENTS_ANNOTATION, FIELD_MANAGER, Names, key};
use imaccess_operator_plan::plan::{AuthorityStep, Kind, SecretStep};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use serde_json::json;

use crate::authority::{self, AuthorityError, Content, Lifetimes};
use crate::contents;
use crate::error::Error;
use crate::kinds;
use crate::metrics::Metrics;

/// The Secrets of one cluster.
pub struct Secrets<'a> {
    api: Api<Secret>,
    cluster: &'a ImAccessCluster,
    names: Names,
    lifetimes: Lifetimes,
    metrics: &'a Metrics,
}

/// A Secret as it was read, with keys in it: not to be shown, or kept.
struct Read {
    /// What of it is text; the operator writes nothing else.
    content: Content,
    /// All keys of its data.
    keys: Vec<String>,
    resource_version: String,
    /// Whether it was made for this cluster.
    ours: bool,
    /// Whether its data is what the operator wrote.
    as_made: bool,
}

impl<'a> Secrets<'a> {
    /// Of `cluster`.
    #[must_use]
    pub fn new(
        client: &Client,
        cluster: &'a ImAccessCluster,
        names: Names,
        lifetimes: Lifetimes,
        metrics: &'a Metrics,
    ) -> Secrets<'a> {
        Secrets {
            api: Api::namespaced(client.clone(), &names.namespace),
            cluster,
            names,
            lifetimes,
            metrics,
        }
    }

    /// Carries out one step; answers the authority's certificates if they have changed.
    ///
    /// # Errors
    /// If the API server refuses, or the authority can't be used.
    pub async fn carry_out(&self, step: &SecretStep, now: Timestamp) -> Result<Option<String>, Error> {
        match step {
            SecretStep::Authority(step) => self.authority(*step, now).await.map(Some),
            SecretStep::Certificate {
                identity,
                dns_names,
                issued_for,
            } => {
                let authority = self.existing(&self.names.authority()).await?;
                let content = authority::issue(
                    &self.names.cluster,
                    &authority.content,
                    dns_names,
                    issued_for,
                    self.lifetimes.certificate,
                    now,
                )?;
                let name = self.names.certificate(*identity);
                let before = self.read(&name).await?;
                self.must_be_ours(&name, before.as_ref())?;
                self.write(&name, "kubernetes.io/tls", content, before).await?;
                Ok(None)
            }
            SecretStep::TicketKeys => {
                let mut random = [0; 32];
                getrandom::fill(&mut random).map_err(|_| AuthorityError::Random)?;
                let line = format!("1 {}\n", hex::encode(random));
                let content = data([(key::TICKETS.to_owned(), line)]);
                self.make(&self.names.tickets(), content).await?;
                Ok(None)
            }
            SecretStep::DevelopmentTokens => {
                let issuer = DevelopmentIssuer::generate();
                let content = data([
                    (key::SIGNING.to_owned(), issuer.to_pem()),
                    (format!("{}.pem", issuer.key_id()), issuer.public_pem()),
                ]);
                self.make(&self.names.development_tokens(), content).await?;
                Ok(None)
            }
        }
    }

    /// Brings the authority's certificates to a Secret that has a certificate and other ones.
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn bring(&self, name: &str, resource_version: &str, bundle: &str) -> Result<(), Error> {
        let patch = json!({
            "metadata": {"resourceVersion": resource_version},
            "data": {key::AUTHORITY: ByteString(bundle.as_bytes().to_vec())},
        });
        self.patch(name, &patch, "the authority's certificates have changed")
            .await
    }

    async fn authority(&self, step: AuthorityStep, now: Timestamp) -> Result<String, Error> {
        let name = self.names.authority();
        let before = match step {
            AuthorityStep::Make => self.read(&name).await?,
            _ => Some(self.existing(&name).await?),
        };
        self.must_be_ours(&name, before.as_ref())?;
        let content = authority::step(
            &self.names.cluster,
            step,
            before.as_ref().map(|read| &read.content),
            self.lifetimes.authority,
            now,
        );
        let content = match content {
            Err(AuthorityError::OutOfStep(_)) => return Err(Error::Changed(format!("Secret {name}"))),
            content => content?,
        };
        let bundle = content.data.get(key::AUTHORITY).cloned().unwrap_or_default();
        self.write(&name, "Opaque", content, before).await?;
        Ok(bundle)
    }

    /// Makes keys where there are none: in a new Secret, or in one of ours that isn't as it was made.
    async fn make(&self, name: &str, content: Content) -> Result<(), Error> {
        let before = self.read(name).await?;
        self.must_be_ours(name, before.as_ref())?;
        if before.as_ref().is_some_and(|before| before.as_made) {
            return Err(Error::Changed(format!("Secret {name}")));
        }
        self.write(name, "Opaque", content, before).await
    }

    /// What somebody else made stays as it is.
    fn must_be_ours(&self, name: &str, before: Option<&Read>) -> Result<(), Error> {
        match before {
            Some(before) if !before.ours => Err(Error::taken(Kind::Secret, name)),
            _ => Ok(()),
        }
    }

    async fn existing(&self, name: &str) -> Result<Read, Error> {
        self.read(name)
            .await?
            .ok_or_else(|| Error::Unexpected(format!("Secret {name} is gone")))
    }

    async fn read(&self, name: &str) -> Result<Option<Read>, Error> {
        let secret = self
            .api
            .get_opt(name)
            .await
            .map_err(Error::reading(format!("Secret {name}")))?;
        let Some(secret) = secret else { return Ok(None) };
        let as_made = contents::is_as_made(&secret);
        let keys = secret.data.iter().flatten().map(|(key, _)| key.clone()).collect();
        let data = secret
            .data
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)))
            .collect();
        let owner = self.cluster.object_ref(&());
        let ours = secret
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|reference| kinds::is_owner(reference, &owner));
        Ok(Some(Read {
            ours,
            as_made,
            keys,
            content: Content {
                data,
                annotations: secret.metadata.annotations.unwrap_or_default(),
            },
            resource_version: secret.metadata.resource_version.unwrap_or_default(),
        }))
    }

    /// Makes the Secret, and never overwrites one; or, with what was read `before`, changes exactly that.
    async fn write(
        &self,
        name: &str,
        type_: &str,
        content: Content,
        before: Option<Read>,
    ) -> Result<(), Error> {
        let new_data = bytes(content.data);
        let mut new_annotations = content.annotations;
        new_annotations.insert(CONTENTS_ANNOTATION.to_owned(), contents::told(&new_data));
        match before {
            None => self.create(name, type_, new_data, new_annotations).await,
            Some(before) => {
                // In a merge patch null takes away: keys that the step has dropped.
                let mut data = serde_json::Map::new();
                for key in before.keys {
                    data.insert(key, serde_json::Value::Null);
                }
                for (key, value) in new_data {
                    data.insert(key, json!(value));
                }
                let mut annotations = serde_json::Map::new();
                for key in before.content.annotations.keys() {
                    if !new_annotations.contains_key(key) && key.starts_with("imaccess.io/") {
                        annotations.insert(key.clone(), serde_json::Value::Null);
                    }
                }
                for (key, value) in new_annotations {
                    annotations.insert(key, json!(value));
                }
                let patch = json!({
                    "metadata": {
                        "resourceVersion": before.resource_version,
                        "annotations": annotations,
                        "labels": self.names.labels(),
                    },
                    "data": data,
                });
                self.patch(name, &patch, "renewed").await
            }
        }
    }

    async fn create(
        &self,
        name: &str,
        type_: &str,
        data: BTreeMap<String, ByteString>,
        annotations: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.names.namespace.clone()),
                labels: Some(self.names.labels()),
                annotations: Some(annotations),
                owner_references: self.cluster.controller_owner_ref(&()).map(|mut owner| {
                    owner.block_owner_deletion = Some(true);
                    vec![owner]
                }),
                ..ObjectMeta::default()
            },
            type_: Some(type_.to_owned()),
            data: Some(data),
            ..Secret::default()
        };
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let made = self.api.create(&parameters, &secret).await.map(drop);
        self.told(name, "create", "missing", made)
    }

    async fn patch(&self, name: &str, patch: &serde_json::Value, why: &str) -> Result<(), Error> {
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patched = self
            .api
            .patch(name, &parameters, &Patch::Merge(patch))
            .await
            .map(drop);
        self.told(name, "patch", why, patched)
    }

    fn told(
        &self,
        name: &str,
        verb: &'static str,
        why: &str,
        result: Result<(), kube::Error>,
    ) -> Result<(), Error> {
        match result {
            Ok(()) => {
                self.metrics.writes.with_label_values(&["Secret", verb]).inc();
                tracing::info!(kind = "Secret", name, verb, why, "written");
                Ok(())
            }
            Err(fault) => Err(Error::writing(verb, Kind::Secret, name, fault)),
        }
    }
}

fn data<const N: usize>(pairs: [(String, String); N]) -> Content {
    Content {
        data: BTreeMap::from(pairs),
        annotations: BTreeMap::new(),
    }
}

fn bytes(data: BTreeMap<String, String>) -> BTreeMap<String, ByteString> {
    data.into_iter()
        .map(|(key, value)| (key, ByteString(value.into_bytes())))
        .collect()
}
