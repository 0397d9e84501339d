//! `bench ipconfig`: answers per second and their CPU, with many gateways scraped all the while.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::child::{self, Child};
use crate::cluster::{cpu, get};
use crate::fleet::Fleet;
use crate::helper::pages;
use crate::job::Http;
use crate::latency::Latency;
use crate::report::{Progress, Report};
use crate::statistics::{cpu_percent, median, per_core, us_per};

/// Arguments of `bench ipconfig`.
#[derive(Clone, Debug, clap::Args)]
pub struct Ipconfig {
    /// Gateways to scrape and rank, one endpoint each
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=4_096))]
    endpoints: u64,
    /// Keep-alive connections, each with one request outstanding
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4_000))]
    connections: u64,
    /// Rounds; figures are medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Seconds of each round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// What a client asks; its attributes are ignored by name, or used.
const QUERY: &str = "/v1/endpoints?app=bench&platform=android&network=wifi";

/// From the start until gateways are listed: a few scrapes.
const READY: Duration = Duration::from_secs(30);

pub(crate) fn run(arguments: &Ipconfig) -> anyhow::Result<Report> {
    let progress = Progress::new(2 + arguments.rounds);
    progress.step("starting ipconfig");
    let directory = tempfile::Builder::new().prefix("imaccess-bench-").tempdir()?;
    let mut pages = Child::helper(&["metrics-pages"])?;
    let port: u16 = pages.receive()?;
    let targets = directory.path().join("targets.json");
    std::fs::write(&targets, targets_file(arguments.endpoints, port).to_string())?;
    let [listen, admin] = free_addresses()?;
    let config = directory.path().join("ipconfig.yaml");
    let text = json!({"cluster": "bench", "listen": listen, "admin": admin, "targets_file": targets});
    std::fs::write(&config, text.to_string())?;
    let server = Child::part(&["ipconfig", "--config", &config.to_string_lossy()])?;
    let answered = wait_until_listed(listen)?;
    // Until every gateway is in the picture, the ranking is not what is meant to be measured.
    wait_until_all_scraped(admin, arguments.endpoints)?;

    progress.step("without clients");
    let before = cpu(&[server.pid()])?;
    let quiet = Duration::from_secs_f64(arguments.seconds);
    child::pause(quiet)?;
    let background = cpu_percent(cpu(&[server.pid()])? - before, quiet);

    let mut load = Fleet::start(1)?;
    let job = |seconds| Http {
        address: listen,
        path: QUERY.to_owned(),
        connections: arguments.connections,
        seconds,
    };
    load.http(job(arguments.seconds.min(1.0)))?;
    let (mut rates, mut us, mut p99) = (vec![], vec![], vec![]);
    let mut bytes = 0;
    for number in 1..=arguments.rounds {
        progress.step(format!("round {number}"));
        let before = cpu(&[server.pid()])?;
        let done = load.http(job(arguments.seconds))?;
        us.push(us_per(cpu(&[server.pid()])? - before, done.answered));
        rates.push(done.answered as f64 / done.seconds);
        let latency: Latency = [&done.latency].into_iter().collect();
        p99.push(latency.us(0.99));
        bytes = done.answer_bytes;
        anyhow::ensure!(done.failures.is_empty(), "requests failed: {:?}", done.failures);
    }
    let listed = gateways_listed(admin)?;
    drop(progress);

    let us = median(us);
    let mut report = Report::new(format!("ipconfig with {} endpoints", arguments.endpoints));
    report
        .count("endpoints", listed, "endpoints scraped and ranked")
        .count("endpoints_answered", answered, "endpoints in an answer")
        .figure(
            "answers_per_second",
            median(rates),
            "answers per second, both cores shared with the load",
        )
        .figure("server_cpu_us_per_answer", us, "server CPU, µs per answer")
        .figure(
            "answers_per_second_per_core",
            per_core(us),
            "answers per second and core of server CPU",
        )
        .figure("p99_us", median(p99), "p99 under saturation, µs")
        .figure(
            "background_cpu_percent",
            background,
            "server CPU without clients (scraping), % of a core",
        )
        .detail("connections", arguments.connections)
        .detail("answer_bytes", bytes)
        .detail("rounds", arguments.rounds)
        .remark(
            "The CPU per answer includes the scraping of all endpoints every second. No tokens are issued.",
        );
    Ok(report)
}

/// The targets file: one gateway per page.
fn targets_file(endpoints: u64, port: u16) -> Value {
    let gateways: Vec<Value> = (0..endpoints)
        .map(|number| {
            let metrics = pages::address(number, port);
            json!({
                "name": format!("gateway-{number}"),
                "metrics": metrics.to_string(),
                "endpoints": [{"protocol": "tcp", "host": metrics.ip().to_string(), "port": 7000}],
            })
        })
        .collect();
    json!({ "gateways": gateways })
}

/// Two ports that were free a moment ago.
fn free_addresses() -> anyhow::Result<[SocketAddr; 2]> {
    let listeners = [
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    ];
    Ok([listeners[0].local_addr()?, listeners[1].local_addr()?])
}

/// Waits until ipconfig lists gateways; how many an answer has.
/// How many gateways ipconfig has scraped and lists, by its own page.
fn gateways_listed(admin: SocketAddr) -> anyhow::Result<u64> {
    let page = get(&admin.to_string(), "/metrics")?;
    let page = String::from_utf8(page.to_vec()).context("ipconfig's metrics page")?;
    let sample = "imaccess_ipconfig_gateways{state=\"listed\"} ";
    let value = page.lines().find_map(|line| line.strip_prefix(sample));
    value
        .context("ipconfig's page says how many it lists")?
        .trim()
        .parse()
        .context("a count")
}

fn wait_until_all_scraped(admin: SocketAddr, endpoints: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY;
    loop {
        let listed = gateways_listed(admin)?;
        if listed == endpoints {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "ipconfig lists {listed} of {endpoints} gateways"
        );
        child::pause(Duration::from_millis(100))?;
    }
}

fn wait_until_listed(listen: SocketAddr) -> anyhow::Result<u64> {
    let deadline = Instant::now() + READY;
    loop {
        let answer = get(&listen.to_string(), QUERY)
            .and_then(|body| serde_json::from_slice::<Value>(&body).context("understand ipconfig"));
        match answer {
            Ok(answer) => {
                let listed = answer["endpoints"].as_array().map_or(0, Vec::len);
                if listed > 0 {
                    return Ok(listed as u64);
                }
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
        anyhow::ensure!(Instant::now() < deadline, "ipconfig lists no gateway");
        child::pause(Duration::from_millis(100))?;
    }
}
