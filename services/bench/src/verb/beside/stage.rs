//! The cluster and its devices, and one phase of the measurement.

use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};

use super::ledger::{Counted, Ledger};
use super::{Beside, Many};
use crate::child;
use crate::clock::monotonic_ns;
use crate::cluster::{APP, Cluster};
use crate::fleet::Fleet;
use crate::job::{Failures, Group, Message, Pace, Publish, Published, Pushed, Pushes, Receivers, Stream, To};
use crate::latency::Latency;
use crate::statistics::cpu_percent;
use crate::verb::PUSH_SERVER;

/// From a phase's announcement to its beginning: longer than the workers need to read it and to connect.
const AHEAD: Duration = Duration::from_millis(200);

/// Longest wait until counters stand still.
const STILL: Duration = Duration::from_secs(5);

/// The cluster under test and its devices.
pub(super) struct Stage {
    cluster: Cluster,
    /// Who is in the group.
    members: Fleet,
    /// Who isn't, and gets unicasts.
    singles: Fleet,
    group: Group,
    sizes: [u64; 2],
    unicasts: f64,
    bytes: usize,
    seconds: f64,
    /// Silence that the servers put up with, and when it began.
    ping_interval: Duration,
    pinged: Instant,
}

/// What is pushed to many beside the unicasts, and how often a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beating {
    /// To whom.
    pub(super) many: Many,
    /// Messages a second.
    pub(super) per_second: f64,
}

/// What came of one phase.
#[derive(Debug, Default)]
pub(super) struct Phase {
    /// Of the unicasts: from when each was due to its arrival, µs.
    pub(super) p50_us: f64,
    /// The same.
    pub(super) p99_us: f64,
    /// Unicasts pushed.
    pub(super) unicasts: u64,
    /// Unicasts that arrived.
    pub(super) unicasts_received: u64,
    /// Unicasts that were said to be written or queued, and didn't arrive.
    pub(super) unicasts_lost: u64,
    /// Answers to the unicasts.
    pub(super) unicast_answers: Failures,
    /// How late calls for unicasts began, p99, µs.
    pub(super) late_p99_us: f64,
    /// Pushes to many: how often a second, and what came of them.
    pub(super) per_second: f64,
    /// Answers to these.
    pub(super) answers: Failures,
    /// Deliveries a second of these.
    pub(super) deliveries_per_second: f64,
    /// From when each was due to its deliveries, p99, µs.
    pub(super) delivery_p99_us: f64,
    /// All of these.
    pub(super) ledger: Ledger,
    /// CPU of gateway, state and routing, % of a core.
    pub(super) server_percent: f64,
    /// CPU of the workers that push and receive, % of a core.
    pub(super) load_percent: f64,
    /// Connections that were lost and the like.
    pub(super) failures: Failures,
    /// What the first refused push to many was told.
    pub(super) fault: Option<String>,
    /// Length of a message to many on the wire.
    pub(super) frame_bytes: usize,
}

impl Stage {
    /// Starts the cluster and connects everybody.
    pub(super) fn start(arguments: &Beside) -> anyhow::Result<Self> {
        let cluster = Cluster::find_or_start(&arguments.cluster, 1)?;
        let mut members = Fleet::start(arguments.members)?;
        let mut singles = Fleet::start(arguments.singles)?;
        let group = cluster.group()?;
        let login = cluster.first_login(members.prefix(), Some(group.clone()));
        let connected = members.connect_all(&cluster.gateways, arguments.members, Some(&login))?;
        let login = cluster.first_login(singles.prefix(), None);
        singles.connect_all(&cluster.gateways, arguments.singles, Some(&login))?;
        cluster.settle(&PUSH_SERVER)?;
        Ok(Self {
            cluster,
            members,
            singles,
            group,
            sizes: [arguments.members, arguments.singles],
            unicasts: arguments.unicasts,
            bytes: arguments.bytes,
            seconds: arguments.seconds,
            ping_interval: Duration::from_secs(connected.ping_interval_s.into()),
            pinged: Instant::now(),
        })
    }

    /// How many devices get a push to these.
    pub(super) fn receivers(&self, many: Many) -> u64 {
        match many {
            Many::Group => self.sizes[0],
            Many::Everybody => self.sizes.iter().sum(),
        }
    }

    /// One phase: unicasts, beside pushes to many if so told.
    pub(super) fn phase(&mut self, beside: Option<Beating>) -> anyhow::Result<Phase> {
        self.phase_of(beside, self.seconds)
    }

    /// Two pushes to many without unicasts counting for anything: whether they are served, and how long a frame is.
    pub(super) fn try_out(&mut self, many: Many) -> anyhow::Result<Phase> {
        let beating = Beating {
            many,
            per_second: 4.0,
        };
        self.phase_of(Some(beating), 0.5)
    }

    fn phase_of(&mut self, beside: Option<Beating>, seconds: f64) -> anyhow::Result<Phase> {
        self.keep_alive()?;
        self.cluster.settle(&PUSH_SERVER)?;
        let before = self.counted()?;
        let unicasts = self.unicast_stream();
        let many = beside.map(|beating| stream(beating.per_second, Receivers::All));
        let start_ns = monotonic_ns() + AHEAD.as_nanos() as u64;
        let job = |publish, streams| Pushes {
            publish,
            streams,
            start_ns,
            seconds,
        };
        let publish = |to| {
            Ok::<_, anyhow::Error>(Publish {
                url: self.cluster.push_url(),
                business: self.cluster.echo()?,
                to,
                bytes: self.bytes,
            })
        };
        let mut to_singles = vec![unicasts];
        // A fleet's only worker is its first.
        let prefix = format!("{}0-", self.singles.prefix());
        let app = APP.to_owned();
        let pushes_unicasts = publish(To::Devices { app, prefix })?;
        let pushes_to_many = match beside.map(|beating| beating.many) {
            None => None,
            Some(Many::Group) => Some(publish(To::Group {
                id: self.group.id.clone(),
            })?),
            Some(Many::Everybody) => {
                to_singles.extend(many);
                Some(publish(To::Everybody)?)
            }
        };
        let cpu = [self.cluster.cpu(&PUSH_SERVER)?, self.load_cpu()?];
        let (members, singles) = std::thread::scope(|scope| {
            let members = many.map(|many| {
                let job = job(pushes_to_many, vec![many]);
                let fleet = &mut self.members;
                scope.spawn(move || fleet.push(job))
            });
            let singles = self.singles.push(job(Some(pushes_unicasts), to_singles));
            let members = members.map(|members| {
                members
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("the thread that waits for the members panicked")))
            });
            (members.transpose(), singles)
        });
        let (members, singles) = (members?, singles?);
        // Until the last delivery: what is waited for in vain after it is nobody's work.
        let received = members
            .iter()
            .chain([&singles])
            .flat_map(|pushed| &pushed.received);
        let last = received.map(|received| received.seconds).fold(seconds, f64::max);
        let window = Duration::from_secs_f64(last);
        let percent = |now: Duration, before| cpu_percent(now.saturating_sub(before), window);
        let mut phase = Phase {
            server_percent: percent(self.cluster.cpu(&PUSH_SERVER)?, cpu[0]),
            load_percent: percent(self.load_cpu()?, cpu[1]),
            per_second: beside.map_or(0.0, |beating| beating.per_second),
            ..Phase::default()
        };
        phase.take_unicasts(&singles)?;
        if let (Some(beating), Some(members)) = (beside, &members) {
            phase.ledger.receivers = self.receivers(beating.many);
            phase.take_many(beating.many, members, &singles)?;
        }
        phase.ledger.counted = self.counted()?.since(before);
        Ok(phase)
    }

    fn unicast_stream(&self) -> Stream {
        stream(self.unicasts, Receivers::One)
    }

    fn load_cpu(&self) -> anyhow::Result<Duration> {
        Ok(self.members.cpu()? + self.singles.cpu()?)
    }

    /// Who says nothing for long is closed: everybody pings in time.
    fn keep_alive(&mut self) -> anyhow::Result<()> {
        if self.pinged.elapsed() < self.ping_interval / 2 {
            return Ok(());
        }
        self.pinged = Instant::now();
        for (fleet, size) in [
            (&mut self.members, self.sizes[0]),
            (&mut self.singles, self.sizes[1]),
        ] {
            let done = fleet.exchange(Message::Ping, Pace::PerSecond(size as f64), 1.0)?;
            if done.answered != done.sent {
                bail!(
                    "of {} pings {} were answered: {:?}",
                    done.sent,
                    done.answered,
                    done.failures
                );
            }
        }
        Ok(())
    }

    /// What the parts have dropped so far, once that stands still: a gateway's shards report four times a second.
    fn counted(&self) -> anyhow::Result<Counted> {
        let read = || -> anyhow::Result<Counted> { Ok(Counted::of(&self.cluster.pages(&Counted::PARTS)?)) };
        let deadline = Instant::now() + STILL;
        let mut before = read()?;
        loop {
            child::pause(Duration::from_millis(600))?;
            let now = read()?;
            if now == before || Instant::now() > deadline {
                return Ok(now);
            }
            before = now;
        }
    }
}

/// A stream with numbers that no other has.
fn stream(per_second: f64, receivers: Receivers) -> Stream {
    Stream {
        first: u64::from(fastrand::u32(..)) << 32,
        per_second,
        receivers,
    }
}

impl Phase {
    /// What came of the unicasts, which the singles' worker pushed and received first of all.
    fn take_unicasts(&mut self, singles: &Pushed) -> anyhow::Result<()> {
        let (Some(published), Some(received)) = (&singles.published, singles.received.first()) else {
            bail!("a load worker says nothing of the unicasts");
        };
        let latency: Latency = [&received.latency].into_iter().collect();
        let late: Latency = [&published.late].into_iter().collect();
        self.p50_us = latency.us(0.5);
        self.p99_us = latency.us(0.99);
        self.late_p99_us = late.us(0.99);
        self.unicasts = received.messages;
        self.unicasts_received = received.received;
        self.unicasts_lost = published.lost;
        self.unicast_answers.clone_from(&published.answers);
        self.ledger.unicasts_lost = published.lost;
        self.fail(&singles.failures);
        Ok(())
    }

    /// What came of the pushes to many, which the members' worker pushed; the singles received those to everybody too.
    fn take_many(&mut self, many: Many, members: &Pushed, singles: &Pushed) -> anyhow::Result<()> {
        let (Some(published), Some(received)) = (&members.published, members.received.first()) else {
            bail!("a load worker says nothing of the pushes to many");
        };
        let others = singles.received.get(1);
        let all = || [Some(received), others].into_iter().flatten();
        let latency: Latency = all().map(|received| &received.latency).collect();
        self.delivery_p99_us = latency.us(0.99);
        self.frame_bytes = received.frame_bytes;
        self.answers.clone_from(&published.answers);
        self.fault.clone_from(&published.fault);
        self.ledger.expected = all().map(|received| received.expected).sum();
        self.ledger.received = all().map(|received| received.received).sum();
        self.ledger.told = told(many, published, &self.ledger);
        let seconds = all().map(|received| received.seconds).fold(0.0, f64::max);
        if seconds > 0.0 {
            self.deliveries_per_second = self.ledger.received as f64 / seconds;
        }
        self.fail(&members.failures);
        Ok(())
    }

    fn fail(&mut self, failures: &Failures) {
        for (kind, count) in failures {
            *self.failures.entry(kind.clone()).or_default() += count;
        }
    }
}

/// Deliveries that callers were told won't be made.
fn told(many: Many, published: &Published, ledger: &Ledger) -> u64 {
    let promised = match many {
        Many::Group => published.promised * ledger.receivers,
        Many::Everybody => published.promised,
    };
    ledger.expected.saturating_sub(promised)
}
