//! Carries out a plan, in its order.
//!
//! Every write but a creation carries what it was planned from: the resource version, of pods also the UID. What has changed
//! since isn't overwritten; the pass ends there, and the next one looks again. (An object in the plan without a resource version
//! wasn't there when it was looked for.)

use imaccess_operator_api::names::{FIELD_MANAGER, Names};
use imaccess_operator_api::{ImAccessCluster, ImAccessClusterStatus};
use imaccess_operator_plan::plan::{Child, Deletion, Kind, Plan, PodPatch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use crate::authority::Lifetimes;
use crate::error::{Class, Error};
use crate::kinds::{self, Key};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::observe::Gathered;
use crate::secrets::Secrets;
use crate::upgrade::{self, Upgrader};

/// What carries out plans for one cluster.
pub struct Applier<'a> {
    /// The client, behind the gate.
    pub client: &'a Client,
    /// The cluster.
    pub key: &'a Key,
    /// How long certificates are good for.
    pub lifetimes: Lifetimes,
    /// What has been applied.
    pub memory: &'a std::sync::Mutex<Memory>,
    /// Counters.
    pub metrics: &'a Metrics,
}

/// What came of a plan, but for its status.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What ended it, or kept a pod from being patched.
    pub failure: Option<Error>,
    /// What failed without ending it: kinds that a cluster serves without.
    pub degraded: Vec<Error>,
}

impl Applier<'_> {
    /// Steps of an upgrade, Secrets, objects, pods, deletions.
    pub async fn carry_out(&self, gathered: &Gathered, plan: &Plan, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.failure = self.try_all(gathered, plan, now, &mut outcome).await.err();
        for error in outcome.failure.iter().chain(&outcome.degraded) {
            if error.class() == Class::Conflict {
                self.metrics.conflicts.inc();
            }
        }
        outcome
    }

    async fn try_all(
        &self,
        gathered: &Gathered,
        plan: &Plan,
        now: Timestamp,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let cluster = &gathered.observed.cluster;
        // First: a pod in hand must not wait for anything else, and whatever fails here keeps nothing else up.
        let upgrader = Upgrader {
            client: self.client,
            cluster,
            gateways: gathered.gateways.as_ref(),
            metrics: self.metrics,
        };
        let upgraded = upgrader.carry_out(&plan.steps, &plan.leases).await;
        self.secrets(gathered, plan, now).await?;
        for child in &plan.apply {
            match self.apply(cluster, child).await {
                Err(error) if kinds::optional(child.id.kind) && error.class() == Class::Refused => {
                    tracing::warn!(%error, "the cluster does without it");
                    outcome.degraded.push(error);
                }
                result => result?,
            }
            if let Some(step) = child.step {
                upgrade::stepped(step, self.metrics);
            }
        }
        let mut conflict = None;
        for patch in &plan.pods {
            match self.patch_pod(cluster, patch).await {
                // A pod's status changes often: the others needn't wait for it.
                Err(error) if error.class() == Class::Conflict => conflict = Some(error),
                result => result?,
            }
        }
        for deletion in &plan.delete {
            self.delete(deletion).await?;
        }
        upgraded?;
        conflict.map_or(Ok(()), Err)
    }

    /// The plan's steps, and then the authority's certificates wherever they aren't as they should be.
    async fn secrets(&self, gathered: &Gathered, plan: &Plan, now: Timestamp) -> Result<(), Error> {
        let cluster = &gathered.observed.cluster;
        let names = Names::new(&self.key.name, &self.key.namespace);
        let secrets = Secrets::new(self.client, cluster, names.clone(), self.lifetimes, self.metrics);
        let mut renewed = Vec::new();
        let mut changed = None;
        for step in &plan.secrets {
            let bundle = secrets
                .carry_out(step, now)
                .await
                .inspect_err(|error| self.failed(Kind::Secret, error))?;
            changed = bundle.or(changed);
            if let imaccess_operator_plan::plan::SecretStep::Certificate { identity, .. } = step {
                renewed.push(names.certificate(*identity));
            }
        }
        if cluster.spec.paused || changed.is_some() {
            // After a step of the authority the next pass, which its write brings about, sees to the rest.
            return Ok(());
        }
        if let Some(bundle) = &gathered.trust.bundle {
            for (name, version) in &gathered.trust.outdated {
                if !renewed.contains(name) {
                    secrets
                        .bring(name, version, bundle)
                        .await
                        .inspect_err(|error| self.failed(Kind::Secret, error))?;
                }
            }
        }
        Ok(())
    }

    async fn apply(&self, cluster: &ImAccessCluster, child: &Child) -> Result<(), Error> {
        let name = &child.id.name;
        if self.memory().is_settled(self.key, child) {
            self.metrics.repeats.inc();
            tracing::debug!(
                kind = kinds::name(child.id.kind),
                name,
                why = child.why,
                "applying it has changed nothing before; left alone until it changes"
            );
            return Ok(());
        }
        let mut object = child.object.clone();
        let api = self.api(child.id.kind);
        let version = match &child.resource_version {
            Some(version) => Some(version.clone()),
            None => self.unlabelled(cluster, &api, child).await?,
        };
        if let Some(version) = version {
            object["metadata"]["resourceVersion"] = json!(version);
        }
        let answer = api
            .patch(name, &forced().validation_strict(), &Patch::Apply(&object))
            .await;
        let answer = self.told(child.id.kind, name, "apply", &child.why, answer)?;
        let version = answer.metadata.resource_version.as_deref();
        self.memory().applied(self.key, child, version);
        Ok(())
    }

    /// Looks by name for what wasn't found by its labels: one of ours that lost them is repaired from the version that is returned,
    /// somebody else's is left alone.
    async fn unlabelled(
        &self,
        cluster: &ImAccessCluster,
        api: &Api<DynamicObject>,
        child: &Child,
    ) -> Result<Option<String>, Error> {
        let (kind, name) = (kinds::name(child.id.kind), &child.id.name);
        // By a list, which needs no right that the look at the labelled ones hasn't.
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = api
            .list_metadata(&named)
            .await
            .map_err(Error::reading(format!("{kind} {name}")))?;
        let found = found
            .items
            .into_iter()
            .find(|found| found.metadata.name.as_ref() == Some(name));
        let Some(found) = found else { return Ok(None) };
        let owner = cluster.object_ref(&());
        let mut owners = found.metadata.owner_references.iter().flatten();
        if owners.any(|reference| kinds::is_owner(reference, &owner)) {
            Ok(found.metadata.resource_version)
        } else {
            Err(Error::taken(child.id.kind, name))
        }
    }

    async fn patch_pod(&self, cluster: &ImAccessCluster, patch: &PodPatch) -> Result<(), Error> {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": patch.name,
                "namespace": cluster.metadata.namespace,
                "uid": patch.uid,
                "resourceVersion": patch.resource_version,
                "labels": patch.labels,
                "annotations": patch.annotations,
            },
        });
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.key.namespace);
        let answer = pods
            .patch_metadata(&patch.name, &forced(), &Patch::Apply(&object))
            .await;
        match answer {
            Ok(_) => {
                self.metrics.writes.with_label_values(&["Pod", "apply"]).inc();
                tracing::info!(
                    kind = "Pod",
                    name = patch.name,
                    verb = "apply",
                    why = "labels or annotations differ",
                    "written"
                );
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(source) => {
                let error = Error::Api {
                    what: format!("apply Pod {}", patch.name),
                    source,
                };
                self.metrics
                    .write_failures
                    .with_label_values(&["Pod", error.reason()])
                    .inc();
                Err(error)
            }
        }
    }

    async fn delete(&self, deletion: &Deletion) -> Result<(), Error> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(deletion.uid.clone()),
                resource_version: Some(deletion.resource_version.clone()),
            }),
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let answer = self
            .api(deletion.id.kind)
            .delete(&deletion.id.name, &parameters)
            .await;
        if let Err(kube::Error::Api(status)) = &answer
            && status.is_not_found()
        {
            return Ok(());
        }
        self.told(
            deletion.id.kind,
            &deletion.id.name,
            "delete",
            "not needed any more",
            answer,
        )
        .map(drop)
    }

    fn told<T>(
        &self,
        kind: Kind,
        name: &str,
        verb: &'static str,
        why: &str,
        answer: Result<T, kube::Error>,
    ) -> Result<T, Error> {
        match answer {
            Ok(answer) => {
                self.metrics
                    .writes
                    .with_label_values(&[kinds::name(kind), verb])
                    .inc();
                tracing::info!(kind = kinds::name(kind), name, verb, why, "written");
                Ok(answer)
            }
            Err(fault) => {
                let error = Error::writing(verb, kind, name, fault);
                self.failed(kind, &error);
                Err(error)
            }
        }
    }

    fn failed(&self, kind: Kind, error: &Error) {
        self.metrics
            .write_failures
            .with_label_values(&[kinds::name(kind), error.reason()])
            .inc();
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.key.namespace, &kinds::resource(kind))
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Writes the status if it isn't what it was; answers whether it did.
///
/// # Errors
/// If the API server refuses; a conflict if the resource has changed since it was read.
pub async fn status(
    client: &Client,
    metrics: &Metrics,
    cluster: &ImAccessCluster,
    status: &ImAccessClusterStatus,
) -> Result<bool, Error> {
    if cluster.status.as_ref() == Some(status) {
        return Ok(false);
    }
    let object = json!({
        "apiVersion": ImAccessCluster::api_version(&()),
        "kind": ImAccessCluster::kind(&()),
        "metadata": {
            "name": cluster.metadata.name,
            "namespace": cluster.metadata.namespace,
            "uid": cluster.metadata.uid,
            "resourceVersion": cluster.metadata.resource_version,
        },
        "status": status,
    });
    let namespace = cluster.metadata.namespace.clone().unwrap_or_default();
    let name = cluster.metadata.name.clone().unwrap_or_default();
    write_status(client, metrics, &Key { namespace, name }, &object).await?;
    Ok(true)
}

/// Writes the status in `object`, which may be of a resource that can't be read.
///
/// # Errors
/// As [`status`].
pub async fn write_status(
    client: &Client,
    metrics: &Metrics,
    key: &Key,
    object: &Value,
) -> Result<(), Error> {
    let kind = ImAccessCluster::kind(&()).into_owned();
    let resource = kube::api::ApiResource::erase::<ImAccessCluster>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.namespace, &resource);
    let answer = api
        .patch_status(&key.name, &forced(), &Patch::Apply(object))
        .await;
    match answer {
        Ok(_) => {
            metrics.writes.with_label_values(&[&kind, "status"]).inc();
            tracing::info!(kind, name = key.name, verb = "status", "written");
            Ok(())
        }
        Err(source) => {
            let error = Error::Api {
                what: format!("write the status of {key}"),
                source,
            };
            if error.class() == Class::Conflict {
                metrics.conflicts.inc();
            }
            metrics
                .write_failures
                .with_label_values(&[&kind, error.reason()])
                .inc();
            Err(error)
        }
    }
}

/// Server-side apply of what is ours, whoever had it before.
fn forced() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

#[cfg(test)]
mod tests;
