//! `imaccess operator`: looks after the ImAccessClusters of a Kubernetes cluster.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use imaccess_common::config::duration;
use imaccess_common::drain::shutdown_signal;
use imaccess_common::telemetry::{LogFormat, init_logging};
use imaccess_operator_controller::{Lifetimes, Options};
use imaccess_operator_plan::plan::StepName;
use tokio_util::sync::CancellationToken;

use crate::exit::{RETRY, USAGE, WithStatus};
use crate::{run, terminal};

/// Everything has a default that fits the chart.
#[derive(Debug, clap::Args)]
pub(crate) struct OperatorArgs {
    /// Only look after these namespaces, for which a Role in each is enough; left out, all namespaces, which needs a ClusterRole
    #[arg(
        long = "namespace",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        env = "IMACCESS_OPERATOR_NAMESPACE"
    )]
    namespaces: Vec<String>,
    /// Namespace of the lease by which one of several operators leads; left out, the operator's own
    #[arg(long, value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of that lease; operators for different namespaces need different ones
    #[arg(long, value_name = "NAME", default_value = "imaccess-operator")]
    lease_name: String,
    /// Don't ask whether another operator is running: for one on a desk, or where there surely is but one
    #[arg(long, conflicts_with_all = ["lease_namespace", "lease_name"])]
    no_leader_election: bool,
    /// Where /metrics, /healthz and /readyz are served, without encryption
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pages: SocketAddr,
    /// How long a cluster stays unlooked at when nothing happens to it, such as 10m
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    resync: Duration,
    /// How long a cluster's certificate authority is good for; it is replaced in time, step by step
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = duration::parse)]
    ca_lifetime: Duration,
    /// How long the parts' certificates are good for; they are renewed after two thirds of it, and parts need no restart
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = duration::parse)]
    certificate_lifetime: Duration,
    /// Logs as JSON lines
    #[arg(long)]
    log_json: bool,
    /// Print the steps of an upgrade in place, a line each, and end: for tests that interrupt the operator after each of them
    #[arg(long, hide = true)]
    list_upgrade_steps: bool,
}

/// Runs the operator until SIGTERM: then what is begun is ended, and the lease given back.
pub(crate) fn run(arguments: OperatorArgs) -> anyhow::Result<ExitCode> {
    if arguments.list_upgrade_steps {
        for step in StepName::ALL {
            terminal::line(step.as_str());
        }
        return Ok(ExitCode::SUCCESS);
    }
    init_logging(
        if arguments.log_json {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
        // The client logs each failed request as an error of its own; what follows from it is logged here.
        "info,tower_http=off,kube_client=warn,kube_runtime=warn",
    );
    for (name, lifetime) in [
        ("--ca-lifetime", arguments.ca_lifetime),
        ("--certificate-lifetime", arguments.certificate_lifetime),
        ("--resync", arguments.resync),
    ] {
        if lifetime.is_zero() {
            return Err(anyhow::anyhow!("{name} must be more than nothing")).or_exit(USAGE);
        }
    }
    // An error means that there is one already, and it is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let options = Options {
        namespaces: arguments.namespaces,
        lease_namespace: arguments.lease_namespace,
        lease_name: arguments.lease_name,
        election: !arguments.no_leader_election,
        pages: arguments.pages,
        resync: arguments.resync,
        lifetimes: Lifetimes {
            authority: arguments.ca_lifetime,
            certificate: arguments.certificate_lifetime,
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
        identity: identity(),
    };
    run::runtime()?
        .block_on(async {
            let stop = CancellationToken::new();
            let begin = stop.clone();
            tokio::spawn(async move {
                shutdown_signal().await;
                tracing::info!("told to end; what is begun is ended first");
                begin.cancel();
            });
            imaccess_operator_controller::run(options, imaccess_operator_plan::plan, stop).await
        })
        .or_exit(RETRY)?;
    Ok(ExitCode::SUCCESS)
}

/// The pod's name, and random digits: a container that is started again in the same pod is another candidate.
fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{:08x}", fastrand::u32(..))
}
