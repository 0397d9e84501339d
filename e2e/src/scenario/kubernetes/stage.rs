//! What most scenarios begin with: an operator, a business and a ready cluster, in one namespace.

use anyhow::{Context, Result};
use imaccess_operator_api::ImAccessClusterSpec;

use crate::kubernetes::operator::Operator;
use crate::kubernetes::{Installation, Kubernetes, Namespace, echo, small_spec};

/// The echo's number.
pub(super) const ECHO: u32 = 1;
/// The cluster's name.
pub(super) const DEMO: &str = "demo";

/// All of it.
pub(super) struct Stage {
    pub(super) namespace: Namespace,
    pub(super) operator: Operator,
    pub(super) cluster: Installation,
}

/// A small specification with the echo business of the namespace.
pub(super) async fn spec(kubernetes: &Kubernetes, namespace: &Namespace) -> Result<ImAccessClusterSpec> {
    let endpoint = namespace.echo(kubernetes, "echo").await?;
    let mut spec = small_spec(kubernetes.environment.image()?);
    spec.businesses
        .push(echo::business(ECHO.cast_signed(), "echo", &endpoint));
    Ok(spec)
}

impl Stage {
    /// Sets it, and waits until the cluster is ready.
    pub(super) async fn set(kubernetes: &Kubernetes) -> Result<Self> {
        Self::set_with(kubernetes, 1, |_| {}).await
    }

    /// As [`Stage::set`], with so many operators, and a specification that is changed first.
    pub(super) async fn set_with(
        kubernetes: &Kubernetes,
        operators: usize,
        change: impl FnOnce(&mut ImAccessClusterSpec),
    ) -> Result<Self> {
        let namespace = kubernetes.namespace("").await?;
        let mut values = kubernetes.values(&[&namespace])?;
        values["replicas"] = operators.into();
        let release = kubernetes
            .install(&kubernetes.chart(), &namespace, &values)
            .await?;
        let operator = release.operator(kubernetes);
        let mut spec = spec(kubernetes, &namespace).await?;
        change(&mut spec);
        let cluster = namespace.cluster(DEMO, spec).await?;
        cluster.ready(kubernetes).await?;
        Ok(Self {
            namespace,
            operator,
            cluster,
        })
    }

    /// A client that is online, and has been answered once.
    pub(super) async fn client(&self, device: &str) -> Result<imaccess_sdk::Client> {
        let client = self.cluster.client(device).await?;
        self.cluster
            .call(&client, ECHO)
            .await
            .with_context(|| format!("{device}'s first request"))?;
        Ok(client)
    }
}
