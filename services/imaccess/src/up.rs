//! `imaccess up`: the whole cluster on one machine, from the same code as in pods.
//!
//! plan (pure: who gets which configuration) → directory, ports, keys (what the plan needs) → parts, as threads of
//! this process or as processes that are restarted when they die → ready → until Ctrl-C → drain, gateways first.

mod control;
mod directory;
mod hints;
mod keeper;
mod keys;
mod plan;
mod ports;
mod processes;
mod ready;
mod restarts;
mod stderr;
#[cfg(test)]
pub(crate) mod testing;
mod threads;
mod view;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use imaccess_common::business;
use imaccess_common::drain::{Drain, shutdown_signal};
use imaccess_common::telemetry::{LogFormat, init_logging};
use tokio::sync::mpsc;

use crate::exit::{USAGE, WithStatus};
use crate::part::Kind;
use crate::{run, terminal};
pub(crate) use directory::DEFAULT as DEFAULT_DIRECTORY;
use directory::Directory;
use plan::{Addresses, Plan, Wishes};
use view::View;

/// From the start of the first part until all are ready.
const READY: Duration = Duration::from_secs(60);
/// Gateways of one `up`: far more than one machine needs.
const MAX_GATEWAYS: u16 = 100;

/// The list of businesses in the directory.
const BUSINESSES: &str = "businesses.yaml";
/// What is in it at first.
const NO_BUSINESSES: &str = "\
# Businesses beside echo (id 1) and chat (id 2). The parts that run read this again when it changes.
# - {id: 3, name: greeter, endpoint: 'http://127.0.0.1:9003'}
";

/// What `--help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  imaccess up
  imaccess up --processes --gateways 2
  imaccess up --ephemeral --json --dir /tmp/demo

echo (id 1) and chat (id 2) run with it. A business of yours is one more entry in the list of businesses: docs/first-business.md.";

/// Arguments of `up`.
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// How many gateways, each with a state sidecar
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_GATEWAYS)))]
    gateways: u16,
    /// How many routing replicas
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    routing: u16,
    /// Shards of each gateway [default: one per core, shared out among the gateways]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    shards: Option<u16>,
    /// Each part a process of its own, restarted when it dies
    #[arg(long)]
    processes: bool,
    /// No second holder of the sockets: a gateway that dies or is replaced closes its connections
    #[arg(long)]
    no_custody: bool,
    /// Free ports instead of the usual ones, and a directory that is removed at the end
    #[arg(long)]
    ephemeral: bool,
    /// Directory for keys, sockets and cluster.json [default: .imaccess]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print one JSON object on one line instead of text for people
    #[arg(long)]
    json: bool,
    /// YAML or JSON list of businesses beside echo and chat; it is read again when it changes
    /// [default: businesses.yaml in the directory]
    #[arg(long, value_name = "FILE", alias = "business-config")]
    businesses: Option<PathBuf>,
    /// Don't run the chat business, which hears of every device that comes and goes
    #[arg(long)]
    no_chat: bool,
    /// Where ipconfig listens [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS")]
    ipconfig_listen: Option<SocketAddr>,
    /// Where the push API listens; further replicas on the ports after it [default: 127.0.0.1:8100]
    #[arg(long, value_name = "ADDRESS")]
    push_listen: Option<SocketAddr>,
    /// Where the first gateway listens; the others on the ports after it [default: 127.0.0.1:7000]
    #[arg(long, value_name = "ADDRESS")]
    gateway_listen: Option<SocketAddr>,
    /// Logs as JSON lines
    #[arg(long)]
    log_json: bool,
}

impl UpArgs {
    fn custody(&self) -> bool {
        // One process can't outlive itself: nobody would hold anything for it.
        self.processes && !self.no_custody
    }
}

/// What parts tell `up`.
#[derive(Debug)]
enum Event {
    /// A part runs in this process.
    Started {
        index: usize,
        pid: u32,
        /// What it was started from, if it is a process of its own.
        binary: Option<PathBuf>,
    },
    /// A part died and is about to be started again.
    Ended { index: usize },
    /// A part ended although nobody asked it to, and isn't started again.
    Failed { name: String, why: String },
}

/// Runs it.
pub(crate) fn run(arguments: UpArgs) -> anyhow::Result<ExitCode> {
    let log = if arguments.log_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    };
    // Parts say little here: their addresses and what to try are what people look for.
    init_logging(log, "warn");
    run::raise_file_limit();
    run::runtime()?.block_on(up(arguments))
}

async fn up(arguments: UpArgs) -> anyhow::Result<ExitCode> {
    let directory = Directory::take(arguments.dir.as_deref(), arguments.ephemeral)?;
    let businesses_file = match &arguments.businesses {
        Some(file) => file.clone(),
        None => {
            directory.write_once(BUSINESSES, NO_BUSINESSES.as_bytes())?;
            directory.path().join(BUSINESSES)
        }
    };
    let plan = prepare(&arguments, &businesses_file, &directory)?;
    let absolute = std::path::absolute(&businesses_file).unwrap_or_else(|_| businesses_file.clone());
    let mut view = View::new(&plan, &directory.absolute(), &absolute);
    let (events, mut happened) = mpsc::channel(plan.parts.len() + 1);

    let mut running = if arguments.processes {
        let executable = std::env::current_exe().context("can't find this program's file")?;
        let started = processes::start(&plan, &executable, directory.path(), &events, arguments.log_json);
        let control = control::Control::serve(directory.path(), Arc::clone(&started.handles))?;
        Running::Processes(started, control)
    } else {
        Running::Threads(threads::start(&plan, &events).await?)
    };
    let signal = shutdown_signal();
    tokio::pin!(signal);
    let ready = tokio::time::timeout(READY, ready::all(&plan));
    tokio::pin!(ready);
    let mut waiting = true;
    let failure = loop {
        tokio::select! {
            () = &mut signal => break None,
            Some(event) = happened.recv() => {
                match event {
                    Event::Started { index, pid, binary } => view.started(index, pid, binary),
                    Event::Ended { index } => view.ended(index),
                    Event::Failed { name, why } => break Some(anyhow::anyhow!("{name} failed: {why}")),
                }
                directory.write_json("cluster.json", &view)?;
            }
            outcome = &mut ready, if waiting => {
                waiting = false;
                match outcome {
                    Ok(()) => announce(&arguments, &view, &directory),
                    Err(_) => {
                        let missing = ready::missing(&plan).await;
                        break Some(anyhow::anyhow!("not ready within {} s: {missing}", READY.as_secs()));
                    }
                }
            }
        }
    };
    end(&mut running, &plan, arguments.json).await;
    match failure {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error),
    }
}

/// The parts, one way or the other.
enum Running {
    Threads(threads::Threads),
    Processes(
        processes::Processes,
        #[expect(dead_code, reason = "it serves until it is dropped")] control::Control,
    ),
}

/// Everything that has to be there before the first part starts.
fn prepare(arguments: &UpArgs, businesses_file: &Path, directory: &Directory) -> anyhow::Result<Plan> {
    let listed = business::load_all(&[], Some(businesses_file));
    let listed = listed.map_err(anyhow::Error::msg).or_exit(USAGE)?;
    let addresses = addresses(arguments)?;
    let keys = keys::ensure(directory)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let wishes = Wishes {
        shards: arguments
            .shards
            .map_or_else(|| (cores / usize::from(arguments.gateways)).max(1), usize::from),
        businesses: listed.value,
        chat: !arguments.no_chat,
        businesses_file: businesses_file.to_owned(),
        custody: arguments.custody(),
        directory: directory.path().to_owned(),
        keys,
    };
    let plan = plan::plan(&addresses, wishes)
        .map_err(anyhow::Error::msg)
        .or_exit(USAGE)?;
    for part in &plan.parts {
        if part.config.kind() == Kind::Gateway {
            directory.make(&part.name)?;
        }
    }
    directory.write_json("members.json", &plan.members)?;
    directory.write_json("targets.json", &plan.targets)?;
    for part in &plan.parts {
        directory.write(&part.file(), part.config.yaml()?.as_bytes())?;
    }
    Ok(plan)
}

fn addresses(arguments: &UpArgs) -> anyhow::Result<Addresses> {
    let mut ports = ports::Ports::new(arguments.ephemeral);
    let usual = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let ipconfig = ports.public(
        arguments.ipconfig_listen,
        usual(8_000),
        "ipconfig",
        "--ipconfig-listen",
    )?;
    let mut push = Vec::new();
    for replica in 0..arguments.routing {
        let wished = ports::shifted(arguments.push_listen, replica)?;
        push.push(ports.public(wished, usual(8_100 + replica), "the push API", "--push-listen")?);
    }
    let mut gateways = Vec::new();
    for gateway in 0..arguments.gateways {
        let wished = ports::shifted(arguments.gateway_listen, gateway)?;
        gateways.push(ports.public(wished, usual(7_000 + gateway), "a gateway", "--gateway-listen")?);
    }
    let mut internal = || ports.free();
    Ok(Addresses {
        echo: internal()?,
        chat: internal()?,
        ipconfig_admin: internal()?,
        push_admin: push.iter().map(|_| internal()).collect::<anyhow::Result<_>>()?,
        gateway_admin: gateways
            .iter()
            .map(|_| internal())
            .collect::<anyhow::Result<_>>()?,
        state_admin: gateways
            .iter()
            .map(|_| internal())
            .collect::<anyhow::Result<_>>()?,
        state_routes: gateways
            .iter()
            .map(|_| internal())
            .collect::<anyhow::Result<_>>()?,
        ipconfig,
        push,
        gateways,
    })
}

fn announce(arguments: &UpArgs, view: &View, directory: &Directory) {
    if arguments.json {
        terminal::line(&view.json());
    } else {
        let file = arguments.businesses.clone();
        let file = file.unwrap_or_else(|| directory.path().join(BUSINESSES));
        let text = hints::text(
            view,
            directory.path(),
            &file,
            &hints::program(),
            arguments.custody(),
        );
        terminal::line(&text);
    }
}

/// Ends the parts: gateways first, while what they need to tell and flush their clients still runs.
async fn end(running: &mut Running, plan: &Plan, quiet: bool) {
    let say = |text: &str| {
        if !quiet {
            eprintln!("{text}");
        }
    };
    let waves: [(&str, &[Kind]); 3] = [
        ("gateways: clients are told and flushed", &[Kind::Gateway]),
        ("routing and ipconfig", &[Kind::Routing, Kind::Ipconfig]),
        ("state, echo and chat", &[Kind::Sidecar, Kind::Echo, Kind::Chat]),
    ];
    for (what, kinds) in waves {
        say(&format!("ending {what} …"));
        let of_wave = |kind: Kind| kinds.contains(&kind);
        match running {
            Running::Threads(threads) => threads.end(plan, of_wave).await,
            Running::Processes(processes, _) => processes.end(plan, of_wave).await,
        }
    }
    say("ended");
}

/// A drain that takes as long as a part's end may.
fn drain_of(part: &plan::Planned) -> Drain {
    Drain::new(part.config.drain())
}

/// For parts that don't end in time: then they are ended.
const AFTER_DRAIN: Duration = Duration::from_secs(2);

/// Fails with a text about the path if it is too long for the sockets in it.
fn check_socket_path(path: &Path) -> anyhow::Result<()> {
    // sockaddr_un has 108 bytes, one of them for the end.
    const LONGEST: usize = 107;
    let longest = path.join("gateway-00/shard-255.sock");
    if longest.as_os_str().len() > LONGEST {
        bail!("the directory's path is too long for Unix sockets in it: choose a shorter one by --dir");
    }
    Ok(())
}
