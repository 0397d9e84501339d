//! Scenarios on a Kubernetes cluster: whatever `KUBECONFIG` names.
//!
//! - [`environment`]: what `cargo xtask e2e` prepared, as variables.
//! - [`namespace`]: a namespace of the scenario's own. [`diagnosis`]: what its pods and events say when something failed.
//! - [`release`]: the chart, by helm. [`operator`]: the operator's pods and its lease. [`local_operator`]: one as a process.
//! - [`installation`]: one `ImAccessCluster` and what the operator made of it. [`objects`]: objects of any kind.
//! - [`echo`]: a business. [`images`]: other images, good and bad.
//! - [`gateways`]: gateway pods as clients see them. [`containers`]: their two containers. [`ending`]: how a pod ends. [`recorder`]: a business that records events.
//! - [`pushing`]: the push API. [`place`]: a cluster as a witness sees it. [`prometheus`]: a server that scrapes the pods.
//! - [`audit`]: the API server's audit log. [`process`]: signals to a pod's process. [`nodes`]: nodes lost and started.
//!
//! Invariants: a scenario touches only namespaces that it made, and objects without a namespace that its helm releases
//! made; both are removed when it ends, whether it passed or not. The definition of the custom resource is the exception:
//! it is applied before each scenario and stays, because clusters of others would go with it.

pub mod audit;
pub mod containers;
pub mod diagnosis;
pub mod echo;
pub mod ending;
pub mod environment;
pub mod gateways;
pub mod images;
pub mod installation;
pub mod local_operator;
pub mod namespace;
pub mod nodes;
pub mod objects;
pub mod operator;
pub mod place;
pub mod process;
pub mod prometheus;
pub mod pushing;
pub mod recorder;
pub mod release;
pub mod scores;

use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Config};

pub use environment::Environment;
pub use installation::{Installation, small_spec};
pub use namespace::Namespace;
pub use release::Release;

use crate::wait::{Seen, wait_until_polled};

/// Between two looks at the API server: short against every promise in seconds, long against what a look costs it.
const POLL: Duration = Duration::from_millis(100);
/// An answer of the API server that takes longer is a finding.
const ANSWER: Duration = Duration::from_secs(30);
/// Until the API server serves a kind whose definition was just applied.
const ESTABLISHED: Duration = Duration::from_secs(30);
/// The definition's name.
pub const DEFINITION: &str = "imaccessclusters.imaccess.io";
/// Who changes objects in scenarios, for field managers.
pub const MANAGER: &str = "imaccess-e2e";

/// The connection to the API server, and what the scenario has made.
pub struct Kubernetes {
    /// With the rights of the kubeconfig: a cluster administrator's.
    pub client: Client,
    /// What was prepared.
    pub environment: Environment,
    scenario: String,
    /// Tells this run's names from those of others.
    run: String,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    namespaces: Vec<String>,
    /// Name and namespace.
    releases: Vec<(String, String)>,
    /// Parts of ERROR lines that the scenario provokes.
    expected_errors: Vec<String>,
}

/// Runs a scenario's body with a connection, and removes what it made, whether it passed or not. On failure, events and logs
/// of its namespaces are printed first; on success, an ERROR in a log of its pods that wasn't expected fails it.
///
/// # Errors
/// Those of the body; when there is no cluster; when something is left that can't be removed.
pub async fn with_kubernetes<T>(
    scenario: &str,
    body: impl AsyncFnOnce(&Kubernetes) -> Result<T>,
) -> Result<T> {
    let kubernetes = Kubernetes::connect(scenario).await?;
    kubernetes.apply_definition().await?;
    // A scenario is a long function: its future is kept out of those of its callers.
    let mut outcome = Box::pin(body(&kubernetes)).await;
    if outcome.is_ok()
        && let Err(error) = kubernetes.check_logs().await
    {
        outcome = Err(error);
    }
    if outcome.is_err() {
        for namespace in kubernetes.namespaces() {
            eprintln!("{}", diagnosis::of(&kubernetes.client, &namespace).await);
        }
    }
    let cleaned = kubernetes.clean().await;
    match (outcome, cleaned) {
        (Ok(found), Ok(())) => Ok(found),
        (Ok(_), Err(error)) => Err(error.context("after the scenario, which went to its end")),
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => {
            eprintln!("and then: {left:#}");
            Err(error)
        }
    }
}

impl Kubernetes {
    async fn connect(scenario: &str) -> Result<Self> {
        // A second call in the same process finds the first one's provider.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let environment = Environment::read()?;
        let mut config = Config::infer()
            .await
            .context("no kubeconfig: `cargo xtask e2e` and `cargo xtask accept` name one by KUBECONFIG")?;
        config.read_timeout = Some(ANSWER);
        let client = Client::try_from(config).context("a client for the API server")?;
        let version = client
            .apiserver_version()
            .await
            .context("the API server of KUBECONFIG doesn't answer")?;
        println!(
            "{scenario} on Kubernetes {} ({})",
            version.git_version, environment.cluster
        );
        let run = std::iter::repeat_with(|| fastrand::char('a'..='z'))
            .take(5)
            .collect();
        Ok(Self {
            client,
            environment,
            scenario: scenario.to_owned(),
            run,
            made: Mutex::default(),
        })
    }

    /// Applies the definition as this version of the types makes it, and waits until it is served.
    ///
    /// # Errors
    /// When the API server refuses it, or doesn't serve it in time.
    pub async fn apply_definition(&self) -> Result<()> {
        let definition = imaccess_operator_api::crd::definition();
        self.apply_definition_of(&definition).await
    }

    /// As [`Kubernetes::apply_definition`], with another one.
    ///
    /// # Errors
    /// When the API server refuses it, or doesn't serve it in time.
    pub async fn apply_definition_of(&self, definition: &CustomResourceDefinition) -> Result<()> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = definition
            .metadata
            .name
            .as_deref()
            .context("a definition has a name")?;
        api.patch(
            name,
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(definition),
        )
        .await
        .with_context(|| format!("the API server refuses the definition {name}"))?;
        self.until(&format!("{name} is established"), ESTABLISHED, async || {
            let conditions = api.get(name).await?.status.and_then(|status| status.conditions);
            let conditions = conditions.unwrap_or_default();
            let established = conditions
                .iter()
                .any(|condition| condition.type_ == "Established" && condition.status == "True");
            Ok(if established {
                Seen::Yes(())
            } else {
                Seen::NotYet(conditions)
            })
        })
        .await
    }

    /// A name that no other run has, for namespaces and releases: the scenario, a word, and this run's letters.
    #[must_use]
    pub fn unique(&self, word: &str) -> String {
        let words = [self.scenario.as_str(), word, self.run.as_str()];
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        words.join("-")
    }

    /// Waits until a look finds what it looks for; the deadline is stretched by the machine's patience.
    ///
    /// # Errors
    /// When the deadline passes, with what was seen last; or the first error of a look.
    pub async fn until<T, S: Debug>(
        &self,
        what: &str,
        deadline: Duration,
        look: impl AsyncFnMut() -> Result<Seen<T, S>>,
    ) -> Result<T> {
        wait_until_polled(what, self.environment.patience(deadline), POLL, look).await
    }

    /// Parts of ERROR lines that this scenario provokes; others fail it.
    pub fn expect_errors(&self, parts: &[&str]) {
        let parts = parts.iter().map(|part| (*part).to_owned());
        self.made().expected_errors.extend(parts);
    }

    /// The namespaces that the scenario has made.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        self.made().namespaces.clone()
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().expect("no holder of this lock panics")
    }

    async fn check_logs(&self) -> Result<()> {
        let expected = self.made().expected_errors.clone();
        let mut errors = Vec::new();
        for namespace in self.namespaces() {
            errors.extend(diagnosis::errors(&self.client, &namespace, &expected).await?);
        }
        if !errors.is_empty() {
            bail!(
                "{} unexpected ERROR line(s):\n{}",
                errors.len(),
                errors.join("\n")
            );
        }
        Ok(())
    }

    /// Removes what the scenario made: releases first, because theirs are objects without a namespace.
    async fn clean(&self) -> Result<()> {
        let releases = std::mem::take(&mut self.made().releases);
        let namespaces = std::mem::take(&mut self.made().namespaces);
        if std::env::var_os(environment::KEEP).is_some() {
            println!("kept: releases {releases:?}, namespaces {namespaces:?}");
            return Ok(());
        }
        let mut failed = None;
        for (name, namespace) in releases.iter().rev() {
            if let Err(error) = release::uninstall(&self.environment, name, namespace).await {
                failed = Some(error);
            }
        }
        for namespace in namespaces.iter().rev() {
            namespace::begin_delete(&self.client, namespace).await?;
        }
        for namespace in &namespaces {
            namespace::wait_gone(self, namespace).await?;
        }
        failed.map_or(Ok(()), Err)
    }
}
