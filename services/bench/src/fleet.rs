//! Several load workers as one: the file limit is per process, the figures are of all.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::child::Child;
use crate::cluster;
use crate::job::{
    Answer, Connect, Connected, Exchange, Exchanged, FannedOut, Fanout, Http, Job, Join, LoginAs, Message,
    Pace, Pushed, Pushes,
};
use crate::latency::{Latency, LatencyCounts};
use crate::statistics::shares;

/// Connections that one process may have, on either side: descriptors are limited to 20,000 here and there.
pub(crate) const PER_PROCESS: u64 = 18_000;

/// Connections that may be under way in one worker.
pub(crate) const IN_FLIGHT: usize = 128;

/// Load workers.
pub(crate) struct Fleet {
    workers: Vec<Child>,
    /// Devices of worker `n` are named `<prefix><n>-<number>`; a new prefix for every run.
    prefix: String,
}

impl Fleet {
    /// As many workers as `connections` need.
    pub(crate) fn start(connections: u64) -> anyhow::Result<Self> {
        let workers = (0..connections.div_ceil(PER_PROCESS).max(1)).map(|_| {
            let mut worker = Child::helper(&["worker"])?;
            match worker.receive()? {
                Answer::Ready => Ok(worker),
                other => bail!("a load worker began with {other:?}"),
            }
        });
        Ok(Self {
            workers: workers.collect::<anyhow::Result<_>>()?,
            prefix: format!("b{:08x}-", fastrand::u32(..)),
        })
    }

    /// One name per fleet, for devices.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Opens `count` more connections, spread over the targets; logs in if told how.
    pub(crate) fn connect(
        &mut self,
        targets: &[SocketAddr],
        count: u64,
        login: Option<&LoginAs>,
        seconds: Option<f64>,
    ) -> anyhow::Result<Connected> {
        let workers = self.workers.len();
        let counts = shares(count, workers as u64);
        let answers = self.all(|number| {
            let login = login.map(|login| {
                let device_prefix = format!("{}{number}-", login.device_prefix);
                LoginAs {
                    device_prefix,
                    ..login.clone()
                }
            });
            // Each worker begins at another target, so that small shares spread too.
            let mut targets = targets.to_vec();
            let targets_len = targets.len();
            targets.rotate_left(number % targets_len);
            Job::Connect(Connect {
                targets,
                count: counts[number],
                in_flight: IN_FLIGHT.div_ceil(workers),
                login,
                seconds,
            })
        })?;
        let mut sum = Connected::default();
        for answer in answers {
            let Answer::Connected(done) = answer else {
                bail!("a load worker answers {answer:?}")
            };
            sum.count += done.count;
            sum.resumed += done.resumed;
            sum.seconds = sum.seconds.max(done.seconds);
            sum.ping_interval_s = sum.ping_interval_s.max(done.ping_interval_s);
            add(&mut sum.failures, &done.failures);
            sum.latency = both(&sum.latency, &done.latency);
        }
        Ok(sum)
    }

    /// As [`Self::connect`], and all must succeed.
    pub(crate) fn connect_all(
        &mut self,
        targets: &[SocketAddr],
        count: u64,
        login: Option<&LoginAs>,
    ) -> anyhow::Result<Connected> {
        let done = self.connect(targets, count, login, None)?;
        if done.count != count || !done.failures.is_empty() {
            bail!(
                "of {count} connections {} came up; the others: {:?}",
                done.count,
                done.failures
            );
        }
        Ok(done)
    }

    /// Sends and is answered on all connections.
    pub(crate) fn exchange(
        &mut self,
        message: Message,
        pace: Pace,
        seconds: f64,
    ) -> anyhow::Result<Exchanged> {
        let workers = self.workers.len() as f64;
        let pace = match pace {
            Pace::Saturated => Pace::Saturated,
            Pace::PerSecond(rate) => Pace::PerSecond(rate / workers),
        };
        let answers = self.all(|_| {
            Job::Exchange(Exchange {
                message,
                pace,
                seconds,
            })
        })?;
        let mut sum = Exchanged::default();
        for answer in answers {
            let Answer::Exchanged(done) = answer else {
                bail!("a load worker answers {answer:?}")
            };
            sum.sent += done.sent;
            sum.answered += done.answered;
            sum.seconds = sum.seconds.max(done.seconds);
            sum.request_bytes = done.request_bytes;
            sum.answer_bytes = done.answer_bytes;
            add(&mut sum.failures, &done.failures);
            sum.latency = both(&sum.latency, &done.latency);
        }
        Ok(sum)
    }

    /// Publishes to the group of all connections; these must be one worker's.
    pub(crate) fn fanout(&mut self, job: Fanout) -> anyhow::Result<FannedOut> {
        match self.only(&Job::Fanout(job))? {
            Answer::FannedOut(done) => Ok(done),
            other => bail!("a load worker answers {other:?}"),
        }
    }

    /// Pushes at a fixed pace and receives; all connections must be one worker's.
    pub(crate) fn push(&mut self, job: Pushes) -> anyhow::Result<Pushed> {
        match self.only(&Job::Push(job))? {
            Answer::Pushed(done) => Ok(done),
            other => bail!("a load worker answers {other:?}"),
        }
    }

    /// Makes connections members of a group, which all must be; all connections must be one worker's.
    pub(crate) fn join_all(&mut self, job: Join) -> anyhow::Result<()> {
        match self.only(&Job::Join(job))? {
            Answer::Exchanged(done) if done.answered == done.sent => Ok(()),
            Answer::Exchanged(done) => bail!(
                "of {} connections {} joined: {:?}",
                done.sent,
                done.answered,
                done.failures
            ),
            other => bail!("a load worker answers {other:?}"),
        }
    }

    /// CPU time of the workers so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let pids: Vec<u32> = self.workers.iter().map(Child::pid).collect();
        cluster::cpu(&pids)
    }

    /// Asks an HTTP server.
    pub(crate) fn http(&mut self, job: Http) -> anyhow::Result<Exchanged> {
        match self.only(&Job::Http(job))? {
            Answer::Exchanged(done) => Ok(done),
            other => bail!("a load worker answers {other:?}"),
        }
    }

    /// Ends all connections; their tickets stay.
    pub(crate) fn close(&mut self) -> anyhow::Result<()> {
        self.all(|_| Job::Close).map(drop)
    }

    fn only(&mut self, job: &Job) -> anyhow::Result<Answer> {
        let [worker] = self.workers.as_mut_slice() else {
            bail!("this needs exactly one load worker")
        };
        worker.send(job)?;
        done(worker.receive()?)
    }

    /// Gives each worker its job, then waits for all.
    fn all(&mut self, job: impl Fn(usize) -> Job) -> anyhow::Result<Vec<Answer>> {
        for (number, worker) in self.workers.iter_mut().enumerate() {
            worker.send(&job(number))?;
        }
        self.workers
            .iter_mut()
            .map(|worker| done(worker.receive()?))
            .collect()
    }
}

fn done(answer: Answer) -> anyhow::Result<Answer> {
    match answer {
        Answer::Failed(why) => Err(anyhow::Error::msg(why)).context("a load worker failed"),
        answer => Ok(answer),
    }
}

fn add(sum: &mut crate::job::Failures, more: &crate::job::Failures) {
    for (kind, count) in more {
        *sum.entry(kind.clone()).or_default() += count;
    }
}

fn both(one: &LatencyCounts, other: &LatencyCounts) -> LatencyCounts {
    [one, other].into_iter().collect::<Latency>().counts()
}
