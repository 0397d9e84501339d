//! The scoring rules in real time, at the real rates and intervals, on both sources: the gateways' own pages, and a
//! real Prometheus server that scrapes them (skipped where its binary is missing).

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use imaccess_common::gateway_page as names;
use imaccess_ipconfig::{GatewayTarget, IpconfigConfig, PrometheusConfig};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Running, gateway, quick, serve, wait_for_metric};

const PROMETHEUS: &str = "/usr/bin/prometheus";
/// Five seconds of window and two scrapes.
const IN_TIME: Duration = Duration::from_secs(7);
/// 2 % of the bandwidth that the gateways declare.
const LOAD: f64 = 20e6;

/// A gateway whose traffic the test decides.
#[derive(Clone)]
struct Gateway {
    connections: f64,
    traffic: Arc<Mutex<Traffic>>,
}

/// Bytes sent, as a function of time.
struct Traffic {
    before: f64,
    rate: f64,
    since: Instant,
    lasts: Duration,
}

impl Traffic {
    fn sent(&self) -> f64 {
        self.before + self.rate * self.since.elapsed().min(self.lasts).as_secs_f64()
    }
}

impl Gateway {
    fn new(connections: f64) -> Gateway {
        let quiet = Traffic {
            before: 1e9,
            rate: 0.0,
            since: Instant::now(),
            lasts: Duration::ZERO,
        };
        Gateway {
            connections,
            traffic: Arc::new(Mutex::new(quiet)),
        }
    }

    /// From now on it sends at `rate` for so long.
    fn send(&self, rate: f64, lasts: Duration) {
        let mut traffic = self.traffic.lock().unwrap();
        *traffic = Traffic {
            before: traffic.sent(),
            rate,
            since: Instant::now(),
            lasts,
        };
    }

    async fn serve(&self) -> (SocketAddr, CancellationToken) {
        let gateway = self.clone();
        let page = async move || {
            let sent = gateway.traffic.lock().unwrap().sent();
            let figures = [
                ("gauge", names::CONNECTIONS, gateway.connections),
                ("gauge", names::CONNECTION_LIMIT, 1e9),
                ("counter", names::SENT_BYTES, sent.floor()),
                ("gauge", names::BANDWIDTH, 1e9),
                ("gauge", names::DRAINING, 0.0),
            ];
            let lines = figures.map(|(kind, name, value)| format!("# TYPE {name} {kind}\n{name} {value}\n"));
            ([("content-type", "text/plain; version=0.0.4")], lines.concat())
        };
        serve(Router::new().route("/metrics", get(page))).await
    }
}

/// What the scores page says of the first gateway: dynamic score and rate.
async fn first(running: &Running) -> (f64, f64) {
    let scores = running.scores().await;
    let figure = |key: &str| scores["gateways"][0][key].as_f64().unwrap();
    (figure("dynamic"), figure("rate"))
}

async fn wait_for_first(running: &Running, what: &str, holds: impl Fn(f64, f64) -> bool) {
    let begun = Instant::now();
    loop {
        let (dynamic, rate) = first(running).await;
        if holds(dynamic, rate) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {dynamic} {rate}");
        tokio::task::yield_now().await;
    }
}

/// Of two gateways the first has more free connections, and so comes first when both have the same dynamic score.
async fn scores_follow_the_load(running: &Running, busy: &Gateway) {
    running.wait_for(&["a", "b"]).await;
    wait_for_first(running, "quiet", |dynamic, rate| dynamic == 1.0 && rate < 1e3).await;

    busy.send(LOAD, Duration::MAX);
    let begun = Instant::now();
    running.wait_for(&["b", "a"]).await;
    assert!(begun.elapsed() < IN_TIME, "last after {:?}", begun.elapsed());
    wait_for_first(running, "0.98", |dynamic, _| dynamic == 0.98).await;
    assert!(begun.elapsed() < IN_TIME, "0.98 after {:?}", begun.elapsed());
    wait_for_first(running, "steady", |_, rate| (rate - LOAD).abs() < 0.02 * LOAD).await;

    busy.send(0.0, Duration::ZERO);
    let begun = Instant::now();
    running.wait_for(&["a", "b"]).await;
    assert!(begun.elapsed() < IN_TIME, "back after {:?}", begun.elapsed());
    wait_for_first(running, "quiet again", |dynamic, rate| {
        dynamic == 1.0 && rate < 1e3
    })
    .await;

    busy.send(LOAD, Duration::from_secs(1));
    let begun = Instant::now();
    let mut most: f64 = 0.0;
    loop {
        let (dynamic, rate) = first(running).await;
        assert_eq!(
            dynamic,
            1.0,
            "at {rate} B/s, {:?} after the burst began",
            begun.elapsed()
        );
        assert_eq!(running.names("/v1/endpoints").await, ["a", "b"]);
        most = most.max(rate);
        if most > 3e6 && rate < 1e3 {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{most} {rate}");
        tokio::task::yield_now().await;
    }
}

/// The real intervals.
fn config(gateways: Vec<GatewayTarget>) -> IpconfigConfig {
    let usual = IpconfigConfig::default();
    IpconfigConfig {
        scrape_interval: usual.scrape_interval,
        scrape_timeout: usual.scrape_timeout,
        absence: usual.absence,
        window: usual.window,
        ..quick(gateways)
    }
}

#[tokio::test]
async fn scores_by_the_gateways_own_pages() {
    let (a, b) = (Gateway::new(100e6), Gateway::new(200e6));
    let ((a_at, _), (b_at, _)) = (a.serve().await, b.serve().await);
    let running = Running::start(config(vec![gateway("a", a_at), gateway("b", b_at)])).await;
    scores_follow_the_load(&running, &a).await;
    running.end().await;
}

#[tokio::test]
async fn scores_by_a_prometheus_server() {
    if !Path::new(PROMETHEUS).exists() {
        eprintln!("skipped: there is no {PROMETHEUS}");
        return;
    }
    let (a, b) = (Gateway::new(100e6), Gateway::new(200e6));
    let ((a_at, _), (b_at, stop_b)) = (a.serve().await, b.serve().await);
    let directory = tempfile::tempdir().unwrap();
    let (mut server, url) = prometheus(directory.path(), &[("a", a_at), ("b", b_at)]).await;
    let prometheus = format!("{{url: '{url}', matchers: {{job: gateways}}}}");
    let prometheus: PrometheusConfig = serde_yaml::from_str(&prometheus).unwrap();
    let config = IpconfigConfig {
        prometheus: Some(prometheus),
        ..config(vec![gateway("a", a_at), gateway("b", b_at)])
    };
    let running = Running::start(config).await;
    wait_for_metric(&running, "imaccess_ipconfig_gateways{state=\"listed\"} 2").await;
    scores_follow_the_load(&running, &a).await;

    // A gateway that Prometheus can't scrape any more leaves.
    stop_b.cancel();
    let begun = Instant::now();
    running.wait_for(&["a"]).await;
    assert!(begun.elapsed() < IN_TIME, "left after {:?}", begun.elapsed());
    // It is Prometheus that goes: the last picture stays.
    server.kill().await.unwrap();
    wait_for_metric(&running, "imaccess_ipconfig_scraper_ill 1").await;
    wait_for_metric(
        &running,
        "imaccess_ipconfig_source_faults_total{reason=\"unreachable\"} 5",
    )
    .await;
    assert_eq!(running.names("/v1/endpoints").await, ["a"]);
    running.end().await;
}

/// A server that scrapes these every second; it ends when it is dropped.
async fn prometheus(directory: &Path, gateways: &[(&str, SocketAddr)]) -> (Child, String) {
    let target = |(name, at): &(&str, SocketAddr)| serde_json::json!({ "targets": [at.to_string()], "labels": { "pod": name } });
    let targets: Vec<_> = gateways.iter().map(target).collect();
    let file = serde_json::json!({
        "global": { "scrape_interval": "1s", "scrape_timeout": "800ms" },
        "scrape_configs": [{ "job_name": "gateways", "static_configs": targets }],
    });
    let path = directory.join("prometheus.yml");
    std::fs::write(&path, file.to_string()).unwrap();
    // It doesn't say which port it took: one that was just free.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let server = Command::new(PROMETHEUS)
        .arg(format!("--config.file={}", path.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .arg("--log.level=warn")
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (server, format!("http://{address}"))
}
