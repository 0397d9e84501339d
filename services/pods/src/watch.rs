//! The watch itself: a task that asks, folds and publishes.
//!
//! Concurrency: the task alone owns the roster; readers take the published snapshot without waiting for it. It ends
//! when its [`PodWatch`] is dropped. Every request has a deadline: for the answer to begin 20 s, for a silent stream
//! 65 s.

use std::error::Error;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use kube::{Api, Client, Config};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::health::WatchHealth;
use crate::pod::Pods;
use crate::roster::Roster;

/// How long it may take to reach the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one watch lasts, in seconds. A connection that died silently (its server's node is gone) is noticed 5 s
/// later: that is how long a new gateway could stay unknown.
const WATCH_SECONDS: u32 = 60;
/// How long any read may wait: longer than a watch without events, so that it only ends what hangs.
const READ_TIMEOUT: Duration = Duration::from_secs(75);
/// Pods per page of a list: 500 pods are about 5 MB.
const PAGE: u32 = 500;
/// The times in which nothing but patience matters; tests have less.
const TIMES: Times = Times {
    answer: Duration::from_secs(20),
    first_pause: Duration::from_millis(500),
    longest_pause: Duration::from_secs(10),
};

#[derive(Debug, Clone, Copy)]
struct Times {
    /// How long the server may take until an answer begins.
    answer: Duration,
    /// Pause before the first new attempt; it doubles from there.
    first_pause: Duration,
    /// Longest pause. A cluster's watchers are a handful, so the server isn't hurt by it, and its return is seen soon.
    longest_pause: Duration,
}

/// Which pods to watch, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodSource {
    /// Their namespace; by default that of the service account, or of the kubeconfig's context.
    pub namespace: Option<String>,
    /// Their labels, as in `kubectl -l`: `app.kubernetes.io/instance=demo,app.kubernetes.io/component=gateway`.
    pub selector: String,
    /// The file that says how to reach the API server. By default what `KUBECONFIG` names, else the pod's service account.
    pub kubeconfig: Option<PathBuf>,
}

/// Why there can be no watch: never because the server is away, which is waited for.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig file can't be used.
    #[error("the kubeconfig {} can't be used", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// Nothing says where the API server is.
    #[error("there is neither a kubeconfig nor a service account: this doesn't seem to be a pod")]
    Nowhere(#[source] kube::config::InferConfigError),
    /// The client can't be made of what is said.
    #[error("can't make the Kubernetes client")]
    Client(#[source] kube::Error),
}

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub struct PodWatch {
    snapshot: watch::Receiver<Option<Arc<Pods>>>,
    health: Arc<WatchHealth>,
    task: JoinHandle<()>,
}

impl PodWatch {
    /// Finds out how to reach the API server and begins to watch, on this runtime. It doesn't wait for an answer.
    pub async fn connect(source: &PodSource) -> Result<PodWatch, ConnectError> {
        // An error means that the process has a provider already: it is the same one everywhere here.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = match &source.kubeconfig {
            Some(path) => {
                let fault = |source| ConnectError::Kubeconfig {
                    path: path.clone(),
                    source,
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(fault)?;
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .map_err(fault)?
            }
            None => Config::infer().await.map_err(ConnectError::Nowhere)?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        let client = Client::try_from(config).map_err(ConnectError::Client)?;
        Ok(PodWatch::start(
            client,
            source.namespace.as_deref(),
            &source.selector,
        ))
    }

    /// Begins to watch with a client that is there already, on this runtime.
    #[must_use]
    pub fn start(client: Client, namespace: Option<&str>, selector: &str) -> PodWatch {
        PodWatch::start_with(client, namespace, selector, TIMES)
    }

    fn start_with(client: Client, namespace: Option<&str>, selector: &str, times: Times) -> PodWatch {
        let health = Arc::new(WatchHealth::default());
        let namespace = namespace.map_or_else(|| client.default_namespace().to_owned(), str::to_owned);
        tracing::info!(namespace, selector, "watching pods");
        let pods: Api<v1::Pod> =
            Api::namespaced(listened(client, Arc::clone(&health), times.answer), &namespace);
        let config = watcher::Config::default()
            .labels(selector)
            .timeout(WATCH_SECONDS)
            .page_size(PAGE);
        let events = watch_objects(pods, config).backoff(Pauses { times, last: None });
        let (publish, snapshot) = watch::channel(None);
        let task = tokio::spawn(follow(events, publish, Arc::clone(&health)));
        PodWatch {
            snapshot,
            health,
            task,
        }
    }

    /// A watch that says what `snapshot` says: for tests of what uses one, which have no API server.
    #[must_use]
    pub fn of(snapshot: watch::Receiver<Option<Arc<Pods>>>) -> PodWatch {
        PodWatch {
            snapshot,
            health: Arc::default(),
            task: tokio::spawn(async {}),
        }
    }

    /// The last snapshot; none before the first complete list.
    #[must_use]
    pub fn latest(&mut self) -> Option<Arc<Pods>> {
        self.snapshot.borrow_and_update().clone()
    }

    /// Waits for a snapshot that [`latest`](PodWatch::latest) hasn't given yet. Cancelling loses nothing.
    pub async fn changed(&mut self) {
        if self.snapshot.changed().await.is_err() {
            // The task is gone, which only a panic does: the last snapshot stands.
            std::future::pending::<()>().await;
        }
    }

    /// How it is doing.
    #[must_use]
    pub fn health(&self) -> &Arc<WatchHealth> {
        &self.health
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Folds events and publishes, for as long as it isn't dropped.
async fn follow(
    events: impl Stream<Item = watcher::Result<Event<v1::Pod>>>,
    publish: watch::Sender<Option<Arc<Pods>>>,
    health: Arc<WatchHealth>,
) {
    let mut events = std::pin::pin!(events);
    let mut roster = Roster::default();
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(fault) if is_too_old(&fault) => {
                tracing::debug!("the pod watch is too far behind; listing anew");
                continue;
            }
            Err(fault) => {
                let text = chain(&fault);
                if health.failed(&text) {
                    tracing::warn!(fault = text, "the pod watch fails; the last list of pods stands");
                }
                continue;
            }
        };
        if matches!(event, Event::InitDone) {
            health.listed();
        }
        if let Some(pods) = roster.take(event) {
            tracing::debug!(pods = pods.len(), "other pods");
            publish.send_replace(Some(Arc::new(pods)));
        }
    }
}

/// Whether the version to continue from is forgotten (410 Gone): that is how a watch lives, and no fault.
fn is_too_old(fault: &watcher::Error) -> bool {
    const GONE: u16 = 410;
    match fault {
        watcher::Error::WatchError(status) => status.code == GONE,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == GONE,
        _ => false,
    }
}

/// The fault and all that is below it: kube's own sentences end where it gets interesting.
fn chain(fault: &dyn Error) -> String {
    let mut text = fault.to_string();
    let mut below = fault.source();
    while let Some(fault) = below {
        let part = fault.to_string();
        if !text.contains(&part) {
            // Writing to a string can't fail.
            let _ = write!(text, ": {part}");
        }
        below = fault.source();
    }
    text
}

/// The same client, with a deadline for each answer, and its good answers noticed: the watcher doesn't say when a
/// watch that failed works again and has nothing to tell.
fn listened(client: Client, health: Arc<WatchHealth>, patience: Duration) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (client, health) = (client.clone(), Arc::clone(&health));
        async move {
            let answer = tokio::time::timeout(patience, client.send(request)).await;
            let answer = answer.map_err(|_| kube::Error::Service("no answer in time".into()))??;
            if answer.status().is_success()
                && let Some(down) = health.answered()
            {
                tracing::info!(?down, "the API server answers the pod watch again");
            }
            Ok::<_, kube::Error>(answer)
        }
    });
    Client::new(service, namespace)
}

/// Pauses between attempts: doubling, with a quarter of jitter, from the start again after a minute without a fault.
///
/// The library's own begins anew with each good *event*, of which a failing list has one each, or goes up to half a
/// minute and more, for which a server's return would stay unseen.
#[derive(Debug)]
struct Pauses {
    times: Times,
    /// The last fault and the pause after it.
    last: Option<(Instant, Duration)>,
}

impl Pauses {
    /// The pause after a fault at `now`, without the jitter.
    fn after(&mut self, now: Instant) -> Duration {
        const CALM: Duration = Duration::from_secs(60);
        let pause = match self.last {
            Some((at, pause)) if now.duration_since(at) < CALM => (pause * 2).min(self.times.longest_pause),
            _ => self.times.first_pause,
        };
        self.last = Some((now, pause));
        pause
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.after(Instant::now());
        Some(pause.mul_f64(0.75 + 0.25 * fastrand::f64()))
    }
}

impl Backoff for Pauses {
    /// The stream calls this on every good event: time decides instead.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests;
