//! Running one part of the cluster: its configuration, its life, its end.

mod pid_file;

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use imaccess_common::config::{self, Layers};
use imaccess_common::drain::{Drain, shutdown_signal};
use imaccess_common::telemetry::{LogFormat, init_logging};
use imaccess_gateway::{Gateway, GatewayConfig};
use imaccess_ipconfig::{Ipconfig, IpconfigConfig};
use imaccess_state::routing::{Routing, RoutingConfig};
use imaccess_state::sidecar::{Sidecar, SidecarConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::chat::{ChatConfig, ChatServer};
use crate::echo::{EchoConfig, EchoServer};
use crate::exit::{USAGE, WithStatus};
use crate::{run, terminal};
pub(crate) use pid_file::{PidFile, Running};

/// For parts that hold no client connections: requests in flight are answered within it.
const DRAIN: Duration = Duration::from_secs(5);

/// How a part is told its configuration: built-in defaults, then the file, the environment, `--set`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PartArgs {
    /// YAML file; what it leaves out keeps its default
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// One value by its path, such as `limits.connections=1000`; wins over file and environment
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Print the effective configuration as YAML and end
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Logs as JSON lines
    #[arg(long)]
    pub(crate) log_json: bool,
    /// End when standard input ends, which is when the process that started this one is gone
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
    /// Leave the session of the process that started this one, so that it can end without ending this one
    #[arg(long, hide = true)]
    pub(crate) own_session: bool,
}

/// Which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gateway,
    Sidecar,
    Routing,
    Ipconfig,
    Echo,
    Chat,
}

/// A part's configuration.
#[derive(Debug, Clone)]
pub(crate) enum Config {
    Gateway(Box<GatewayConfig>),
    Sidecar(Box<SidecarConfig>),
    Routing(Box<RoutingConfig>),
    Ipconfig(Box<IpconfigConfig>),
    Echo(Box<EchoConfig>),
    Chat(Box<ChatConfig>),
}

impl Kind {
    /// What its environment variables begin with, before two underscores and the key.
    fn prefix(self) -> &'static str {
        match self {
            Kind::Gateway => "IMACCESS_GATEWAY",
            Kind::Sidecar => "IMACCESS_STATE",
            Kind::Routing => "IMACCESS_ROUTING",
            Kind::Ipconfig => "IMACCESS_IPCONFIG",
            Kind::Echo => "IMACCESS_ECHO",
            Kind::Chat => "IMACCESS_CHAT",
        }
    }

    /// The verb and arguments that run it.
    pub(crate) fn verb(self) -> &'static [&'static str] {
        match self {
            Kind::Gateway => &["gateway"],
            Kind::Sidecar => &["state", "--role", "session"],
            Kind::Routing => &["state", "--role", "routing"],
            Kind::Ipconfig => &["ipconfig"],
            Kind::Echo => &["echo"],
            Kind::Chat => &["chat"],
        }
    }

    /// Its name in `up --json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Gateway => "gateway",
            Kind::Sidecar => "state",
            Kind::Routing => "routing",
            Kind::Ipconfig => "ipconfig",
            Kind::Echo => "echo",
            Kind::Chat => "chat",
        }
    }

    pub(crate) fn load(self, arguments: &PartArgs) -> Result<Config, config::ConfigError> {
        fn load<T: Serialize + DeserializeOwned + Default>(
            prefix: &str,
            arguments: &PartArgs,
        ) -> Result<Box<T>, config::ConfigError> {
            config::load(arguments.config.as_deref(), prefix, &arguments.sets).map(Box::new)
        }
        let prefix = self.prefix();
        Ok(match self {
            Kind::Gateway => Config::Gateway(load(prefix, arguments)?),
            Kind::Sidecar => Config::Sidecar(load(prefix, arguments)?),
            Kind::Routing => Config::Routing(load(prefix, arguments)?),
            Kind::Ipconfig => Config::Ipconfig(load(prefix, arguments)?),
            Kind::Echo => Config::Echo(load(prefix, arguments)?),
            Kind::Chat => Config::Chat(load(prefix, arguments)?),
        })
    }
}

impl Config {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Config::Gateway(_) => Kind::Gateway,
            Config::Sidecar(_) => Kind::Sidecar,
            Config::Routing(_) => Kind::Routing,
            Config::Ipconfig(_) => Kind::Ipconfig,
            Config::Echo(_) => Kind::Echo,
            Config::Chat(_) => Kind::Chat,
        }
    }

    /// As YAML, which `--config` reads back.
    pub(crate) fn yaml(&self) -> anyhow::Result<String> {
        let text = match self {
            Config::Gateway(config) => serde_yaml::to_string(config),
            Config::Sidecar(config) => serde_yaml::to_string(config),
            Config::Routing(config) => serde_yaml::to_string(config),
            Config::Ipconfig(config) => serde_yaml::to_string(config),
            Config::Echo(config) => serde_yaml::to_string(config),
            Config::Chat(config) => serde_yaml::to_string(config),
        };
        text.context("the configuration can't be written as YAML")
    }

    /// Where its metrics and health pages are; the example businesses have none.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        match self {
            Config::Gateway(config) => Some(config.admin_listen),
            Config::Sidecar(config) => Some(config.admin_listen),
            Config::Routing(config) => Some(config.admin_listen),
            Config::Ipconfig(config) => Some(config.admin),
            Config::Echo(_) | Config::Chat(_) => None,
        }
    }

    /// The directory in which gateway and state meet; the others have none.
    pub(crate) fn socket_dir(&self) -> Option<&Path> {
        match self {
            Config::Gateway(config) => Some(&config.socket_dir),
            Config::Sidecar(config) => Some(&config.socket_dir),
            Config::Routing(_) | Config::Ipconfig(_) | Config::Echo(_) | Config::Chat(_) => None,
        }
    }

    /// Where a part without pages listens: that it does is all that can be seen of it.
    pub(crate) fn listens_without_pages(&self) -> Option<SocketAddr> {
        match self {
            Config::Echo(config) => Some(config.listen),
            Config::Chat(config) => Some(config.listen),
            _ => None,
        }
    }

    /// How long its end may take.
    pub(crate) fn drain(&self) -> Duration {
        match self {
            Config::Gateway(config) => config.drain_time(),
            Config::Sidecar(config) => config.drain_time(),
            _ => DRAIN,
        }
    }

    /// Takes the addresses, says so by `bound`, and serves until the drain is over. A part that may read its configuration again does so
    /// from `layers`.
    pub(crate) async fn serve(
        self,
        drain: Drain,
        layers: Option<Layers>,
        bound: impl FnOnce(),
    ) -> anyhow::Result<()> {
        match self {
            Config::Gateway(config) => {
                let mut gateway = Box::pin(Gateway::bind(*config)).await?;
                if let Some(layers) = layers {
                    gateway = gateway.reloading(layers);
                }
                bound();
                Box::pin(gateway.run(drain)).await?;
            }
            Config::Sidecar(config) => {
                let sidecar = Box::pin(Sidecar::bind(*config)).await?;
                bound();
                Box::pin(sidecar.run(drain)).await?;
            }
            Config::Routing(config) => {
                let routing = Box::pin(Routing::bind(*config)).await?;
                bound();
                Box::pin(routing.run(drain)).await?;
            }
            Config::Ipconfig(config) => {
                let ipconfig = Box::pin(Ipconfig::bind(*config)).await?;
                bound();
                Box::pin(ipconfig.run(drain.token())).await;
            }
            Config::Echo(config) => {
                let echo = EchoServer::bind(*config).await?;
                bound();
                Box::pin(echo.run(drain)).await?;
            }
            Config::Chat(config) => {
                let chat = ChatServer::bind(*config).await?;
                bound();
                Box::pin(chat.run(drain)).await?;
            }
        }
        Ok(())
    }
}

/// Runs a part until it is told to end, by signal or with its parent.
pub(crate) fn run(arguments: &PartArgs, kind: Kind) -> anyhow::Result<ExitCode> {
    let config = kind.load(arguments).or_exit(USAGE)?;
    run_config(config, arguments)
}

/// As [`run`], with the configuration read already.
pub(crate) fn run_config(config: Config, arguments: &PartArgs) -> anyhow::Result<ExitCode> {
    if arguments.print_config {
        terminal::line(config.yaml()?.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    init_logging(
        if arguments.log_json {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
        "info",
    );
    run::raise_file_limit();
    run::reserve_descriptors();
    let parent_gone = CancellationToken::new();
    if arguments.exit_with_parent {
        watch_parent(parent_gone.clone())?;
    }
    if arguments.own_session
        && let Err(error) = rustix::process::setsid()
    {
        tracing::warn!(%error, "can't leave the session of the process that started this one");
    }
    let drain = Drain::new(config.drain());
    let layers = Layers {
        file: arguments.config.clone(),
        env_prefix: config.kind().prefix().to_owned(),
        sets: arguments.sets.clone(),
    };
    let pid_file = PidFile::of(&config);
    let runtime = run::runtime()?;
    let served = runtime.block_on(async {
        let begin = drain.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown_signal() => {}
                () = parent_gone.cancelled() => {}
            }
            begin.begin();
        });
        let bound = || pid_file.iter().for_each(PidFile::write);
        config.serve(drain, Some(layers), bound).await
    });
    pid_file.iter().for_each(PidFile::remove);
    // Clients may be waiting for the process that takes this one's place: nothing is worth waiting for now.
    runtime.shutdown_background();
    served.map(|()| ExitCode::SUCCESS)
}

/// Cancels `gone` when standard input ends. Nothing is ever written there: the other end only has to exist.
fn watch_parent(gone: CancellationToken) -> anyhow::Result<()> {
    let watch = move || {
        let mut byte = [0];
        while let Ok(1..) = std::io::stdin().lock().read(&mut byte) {}
        gone.cancel();
    };
    let named = std::thread::Builder::new().name("parent".to_owned());
    named
        .spawn(watch)
        .map(drop)
        .map_err(|error| anyhow!("can't watch the parent process: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_prints_a_configuration_that_it_reads_back() {
        for kind in [
            Kind::Gateway,
            Kind::Sidecar,
            Kind::Routing,
            Kind::Ipconfig,
            Kind::Echo,
            Kind::Chat,
        ] {
            let directory = tempfile::tempdir().unwrap();
            let config = kind.load(&PartArgs::default()).unwrap();
            assert_eq!(config.kind(), kind);
            let file = directory.path().join("part.yaml");
            std::fs::write(&file, config.yaml().unwrap()).unwrap();
            let again = kind
                .load(&PartArgs {
                    config: Some(file),
                    ..PartArgs::default()
                })
                .unwrap();
            assert_eq!(again.yaml().unwrap(), config.yaml().unwrap(), "{kind:?}");
        }
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let arguments = PartArgs {
            sets: vec!["limits.conections=1".to_owned()],
            ..PartArgs::default()
        };
        let fault = Kind::Gateway.load(&arguments).unwrap_err().to_string();
        assert!(fault.contains("conections"), "{fault}");
    }

    /// What the operator writes and what the parts read are made apart; here they meet.
    #[test]
    fn parts_read_what_the_operator_writes() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../operator/plan/tests/golden");
        let directory = tempfile::tempdir().unwrap();
        let mut read = 0;
        for name in ["minimal", "production", "host-port"] {
            let text = std::fs::read_to_string(golden.join(format!("{name}.children.yaml"))).unwrap();
            for document in serde_yaml::Deserializer::from_str(&text) {
                let object: serde_yaml::Value = serde::Deserialize::deserialize(document).unwrap();
                if object["kind"] != "ConfigMap" {
                    continue;
                }
                for (key, value) in object["data"].as_mapping().into_iter().flatten() {
                    let (key, value) = (key.as_str().unwrap(), value.as_str().unwrap());
                    let kind = match key {
                        "gateway.yaml" => Kind::Gateway,
                        "sidecar.yaml" => Kind::Sidecar,
                        "routing.yaml" => Kind::Routing,
                        "ipconfig.yaml" => Kind::Ipconfig,
                        "businesses.yaml" => {
                            serde_yaml::from_str::<Vec<imaccess_common::business::BusinessConfig>>(value)
                                .unwrap();
                            continue;
                        }
                        _ => continue,
                    };
                    let file = directory.path().join(key);
                    std::fs::write(&file, value).unwrap();
                    let config = kind.load(&PartArgs {
                        config: Some(file),
                        ..PartArgs::default()
                    });
                    let valid = match config.unwrap_or_else(|fault| panic!("{name}, {key}: {fault}")) {
                        Config::Gateway(config) => config.validate(),
                        Config::Sidecar(config) => config.validate().map_err(|fault| fault.to_string()),
                        Config::Ipconfig(config) => config.validate(),
                        Config::Routing(_) | Config::Echo(_) | Config::Chat(_) => Ok(()),
                    };
                    assert_eq!(valid, Ok(()), "{name}, {key}");
                    read += 1;
                }
            }
        }
        assert_eq!(read, 12, "four parts of three clusters");
    }
}
