//! A part that dies and doesn't come back for a long time: state, then the gateway.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::verdict::{self, count};
use crate::raw_client::RawClient;
use crate::replace::{self, replace, whole};
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until};
use crate::witness::{Load, Witness};
use crate::{Cluster, Options, command};

/// Ends at once, whatever it is told.
const NOTHING: &str = "/bin/false";
const BACK: Duration = Duration::from_secs(60);
/// What up says when a part dies at once, over and over.
const HELD: &str = "imaccess_state_custody_held";

pub(super) async fn state(size: Size, seed: u64) -> Result<Report> {
    let cluster = Cluster::start(options(Vec::new())).await?;
    whole(&cluster, 0, BACK).await?;
    // Nobody can log in meanwhile, nor be pushed to; pings are the gateway's.
    let load = Load {
        visits: 0.0,
        group_push: None,
        device_push: None,
        ping: Duration::from_secs(2),
        ..Load::new(seed, size.pick(200, 2_000), size.pick(50.0, 200.0))
    };
    let witness = Witness::start(&cluster, load).await?;
    let before = witness.so_far().plain;
    replace(&cluster, "state-0", Path::new(NOTHING), true).await?;
    sleep(size.pick(Duration::from_secs(5), Duration::from_secs(60))).await;
    let while_away = witness.so_far().plain;
    replace(&cluster, "state-0", &command::binary()?, true).await?;
    whole(&cluster, 0, BACK).await?;
    let online = witness.count_online();
    login(&cluster, "after").await.context("a login afterwards")?;
    let testimony = witness.stop().await?;

    let mut report = Report::new("state-away", size, seed);
    verdict::note(&testimony, &mut report);
    let plain = &testimony.plain;
    report.exactly(
        "online_in_the_end",
        count(online as u64),
        f64::from(load.plain + load.sdk),
    );
    let pongs = while_away.pongs - before.pongs;
    report.exactly(
        "no_ping_was_answered_meanwhile",
        f64::from(u8::from(pongs == 0)),
        0.0,
    );
    let retries = while_away.retries - before.retries;
    report.exactly("no_retry_meanwhile", f64::from(u8::from(retries == 0)), 0.0);
    report.exactly("pings_without_pong", count(plain.pings - plain.pongs), 0.0);
    verdict::nothing_lost_untold(&testimony, &mut report);
    cluster.stop(&[]).await?;
    Ok(report)
}

pub(super) async fn gateway(size: Size, seed: u64) -> Result<Report> {
    // As long as the defaults at full size; a test waits for shorter ones.
    let (listeners, sockets) = size.pick((2.0, 4.0), (10.0, 90.0));
    let environment = match size {
        Size::Small => vec![
            ("IMACCESS_STATE__CUSTODY_LISTENERS", format!("{listeners}s")),
            ("IMACCESS_STATE__CUSTODY_SOCKETS", format!("{sockets}s")),
        ],
        Size::Full => Vec::new(),
    };
    let mut cluster = Cluster::start(options(environment)).await?;
    whole(&cluster, 0, BACK).await?;
    let descriptors = replace::descriptors(&mut cluster, "state")?;
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let clients = tokens
        .clients(&cluster.view.gateways, "device", size.pick(50, 1_000))
        .await?;
    let connected = clients.len();
    whole(&cluster, 0, BACK).await?;
    let mut report = Report::new("gateway-away", size, seed);

    let begun = Instant::now();
    replace(&cluster, "gateway-0", Path::new(NOTHING), true).await?;
    let ends = ends(clients, begun, Duration::from_secs_f64(sockets) + BACK);
    let refused = refused_after(cluster.gateway(), begun);
    let (ends, refused) = tokio::join!(ends, refused);
    let (ends, refused) = (ends?, refused?);
    let first = ends.iter().copied().fold(f64::INFINITY, f64::min);
    let last = ends.iter().copied().fold(0.0, f64::max);
    let within = |report: &mut Report, name: &str, seconds: f64, limits: (f64, f64)| {
        report.at_least(&format!("{name}_at_least"), seconds, limits.0);
        report.at_most(&format!("{name}_at_most"), seconds, limits.1);
    };
    within(
        &mut report,
        "seconds_until_connects_are_refused",
        refused,
        (9.0, 13.0),
    );
    within(&mut report, "seconds_until_the_first_close", first, (88.0, 95.0));
    within(&mut report, "seconds_until_the_last_close", last, (88.0, 95.0));
    // At any size: not before the time, and everybody in the end.
    report.exactly(
        "refused_before_the_time",
        f64::from(u8::from(refused < listeners * 0.9)),
        0.0,
    );
    report.exactly(
        "closed_before_the_time",
        f64::from(u8::from(first < sockets * 0.9)),
        0.0,
    );
    report.exactly("closed", count(ends.len() as u64), count(connected as u64));

    wait_until("state holds nothing any more", BACK, async || {
        let held = cluster.sum("state", HELD, &[]).await?;
        let open = replace::descriptors(&mut cluster, "state")?;
        Ok(if held < 0.5 && open <= descriptors {
            Seen::Yes(())
        } else {
            Seen::NotYet((held, open, descriptors))
        })
    })
    .await?;
    replace(&cluster, "gateway-0", &command::binary()?, true).await?;
    whole(&cluster, 0, BACK).await?;
    login(&cluster, "after").await.context("a login afterwards")?;
    cluster.stop(&[]).await?;
    Ok(report)
}

fn options(environment: Vec<(&'static str, String)>) -> Options {
    Options {
        gateways: 1,
        processes: true,
        arguments: vec!["--shards".into(), "2".into()],
        environment,
        ..Options::default()
    }
}

/// When each connection ended, in seconds; all of them must within the deadline.
async fn ends(clients: Vec<RawClient>, begun: Instant, deadline: Duration) -> Result<Vec<f64>> {
    let mut tasks = JoinSet::new();
    for mut client in clients {
        tasks.spawn(async move {
            client.ended(deadline).await?;
            anyhow::Ok(begun.elapsed().as_secs_f64())
        });
    }
    let mut ends = Vec::new();
    while let Some(end) = tasks.join_next().await {
        ends.push(end.context("a reader's task")??);
    }
    Ok(ends)
}

/// After how many seconds a connect is refused.
async fn refused_after(gateway: &str, begun: Instant) -> Result<f64> {
    wait_until("connects are refused", BACK, async || {
        let connected = timeout(BACK, TcpStream::connect(gateway)).await;
        match connected.context("a connect takes too long")? {
            // Nobody serves it; the kernel took it.
            Ok(_) => Ok(Seen::NotYet("connected")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Ok(Seen::Yes(begun.elapsed().as_secs_f64()))
            }
            Err(error) => Err(error.into()),
        }
    })
    .await
}

/// A login and an echo of a device that wasn't there before.
async fn login(cluster: &Cluster, device: &str) -> Result<()> {
    let token = Tokens::new(&cluster.view.ipconfig)?.get(device).await?;
    let (mut client, _) = RawClient::online(cluster.gateway(), device, &token).await?;
    let id = client.next_message_id();
    client.call(cluster.business("echo")?, id, b"here").await?;
    Ok(())
}
