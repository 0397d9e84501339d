//! `bench echo`: request → gateway → state → business and back, against a bare epoll echo in the same run.

use anyhow::bail;

use super::{Bare, SERVER, say_bare, say_comparable};
use crate::bare::Counts;
use crate::cluster::{Cluster, ClusterArgs};
use crate::fleet::{Fleet, PER_PROCESS};
use crate::job::{Exchanged, Failures, Message, Pace};
use crate::latency::Latency;
use crate::report::{Progress, Report};
use crate::statistics::{median, ratio, us_per};

/// Arguments of `bench echo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Echo {
    /// Connections, at most 18,000
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=18_000))]
    connections: u64,
    /// Seconds of each measurement, of which a round has two or three
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds, in which ours and the bare server alternate; figures are medians
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// Messages a second (open loop) for everything, instead of saturation
    #[arg(long)]
    rate: Option<f64>,
    /// Messages a second of the part of each round from which the latencies are, when saturated otherwise
    #[arg(long, default_value_t = 5_000.0)]
    paced_rate: f64,
    /// Bytes of payload
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What one round gave.
#[derive(Default)]
struct Round {
    messages_per_second: f64,
    server_us: f64,
    business_us: f64,
    bare_us: f64,
    bare_messages_per_second: f64,
    /// Of the open loop.
    latency: [f64; 3],
    /// Under saturation, where it is the time in the queue.
    saturated: [f64; 2],
}

/// Both sides of the run.
struct Sides {
    cluster: Cluster,
    ours: Fleet,
    bare: Bare,
    bare_load: Fleet,
}

pub(crate) fn run(arguments: &Echo) -> anyhow::Result<Report> {
    if arguments.bytes > 60_000 {
        bail!("a frame's body is limited to 64 KiB: at most 60,000 bytes");
    }
    let progress = Progress::new(2 + 3 * arguments.rounds);
    progress.step("starting the cluster");
    let mut sides = Sides::start(arguments)?;
    progress.step("warming up");
    let pace = arguments.rate.map_or(Pace::Saturated, Pace::PerSecond);
    let message = Message::Request {
        business: sides.cluster.echo()?,
        bytes: arguments.bytes,
    };
    let warm_up = arguments.seconds.min(1.0);
    sides.ours.exchange(message, pace, warm_up)?;
    sides.bare_load.exchange(message, pace, warm_up)?;

    let mut rounds = Vec::new();
    let mut failures = Failures::new();
    let mut frames = [0, 0];
    let mut bare_total = (Counts::default(), 0);
    for number in 1..=arguments.rounds {
        let mut round = Round::default();
        progress.step(format!("round {number}: ours"));
        let cpu = sides.cluster.cpu(&SERVER)?;
        let business = sides.cluster.cpu(&["echo"])?;
        let done = sides.ours.exchange(message, pace, arguments.seconds)?;
        round.server_us = us_per(sides.cluster.cpu(&SERVER)? - cpu, done.answered);
        round.business_us = us_per(sides.cluster.cpu(&["echo"])? - business, done.answered);
        round.messages_per_second = done.answered as f64 / done.seconds;
        round.take_latency(&done);
        add(&mut failures, &done.failures);
        frames = [done.request_bytes, done.answer_bytes];

        progress.step(format!("round {number}: bare"));
        let counts = sides.bare.counts()?;
        let cpu = sides.bare.cpu()?;
        let done = sides.bare_load.exchange(message, pace, arguments.seconds)?;
        round.bare_us = us_per(sides.bare.cpu()? - cpu, done.answered);
        round.bare_messages_per_second = done.answered as f64 / done.seconds;
        let counts = sides.bare.counts()?.since(counts);
        bare_total = (sum(bare_total.0, counts), bare_total.1 + done.answered);
        if !done.failures.is_empty() || counts.short_writes > 0 {
            bail!("the bare server failed: {:?}, {counts:?}", done.failures);
        }

        progress.step(format!("round {number}: ours, paced"));
        if arguments.rate.is_none() {
            let done =
                sides
                    .ours
                    .exchange(message, Pace::PerSecond(arguments.paced_rate), arguments.seconds)?;
            round.take_latency(&done);
            add(&mut failures, &done.failures);
        }
        rounds.push(round);
    }
    drop(progress);
    drop(sides);

    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
    let (ours_us, bare_us) = (of(|round| round.server_us), of(|round| round.bare_us));
    let open_loop = arguments.rate.unwrap_or(arguments.paced_rate);
    let mut report = Report::new(format!(
        "echo of {} bytes, {} connections",
        arguments.bytes, arguments.connections
    ));
    report
        .count("connections", arguments.connections, "connections")
        .figure(
            "messages_per_second",
            of(|round| round.messages_per_second),
            "messages per second",
        )
        .figure(
            "server_cpu_us_per_message",
            ours_us,
            "server CPU (gateway + state), µs per message",
        )
        .figure(
            "business_cpu_us_per_message",
            of(|round| round.business_us),
            "business CPU (echo), µs per message",
        )
        .figure(
            "bare_cpu_us_per_message",
            bare_us,
            "bare epoll echo CPU, µs per message",
        )
        .figure(
            "limit_ratio",
            ratio(ours_us, bare_us),
            "ours ÷ bare (lower is better)",
        )
        .figure(
            "bare_messages_per_second",
            of(|round| round.bare_messages_per_second),
            "bare: messages per second",
        )
        .figure(
            "p50_us",
            of(|round| round.latency[0]),
            &format!("p50 at {open_loop} messages/s, µs"),
        )
        .figure("p99_us", of(|round| round.latency[1]), "p99, µs")
        .figure("p999_us", of(|round| round.latency[2]), "p99.9, µs");
    if arguments.rate.is_none() {
        report
            .figure(
                "saturated_p50_us",
                of(|round| round.saturated[0]),
                "p50 under saturation (the queue), µs",
            )
            .figure(
                "saturated_p99_us",
                of(|round| round.saturated[1]),
                "p99 under saturation (the queue), µs",
            );
    }
    report
        .detail("rounds", arguments.rounds)
        .detail("seconds", arguments.seconds)
        .detail("request_frame_bytes", frames[0])
        .detail("reply_frame_bytes", frames[1])
        .detail("failures", failures.values().sum::<u64>())
        .remark(format!(
            "CPU is user + system time of the processes ÷ messages, the kernel's TCP work included; medians of {} \
             rounds, ours and bare alternating. Latencies from the intended time of sending (open loop).",
            arguments.rounds
        ))
        .failures("failures", &failures);
    say_bare(&mut report, "bare echo", bare_total.0, bare_total.1);
    if arguments.rate.is_none() {
        // At a low rate every message pays for a wake-up of its own: the range is for saturation.
        say_comparable(&mut report, bare_us);
    }
    Ok(report)
}

impl Sides {
    fn start(arguments: &Echo) -> anyhow::Result<Self> {
        let cluster =
            Cluster::find_or_start(&arguments.cluster, arguments.connections.div_ceil(PER_PROCESS))?;
        let mut ours = Fleet::start(arguments.connections)?;
        let login = cluster.first_login(ours.prefix(), None);
        ours.connect_all(&cluster.gateways, arguments.connections, Some(&login))?;
        let bare = Bare::start(&["bare-echo"])?;
        let mut bare_load = Fleet::start(arguments.connections)?;
        bare_load.connect_all(&[bare.started.address], arguments.connections, None)?;
        Ok(Self {
            cluster,
            ours,
            bare,
            bare_load,
        })
    }
}

impl Round {
    /// The last open loop counts; a saturated run counts for both until there is one.
    fn take_latency(&mut self, done: &Exchanged) {
        let latency: Latency = [&done.latency].into_iter().collect();
        if self.saturated == [0.0; 2] {
            self.saturated = [latency.us(0.5), latency.us(0.99)];
        }
        self.latency = [latency.us(0.5), latency.us(0.99), latency.us(0.999)];
    }
}

fn add(sum: &mut Failures, more: &Failures) {
    for (kind, count) in more {
        *sum.entry(kind.clone()).or_default() += count;
    }
}

fn sum(one: Counts, other: Counts) -> Counts {
    Counts {
        accepted: one.accepted + other.accepted,
        waits: one.waits + other.waits,
        reads: one.reads + other.reads,
        read_bytes: one.read_bytes + other.read_bytes,
        writes: one.writes + other.writes,
        short_writes: one.short_writes + other.short_writes,
    }
}
