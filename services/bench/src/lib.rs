//! `imaccess bench`: what a connection, a login, a message, a delivery or an answer costs.
//!
//! Every measured part is a process of its own, so that its memory and CPU are seen alone: the cluster is
//! `imaccess up --processes`, started for the run or given; load workers and bare servers are this executable
//! again, under hidden verbs. What is compared is measured in the same run, in turns.
//!
//! - `verb`: the benches, a file each.
//! - `worker`: the load loop; `bare`: what the kernel alone costs, under the same loop.
//! - `fleet`, `child`, `cluster`, `job`: processes, and what is said to them.
//! - `pages`: what the parts say of themselves; `clock`: the time that all processes share.
//! - `statistics`, `latency`, `schedule`: what is computed; pure.
//!
//! Invariants: nothing here runs inside a measured process. CPU and messages are counted over the same window, which
//! ends when the last answer is in. A failure is counted and shown, never left out.

mod bare;
mod child;
mod clock;
mod cluster;
mod fleet;
mod helper;
mod job;
mod latency;
mod pages;
mod probe;
mod report;
mod schedule;
mod statistics;
mod verb;
mod worker;

use std::io::{BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

pub use cluster::ClusterArgs;
pub use helper::link::Traffic;
pub use verb::beside::Beside;
pub use verb::capacity::Capacity;
pub use verb::echo::Echo;
pub use verb::fanout::Fanout;
pub use verb::groups::Groups;
pub use verb::idle::Idle;
pub use verb::ipconfig::Ipconfig;
pub use verb::link::Link;
pub use verb::login::Login;

/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// What to measure.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Memory and CPU of connections that only ping
    Idle(Idle),
    /// First logins and resumes
    Login(Login),
    /// Requests and their replies, against a bare epoll echo
    Echo(Echo),
    /// One message to all members of a group, against bare epoll servers
    Fanout(Fanout),
    /// Pushes to single devices beside pushes to a group and to everybody
    Beside(Beside),
    /// Memory of memberships in groups
    Groups(Groups),
    /// The link between gateway and state alone
    Link(Link),
    /// Answers of ipconfig with many gateways
    Ipconfig(Ipconfig),
    /// The capacity test: 50,000 connections, 500 bytes a minute each, echoed
    Capacity(Capacity),
    /// Load process: jobs on standard input
    #[command(hide = true)]
    Worker,
    /// Bare epoll echo
    #[command(hide = true)]
    BareEcho,
    /// Bare epoll fan-out
    #[command(hide = true)]
    BareFanout {
        /// How messages are written
        #[arg(long)]
        mode: FanoutMode,
    },
    /// The gateway's end of a link without a gateway
    #[command(hide = true)]
    LinkGateway(Traffic),
    /// The state's end of a link without a state
    #[command(hide = true)]
    LinkState {
        /// The Unix socket
        #[arg(long)]
        socket: PathBuf,
    },
    /// Metrics pages of gateways that don't exist
    #[command(hide = true)]
    MetricsPages,
}

pub use bare::fanout::Mode as FanoutMode;

/// Runs one bench, or one of its helper processes. With `json`, the figures are one JSON object on one line.
///
/// # Errors
/// When a part can't be started or ends early, or what was measured can't be called a measurement.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a command line is used up by running it"
)]
pub fn run(command: Command, json: bool) -> anyhow::Result<ExitCode> {
    let measured = match &command {
        Command::Worker => return worker::run().map(|()| ExitCode::SUCCESS),
        Command::BareEcho => return bare(bare::echo::run),
        Command::BareFanout { mode } => return bare(|asker| bare::fanout::run(*mode, asker)),
        Command::LinkGateway(traffic) => return helper::link::gateway(traffic).map(|()| ExitCode::SUCCESS),
        Command::LinkState { socket } => return helper::link::state(socket).map(|()| ExitCode::SUCCESS),
        Command::MetricsPages => return helper::pages::run().map(|()| ExitCode::SUCCESS),
        measured => measured,
    };
    child::watch_interrupt()?;
    let report = match measured {
        Command::Idle(arguments) => verb::idle::run(arguments),
        Command::Login(arguments) => verb::login::run(arguments),
        Command::Echo(arguments) => verb::echo::run(arguments),
        Command::Fanout(arguments) => verb::fanout::run(arguments),
        Command::Beside(arguments) => verb::beside::run(arguments),
        Command::Groups(arguments) => verb::groups::run(arguments),
        Command::Link(arguments) => verb::link::run(arguments),
        Command::Ipconfig(arguments) => verb::ipconfig::run(arguments),
        Command::Capacity(arguments) => verb::capacity::run(arguments),
        _ => unreachable!("helper processes returned above"),
    };
    // Whatever failed after Ctrl-C failed because of it, and everything we started has ended by now.
    if child::interrupted() {
        eprintln!("interrupted");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let report = report?;
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", report.json())?;
    } else {
        writeln!(out, "{}", report.table())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a bare server that answers to its standard input.
fn bare(
    serve: impl FnOnce(bare::Asker<std::fs::File, std::io::Stdout>) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    child::end_with_parent();
    // A duplicate of the standard input that can be watched; std's own handle is behind a lock.
    let input = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?;
    serve(bare::Asker {
        input: BufReader::new(input.into()),
        output: std::io::stdout(),
    })?;
    Ok(ExitCode::SUCCESS)
}
