//! 50,000 connections, each sending 500 bytes a minute and receiving them back; and a plain client meanwhile.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::bench::Figures;
use crate::raw_client::RawClient;
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::{Cluster, Options};

/// 180 s of talk, after all logins and before the end of all connections.
const DEADLINE: Duration = Duration::from_secs(590);
/// The host of the capacity test has 8 GB; "well under" is read as half of it.
const MEMORY: f64 = 4e9;
/// Between two requests of the plain client: a load of its own that nobody notices.
const PAUSE: Duration = Duration::from_millis(200);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut report = Report::new("capacity", size, seed);
    // A process has 20,000 descriptors here: 50,000 connections need three gateways.
    let gateways = size.pick(1, 3);
    let cluster = Cluster::start(Options {
        gateways,
        processes: true,
        ..Options::default()
    })
    .await?;
    let file = cluster.view.directory.join("cluster.json");
    let file = file.to_str().context("a path in UTF-8")?;
    let (connections, seconds) = size.pick(("300", "3"), ("50000", "182"));
    // At a minute between messages, a short run would see hardly any.
    let interval = size.pick("3", "60");
    let arguments = [
        "capacity",
        "--cluster",
        file,
        "--connections",
        connections,
        "--seconds",
        seconds,
        "--interval",
        interval,
    ];
    let load = Figures::measure(&arguments, DEADLINE);

    let mut served = Served::default();
    let figures = tokio::select! {
        figures = load => figures?,
        Err(error) = plain_client(&cluster, &mut served) => return Err(error.context("the plain client beside the load")),
    };
    figures.note("", &mut report);
    report.figure("plain_client_echoes", served.echoes);
    report.figure("plain_client_slowest_ms", served.slowest.as_secs_f64() * 1e3);
    report.exactly(
        "plain_client_not_served",
        f64::from(u8::from(served.echoes == 0)),
        0.0,
    );
    report.exactly(
        "connections",
        figures.number("connections")?,
        size.pick(300.0, 50_000.0),
    );
    report.exactly("failures", figures.number("failures")?, 0.0);
    report.exactly("lost", figures.number("sent")? - figures.number("echoed")?, 0.0);
    report.at_least("seconds", figures.number("seconds")?, 180.0);
    report.at_most("server_bytes", figures.number("server_bytes")?, MEMORY);
    for name in ["server_cpu_percent", "p99_us"] {
        figures.number(name)?;
    }
    cluster.stop(&[]).await?;
    Ok(report)
}

/// What the plain client got.
#[derive(Debug, Default)]
struct Served {
    echoes: u32,
    /// A whole life: token, connection, login, echo.
    slowest: Duration,
}

/// A client of a few lines over a plain socket, logging in again and again; ends by an error only.
async fn plain_client(cluster: &Cluster, served: &mut Served) -> Result<Infallible> {
    let echo = cluster.business("echo")?;
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    loop {
        let begin = Instant::now();
        let token = tokens.get("plain").await?;
        let (mut client, _) = RawClient::online(cluster.gateway(), "plain", &token).await?;
        let id = client.next_message_id();
        let (code, answer) = client.call(echo, id, b"still there?").await?;
        ensure!(
            code == 0 && answer == b"still there?",
            "the plain client was answered with code {code}"
        );
        served.slowest = served.slowest.max(begin.elapsed());
        served.echoes += 1;
        sleep(PAUSE).await;
    }
}
