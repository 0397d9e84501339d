//! One pass over one cluster: observe, plan, apply, and say how it went.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use imaccess_operator_api::names::NOT_AFTER_ANNOTATION;
use imaccess_operator_api::{ImAccessCluster, ImAccessClusterStatus};
use imaccess_operator_plan::observed::Capabilities;
use imaccess_operator_plan::plan::Notice;
use imaccess_operator_plan::{Observed, Plan};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tracing::Instrument;

use crate::apply::{self, Applier};
use crate::authority::Lifetimes;
use crate::backoff::Backoff;
use crate::error::{Class, Error};
use crate::failure;
use crate::health::Health;
use crate::kinds::Key;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::observe;

/// What decides: pure.
pub type Planner = fn(&Observed, Timestamp) -> Plan;

/// The custom resource as watches bring it: one that can't be read doesn't keep the others away.
pub type Guarded = DeserializeGuard<ImAccessCluster>;

/// Passes at once, in all namespaces.
pub const CONCURRENCY: usize = 4;

/// A pass that takes longer is given up.
const PASS_TIMEOUT: Duration = Duration::from_secs(90);

/// What passes need, and remember.
pub struct Passes {
    /// What they need.
    pub parts: Parts,
    permits: Semaphore,
    serial: AtomicU64,
    backoff: Mutex<Backoff>,
    memory: Mutex<Memory>,
    undecodable: Mutex<std::collections::BTreeSet<Key>>,
}

/// What passes need.
pub struct Parts {
    /// Behind the gate.
    pub client: Client,
    /// What decides.
    pub planner: Planner,
    /// The operator's own version.
    pub version: String,
    /// How long certificates are good for.
    pub lifetimes: Lifetimes,
    /// Counters.
    pub metrics: Metrics,
    /// Events; one recorder, so that repeated ones become a series.
    pub recorder: Recorder,
    /// What the API server has.
    pub capabilities: watch::Receiver<Capabilities>,
    /// What hangs.
    pub health: Health,
    /// How long a cluster stays unlooked at when nothing happens.
    pub resync: Duration,
    /// How long what happens is gathered before a pass looks. (The controller's own debounce starts anew with each event, and so
    /// wouldn't look at all while a large rollout brings them steadily.)
    pub settle: Duration,
}

/// What a pass came to.
struct Done {
    failure: Option<Error>,
    look_again: Option<Duration>,
}

impl Passes {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(parts: Parts) -> Passes {
        Passes {
            parts,
            permits: Semaphore::new(CONCURRENCY),
            serial: AtomicU64::new(0),
            backoff: Mutex::default(),
            memory: Mutex::default(),
            undecodable: Mutex::default(),
        }
    }

    /// A pass, as the controller calls it.
    ///
    /// # Errors
    /// What kept it from being complete; [`Passes::after`] says what follows.
    pub async fn pass(self: Arc<Self>, object: Arc<Guarded>) -> Result<Action, Error> {
        let key = key_of(&object);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 1;
        // Spans carry what an exporter of traces would need; none is built in.
        let span = tracing::info_span!(
            "reconcile",
            namespace = key.namespace,
            name = key.name,
            generation = object.meta().generation,
            id = serial,
        );
        async {
            tokio::time::sleep(self.parts.settle).await;
            // The semaphore is never closed.
            let _permit = self.permits.acquire().await;
            let _pass = self.parts.health.pass(serial, key.to_string());
            let began = Instant::now();
            let work = AssertUnwindSafe(Box::pin(self.work(&key))).catch_unwind();
            let result = match tokio::time::timeout(PASS_TIMEOUT, work).await {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => Err(self.panicked(panic.as_ref())),
                Err(_) => Err(Error::TooLong),
            };
            self.conclude(&key, began, result)
        }
        .instrument(span)
        .await
    }

    /// When a cluster whose pass failed is looked at again: the controller's error policy.
    #[must_use]
    pub fn after(&self, object: &Guarded, error: &Error) -> Action {
        let pause = {
            let mut backoff = lock(&self.backoff);
            let pause = backoff.failed(&key_of(object), error.class(), fastrand::f64());
            self.parts
                .metrics
                .backoff
                .set(i64::try_from(backoff.len()).unwrap_or(i64::MAX));
            pause
        };
        Action::requeue(pause)
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, key: &Key) {
        self.recovered(key);
        lock(&self.memory).forget(key);
        self.decoded(key, true);
        // Gone already where they were never set.
        let metrics = &self.parts.metrics;
        for gauges in [&metrics.certificate_not_after, &metrics.upgrade_stopped] {
            let _ = gauges.remove_label_values(&[&key.namespace, &key.name]);
        }
    }

    fn conclude(&self, key: &Key, began: Instant, result: Result<Done, Error>) -> Result<Action, Error> {
        let (failure, look_again) = match result {
            Ok(done) => (done.failure, done.look_again),
            Err(error) => (Some(error), None),
        };
        let label = failure.as_ref().map_or("done", Error::reason);
        self.parts.metrics.reconciles.with_label_values(&[label]).inc();
        self.parts
            .metrics
            .seconds
            .with_label_values(&[label])
            .observe(began.elapsed().as_secs_f64());
        match failure {
            None => {
                self.recovered(key);
                // A tenth more or less, so that clusters aren't looked at together for ever.
                let resync = self.parts.resync.mul_f64(0.9 + fastrand::f64() / 5.0);
                Ok(Action::requeue(
                    look_again.map_or(resync, |pause| pause.min(resync)),
                ))
            }
            Some(error) => {
                match error.class() {
                    Class::Conflict => tracing::info!(%error, "looking again at once"),
                    Class::NotLeading => tracing::info!(%error, "left to the operator that leads"),
                    Class::Transient => tracing::warn!(%error, "trying again later"),
                    Class::Refused | Class::Defect => tracing::error!(%error, "waiting for a change"),
                }
                Err(error)
            }
        }
    }

    async fn work(&self, key: &Key) -> Result<Done, Error> {
        let cluster = match observe::cluster(&self.parts.client, key).await {
            Ok(Some(cluster)) => cluster,
            Ok(None) => {
                self.forget(key);
                return Ok(Done {
                    failure: None,
                    look_again: None,
                });
            }
            Err(error) => {
                if let Error::Undecodable(fault) = &error {
                    self.decoded(key, false);
                    self.tell_undecodable(key, fault, &error).await?;
                }
                return Err(error);
            }
        };
        self.decoded(key, true);
        if cluster.metadata.deletion_timestamp.is_some() {
            // What belongs to it goes with it, by owner references.
            return Ok(Done {
                failure: None,
                look_again: None,
            });
        }
        let now = Timestamp::now();
        let before = cluster.status.clone().unwrap_or_default();
        let capabilities = *self.parts.capabilities.borrow();
        let gathered = observe::gather(
            &self.parts.client,
            cluster.clone(),
            capabilities,
            &self.parts.version,
        )
        .await;
        let planned = match gathered {
            Ok(gathered) => self.plan(&gathered.observed, now).map(|plan| (gathered, plan)),
            Err(error) => Err(error),
        };
        match planned {
            Ok((gathered, plan)) => self.carry_out(key, gathered, plan, now).await,
            Err(error) => {
                self.tell(key, &cluster, before, Some(&error), vec![], now)
                    .await?;
                Err(error)
            }
        }
    }

    async fn carry_out(
        &self,
        key: &Key,
        gathered: observe::Gathered,
        plan: Plan,
        now: Timestamp,
    ) -> Result<Done, Error> {
        self.note_certificates(key, &gathered.observed);
        let stopped = plan
            .status
            .upgrade
            .as_ref()
            .is_some_and(|upgrade| upgrade.reason.is_some());
        self.parts
            .metrics
            .upgrade_stopped
            .with_label_values(&[&key.namespace, &key.name])
            .set(i64::from(stopped));
        let applier = Applier {
            client: &self.parts.client,
            key,
            lifetimes: self.parts.lifetimes,
            memory: &self.memory,
            metrics: &self.parts.metrics,
        };
        let outcome = Box::pin(applier.carry_out(&gathered, &plan, now)).await;
        let cluster = &gathered.observed.cluster;
        let mut status = plan.status;
        failure::show_degraded(&mut status, cluster.metadata.generation, &outcome.degraded, now);
        self.tell(key, cluster, status, outcome.failure.as_ref(), plan.notices, now)
            .await
            // What ended the pass comes first; that the status couldn't be written then is only its consequence.
            .or_else(|error| {
                if outcome.failure.is_some() {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
        Ok(Done {
            failure: outcome.failure,
            look_again: plan.look_again,
        })
    }

    /// The plan, or that making it panicked: a defect that must not take the other clusters with it.
    fn plan(&self, observed: &Observed, now: Timestamp) -> Result<Plan, Error> {
        std::panic::catch_unwind(AssertUnwindSafe(|| (self.parts.planner)(observed, now)))
            .map_err(|panic| self.panicked(panic.as_ref()))
    }

    fn panicked(&self, panic: &(dyn Any + Send)) -> Error {
        self.parts.metrics.panics.inc();
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        Error::Panicked(message.unwrap_or_else(|| "no message".to_owned()))
    }

    /// Writes the status with what failed, and the Events that are news.
    async fn tell(
        &self,
        key: &Key,
        cluster: &ImAccessCluster,
        mut status: ImAccessClusterStatus,
        failed: Option<&Error>,
        mut notices: Vec<Notice>,
        now: Timestamp,
    ) -> Result<(), Error> {
        if let Some(error) = failed {
            // With this failure, which the error policy counts only after the pass.
            let count = lock(&self.backoff).count(key).saturating_add(1);
            failure::show(&mut status, cluster.metadata.generation, error, count, now);
            if matches!(error.class(), Class::Refused | Class::Defect) {
                notices.push(Notice {
                    warning: true,
                    reason: error.reason().to_owned(),
                    note: failure::sentence(error),
                    container: None,
                });
            }
        }
        if failed.is_none_or(|error| error.class() != Class::NotLeading) {
            let news = lock(&self.memory).news(key, notices);
            self.publish(&cluster.object_ref(&()), news).await;
        }
        apply::status(&self.parts.client, &self.parts.metrics, cluster, &status)
            .await
            .map(drop)
    }

    /// A resource that can't be read still has a status, if only we can say what is wrong with it.
    async fn tell_undecodable(&self, key: &Key, fault: &str, error: &Error) -> Result<(), Error> {
        let resource = kube::api::ApiResource::erase::<ImAccessCluster>(&());
        let api: kube::Api<kube::api::DynamicObject> =
            kube::Api::namespaced_with(self.parts.client.clone(), &key.namespace, &resource);
        let found = api
            .get_opt(&key.name)
            .await
            .map_err(Error::reading(key.to_string()))?;
        let Some(object) = found else { return Ok(()) };
        tracing::warn!(fault, "the resource can't be read");
        let before: ImAccessClusterStatus = object
            .data
            .get("status")
            .and_then(|status| serde_json::from_value(status.clone()).ok())
            .unwrap_or_default();
        let mut status = before.clone();
        failure::show(
            &mut status,
            object.metadata.generation,
            error,
            1,
            Timestamp::now(),
        );
        let notice = Notice {
            warning: true,
            reason: error.reason().to_owned(),
            note: failure::sentence(error),
            container: None,
        };
        let news = lock(&self.memory).news(key, vec![notice]);
        self.publish(&object.object_ref(&resource), news).await;
        if status == before {
            return Ok(());
        }
        let patch = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                "uid": object.uid(),
                "resourceVersion": object.resource_version(),
            },
            "status": status,
        });
        apply::write_status(&self.parts.client, &self.parts.metrics, key, &patch).await
    }

    async fn publish(&self, about: &ObjectReference, notices: Vec<Notice>) {
        for notice in notices {
            let event = Event {
                type_: if notice.warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: notice.reason,
                // An Event's note has 1 KiB at most.
                note: Some(notice.note.chars().take(1_000).collect()),
                action: match &notice.container {
                    Some((_, "state")) => "ReplaceState",
                    Some(_) => "ReplaceGateway",
                    None => "Reconcile",
                }
                .to_owned(),
                secondary: notice.container.map(|(pod, _)| ObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod),
                    namespace: about.namespace.clone(),
                    ..ObjectReference::default()
                }),
            };
            match self.parts.recorder.publish(&event, about).await {
                Ok(()) => self
                    .parts
                    .metrics
                    .writes
                    .with_label_values(&["Event", "create"])
                    .inc(),
                Err(error) => {
                    self.parts
                        .metrics
                        .write_failures
                        .with_label_values(&["Event", "Unpublished"])
                        .inc();
                    tracing::warn!(%error, reason = event.reason, "an Event can't be published");
                }
            }
        }
    }

    fn note_certificates(&self, key: &Key, observed: &Observed) {
        let first = observed
            .secrets
            .values()
            .filter(|facts| facts.ours)
            .filter_map(|facts| facts.annotations.get(NOT_AFTER_ANNOTATION))
            .filter_map(|text| text.parse::<Timestamp>().ok())
            .min();
        if let Some(first) = first {
            self.parts
                .metrics
                .certificate_not_after
                .with_label_values(&[&key.namespace, &key.name])
                .set(first.as_second());
        }
    }

    fn recovered(&self, key: &Key) {
        let mut backoff = lock(&self.backoff);
        backoff.forget(key);
        self.parts
            .metrics
            .backoff
            .set(i64::try_from(backoff.len()).unwrap_or(i64::MAX));
    }

    fn decoded(&self, key: &Key, decoded: bool) {
        let mut undecodable = lock(&self.undecodable);
        if decoded {
            undecodable.remove(key);
        } else {
            undecodable.insert(key.clone());
        }
        self.parts
            .metrics
            .undecodable
            .set(i64::try_from(undecodable.len()).unwrap_or(i64::MAX));
    }
}

fn key_of(object: &Guarded) -> Key {
    let meta = object.meta();
    Key::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod convergence;
#[cfg(test)]
mod tests;
