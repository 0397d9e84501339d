//! The cluster under test: started for the run, or given.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use imaccess_common::process::{ProcessSample, cpu_of};
use serde::Deserialize;

use crate::child::{self, Child};
use crate::job::{Group, LoginAs, Proof};
use crate::pages::Pages;
use crate::probe;

/// App of all devices of a bench.
pub(crate) const APP: &str = "bench";

/// The business that echoes.
const ECHO: &str = "echo";

/// From the start of `up` until a first client has its echo.
const READY: Duration = Duration::from_secs(60);

/// Which cluster a bench runs against.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClusterArgs {
    /// Use a running `imaccess up --processes` instead of an own one: its `cluster.json`
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Gateway processes of the own cluster [default: as many as the connections need]
    #[arg(long, value_name = "N")]
    gateways: Option<u64>,
    /// Shards of each gateway of the own cluster [default: `up`'s own]
    #[arg(long, value_name = "N")]
    shards: Option<u64>,
    /// Whether each sidecar of the own cluster holds its gateway's sockets too
    #[arg(long, value_enum, default_value = "on")]
    custody: Custody,
}

/// On or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Custody {
    #[default]
    On,
    Off,
}

/// What `up --processes --json` prints.
#[derive(Clone, Debug, Deserialize)]
struct Description {
    ipconfig: String,
    push_grpc: String,
    gateways: Vec<Gateway>,
    processes: Vec<Part>,
    businesses: Vec<Business>,
    directory: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
struct Gateway {
    tcp: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Part {
    part: String,
    pid: u32,
    /// Where its metrics page is.
    metrics: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Business {
    id: u32,
    name: String,
}

/// A cluster whose parts are processes of their own.
pub(crate) struct Cluster {
    description: Description,
    /// Name of the cluster, which tokens are for.
    name: String,
    /// Client addresses of the gateways.
    pub(crate) gateways: Vec<SocketAddr>,
    /// Ended with the bench, if it is its own.
    _own: Option<Child>,
}

impl Cluster {
    /// The given cluster, or a new one with `gateways` gateways; returns when a client has had its echo.
    pub(crate) fn find_or_start(arguments: &ClusterArgs, gateways: u64) -> anyhow::Result<Self> {
        let (description, own) = match &arguments.cluster {
            Some(file) => {
                let text =
                    std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
                let description: Description = serde_json::from_str(&text)
                    .with_context(|| format!("{} is no cluster.json", file.display()))?;
                (description, None)
            }
            None => {
                let gateways = arguments.gateways.unwrap_or(gateways).to_string();
                let mut command = vec![
                    "up",
                    "--processes",
                    "--ephemeral",
                    "--json",
                    // It would hear of every login and be measured with it.
                    "--no-chat",
                    "--gateways",
                    &gateways,
                ];
                let shards = arguments.shards.map(|shards| shards.to_string());
                if let Some(shards) = &shards {
                    command.extend(["--shards", shards]);
                }
                if arguments.custody == Custody::Off {
                    command.push("--no-custody");
                }
                let mut up = Child::cluster(&command)?;
                (up.receive_object()?, Some(up))
            }
        };
        let gateways = description
            .gateways
            .iter()
            .map(|gateway| {
                gateway
                    .tcp
                    .parse()
                    .with_context(|| format!("{} is no address", gateway.tcp))
            })
            .collect::<anyhow::Result<_>>()?;
        let mut cluster = Self {
            description,
            name: String::new(),
            gateways,
            _own: own,
        };
        let own_pid = std::process::id();
        if cluster
            .description
            .processes
            .iter()
            .any(|part| part.pid == own_pid)
        {
            bail!("the cluster's parts must be processes of their own: start it with --processes");
        }
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            match self.try_once() {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context("the cluster isn't ready in time"));
                }
                Err(_) => child::pause(Duration::from_millis(100))?,
            }
        }
    }

    fn try_once(&mut self) -> anyhow::Result<()> {
        let device = format!("probe-{:08x}", fastrand::u32(..));
        let answer = self.ask_ipconfig(&device)?;
        self.name = answer.cluster;
        let token = answer.token.context("ipconfig issues no development tokens")?;
        let echo = self.echo()?;
        // A client per gateway: a sidecar that isn't there yet would count as failed logins later.
        for gateway in &self.gateways {
            probe::echo(*gateway, &device, &token, echo)?;
        }
        Ok(())
    }

    /// What ipconfig answers a device.
    fn ask_ipconfig(&self, device: &str) -> anyhow::Result<Endpoints> {
        let url = &self.description.ipconfig;
        let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
        let body = get(address, &format!("/v1/endpoints?app={APP}&device={device}"))?;
        serde_json::from_slice(&body).context("understand ipconfig")
    }

    /// One client by hand: its round trip, login included.
    pub(crate) fn plain_client(&self) -> anyhow::Result<Duration> {
        let device = format!("plain-{:08x}", fastrand::u32(..));
        let token = self
            .ask_ipconfig(&device)?
            .token
            .context("ipconfig issues no development tokens")?;
        let started = Instant::now();
        probe::echo(self.gateways[0], &device, &token, self.echo()?)?;
        Ok(started.elapsed())
    }

    /// How devices whose names begin with `prefix` log in for the first time.
    pub(crate) fn first_login(&self, prefix: &str, group: Option<Group>) -> LoginAs {
        let proof = Proof::Issue {
            key: self.description.directory.join("token-signing-key.pem"),
            key_id: None,
            cluster: self.name.clone(),
        };
        LoginAs {
            app: APP.to_owned(),
            device_prefix: prefix.to_owned(),
            proof,
            group,
        }
    }

    /// The id of the business that echoes.
    pub(crate) fn echo(&self) -> anyhow::Result<u32> {
        let echo = self
            .description
            .businesses
            .iter()
            .find(|business| business.name == ECHO);
        Ok(echo
            .with_context(|| format!("the cluster has no business {ECHO}"))?
            .id)
    }

    /// A group of its own for this run.
    pub(crate) fn group(&self) -> anyhow::Result<Group> {
        Ok(Group {
            business: self.echo()?,
            id: format!("bench-{:08x}", fastrand::u32(..)),
        })
    }

    /// The push API's URL.
    pub(crate) fn push_url(&self) -> String {
        let address = &self.description.push_grpc;
        if address.contains("://") {
            address.clone()
        } else {
            format!("http://{address}")
        }
    }

    /// For people: where a client of their own may connect.
    pub(crate) fn addresses(&self) -> String {
        let gateways: Vec<_> = self.gateways.iter().map(ToString::to_string).collect();
        format!(
            "ipconfig {}, gateways {}",
            self.description.ipconfig,
            gateways.join(", ")
        )
    }

    /// The processes of these parts.
    pub(crate) fn pids(&self, parts: &[&str]) -> anyhow::Result<Vec<u32>> {
        let mut pids = Vec::new();
        for wanted in parts {
            let before = pids.len();
            pids.extend(
                self.description
                    .processes
                    .iter()
                    .filter(|part| part.part == *wanted)
                    .map(|part| part.pid),
            );
            if pids.len() == before {
                bail!("the cluster says of no process that it is its {wanted}");
            }
        }
        Ok(pids)
    }

    /// CPU time of these parts so far.
    pub(crate) fn cpu(&self, parts: &[&str]) -> anyhow::Result<Duration> {
        cpu(&self.pids(parts)?)
    }

    /// Memory of these parts: PSS, mapped files included.
    pub(crate) fn pss(&self, parts: &[&str]) -> anyhow::Result<u64> {
        self.memory(parts, |sample| sample.pss_bytes)
    }

    /// Memory of these parts that is their own: without mapped files.
    pub(crate) fn user(&self, parts: &[&str]) -> anyhow::Result<u64> {
        self.memory(parts, |sample| sample.user_bytes)
    }

    fn memory(&self, parts: &[&str], which: impl Fn(ProcessSample) -> u64) -> anyhow::Result<u64> {
        self.pids(parts)?
            .iter()
            .map(|pid| Ok(which(ProcessSample::of(*pid)?)))
            .sum()
    }

    /// The metrics pages of these parts.
    pub(crate) fn pages(&self, parts: &[&str]) -> anyhow::Result<Pages> {
        let mut pages = Pages::default();
        for part in &self.description.processes {
            if parts.contains(&part.part.as_str()) {
                let metrics = part.metrics.as_deref();
                let address = metrics
                    .with_context(|| format!("the cluster says of no metrics page of its {}", part.part))?;
                pages.add(&part.part, get(address, "/metrics")?)?;
            }
        }
        Ok(pages)
    }

    /// Waits until these parts have no more to do: what closing thousands of connections leaves behind.
    pub(crate) fn settle(&self, parts: &[&str]) -> anyhow::Result<()> {
        const STEP: Duration = Duration::from_millis(100);
        const QUIET: Duration = Duration::from_millis(4);
        let deadline = Instant::now() + Duration::from_secs(15);
        let mut before = self.cpu(parts)?;
        let mut quiet = 0;
        while quiet < 3 && Instant::now() < deadline {
            child::pause(STEP)?;
            let now = self.cpu(parts)?;
            quiet = if now - before < QUIET { quiet + 1 } else { 0 };
            before = now;
        }
        Ok(())
    }
}

/// CPU time of these processes so far.
pub(crate) fn cpu(pids: &[u32]) -> anyhow::Result<Duration> {
    pids.iter().try_fold(Duration::ZERO, |sum, pid| {
        Ok(sum + cpu_of(*pid).with_context(|| format!("process {pid} ended during the run"))?)
    })
}

/// Kernel memory in slabs, where sockets are: of the whole machine.
pub(crate) fn slab_bytes() -> anyhow::Result<u64> {
    let info = std::fs::read_to_string("/proc/meminfo")?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("Slab:"))
        .context("/proc/meminfo has no Slab")?;
    let kib: u64 = line
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .context("/proc/meminfo's Slab")?;
    Ok(kib * 1_024)
}

#[derive(Deserialize)]
struct Endpoints {
    cluster: String,
    token: Option<String>,
}

/// One HTTP request; the body of its answer.
pub(crate) fn get(address: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let header = answer
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .context("no HTTP answer")?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        let status = String::from_utf8_lossy(&answer[..header]);
        bail!(
            "{address}{path} answers {}",
            status.lines().next().unwrap_or_default()
        );
    }
    Ok(answer.split_off(header + 4))
}
