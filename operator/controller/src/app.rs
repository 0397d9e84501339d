//! The composition root: builds everything, and goes through the operator's life.
//!
//! ```text
//!   definition there? ──▶ leading? ──▶ watches and passes ──▶ (lost, gone, stopped) drained ──▶ …
//! ```

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::StreamExt;
use futures_util::stream::select_all;
use imaccess_common::admin::{AdminServer, Condition, Readiness};
use imaccess_common::metrics::ProcessMetrics;
use imaccess_operator_api::ImAccessCluster;
use imaccess_operator_api::names::FIELD_MANAGER;
use imaccess_operator_plan::observed::Capabilities;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::client::ClientBuilder;
use kube::runtime::controller;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client, Config};
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authority::Lifetimes;
use crate::clock::Clock;
use crate::health::Health;
use crate::kinds::Key;
use crate::leader::evaluate::{Elector, Timing};
use crate::leader::gate::{Gate, GateLayer};
use crate::leader::lease::Campaign;
use crate::metrics::Metrics;
use crate::reconcile::{Parts, Passes, Planner};
use crate::watches;

/// Between looks for the definition while it is missing.
const DEFINITION_POLL: Duration = Duration::from_secs(5);
/// Between looks at what the API server has.
const DISCOVERY: Duration = Duration::from_secs(300);
/// How long passes in progress may take to end. Their writes are given up sooner.
const DRAIN: Duration = Duration::from_secs(15);
/// See [`Passes::settle`].
const SETTLE: Duration = Duration::from_millis(100);

/// What is said on the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to look after; none means all.
    pub namespaces: Vec<String>,
    /// The lease's namespace; none means the operator's own.
    pub lease_namespace: Option<String>,
    /// The lease's name.
    pub lease_name: String,
    /// Whether there may be another operator.
    pub election: bool,
    /// Where metrics, health and readiness are.
    pub pages: SocketAddr,
    /// How long a cluster stays unlooked at when nothing happens.
    pub resync: Duration,
    /// How long certificates are good for.
    pub lifetimes: Lifetimes,
    /// The operator's own version.
    pub version: String,
    /// This process's name among operators; with random characters, since a pod's name outlives a process.
    pub identity: String,
}

/// Why it can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Neither in a pod, nor with a kubeconfig.
    #[error("no Kubernetes cluster is known: there is neither a service account nor a kubeconfig")]
    NoCluster(#[source] kube::Error),
    /// The client can't be made.
    #[error("the Kubernetes client can't be made")]
    Client(#[source] kube::Error),
    /// The pages' address is taken.
    #[error("the pages can't be served on {address}")]
    Pages {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Runs the operator until `stop`; then passes in progress end, and the lease is given back.
///
/// # Errors
/// Only at the start. What goes wrong later shows in conditions, metrics and the log.
pub async fn run(options: Options, planner: Planner, stop: CancellationToken) -> Result<(), RunError> {
    let config = Config::infer()
        .await
        .map_err(|fault| RunError::NoCluster(kube::Error::InferConfig(fault)))?;
    let registry = Registry::new();
    ProcessMetrics::register(&registry, "operator", &options.version);
    let metrics = Metrics::register(&registry);
    let (health, readiness) = (Health::new(), Readiness::new());
    let address = options.pages;
    let server = AdminServer::bind(address)
        .await
        .map_err(|source| RunError::Pages { address, source })?;
    tracing::info!(pages = %server.local_addr(), server = %config.cluster_url, namespaces = ?options.namespaces, "the operator starts");

    let clock = Clock::boottime();
    let gate = Gate::new(clock.clone(), Timing::DEFAULT.request, metrics.refusals.clone());
    let gated = ClientBuilder::try_from(config.clone())
        .map_err(RunError::Client)?
        .with_layer(&GateLayer(gate.clone()))
        .build();
    let own_namespace = config.default_namespace.clone();
    let lease_client = Client::try_from(config).map_err(RunError::Client)?;

    let campaign_stop = CancellationToken::new();
    let campaign = if options.election {
        let namespace = options.lease_namespace.clone().unwrap_or(own_namespace);
        let leases: Api<Lease> = Api::namespaced(lease_client, &namespace);
        let elector = Elector::new(options.identity.clone(), Timing::DEFAULT);
        let campaign = Campaign::new(
            (leases, options.lease_name.clone()),
            elector,
            gate.clone(),
            clock,
            metrics.clone(),
            health.pulse("the election"),
            &readiness,
        );
        Some(tokio::spawn(campaign.run(campaign_stop.clone())))
    } else {
        gate.open();
        None
    };

    let checked = health.clone();
    let operator = Operator::new(&options, planner, gated, metrics, health, &readiness);
    // Now that all conditions are there: without one it would be ready.
    let pages_stop = CancellationToken::new();
    let pages = tokio::spawn(server.with_health(move || checked.check()).serve(
        registry,
        readiness.clone(),
        Router::new(),
        pages_stop.clone(),
    ));
    let leads = operator.follow(gate.clone());
    operator.live(leads, stop).await;
    readiness.drain();
    gate.close();
    campaign_stop.cancel();
    if let Some(campaign) = campaign
        && let Err(fault) = campaign.await
    {
        tracing::error!(%fault, "the election failed");
    }
    pages_stop.cancel();
    if let Err(fault) = pages.await {
        tracing::error!(%fault, "the pages failed");
    }
    tracing::info!("the operator has ended");
    Ok(())
}

/// Watches and passes, whenever this operator leads.
pub struct Operator {
    client: Client,
    /// Where clusters are looked after; one `None` for everywhere.
    scopes: Vec<Option<String>>,
    passes: Arc<Passes>,
    metrics: Metrics,
    capabilities: watch::Sender<Capabilities>,
    definition: Condition,
}

/// Why leading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The process ends.
    Stopped,
    /// Another operator may lead.
    Lost,
    /// The definition was taken away.
    DefinitionGone,
    /// Other kinds are to be watched.
    CapabilitiesChanged,
    /// The watches ended by themselves.
    Watches,
}

impl Operator {
    /// Behind a gated client.
    #[must_use]
    pub fn new(
        options: &Options,
        planner: Planner,
        client: Client,
        metrics: Metrics,
        health: Health,
        readiness: &Readiness,
    ) -> Operator {
        let capabilities = watch::Sender::new(Capabilities::default());
        let reporter = Reporter {
            controller: FIELD_MANAGER.to_owned(),
            instance: Some(options.identity.clone()),
        };
        let passes = Passes::new(Parts {
            client: client.clone(),
            planner,
            version: options.version.clone(),
            lifetimes: options.lifetimes,
            metrics: metrics.clone(),
            recorder: Recorder::new(client.clone(), reporter),
            capabilities: capabilities.subscribe(),
            health,
            resync: options.resync,
            settle: SETTLE,
        });
        Operator {
            client,
            scopes: if options.namespaces.is_empty() {
                vec![None]
            } else {
                options.namespaces.iter().cloned().map(Some).collect()
            },
            passes: Arc::new(passes),
            metrics,
            capabilities,
            definition: readiness.condition("crd"),
        }
    }

    /// Whether this operator leads, as the gate has it: logged and counted when it changes.
    #[must_use]
    pub fn follow(&self, gate: Gate) -> watch::Receiver<bool> {
        let (tell, leads) = watch::channel(false);
        let mut changes = leads.clone();
        let metrics = self.metrics.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = gate.follow(&tell) => {}
                () = async {
                    while changes.changed().await.is_ok() {
                        let leading = *changes.borrow_and_update();
                        metrics.leader.set(i64::from(leading));
                        metrics.transitions.inc();
                        if leading {
                            tracing::info!("this operator leads");
                        } else {
                            tracing::warn!("this operator doesn't lead any more");
                        }
                    }
                } => {}
            }
        });
        leads
    }

    /// The operator's life, until `stop`.
    pub async fn live(&self, mut leads: watch::Receiver<bool>, stop: CancellationToken) {
        loop {
            let began = async {
                self.definition_there().await;
                // The sender lives as long as the process.
                let _ = leads.wait_for(|leads| *leads).await;
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = began => {}
            }
            let ended = self.lead(leads.clone(), stop.clone()).await;
            tracing::info!(?ended, "watches and passes have ended");
            if ended == Ended::Stopped {
                return;
            }
        }
    }

    /// Waits until the custom resource can be listed in every scope.
    async fn definition_there(&self) {
        let mut said = false;
        loop {
            let mut missing = None;
            for scope in &self.scopes {
                if let Err(fault) = self.list_one(scope.as_deref()).await {
                    missing = Some((scope, fault));
                    break;
                }
            }
            let Some((scope, fault)) = missing else {
                self.definition.set(true);
                self.metrics.definition_missing.set(0);
                if said {
                    tracing::info!("ImAccessClusters can be listed now");
                }
                return;
            };
            let absent = matches!(&fault, kube::Error::Api(status) if status.is_not_found());
            self.definition.set(false);
            self.metrics.definition_missing.set(i64::from(absent));
            if !said {
                said = true;
                let scope = scope.as_deref().unwrap_or("all namespaces");
                if absent {
                    tracing::warn!(
                        "the definition of ImAccessCluster isn't installed; waiting for it (the chart brings it, or kubectl apply -f crds/)"
                    );
                } else {
                    tracing::warn!(scope, error = %fault, "ImAccessClusters can't be listed; trying again");
                }
            }
            tokio::time::sleep(DEFINITION_POLL).await;
        }
    }

    async fn list_one(&self, scope: Option<&str>) -> Result<(), kube::Error> {
        let api: Api<kube::core::PartialObjectMeta<ImAccessCluster>> = match scope {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        api.list(&ListParams::default().limit(1)).await.map(drop)
    }

    /// Watches and passes until something ends them; then those in progress are waited for.
    async fn lead(&self, leads: watch::Receiver<bool>, stop: CancellationToken) -> Ended {
        let capabilities = self.discover().await;
        self.capabilities.send_replace(capabilities);
        let drain = CancellationToken::new();
        let mut reports = select_all(
            self.scopes
                .iter()
                .map(|scope| watches::run(&self.passes, scope.as_deref(), capabilities, drain.clone())),
        );
        let end = self.end(capabilities, leads, stop);
        tokio::pin!(end);
        let mut ended = None;
        loop {
            let deadline = async {
                match &ended {
                    Some((_, deadline)) => tokio::time::sleep_until(*deadline).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                reason = &mut end, if ended.is_none() => {
                    ended = Some((reason, tokio::time::Instant::now() + DRAIN));
                    drain.cancel();
                }
                report = reports.next() => match report {
                    Some(report) => {
                        if self.heard(report).await && ended.is_none() {
                            ended = Some((Ended::DefinitionGone, tokio::time::Instant::now() + DRAIN));
                            drain.cancel();
                        }
                    }
                    None => return ended.map_or(Ended::Watches, |(reason, _)| reason),
                },
                () = deadline => {
                    tracing::warn!("passes in progress didn't end in time and are dropped");
                    return ended.map_or(Ended::Watches, |(reason, _)| reason);
                }
            }
        }
    }

    /// Resolves with the first reason to end.
    async fn end(
        &self,
        watched: Capabilities,
        mut leads: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> Ended {
        let changed = async {
            loop {
                tokio::time::sleep(DISCOVERY).await;
                if self.discover().await != watched {
                    return;
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => Ended::Stopped,
            _ = leads.wait_for(|leads| !*leads) => Ended::Lost,
            () = changed => Ended::CapabilitiesChanged,
        }
    }

    /// Takes note of a report; answers whether the definition is gone.
    async fn heard(&self, report: watches::Report) -> bool {
        match report {
            // A pass has said itself how it went.
            Ok(_) | Err(controller::Error::ReconcilerFailed(..)) => false,
            Err(controller::Error::ObjectNotFound(gone)) => {
                let key = Key::new(gone.namespace.as_deref().unwrap_or_default(), &gone.name);
                self.passes.forget(&key);
                false
            }
            Err(controller::Error::QueueError(fault)) => {
                self.metrics.watch_failures.inc();
                tracing::warn!(error = %fault, "a watch failed; it begins again");
                is_not_found(&fault) && self.definition_gone().await
            }
            Err(controller::Error::RunnerError(fault)) => {
                tracing::error!(%fault, "a controller failed");
                false
            }
        }
    }

    async fn definition_gone(&self) -> bool {
        for scope in &self.scopes {
            if let Err(kube::Error::Api(status)) = self.list_one(scope.as_deref()).await
                && status.is_not_found()
            {
                return true;
            }
        }
        false
    }

    /// What the API server has; what can't be found out is taken as it was.
    async fn discover(&self) -> Capabilities {
        let request = http::Request::get("/apis/monitoring.coreos.com/v1").body(Vec::new());
        let Ok(request) = request else {
            return *self.capabilities.borrow();
        };
        match self.client.request::<serde_json::Value>(request).await {
            Ok(list) => Capabilities {
                pod_monitors: list["resources"]
                    .as_array()
                    .is_some_and(|resources| resources.iter().any(|known| known["kind"] == "PodMonitor")),
            },
            Err(kube::Error::Api(status)) if status.is_not_found() => Capabilities::default(),
            Err(error) => {
                tracing::warn!(%error, "what the API server has can't be found out");
                *self.capabilities.borrow()
            }
        }
    }
}

fn is_not_found(fault: &watcher::Error) -> bool {
    match fault {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.is_not_found(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
