//! `kubectl imaccess`: this binary under the name `kubectl-imaccess` is a plugin of kubectl, which shows a cluster as a tree.
//!
//! It only reads: with the rights that `view` gives, but for connections and scores, which need `get` on `pods/proxy`.

mod gather;
mod in_place;
mod troubles;
mod view;

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand, ValueEnum};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::exit::{FAILED, RETRY, USAGE, WithStatus};
use crate::{exit, run, terminal};

/// The name under which kubectl finds it.
const PLUGIN: &str = "kubectl-imaccess";

/// Look at ImAccessClusters: parts, pods, connections, scores, what is wrong and what to do.
///
/// Exit status: 0 every cluster shown is ready, 1 one isn't or something failed, 64 wrong usage, 75 the API server can't be
/// reached now.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl imaccess",
    bin_name = "kubectl imaccess",
    version,
    disable_help_subcommand = true
)]
struct Plugin {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show a cluster as a tree: parts, pods, connections, scores, what is wrong and what to do
    Status(StatusArgs),
    /// Print the version
    Version,
}

#[derive(Debug, clap::Args)]
struct StatusArgs {
    /// The cluster [default: every one of the namespace]
    name: Option<String>,
    /// The namespace [default: the context's]
    #[arg(short, long)]
    namespace: Option<String>,
    /// Every namespace
    #[arg(short = 'A', long, conflicts_with_all = ["namespace", "name"])]
    all_namespaces: bool,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long)]
    context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<std::path::PathBuf>,
    /// How it is shown
    #[arg(short, long, value_enum, default_value_t = Output::Tree)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A tree for people
    Tree,
    /// One JSON list
    Json,
}

/// Whether this process was started as kubectl's plugin.
pub(crate) fn is_plugin() -> bool {
    std::env::args_os().next().is_some_and(|path| {
        std::path::Path::new(&path)
            .file_stem()
            .is_some_and(|name| name == PLUGIN)
    })
}

/// Runs as the plugin, with the arguments of the process.
pub(crate) fn main() -> ExitCode {
    let plugin = match Plugin::try_parse() {
        Ok(plugin) => plugin,
        Err(error) => {
            // Nothing is left to tell if this can't be printed.
            let _ = error.print();
            return if error.use_stderr() {
                USAGE.into()
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let result = match plugin.verb {
        Verb::Status(arguments) => status(arguments),
        Verb::Version => {
            terminal::line(concat!("kubectl-imaccess ", env!("CARGO_PKG_VERSION")));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("kubectl imaccess: {error:#}");
        exit::status_of(&error)
    })
}

fn status(arguments: StatusArgs) -> anyhow::Result<ExitCode> {
    // The only other provider would be none at all: it fails if it is there already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    run::quiet_runtime()?.block_on(show(arguments))
}

async fn show(arguments: StatusArgs) -> anyhow::Result<ExitCode> {
    let config = config(&arguments).await.or_exit(USAGE)?;
    let namespace = match (&arguments.namespace, arguments.all_namespaces) {
        (_, true) => None,
        (Some(namespace), false) => Some(namespace.clone()),
        (None, false) => Some(config.default_namespace.clone()),
    };
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).context("the kubeconfig can't be used")?;
    let found = gather::clusters(&client, namespace.as_deref(), arguments.name.as_deref()).await;
    let views = match found {
        Ok(views) => views,
        Err(error) => {
            let (status, error) = explained(error, &server, namespace.as_deref(), arguments.name.as_deref());
            return Err(error).or_exit(status);
        }
    };
    if views.is_empty() && arguments.output == Output::Tree {
        let place = namespace.map_or_else(|| "any namespace".to_owned(), |name| format!("namespace {name}"));
        terminal::line(&format!(
            "There is no ImAccessCluster in {place}. Make one: kubectl apply -f examples/minimal.yaml"
        ));
        return Ok(ExitCode::SUCCESS);
    }
    match arguments.output {
        Output::Json => terminal::line(&serde_json::to_string(&views).context("JSON")?),
        Output::Tree => {
            let trees: Vec<String> = views.iter().map(view::ClusterView::tree).collect();
            terminal::line(trees.join("\n\n").trim_end());
        }
    }
    Ok(if views.iter().all(|view| view.ready) {
        ExitCode::SUCCESS
    } else {
        FAILED.into()
    })
}

async fn config(arguments: &StatusArgs) -> anyhow::Result<Config> {
    let options = KubeConfigOptions {
        context: arguments.context.clone(),
        ..KubeConfigOptions::default()
    };
    let hint = "give --kubeconfig FILE or set KUBECONFIG; `kubectl config view` shows what there is";
    match &arguments.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("can't read the kubeconfig {}: {hint}", path.display()))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .with_context(|| format!("the kubeconfig {} can't be used", path.display()))
        }
        None if arguments.context.is_some() => Config::from_kubeconfig(&options)
            .await
            .with_context(|| format!("there is no such context, or no kubeconfig: {hint}")),
        None => Config::infer()
            .await
            .with_context(|| format!("there is no Kubernetes cluster to ask: {hint}")),
    }
}

/// What to tell about a failed look, and how to end.
fn explained(
    error: kube::Error,
    server: &str,
    namespace: Option<&str>,
    name: Option<&str>,
) -> (exit::Status, anyhow::Error) {
    match &error {
        kube::Error::Api(status) if status.is_forbidden() => {
            let place = namespace.map_or_else(|| " -A".to_owned(), |name| format!(" -n {name}"));
            let what = format!(
                "you may not look at ImAccessClusters ({}); ask for the role `view`, or check with: kubectl auth can-i list \
                 imaccessclusters.imaccess.io{place}",
                status.message
            );
            (FAILED, anyhow!(what))
        }
        kube::Error::Api(status) if status.is_not_found() => match name {
            Some(name) if status.reason == "NotFound" && status.message.contains(&format!("\"{name}\"")) => {
                let place = namespace.unwrap_or_default();
                let what = format!(
                    "there is no ImAccessCluster {name} in namespace {place}; kubectl get imac -A lists what there is"
                );
                (FAILED, anyhow!(what))
            }
            _ => {
                let what = "this cluster doesn't know ImAccessClusters; install the operator: helm install imaccess \
                            charts/imaccess -n imaccess-system --create-namespace";
                (FAILED, anyhow!(what))
            }
        },
        kube::Error::Api(status) if status.code == 401 => (
            FAILED,
            anyhow!(
                "the API server at {server} doesn't know you ({}); log in again",
                status.message
            ),
        ),
        kube::Error::Api(_) => (FAILED, anyhow::Error::new(error)),
        _ => (
            RETRY,
            anyhow::Error::new(error).context(format!("the API server at {server} can't be reached")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use kube::core::Status;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Plugin::command().debug_assert();
        for line in [
            "status",
            "status demo",
            "status demo -n chat -o json",
            "status -A",
            "version",
        ] {
            let words = std::iter::once("kubectl-imaccess").chain(line.split(' '));
            assert!(Plugin::try_parse_from(words).is_ok(), "{line}");
        }
        for line in ["", "status -A -n x", "status a b", "status -A demo"] {
            let words = std::iter::once("kubectl-imaccess").chain(line.split_whitespace());
            assert!(Plugin::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn failures_say_what_to_do() {
        let api = |code: u16, reason: &str, message: &str| {
            kube::Error::Api(Box::new(Status::failure(message, reason).with_code(code)))
        };
        let table = [
            (api(403, "Forbidden", "no"), "auth can-i", FAILED),
            (
                api(404, "NotFound", "imaccessclusters.imaccess.io \"demo\" not found"),
                "no ImAccessCluster demo in namespace chat",
                FAILED,
            ),
            (
                api(
                    404,
                    "NotFound",
                    "the server could not find the requested resource",
                ),
                "helm install",
                FAILED,
            ),
            (api(401, "Unauthorized", "who"), "log in again", FAILED),
            (kube::Error::Service("refused".into()), "can't be reached", RETRY),
        ];
        for (error, expected, status) in table {
            let (ended, told) = explained(error, "https://api", Some("chat"), Some("demo"));
            assert!(
                format!("{told:#}").contains(expected),
                "{told:#} should say {expected}"
            );
            assert_eq!(ended, status);
        }
    }
}
