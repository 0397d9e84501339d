//! `bench login`: first logins with a token, and resumes with a ticket.

use super::{PUSH_SERVER, SERVER};
use crate::cluster::{Cluster, ClusterArgs};
use crate::fleet::{Fleet, PER_PROCESS};
use crate::job::{Connected, Failures, LoginAs, Proof};
use crate::latency::Latency;
use crate::report::{Progress, Report};
use crate::statistics::{median, per_core, us_per};

/// Arguments of `bench login`.
#[derive(Clone, Debug, clap::Args)]
pub struct Login {
    /// Devices that log in, and then resume, in each round
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    connections: u64,
    /// Rounds, each with devices of its own; figures are medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    rounds: u64,
    /// In a round, no login is begun after so many seconds [default: all are]
    #[arg(long)]
    seconds: Option<f64>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// One kind of login, round by round.
#[derive(Default)]
struct Kind {
    rates: Vec<f64>,
    server_us: Vec<f64>,
    gateway_us: Vec<f64>,
    routing_us: Vec<f64>,
    p99_us: Vec<f64>,
    count: u64,
    failures: Failures,
}

pub(crate) fn run(arguments: &Login) -> anyhow::Result<Report> {
    let progress = Progress::new(1 + 2 * arguments.rounds);
    progress.step("starting the cluster");
    let cluster = Cluster::find_or_start(&arguments.cluster, arguments.connections.div_ceil(PER_PROCESS))?;
    let mut fleet = Fleet::start(arguments.connections)?;
    let first_login = cluster.first_login(fleet.prefix(), None);
    let resume = LoginAs {
        proof: Proof::Tickets,
        ..first_login.clone()
    };
    let (mut first, mut resumed) = (Kind::default(), Kind::default());
    let mut not_resumed = 0;
    for number in 1..=arguments.rounds {
        cluster.settle(&PUSH_SERVER)?;
        progress.step(format!("round {number}: first logins"));
        let done = first.measure(&cluster, || {
            fleet.connect(
                &cluster.gateways,
                arguments.connections,
                Some(&first_login),
                arguments.seconds,
            )
        })?;
        fleet.close()?;
        cluster.settle(&PUSH_SERVER)?;
        progress.step(format!("round {number}: resumes"));
        let done = resumed.measure(&cluster, || {
            fleet.connect(&cluster.gateways, done.count, Some(&resume), None)
        })?;
        not_resumed += done.count - done.resumed;
        fleet.close()?;
    }
    drop(progress);

    let login_us = median(first.server_us);
    let resume_us = median(resumed.server_us);
    let mut report = Report::new(format!(
        "login of {} devices, 128 in flight",
        arguments.connections
    ));
    report
        .count("connections", arguments.connections, "devices per round")
        .figure("logins_per_second", median(first.rates), "first logins per second, both cores shared with the load")
        .figure("server_cpu_us_per_login", login_us, "server CPU (gateway + state), µs per first login")
        .figure("gateway_cpu_us_per_login", median(first.gateway_us), "of that the gateway, µs")
        .figure("logins_per_second_per_core", per_core(login_us), "first logins per second and core of server CPU")
        .figure("login_p99_us", median(first.p99_us), "first login, connect to login-ok, p99, µs")
        .figure("resumes_per_second", median(resumed.rates), "resumes per second, both cores shared with the load")
        .figure("server_cpu_us_per_resume", resume_us, "server CPU (gateway + state), µs per resume")
        .figure("gateway_cpu_us_per_resume", median(resumed.gateway_us), "of that the gateway, µs")
        .figure("resumes_per_second_per_core", per_core(resume_us), "resumes per second and core of server CPU")
        .figure("resume_p99_us", median(resumed.p99_us), "resume, connect to login-ok, p99, µs")
        .figure("routing_cpu_us_per_login", median(first.routing_us), "routing CPU beside it, µs per first login")
        .figure("routing_cpu_us_per_resume", median(resumed.routing_us), "routing CPU beside it, µs per resume")
        .count("logins", first.count, "first logins in all")
        .count("resumes", resumed.count, "resumes in all")
        .count("not_resumed", not_resumed, "of these, logged in as a new session")
        .detail("rounds", arguments.rounds)
        .remark("A login is connect, accept, login frame, check, session, announcement, login-ok. Closing is not counted.")
        .failures("first logins failed", &first.failures)
        .failures("resumes failed", &resumed.failures);
    Ok(report)
}

impl Kind {
    fn measure(
        &mut self,
        cluster: &Cluster,
        logins: impl FnOnce() -> anyhow::Result<Connected>,
    ) -> anyhow::Result<Connected> {
        let before = [
            cluster.cpu(&SERVER)?,
            cluster.cpu(&["gateway"])?,
            cluster.cpu(&["routing"])?,
        ];
        let done = logins()?;
        // Announcements go to routing after the login is answered.
        cluster.settle(&PUSH_SERVER)?;
        let after = [
            cluster.cpu(&SERVER)?,
            cluster.cpu(&["gateway"])?,
            cluster.cpu(&["routing"])?,
        ];
        for (figures, part) in [&mut self.server_us, &mut self.gateway_us, &mut self.routing_us]
            .into_iter()
            .zip(0..)
        {
            let part: usize = part;
            figures.push(us_per(after[part] - before[part], done.count));
        }
        self.rates.push(if done.seconds > 0.0 {
            done.count as f64 / done.seconds
        } else {
            0.0
        });
        let latency: Latency = [&done.latency].into_iter().collect();
        self.p99_us.push(latency.us(0.99));
        self.count += done.count;
        for (kind, count) in &done.failures {
            *self.failures.entry(kind.clone()).or_default() += count;
        }
        Ok(done)
    }
}
