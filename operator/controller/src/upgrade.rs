//! Carries out the steps of an upgrade in place. Each is one write that carries what it was planned from; a handover lease is
//! taken before the write that needs it, and without it nothing is written.

use imaccess_operator_api::ImAccessCluster;
use imaccess_operator_api::names::FIELD_MANAGER;
use imaccess_operator_plan::plan::{Kind, Lease, PodRef, Step, StepName};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::error::Error;
use crate::gateways::Gateways;
use crate::metrics::Metrics;

/// For tests of what comes after a killed operator: the process kills itself right after it has carried out a step of this name.
pub const END_AFTER_VARIABLE: &str = "IMACCESS_OPERATOR_END_AFTER";

/// What carries them out for one cluster.
pub(crate) struct Upgrader<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cluster: &'a ImAccessCluster,
    pub(crate) gateways: Option<&'a Gateways>,
    pub(crate) metrics: &'a Metrics,
}

impl Upgrader<'_> {
    /// All steps, in their order; the first that fails ends it.
    pub(crate) async fn carry_out(&self, steps: &[Step], leases: &[Lease]) -> Result<(), Error> {
        for lease in leases {
            // Usually its gateway has ended by now. Otherwise the lease ends by itself, and the gateway with a drain.
            if let Err(error) = self.take(lease).await {
                tracing::info!(pod = lease.pod, %error, "the handover lease wasn't taken again");
            }
        }
        for step in steps {
            self.step(step).await?;
            stepped(step.name(), self.metrics);
        }
        Ok(())
    }

    async fn step(&self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Preflight { pod } => self.create(pod).await,
            Step::Replace {
                pod,
                name,
                patch,
                lease,
            } => {
                if let Some(lease) = lease {
                    self.take(lease).await?;
                }
                let patched = self.patch_pod(pod, patch, name.as_str()).await;
                // Where it isn't known whether the patch has come, the lease must stay: without it SIGTERM means drain.
                let refused = matches!(
                    &patched,
                    Err(Error::Api { source: kube::Error::Api(status), .. }) if (400..500).contains(&status.code)
                );
                if let (true, Some(lease), Some(gateways)) = (refused, lease, self.gateways) {
                    gateways.give_back(lease).await;
                }
                patched
            }
            Step::Release { pod, patch } => self.patch_pod(pod, patch, step.name().as_str()).await,
            Step::Pause { deployment, patch } | Step::Resume { deployment, patch } => {
                let patch = with_version(patch, &deployment.resource_version);
                let api: Api<Deployment> = Api::namespaced(self.client.clone(), self.namespace());
                let answer = api.patch(&deployment.name, &ours(), &Patch::Merge(&patch)).await;
                self.told(
                    Kind::Deployment.as_str(),
                    &deployment.name,
                    step.name().as_str(),
                    answer,
                )
            }
            Step::ReplicaSet { replica_set, patch } => {
                let patch = with_version(patch, &replica_set.resource_version);
                let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), self.namespace());
                let answer = api
                    .patch(&replica_set.name, &ours(), &Patch::Strategic(&patch))
                    .await;
                self.told("ReplicaSet", &replica_set.name, step.name().as_str(), answer)
            }
            Step::Clear { pod } => self.delete(pod).await,
        }
    }

    async fn take(&self, lease: &Lease) -> Result<(), Error> {
        let Some(gateways) = self.gateways else {
            return Err(Error::Gateway {
                pod: lease.pod.clone(),
                why: "the operator has no certificate for this cluster yet".to_owned(),
            });
        };
        gateways.take(lease).await.map_err(|why| Error::Gateway {
            pod: lease.pod.clone(),
            why,
        })
    }

    async fn create(&self, pod: &Value) -> Result<(), Error> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let pod: Pod = serde_json::from_value(pod.clone())
            .map_err(|fault| Error::Unexpected(format!("the pod {name} can't be made: {fault}")))?;
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let answer = self.pods().create(&parameters, &pod).await;
        self.told("Pod", &name, "create", answer)
    }

    async fn patch_pod(&self, pod: &PodRef, patch: &Value, verb: &'static str) -> Result<(), Error> {
        let mut patch = with_version(patch, &pod.resource_version);
        patch["metadata"]["uid"] = json!(pod.uid);
        let answer = self
            .pods()
            .patch(&pod.name, &ours(), &Patch::Strategic(&patch))
            .await;
        self.told("Pod", &pod.name, verb, answer)
    }

    async fn delete(&self, pod: &PodRef) -> Result<(), Error> {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(pod.uid.clone()),
                resource_version: Some(pod.resource_version.clone()),
            }),
            ..DeleteParams::default()
        };
        match self.pods().delete(&pod.name, &parameters).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            answer => self.told("Pod", &pod.name, "delete", answer),
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), self.namespace())
    }

    fn namespace(&self) -> &str {
        self.cluster.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn told<T>(
        &self,
        kind: &str,
        name: &str,
        verb: &'static str,
        answer: Result<T, kube::Error>,
    ) -> Result<(), Error> {
        match answer {
            Ok(_) => {
                self.metrics.writes.with_label_values(&[kind, verb]).inc();
                tracing::info!(kind, name, verb, why = "an upgrade in place", "written");
                Ok(())
            }
            Err(source) => {
                let error = Error::Api {
                    what: format!("{verb} {kind} {name}"),
                    source,
                };
                self.metrics
                    .write_failures
                    .with_label_values(&[kind, error.reason()])
                    .inc();
                Err(error)
            }
        }
    }
}

/// Takes note of a step that is done.
pub(crate) fn stepped(name: StepName, metrics: &Metrics) {
    metrics.upgrade_steps.with_label_values(&[name.as_str()]).inc();
    tracing::info!(step = name.as_str(), "a step of an upgrade in place is done");
    if std::env::var(END_AFTER_VARIABLE).is_ok_and(|step| step == name.as_str()) {
        tracing::warn!(
            step = name.as_str(),
            "{END_AFTER_VARIABLE}: this process kills itself"
        );
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

fn with_version(patch: &Value, resource_version: &str) -> Value {
    let mut patch = patch.clone();
    patch["metadata"]["resourceVersion"] = json!(resource_version);
    patch
}

fn ours() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

#[cfg(test)]
mod tests;
