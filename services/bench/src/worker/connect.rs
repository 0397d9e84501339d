//! Opening connections and logging in, a bounded number at a time.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use imaccess_common::token::DevelopmentIssuer;
use imaccess_net::epoll::Interest;
use imaccess_net::socket;
use imaccess_wire::code::Code;
use imaccess_wire::frame::{Frame, GroupPosition, GroupPositions, Login, Transport};

use super::{Clock, Link, Worker, fail};
use crate::job::{Connect, Connected, LoginAs, Proof};
use crate::latency::Latency;

/// Development tokens outlive any bench.
const TOKEN_TTL: Duration = Duration::from_secs(6 * 3_600);

/// How long a run of logins may take: a second per this many, beside [`LEAST`].
const SLOWEST_PER_SECOND: u64 = 300;

/// Time for even one login: a cluster that has just started may need to find itself.
const LEAST: Duration = Duration::from_secs(15);

/// A login still to be made.
struct Planned {
    device: u64,
    /// The whole frame; empty for a bare server.
    frame: Vec<u8>,
}

/// Where one connection is on its way.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Connecting,
    LoggingIn,
    Done,
}

/// What became of a login.
enum Outcome {
    Pending,
    LoggedIn {
        ticket: Box<[u8]>,
        resumed: bool,
        ping_interval_s: u32,
    },
    Refused(String),
}

impl Worker {
    pub(super) fn connect(&mut self, job: &Connect) -> anyhow::Result<Connected> {
        let planned = self.plan(job)?;
        let first = self.links.len();
        let mut run = Run {
            clock: Clock::start(),
            steps: Vec::with_capacity(planned.len()),
            frames: planned,
            done: Connected::default(),
            latency: Latency::new(),
            under_way: 0,
            finished_ns: 0,
        };
        let bound = LEAST + Duration::from_secs(job.count / SLOWEST_PER_SECOND);
        let bound_ns = bound.as_nanos() as u64;
        let begin_until_ns = job.seconds.map_or(u64::MAX, |seconds| (seconds * 1e9) as u64);
        loop {
            if run.clock.ns() > begin_until_ns {
                run.frames.truncate(run.steps.len());
            }
            while run.under_way < job.in_flight.max(1) && run.steps.len() < run.frames.len() {
                self.begin(job, &mut run);
            }
            if run.under_way == 0 && run.steps.len() == run.frames.len() {
                break;
            }
            if run.clock.ns() > bound_ns {
                for _ in 0..run.under_way + (run.frames.len() - run.steps.len()) {
                    fail(&mut run.done.failures, "timed_out");
                }
                break;
            }
            let events = self.epoll.wait(Some(Duration::from_millis(500)))?;
            for index in 0..events {
                let ready = self.epoll.event(index);
                let at = ready.token as usize;
                if at >= first {
                    self.advance(at, at - first, ready.hung_up, &mut run);
                }
            }
        }
        // Those that failed are no connections: they leave, and the watched tokens of the others stay.
        run.done.seconds = run.finished_ns as f64 / 1e9;
        run.done.latency = run.latency.counts();
        Ok(run.done)
    }

    /// All frames, made before the clock starts: issuing a token costs as much as checking it.
    fn plan(&mut self, job: &Connect) -> anyhow::Result<Vec<Planned>> {
        let Some(login) = &job.login else {
            return Ok((0..job.count)
                .map(|device| Planned {
                    device,
                    frame: Vec::new(),
                })
                .collect());
        };
        match &login.proof {
            Proof::Issue { key, key_id, cluster } => {
                let pem = std::fs::read_to_string(key)
                    .with_context(|| format!("read the signing key {}", key.display()))?;
                let issuer = match key_id {
                    Some(id) => DevelopmentIssuer::from_pem(id, &pem)?,
                    None => DevelopmentIssuer::from_pem_by_thumbprint(&pem)?,
                };
                let first = self.next_device;
                self.next_device += job.count;
                let plan = (first..first + job.count).map(|device| {
                    let name = format!("{}{device}", login.device_prefix);
                    let token = issuer.issue(cluster, &login.app, &name, TOKEN_TTL);
                    Planned {
                        device,
                        frame: frame(login, &name, token.as_bytes(), &[]),
                    }
                });
                Ok(plan.collect())
            }
            Proof::Tickets => {
                let count = self.tickets.len().min(job.count as usize);
                let plan = self.tickets.drain(..count).map(|(device, ticket)| {
                    let name = format!("{}{device}", login.device_prefix);
                    Planned {
                        device,
                        frame: frame(login, &name, &[], &ticket),
                    }
                });
                Ok(plan.collect())
            }
        }
    }

    /// Begins the next connection.
    fn begin(&mut self, job: &Connect, run: &mut Run) {
        let number = run.steps.len();
        let target: SocketAddr = job.targets[number % job.targets.len()];
        let started = run.clock.ns();
        let begun = socket::connect(target, self.sources.next(target)).and_then(|socket| {
            let link = Link::new(socket, run.frames[number].device);
            self.epoll.add(&link, self.links.len() as u64, Interest::Stream)?;
            Ok(link)
        });
        match begun {
            Ok(link) => {
                self.links.push(link);
                run.steps.push((Step::Connecting, started));
                run.under_way += 1;
            }
            Err(error) => {
                fail(
                    &mut run.done.failures,
                    if error.raw_os_error() == Some(24) {
                        "descriptors"
                    } else {
                        "refused"
                    },
                );
                run.frames.remove(number);
            }
        }
    }

    /// Goes on with a connection on which something happened.
    fn advance(&mut self, at: usize, number: usize, hung_up: bool, run: &mut Run) {
        let (step, started) = run.steps[number];
        let link = &mut self.links[at];
        if step == Step::Done || !link.is_open() {
            return;
        }
        let result = if step == Step::Connecting {
            let login = &run.frames[number].frame;
            if login.is_empty() {
                // A bare server: to be connected is all.
                if hung_up {
                    link.drop_socket();
                    run.give_up(number, "refused");
                } else {
                    run.finish(number, started);
                }
                return;
            }
            run.steps[number].0 = Step::LoggingIn;
            link.send(login).map(|()| Outcome::Pending)
        } else {
            let mut outcome = Outcome::Pending;
            let received = link.flush().and_then(|()| {
                link.receive(&mut self.scratch, |split, _| {
                    if let Outcome::Pending = outcome {
                        outcome = read(split);
                    }
                })
            });
            match (&outcome, received) {
                // A refusal is followed by the end of the stream; the refusal says more.
                (Outcome::Pending, Err(error)) => Err(error),
                _ => Ok(outcome),
            }
        };
        match result {
            Ok(Outcome::Pending) => {}
            Ok(Outcome::LoggedIn {
                ticket,
                resumed,
                ping_interval_s,
            }) => {
                link.ticket = ticket;
                run.done.resumed += u64::from(resumed);
                run.done.ping_interval_s = ping_interval_s;
                run.finish(number, started);
            }
            Ok(Outcome::Refused(why)) => {
                link.drop_socket();
                run.give_up(number, &why);
            }
            Err(error) => {
                link.drop_socket();
                run.give_up(number, error.name());
            }
        }
    }
}

/// The state of one run of logins.
struct Run {
    clock: Clock,
    /// Where each begun connection is, and when it began.
    steps: Vec<(Step, u64)>,
    frames: Vec<Planned>,
    done: Connected,
    latency: Latency,
    under_way: usize,
    finished_ns: u64,
}

impl Run {
    fn finish(&mut self, number: usize, started: u64) {
        let now = self.clock.ns();
        self.steps[number].0 = Step::Done;
        self.under_way -= 1;
        self.done.count += 1;
        self.latency.record(now - started);
        self.finished_ns = now;
        self.frames[number].frame = Vec::new();
    }

    fn give_up(&mut self, number: usize, why: &str) {
        self.steps[number].0 = Step::Done;
        self.under_way -= 1;
        fail(&mut self.done.failures, why);
    }
}

/// A login frame.
fn frame(login: &LoginAs, device: &str, token: &[u8], ticket: &[u8]) -> Vec<u8> {
    let positions: Vec<GroupPosition<'_>> = login
        .group
        .iter()
        .map(|group| GroupPosition {
            business: group.business,
            group: group.id.as_bytes(),
            group_epoch: 0,
            sequence: 0,
        })
        .collect();
    let mut out = Vec::new();
    Login {
        device,
        app: &login.app,
        token,
        ticket,
        platform: "bench",
        version: env!("CARGO_PKG_VERSION"),
        groups: GroupPositions::new(&positions),
        transport: Transport::Tcp,
        ..Login::default()
    }
    .encode(&mut out);
    out
}

/// What a frame says about the login.
fn read(split: &imaccess_wire::header::Split<'_>) -> Outcome {
    match Frame::decode(split) {
        Ok(Some(Frame::LoginOk(ok))) => Outcome::LoggedIn {
            ticket: ok.ticket.into(),
            resumed: ok.resumed,
            ping_interval_s: ok.ping_interval_s,
        },
        Ok(Some(Frame::LoginRefused(refused))) => Outcome::Refused(code_name(refused.code)),
        Ok(Some(Frame::Close(close))) => Outcome::Refused(code_name(close.code)),
        Ok(_) => Outcome::Pending,
        Err(_) => Outcome::Refused("not_a_frame".to_owned()),
    }
}

/// A code's name, or its number.
pub(super) fn code_name(code: u16) -> String {
    Code::from_u16(code).map_or_else(|| format!("code_{code}"), |code| code.name().to_owned())
}
