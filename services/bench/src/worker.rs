//! The load process: one thread, one epoll set, jobs from its standard input.
//!
//! The same loop loads our gateways and the bare servers, so that what it costs on the shared cores is the same
//! for both. Connections stay open from job to job; between jobs nothing is read.

mod connect;
mod exchange;
mod fanout;
mod http;
mod join;
mod link;
mod push;

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use imaccess_net::epoll::Epoll;

pub(crate) use self::link::{Link, Waiting};
pub(crate) use self::push::{UNIMPLEMENTED, is_sent};
use crate::job::{Answer, Failures, Job};

/// Events taken per wait.
const BATCH: usize = 1_024;

/// Bytes read at a time: more than waits in a socket under any of our loads, so that one read is enough.
const SCRATCH: usize = 64 * 1024;

/// Time for what is still under way when a job's time is over.
const GRACE: Duration = Duration::from_secs(5);

/// The connections of one load process, and what it needs to drive them.
pub(crate) struct Worker {
    epoll: Epoll,
    /// Indexed by the epoll token.
    links: Vec<Link>,
    scratch: Vec<u8>,
    sources: Sources,
    /// Tickets of the connections that were closed: (device number, ticket).
    tickets: Vec<(u64, Box<[u8]>)>,
    /// Number of the next device.
    next_device: u64,
}

impl Worker {
    /// One without connections.
    ///
    /// # Errors
    /// When no epoll set can be made.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(BATCH).context("make an epoll set")?,
            links: Vec::new(),
            scratch: vec![0; SCRATCH],
            sources: Sources::random(),
            tickets: Vec::new(),
            next_device: 0,
        })
    }

    /// Does one job.
    pub(crate) fn work(&mut self, job: Job) -> Answer {
        let done = match job {
            Job::Connect(job) => self.connect(&job).map(Answer::Connected),
            Job::Exchange(job) => self.exchange(&job).map(Answer::Exchanged),
            Job::Fanout(job) => self.fanout(&job).map(Answer::FannedOut),
            Job::Push(job) => self.push(&job).map(Answer::Pushed),
            Job::Join(job) => self.join(&job).map(Answer::Exchanged),
            Job::Http(job) => http::load(&job, &mut self.sources).map(Answer::Exchanged),
            Job::Close => {
                self.close();
                Ok(Answer::Closed)
            }
        };
        done.unwrap_or_else(|error| Answer::Failed(format!("{error:#}")))
    }

    fn close(&mut self) {
        self.tickets.clear();
        for link in self.links.drain(..) {
            if let Some((device, ticket)) = link.close() {
                self.tickets.push((device, ticket));
            }
        }
    }
}

/// Does the jobs that come on standard input until it ends.
///
/// # Errors
/// When a line is no job, or nobody reads the answers.
pub(crate) fn run() -> anyhow::Result<()> {
    crate::child::end_with_parent();
    let mut worker = Worker::new()?;
    let mut out = std::io::stdout().lock();
    let mut say = |answer: &Answer| -> anyhow::Result<()> {
        serde_json::to_writer(&mut out, answer)?;
        out.write_all(b"\n")?;
        Ok(out.flush()?)
    };
    say(&Answer::Ready)?;
    for line in std::io::stdin().lock().lines() {
        let job: Job = serde_json::from_str(&line?).context("read a job")?;
        say(&worker.work(job))?;
    }
    Ok(())
}

/// Loopback addresses to connect from: one address has 28,000 ports, and those just used rest for a minute.
struct Sources {
    second: u8,
    used: u32,
}

impl Sources {
    /// Connections from one address: few enough that a free port is found at the first try.
    const PER_ADDRESS: u32 = 4_000;

    /// Starts where another process most likely does not.
    fn random() -> Self {
        Self {
            second: fastrand::u8(1..=250),
            used: fastrand::u32(0..4_000) * Self::PER_ADDRESS,
        }
    }

    /// Where to connect to `target` from; `None`: wherever the kernel likes.
    fn next(&mut self, target: SocketAddr) -> Option<SocketAddr> {
        if !target.ip().is_loopback() || !target.is_ipv4() {
            return None;
        }
        let block = self.used / Self::PER_ADDRESS;
        self.used = self.used.wrapping_add(1);
        let [third, fourth] = [(block / 250 % 250) as u8 + 1, (block % 250) as u8 + 1];
        Some(SocketAddr::from((
            Ipv4Addr::new(127, self.second, third, fourth),
            0,
        )))
    }
}

/// Counts one failure of a kind.
fn fail(failures: &mut Failures, what: &str) {
    if let Some(count) = failures.get_mut(what) {
        *count += 1;
    } else {
        failures.insert(what.to_owned(), 1);
    }
}

/// A job's clock: nanoseconds since it began.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn ns(self) -> u64 {
        // A job lasts minutes; 64 bits hold centuries.
        self.0.elapsed().as_nanos() as u64
    }

    fn seconds(self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// Fails when there is nothing to drive.
fn need_links(links: &[Link]) -> anyhow::Result<()> {
    if links.is_empty() {
        bail!("no connection is open");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
