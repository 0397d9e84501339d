//! What happens in the cluster, and which custom resources are to be looked at for it.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use imaccess_operator_api::names::FIELD_MANAGER;
use imaccess_operator_plan::observed::Capabilities;
use imaccess_operator_plan::plan::Kind;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::kinds;
use crate::observe;
use crate::reconcile::{Guarded, Passes};

/// What a controller reports: passes, and failures of watches.
pub type Report = Result<(ObjectRef<Guarded>, Action), controller::Error<Error, watcher::Error>>;

/// Passes in one controller's hands at once; how many of them do something is bounded for all controllers together.
const IN_HAND: u16 = 64;

/// Runs the controller of one namespace, or of all, until `stop`; then passes in progress end, and so does the stream.
pub fn run(
    passes: &Arc<Passes>,
    namespace: Option<&str>,
    capabilities: Capabilities,
    stop: CancellationToken,
) -> BoxStream<'static, Report> {
    let scope = Scope {
        client: &passes.parts.client,
        namespace,
    };
    let clusters: Api<Guarded> = match namespace {
        Some(namespace) => Api::namespaced(passes.parts.client.clone(), namespace),
        None => Api::all(passes.parts.client.clone()),
    };
    let mut controller = Controller::new(clusters, watcher::Config::default());
    // Metadata only, and only what we made.
    let ours = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={FIELD_MANAGER}"));
    for kind in kinds::ALL {
        let watched = match kind {
            Kind::Secret => false,
            Kind::PodMonitor => capabilities.pod_monitors,
            _ => true,
        };
        if watched {
            let resource = kinds::resource(kind);
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(passes.parts.client.clone(), namespace, &resource),
                None => Api::all_with(passes.parts.client.clone(), &resource),
            };
            controller = controller.owns_with(api, resource, ours.clone());
        }
    }
    let store = controller.store();
    let controller = controller
        .watches(
            scope.api::<Pod>(),
            watcher::Config::default().labels("app.kubernetes.io/name=imaccess"),
            |pod: PartialObjectMeta<Pod>| cluster_of_pod(&pod),
        )
        .watches(
            scope.api::<Secret>(),
            // Those that users name have no labels of ours.
            watcher::Config::default(),
            move |secret: PartialObjectMeta<Secret>| clusters_of_secret(&store, &secret),
        )
        .with_config(controller::Config::default().concurrency(IN_HAND))
        .graceful_shutdown_on(stopped(stop));
    controller
        .run(
            |object, passes: Arc<Passes>| passes.pass(object),
            |object, error, passes| passes.after(&object, error),
            Arc::clone(passes),
        )
        .boxed()
}

struct Scope<'a> {
    client: &'a Client,
    namespace: Option<&'a str>,
}

impl Scope<'_> {
    fn api<K>(&self) -> Api<PartialObjectMeta<K>>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

/// Resolves when `stop` is cancelled.
async fn stopped(stop: CancellationToken) {
    stop.cancelled().await;
}

fn cluster_of_pod(pod: &PartialObjectMeta<Pod>) -> Option<ObjectRef<Guarded>> {
    let cluster = pod.labels().get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(cluster).within(&pod.namespace()?))
}

/// The cluster that the Secret was made for, and those that name it.
fn clusters_of_secret(store: &Store<Guarded>, secret: &PartialObjectMeta<Secret>) -> Vec<ObjectRef<Guarded>> {
    let (Some(namespace), Some(name)) = (secret.namespace(), secret.metadata.name.as_deref()) else {
        return Vec::new();
    };
    let owners = secret
        .owner_references()
        .iter()
        .filter(|owner| owner.controller == Some(true) && owner.kind == Guarded::kind(&()))
        .map(|owner| ObjectRef::new(&owner.name).within(&namespace));
    let naming = store.state().into_iter().filter_map(|object| {
        let cluster = object.0.as_ref().ok()?;
        let names_it = cluster.metadata.namespace.as_deref() == Some(namespace.as_str())
            && observe::named(cluster).iter().any(|named| named == name);
        names_it.then(|| ObjectRef::from_obj(object.as_ref()))
    });
    owners.chain(naming).collect()
}
