//! Clients that break the protocol, flood, stall, or stop reading; and one that behaves, beside them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_common::business::{BusinessConfig, SlowConsumer};
use imaccess_proto::v1::PushDevicesRequest;
use imaccess_proto::v1::push_client::PushClient;
use imaccess_wire::frame::Request;
use imaccess_wire::header::{MAGIC, VERSION};
use imaccess_wire::limits::MAX_BODY;
use imaccess_wire::{Code, FrameType};
use tokio::task::JoinHandle;

use super::Custody;
use crate::latency::{self, Comparison, Load, ROUNDS};
use crate::raw_client::{APP, RawClient};
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until};
use crate::{Cluster, Options};

/// Counts closes, by the code's name in the label `code`.
const CLOSES: &str = "imaccess_gateway_closed_total";
/// A business whose policy for a full queue is to close.
const STRICT: u32 = 3;
/// Longer than any deadline of the gateway for logins and partial frames.
const CLOSED: Duration = Duration::from_secs(60);
/// Receive buffer of clients that stop reading: a small one fills sooner.
const SMALL_BUFFER: u32 = 4096;

pub(super) async fn run(size: Size, seed: u64, custody: Custody) -> Result<Report> {
    let mut strict = BusinessConfig::new(STRICT, "strict", "http://127.0.0.1:9");
    strict.slow_consumer = SlowConsumer::Close;
    let cluster = Cluster::start(Options {
        gateways: 1,
        // The promise is of one process; tests show that it holds of several, with custody and without.
        processes: size == Size::Small,
        no_custody: custody == Custody::Off,
        businesses: vec![strict],
        ..Options::default()
    })
    .await?;
    let mut report = Report::new("hostile-clients", size, seed);
    broken_frames(&cluster, &mut report, seed).await?;
    half_frame(&cluster, &mut report).await?;
    silent(&cluster, &mut report, size.pick(200, 5000)).await?;
    not_reading(&cluster, &mut report, size.pick(2, 10)).await?;
    neighbour(&cluster, &mut report, size).await?;
    cluster.stop(&[]).await?;
    Ok(report)
}

/// What can be told at once: each a code, and one more on its counter.
async fn broken_frames(cluster: &Cluster, report: &mut Report, seed: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut garbage: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(4096).collect();
    // Any first byte but the magic.
    garbage[0] = MAGIC.wrapping_add(random.u8(1..));
    let mut early = Vec::new();
    Request {
        business: 1,
        message_id: 1,
        payload: b"too early",
        ..Request::default()
    }
    .encode(&mut early);
    let login = FrameType::Login as u8;
    let [l0, l1, l2, l3] = u32::try_from(MAX_BODY + 1)?.to_be_bytes();
    let cases: [(&str, Vec<u8>, Code); 6] = [
        ("garbage", garbage, Code::BadMagic),
        (
            "wrong_version",
            vec![MAGIC, VERSION + 1, login, 0, 0, 0, 0, 0],
            Code::UnsupportedVersion,
        ),
        (
            "unknown_type",
            vec![MAGIC, VERSION, 0xEE, 0, 0, 0, 0, 0],
            Code::UnknownType,
        ),
        (
            "oversized_length",
            vec![MAGIC, VERSION, login, 0, l0, l1, l2, l3],
            Code::Oversized,
        ),
        (
            "malformed_login",
            vec![MAGIC, VERSION, login, 0, 0, 0, 0, 1, 0xFF],
            Code::Malformed,
        ),
        ("data_before_login", early, Code::NotLoggedIn),
    ];
    for (name, bytes, expected) in cases {
        let before = closes(cluster, expected).await?;
        let mut client = RawClient::connect(cluster.gateway()).await?;
        client.send(&bytes).await?;
        let ended = client.ended(CLOSED).await.with_context(|| name.to_owned())?;
        ensure!(
            ended.code() == Some(expected),
            "{name} ended with {ended:?}, not with {expected}"
        );
        counted(cluster, expected, before + 1.0).await?;
        report.figure(&format!("code_of_{name}"), expected as u16);
    }
    Ok(())
}

/// A frame that is begun and never ended: before the login, and after it.
async fn half_frame(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let mut client = tokens
        .clients(&cluster.view.gateways, "half", 1)
        .await?
        .pop()
        .context("one client")?;
    let before = closes(cluster, Code::FrameTimeout).await?;
    let mut bytes = Vec::new();
    Request {
        business: 1,
        message_id: 1,
        payload: &[b'x'; 100],
        ..Request::default()
    }
    .encode(&mut bytes);
    client.send(&bytes[..bytes.len() / 2]).await?;
    let ended = client.ended(CLOSED).await.context("half a frame")?;
    ensure!(
        ended.code() == Some(Code::FrameTimeout),
        "half a frame ended with {ended:?}"
    );
    counted(cluster, Code::FrameTimeout, before + 1.0).await?;
    report.figure("code_of_half_frame", Code::FrameTimeout as u16);
    Ok(())
}

/// Connections that never say a word: all are closed by the deadline for logins.
async fn silent(cluster: &Cluster, report: &mut Report, count: usize) -> Result<()> {
    let before = closes(cluster, Code::LoginTimeout).await?;
    let clients = connect(cluster, count).await?;
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { client.ended(CLOSED).await }))
        .collect();
    let mut timeouts = 0_u32;
    for task in tasks {
        let ended = task.await?.context("a silent connection")?;
        timeouts += u32::from(ended.code() == Some(Code::LoginTimeout));
    }
    let expected = f64::from(u32::try_from(count)?);
    report.exactly(
        "silent_connections_told_login_timeout",
        f64::from(timeouts),
        expected,
    );
    counted(cluster, Code::LoginTimeout, before + expected).await
}

/// Clients that stop reading, and are pushed to until their bound is reached.
async fn not_reading(cluster: &Cluster, report: &mut Report, count: usize) -> Result<()> {
    let before = closes(cluster, Code::SlowConsumer).await?;
    let stopped = stopped_readers(cluster, "stopped", count).await?;
    let flood = flood(cluster, "stopped", count);
    let expected = before + f64::from(u32::try_from(count)?);
    counted(cluster, Code::SlowConsumer, expected).await?;
    flood.abort();
    drop(stopped);
    report.exactly(
        "stopped_readers_closed",
        closes(cluster, Code::SlowConsumer).await? - before,
        expected - before,
    );
    Ok(())
}

/// A well-behaved client's p99 while all of this goes on, against the same without it.
async fn neighbour(cluster: &Cluster, report: &mut Report, size: Size) -> Result<()> {
    let echo = cluster.business("echo")?;
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let mut good = tokens
        .clients(&cluster.view.gateways, "good", size.pick(10, 50))
        .await?;
    let load = Load {
        interval: Duration::from_millis(50),
        // Within the deadline for logins, so that the silent ones are there for the whole round.
        length: size.pick(Duration::from_millis(500), Duration::from_secs(4)),
        business: echo,
        payload: 128,
    };
    latency::round(
        &mut good,
        Load {
            length: Duration::from_millis(500),
            ..load
        },
    )
    .await?;
    let (mut calm, mut disturbed, mut count) = (Vec::new(), Vec::new(), 0);
    let baseline = connections(cluster).await?;
    for number in 0..ROUNDS {
        let latencies = latency::round(&mut good, load).await?;
        calm.push(latencies.quantile(0.99));
        count += latencies.count();

        let silent = connect(cluster, size.pick(200, 5000)).await?;
        let prefix = format!("slow-{number}");
        let stopped = stopped_readers(cluster, &prefix, size.pick(2, 10)).await?;
        let flood = flood(cluster, &prefix, size.pick(2, 10));
        let garbage = garbage(cluster);
        let latencies = latency::round(&mut good, load).await?;
        disturbed.push(latencies.quantile(0.99));
        count += latencies.count();
        flood.abort();
        garbage.abort();
        drop((silent, stopped));
        // The next round without them must really be without them.
        connections_fall_to(cluster, baseline).await?;
    }
    let comparison = Comparison::new(calm, disturbed, count);
    report.figure("round_trips", comparison.count);
    report.figure("p99_us_alone", comparison.calm_p99_us);
    report.figure("p99_us_beside_them", comparison.disturbed_p99_us);
    report.at_most("p99_ratio", comparison.ratio(), 1.5);
    Ok(())
}

async fn connect(cluster: &Cluster, count: usize) -> Result<Vec<RawClient>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(RawClient::connect(cluster.gateway()).await?);
    }
    Ok(clients)
}

async fn stopped_readers(cluster: &Cluster, prefix: &str, count: usize) -> Result<Vec<RawClient>> {
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let mut clients = Vec::with_capacity(count);
    for number in 0..count {
        let device = format!("{prefix}-{number}");
        let client = RawClient::connect_with_buffer(cluster.gateway(), SMALL_BUFFER).await?;
        clients.push(client.logged_in(&device, &tokens.get(&device).await?).await?);
    }
    Ok(clients)
}

/// Pushes to devices as fast as the push API takes it, until it is aborted.
fn flood(cluster: &Cluster, prefix: &str, count: usize) -> JoinHandle<()> {
    let address = cluster.view.push_grpc.clone();
    let devices: Vec<String> = (0..count).map(|number| format!("{prefix}-{number}")).collect();
    tokio::spawn(async move {
        let Ok(mut client) = PushClient::connect(address).await else {
            return;
        };
        let payload = bytes::Bytes::from(vec![b'p'; 16 * 1024]);
        loop {
            let request = PushDevicesRequest {
                business: STRICT,
                app: APP.into(),
                devices: devices.clone(),
                payload: payload.clone(),
                ..PushDevicesRequest::default()
            };
            if client.push_devices(request).await.is_err() {
                tokio::task::yield_now().await;
            }
        }
    })
}

/// One connection of garbage after the other, until it is aborted.
fn garbage(cluster: &Cluster) -> JoinHandle<()> {
    let address = cluster.gateway().to_owned();
    tokio::spawn(async move {
        loop {
            if let Ok(mut client) = RawClient::connect(&address).await {
                let _ = client.send(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n").await;
                let _ = client.ended(CLOSED).await;
            }
        }
    })
}

async fn closes(cluster: &Cluster, code: Code) -> Result<f64> {
    cluster.sum("gateway", CLOSES, &[("code", code.name())]).await
}

/// Connections of all gateways now.
async fn connections(cluster: &Cluster) -> Result<f64> {
    cluster
        .sum("gateway", imaccess_common::gateway_page::CONNECTIONS, &[])
        .await
}

/// Waits until the gateway has closed what isn't there any more.
async fn connections_fall_to(cluster: &Cluster, most: f64) -> Result<()> {
    let what = format!("at most {most} connections");
    wait_until(&what, CLOSED, async || {
        let now = connections(cluster).await?;
        Ok(if now <= most {
            Seen::Yes(())
        } else {
            Seen::NotYet(now)
        })
    })
    .await
}

async fn counted(cluster: &Cluster, code: Code, expected: f64) -> Result<()> {
    wait_until(
        &format!("{CLOSES} counts {expected} of {code}"),
        CLOSED,
        async || {
            let now = closes(cluster, code).await?;
            Ok(if now >= expected {
                Seen::Yes(())
            } else {
                Seen::NotYet(now)
            })
        },
    )
    .await
}
