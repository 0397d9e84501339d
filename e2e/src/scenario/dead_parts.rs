//! kill -9 of routing, then of the state sidecar, under connected clients.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{Outcome, PushDevicesRequest};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code as Status;

use super::Custody;
use crate::cluster::View;
use crate::latency::{self, Load};
use crate::raw_client::{APP, RawClient};
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until};
use crate::{Cluster, Options, command};

/// `up` restarts with a back-off, and a busy machine starts processes slowly.
const RESTART: Duration = Duration::from_secs(60);
/// For all pushes to be answered `written` again: decides nothing but when to give up.
const BACK: Duration = Duration::from_secs(60);
/// What is promised for the sessions after state's restart, in seconds.
const PROMISE_S: f64 = 10.0;

/// Exit status of `imaccess push` to one of the devices.
async fn push_status(cluster: &Cluster) -> Result<i32> {
    let push = cluster.view.push_grpc.clone();
    let arguments = [
        "push", "--device", "device-0", "--data", "x", "--push", &push, "--app", APP,
    ];
    let output = command::run(Some(&cluster.view.ipconfig), arguments, RESTART).await?;
    Ok(output.status.code().unwrap_or(-1))
}

pub(super) async fn run(size: Size, seed: u64, custody: Custody) -> Result<Report> {
    let count = size.pick(50, 1000);
    let mut cluster = Cluster::start(Options {
        gateways: 1,
        processes: true,
        no_custody: custody == Custody::Off,
        ..Options::default()
    })
    .await?;
    let echo = cluster.business("echo")?;
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let clients = tokens.clients(&cluster.view.gateways, "device", count).await?;
    let devices: Vec<String> = (0..count).map(|number| format!("device-{number}")).collect();
    let readers = Readers::start(clients);
    let mut pushes = Pushes {
        directory: cluster.view.directory.clone(),
        business: echo,
        devices,
        offline: 0,
        retry: 0,
    };

    let mut report = Report::new("dead-routing-and-state", size, seed);
    report.figure("clients", count);
    pushes
        .until_all_written()
        .await
        .context("before anything is killed")?;
    let before = push_status(&cluster).await?;
    report.exactly("push_exit_status_before", f64::from(before), 0.0);
    for part in ["routing", "state"] {
        pushes.retry = 0;
        cluster.kill(part)?;
        if part == "routing" {
            // The push API is gone with it: the command must say "try again" by its exit status. `up` waits 0.1 s at
            // least before it starts a part again; should the command come later still, nothing was shown.
            let code = push_status(&cluster).await?;
            report.exactly(
                "push_exit_status_in_the_gap",
                f64::from(code),
                f64::from(command::EXIT_RETRY),
            );
        }
        // Pushes go on while the part is away: this is where a wrong "offline" would be said.
        let restarted = async {
            let parts = cluster.wait_for_restart(part, RESTART).await?;
            anyhow::Ok((Instant::now(), parts))
        };
        let written = async {
            pushes
                .until_all_written()
                .await
                .with_context(|| format!("after kill -9 of {part}"))?;
            anyhow::Ok(Instant::now())
        };
        let (restarted, written) = tokio::join!(restarted, written);
        let (restarted, back) = (restarted?.0, written?);
        // Every session answers as well: uplink, not only downlink. The readers have the sockets, and count.
        let seconds = back.saturating_duration_since(restarted).as_secs_f64();
        report.at_most(&format!("seconds_until_back_after_{part}"), seconds, PROMISE_S);
        report.figure(&format!("retry_answers_while_{part}_was_away"), pushes.retry);
        let silent = f64::from(u8::from(pushes.retry == 0));
        report.exactly(&format!("gaps_of_{part}_without_a_retry_answer"), silent, 0.0);
    }
    report.exactly("offline_answers", precise(pushes.offline), 0.0);

    let (mut clients, closed) = readers.stop().await?;
    report.exactly("closed_connections", precise(closed), 0.0);
    let load = Load {
        interval: Duration::from_secs(1),
        length: Duration::from_secs(1),
        business: echo,
        payload: 16,
    };
    let echoed = latency::round(&mut clients, load)
        .await
        .context("an echo for every client in the end")?;
    report.exactly(
        "clients_echoed_in_the_end",
        precise(echoed.count()),
        precise(count),
    );
    drop(clients);
    cluster.stop(&[]).await?;
    Ok(report)
}

fn precise(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from)
}

/// One push to every device, over and over.
struct Pushes {
    directory: PathBuf,
    business: u32,
    devices: Vec<String>,
    offline: usize,
    retry: usize,
}

impl Pushes {
    /// Pushes until every device's answer is `written` (or better) at once.
    async fn until_all_written(&mut self) -> Result<()> {
        wait_until("a push is written to every device", BACK, async || {
            let (written, others) = self.once().await?;
            Ok(if written == self.devices.len() {
                Seen::Yes(())
            } else {
                Seen::NotYet(others)
            })
        })
        .await
    }

    async fn once(&mut self) -> Result<(usize, String)> {
        // A part that was restarted may listen elsewhere. The file may be replaced just while it is read.
        let Ok(view) = View::read(&self.directory) else {
            return Ok((0, "cluster.json can't be read".into()));
        };
        let Ok(mut client) = PushClient::connect(view.push_grpc).await else {
            self.retry += 1;
            return Ok((0, "the push API can't be reached".into()));
        };
        let request = PushDevicesRequest {
            business: self.business,
            app: APP.into(),
            devices: self.devices.clone(),
            payload: bytes::Bytes::from_static(b"still there?"),
            ..PushDevicesRequest::default()
        };
        let answer = match client.push_devices(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status)
                if matches!(
                    status.code(),
                    Status::Unavailable | Status::Cancelled | Status::Unknown
                ) =>
            {
                self.retry += 1;
                return Ok((0, status.to_string()));
            }
            Err(status) => bail!("a push was answered {status}"),
        };
        if answer.outcomes.len() != self.devices.len() {
            bail!(
                "{} answers for {} devices",
                answer.outcomes.len(),
                self.devices.len()
            );
        }
        let of = |wanted: Outcome| {
            answer
                .outcomes
                .iter()
                .filter(|outcome| **outcome == wanted as i32)
                .count()
        };
        self.offline += of(Outcome::Offline);
        self.retry += of(Outcome::Retry);
        let written = of(Outcome::Written) + of(Outcome::Acknowledged);
        Ok((
            written,
            format!(
                "{written} written, {} retry, {} offline, {} refused, {} queued",
                of(Outcome::Retry),
                of(Outcome::Offline),
                of(Outcome::Refused),
                of(Outcome::Queued)
            ),
        ))
    }
}

/// Reads all connections, so that a closed one is seen and none falls behind.
struct Readers {
    tasks: JoinSet<Option<RawClient>>,
    stop: watch::Sender<bool>,
}

impl Readers {
    fn start(clients: Vec<RawClient>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for client in clients {
            tasks.spawn(read(client, stopped.clone()));
        }
        Self { tasks, stop }
    }

    /// The clients that are still connected, and the number of those that are not.
    async fn stop(mut self) -> Result<(Vec<RawClient>, usize)> {
        self.stop.send_replace(true);
        let (mut clients, mut closed) = (Vec::new(), 0);
        while let Some(ended) = self.tasks.join_next().await {
            match ended.context("a reader's task")? {
                Some(client) => clients.push(client),
                None => closed += 1,
            }
        }
        Ok((clients, closed))
    }
}

/// Reads until told to stop; nothing is given back if the connection ended before.
async fn read(mut client: RawClient, mut stopped: watch::Receiver<bool>) -> Option<RawClient> {
    loop {
        tokio::select! {
            biased;
            changed = stopped.changed() => return changed.is_ok().then_some(client),
            // Reading is safe to give up at any point: what came is kept in the client.
            frame = client.frame() => match frame {
                Ok(Some(frame)) if frame.kind() != Some(imaccess_wire::FrameType::Close) => {}
                _ => return None,
            },
        }
    }
}
