//! `imaccess connect`: a device at the terminal. Pushes and replies go to standard output, a line each; what happens to
//! the connection goes to standard error.

use std::io::BufRead;
use std::process::ExitCode;

use anyhow::anyhow;
use imaccess_common::drain::shutdown_signal;
use imaccess_sdk::{Client, Code, ConnectionState, Push, Target};
use tokio::sync::mpsc;

use crate::cluster::{ClusterArgs, connected};
use crate::exit::{FAILED, WithStatus};
use crate::{run, terminal};

/// Input lines read ahead of their requests.
const LINES: usize = 16;

/// What `--help` ends with.
pub(crate) const EXAMPLES: &str = "\
Examples:
  imaccess connect --device alice --join lobby      prints what is pushed to either
  imaccess connect --device alice --business echo   each line typed is a request
  imaccess connect --room lobby                     a room of chat; also /who, /leave

Pushes and replies go to standard output, a line each (a reply without content isn't printed); the connection's states go to standard \
error. Ctrl-C ends it.";

/// The business whose rooms `--room` means.
const CHAT: &str = "chat";

/// Arguments of `connect`.
#[derive(Debug, clap::Args)]
pub(crate) struct ConnectArgs {
    /// Device to be [default: a new one]
    #[arg(long)]
    device: Option<String>,
    /// Groups to join, of the business given or else `echo`
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    join: Vec<String>,
    /// Name or id of the business that gets input lines as requests
    #[arg(long)]
    business: Option<String>,
    /// Room to come into, of the business given or else `chat`: the same as typing `/join ROOM`
    #[arg(long, conflicts_with = "join")]
    room: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs it.
pub(crate) fn run(arguments: ConnectArgs) -> anyhow::Result<ExitCode> {
    run::quiet_runtime()?.block_on(connect(arguments))
}

async fn connect(arguments: ConnectArgs) -> anyhow::Result<ExitCode> {
    let cluster = &arguments.cluster;
    let named = arguments.business.as_deref();
    let talks_to = named.or_else(|| arguments.room.as_ref().map(|_| CHAT));
    let business = match (talks_to, arguments.join.is_empty()) {
        (Some(name), _) => cluster.business(name).await?,
        (None, false) => cluster.business("echo").await?,
        (None, true) => 0,
    };
    let new = || format!("guest-{:08x}", fastrand::u32(..));
    let device = arguments.device.clone().unwrap_or_else(new);
    let builder = arguments
        .join
        .iter()
        .fold(cluster.client(&device), |builder, group| {
            builder.group(business, group.clone().into_bytes())
        });
    let client = connected(builder.connect().await)?;
    let mut states = client.states();
    client.on_push(|push| async move {
        if let Some(gap) = gap(&push) {
            eprintln!("{gap}");
        }
        terminal::line(&terminal::on_one_line(&push.payload));
    });
    if talks_to.is_some() {
        let first = arguments.room.map(|room| format!("/join {room}"));
        tokio::spawn(forward(first, lines()?, client.clone(), business));
    }
    let ended = async {
        while let Some(state) = states.next().await {
            say(state);
            if let ConnectionState::Closed { code } = state {
                return code;
            }
        }
        Code::Ok
    };
    tokio::select! {
        code = ended => Err(anyhow!("the connection was ended ({code}); connect again for more")).or_exit(FAILED),
        () = shutdown_signal() => {
            client.close().await;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn say(state: ConnectionState) {
    eprintln!("{}", described(state));
}

fn described(state: ConnectionState) -> String {
    match state {
        ConnectionState::Connecting => "connecting".to_owned(),
        ConnectionState::Authenticating => "logging in".to_owned(),
        ConnectionState::Online { session, resumed, .. } => {
            let how = if resumed { "resumed" } else { "new" };
            format!("online: {how} session {session}")
        }
        ConnectionState::Moving => "moving to another gateway".to_owned(),
        ConnectionState::Suspended => "connection lost; trying again".to_owned(),
        ConnectionState::Closed { code } => format!("closed ({code})"),
        other => format!("{other:?}"),
    }
}

/// What to say about pushes that are missing before this one.
fn gap(push: &Push) -> Option<String> {
    match &push.target {
        Target::Group { group, missed, .. } if *missed > 0 => Some(format!(
            "{missed} pushes of group {} are missing here",
            terminal::on_one_line(group)
        )),
        _ => None,
    }
}

/// Each line a request; replies in the order of the lines. One without content says only that the line has arrived.
async fn forward(first: Option<String>, mut lines: mpsc::Receiver<String>, client: Client, business: u32) {
    let mut next = first;
    loop {
        let line = match next.take() {
            Some(line) => line,
            None => match lines.recv().await {
                Some(line) => line,
                None => return,
            },
        };
        match client.request(business, line).await {
            Ok(reply) if reply.payload.is_empty() => {}
            Ok(reply) => terminal::line(&terminal::on_one_line(&reply.payload)),
            Err(error) => eprintln!("no reply: {error}"),
        }
    }
}

/// Standard input, read by a thread of its own: a runtime can't wait for a terminal without blocking its end.
fn lines() -> anyhow::Result<mpsc::Receiver<String>> {
    let (sender, receiver) = mpsc::channel(LINES);
    let read = move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("input".to_owned()).spawn(read)?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_can_wait_for_online() {
        let online = ConnectionState::Online {
            session: Default::default(),
            epoch: 1,
            resumed: false,
        };
        assert!(described(online).starts_with("online"));
        assert!(!described(ConnectionState::Suspended).contains("online"));
    }
}
