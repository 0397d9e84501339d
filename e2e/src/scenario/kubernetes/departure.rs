//! One gateway that goes while its clients are watched, and what must hold of them.

use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_wire::Code;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::verdict::count;
use crate::fleet::Fleet;
use crate::fleet::course::Course;
use crate::fleet::farewell::{Farewell, Guest, Manner};
use crate::fleet::pace::Pace;
use crate::kubernetes::ending::Ending;
use crate::kubernetes::gateways::{CLIENTS, Gateway, listed};
use crate::kubernetes::{Installation, Kubernetes};
use crate::raw_client::Ended;
use crate::report::Report;
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until_polled};

/// For a gateway to leave ipconfig's list, whatever the machine does.
const UNLISTED: Duration = Duration::from_secs(30);
/// For devices to be online after the last was told.
const ONLINE: Duration = Duration::from_secs(60);
/// Between two questions to ipconfig.
const ASK: Duration = Duration::from_millis(100);
/// What a scheduler and a loopback add to the time between two frames.
const JITTER: Duration = Duration::from_millis(500);

/// How the cluster is told to drain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Told per second.
    pub(super) rate: i32,
    /// Not told before.
    pub(super) propagation: Duration,
    /// All closed after.
    pub(super) deadline: Duration,
    /// Clients without SDK of each manner.
    pub(super) guests: usize,
}

/// What was seen while a gateway went.
pub(super) struct Departure {
    /// Devices that it had when it was told to go.
    pub(super) clients: usize,
    /// From the fleet's beginning until it was told to go.
    since: Duration,
    /// Questions to ipconfig meanwhile that weren't answered.
    unanswered: u64,
    /// From the pod's deletion until ipconfig didn't list it any more.
    unlisted: Duration,
    unlisted_at: Instant,
    followers: Vec<Farewell>,
    stayers: Vec<Farewell>,
    ending: Ending,
    courses: Vec<Course>,
}

/// Lets guests in, makes the gateway go by `act`, and looks until it is gone and all devices are online.
pub(super) async fn watch(
    kubernetes: &Kubernetes,
    cluster: &Installation,
    fleet: &Fleet,
    rules: Rules,
    (leaver, other): (&Gateway, &Gateway),
    name: &str,
    act: impl AsyncFnOnce() -> Result<()>,
) -> Result<Departure> {
    let ipconfig = cluster.ipconfig_url().await?;
    // Who is told first waits for the others to be told, and then for the gateway's patience; twice is never needed.
    let deadline = kubernetes.environment.patience(rules.deadline * 2 + UNLISTED);
    let clients = settled(|| fleet.present().len(), leaver, other).await?;
    let tokens = Tokens::new(&ipconfig)?;
    let (mut followers, mut stayers) = (JoinSet::new(), JoinSet::new());
    for number in 0..rules.guests {
        let follows = Manner::Follows(other.at(CLIENTS).to_string());
        for (manner, word, guests) in [
            (follows, "follows", &mut followers),
            (Manner::Stays, "stays", &mut stayers),
        ] {
            let device = format!("{name}-{word}-{number}");
            let token = tokens.get(&device).await?;
            let guest = Guest::arrive(&leaver.at(CLIENTS).to_string(), &device, &token).await?;
            guests.spawn(guest.stay(manner, deadline));
        }
    }

    let since = fleet.now();
    let mut unanswered = 0;
    let unlisting = async {
        wait_until_polled("it isn't listed any more", UNLISTED, ASK, async || {
            let names = match listed(&ipconfig).await {
                Ok(names) => names,
                // The pod that was asked goes as well, and a proxy on a busy machine is late to know.
                Err(error) => {
                    unanswered += 1;
                    return Ok(Seen::NotYet(vec![format!("{error:#}")]));
                }
            };
            Ok(if names.contains(&leaver.name) {
                Seen::NotYet(names)
            } else {
                Seen::Yes(Instant::now())
            })
        })
        .await
    };
    let ending = cluster.namespace.ending(&leaver.name, deadline);
    let (acted, unlisted_at, ending) = tokio::join!(act(), unlisting, ending);
    acted?;
    let (unlisted_at, ending) = (unlisted_at?, ending?);
    fleet.all_online(ONLINE).await?;
    let present = fleet.present();
    let courses = fleet.courses(since).into_iter();
    Ok(Departure {
        clients,
        since,
        // From the pod's deletion on: what the command does before it is its own.
        unlisted: unlisted_at.saturating_duration_since(ending.begun),
        unlisted_at,
        unanswered,
        followers: all(followers).await.context("a client that follows")?,
        stayers: all(stayers).await.context("a client that stays")?,
        ending,
        courses: courses
            .filter(|(device, _)| present.contains(device))
            .map(|(_, course)| course)
            .collect(),
    })
}

/// How many devices a gateway has, once the two have all that are `present`: their pages come every second, and who has just left may
/// not be gone yet.
pub(super) async fn settled(
    present: impl Fn() -> usize,
    gateway: &Gateway,
    other: &Gateway,
) -> Result<usize> {
    wait_until_polled("the gateways have the fleet", UNLISTED, ASK, async || {
        let (here, there) = (gateway.connections().await?, other.connections().await?);
        let present = present();
        Ok(if here + there == present {
            Seen::Yes(here)
        } else {
            Seen::NotYet((here, there, present))
        })
    })
    .await
}

async fn all(mut guests: JoinSet<Result<Farewell>>) -> Result<Vec<Farewell>> {
    let mut seen = Vec::new();
    while let Some(farewell) = guests.join_next().await {
        seen.push(farewell??);
    }
    Ok(seen)
}

impl Departure {
    /// All of it as figures and limits, whose names begin with `name`.
    pub(super) fn judge(&self, report: &mut Report, name: &str, fleet: &Fleet, rules: Rules) {
        let told = self.devices(report, name);
        report.figure(&format!("{name}_began_at_seconds"), self.since.as_secs_f64());
        let losses = self.courses.iter().flat_map(|course| &course.losses);
        for (number, loss) in losses.take(3).enumerate() {
            let seconds = |at: Duration| at.saturating_sub(self.since).as_secs_f64();
            let (told, back) = (loss.told.map(seconds), loss.online.map(seconds));
            report.figure(
                &format!("{name}_loss_{number}"),
                format!("at {:.3} s, told {told:.3?}, back {back:.3?}", seconds(loss.at)),
            );
        }
        self.guests(report, name, rules);
        self.pace(report, name, &told, fleet, rules);
        self.end(report, name);
    }

    /// Every device of the gateway was told to go and went on elsewhere with its session, and no other noticed anything;
    /// returns when they were told.
    fn devices(&self, report: &mut Report, name: &str) -> Vec<Duration> {
        let moves = || self.courses.iter().flat_map(|course| &course.moves);
        let number = |which: &dyn Fn(&Course) -> bool| {
            count(self.courses.iter().filter(|course| which(course)).count() as u64)
        };
        let mut exactly = |what: &str, value: f64, bound: f64| {
            report.exactly(&format!("{name}_{what}"), value, bound);
        };
        exactly(
            "devices_moved",
            number(&|course| !course.moves.is_empty()),
            count(self.clients as u64),
        );
        exactly(
            "devices_moved_twice",
            number(&|course| course.moves.len() > 1),
            0.0,
        );
        exactly(
            "devices_that_lost_a_connection",
            number(&|course| !course.losses.is_empty()),
            0.0,
        );
        exactly(
            "devices_told_and_not_moved",
            number(&|course| course.moving.is_some()),
            0.0,
        );
        exactly("devices_closed", number(&|course| course.closed.is_some()), 0.0);
        let strangers = moves().filter(|moved| !moved.resumed).count();
        exactly("moves_without_the_session", count(strangers as u64), 0.0);
        let mut took: Vec<f64> = moves()
            .map(|moved| (moved.online - moved.told).as_secs_f64() * 1e3)
            .collect();
        took.sort_by(f64::total_cmp);
        for (what, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            report.figure(&format!("{name}_move_{what}_ms"), quantile(&took, share));
        }
        report.at_most(&format!("{name}_move_p99_ms"), quantile(&took, 0.99), 2_000.0);
        moves().map(|moved| moved.told).collect()
    }

    fn guests(&self, report: &mut Report, name: &str, rules: Rules) {
        let expected = count(rules.guests as u64);
        let all = || self.followers.iter().chain(&self.stayers);
        let mut exactly = |what: &str, value: usize, bound: f64| {
            report.exactly(&format!("{name}_{what}"), count(value as u64), bound);
        };
        let told = all().filter(|seen| seen.code == Some(Code::Draining));
        exactly("clients_told_as_draining", told.count(), expected * 2.0);
        let resets = all().filter(|seen| seen.ended == Ended::Reset);
        exactly("clients_reset", resets.count(), 0.0);
        let resumed = self.followers.iter().filter(|seen| seen.resumed == Some(true));
        exactly("followers_resumed", resumed.count(), expected);
        let closed = self
            .stayers
            .iter()
            .filter(|seen| seen.ended.code() == Some(Code::Draining));
        exactly("stayers_closed_as_draining", closed.count(), expected);
        // Closed before the time that GO_AWAY named would be a lie.
        let early = self.stayers.iter().filter(|seen| {
            seen.told
                .is_none_or(|told| seen.ended_at - told + JITTER < seen.patience)
        });
        exactly("stayers_closed_early", early.count(), 0.0);
    }

    fn pace(&self, report: &mut Report, name: &str, told: &[Duration], fleet: &Fleet, rules: Rules) {
        let guests = self.followers.iter().chain(&self.stayers);
        let guests: Vec<_> = guests.filter_map(|seen| seen.told).collect();
        let mut moments = told.to_vec();
        moments.extend(guests.iter().map(|told| fleet.at(*told)));
        let pace = Pace::of(&moments);
        let rate = f64::from(rules.rate);
        report.figure(&format!("{name}_told_within_seconds"), pace.seconds);
        // A quarter of a second's worth may be told at once, and arrives a little sooner or later than that.
        report.always_at_most(
            &format!("{name}_told_in_the_fullest_second"),
            count(pace.most_in_a_second as u64),
            rate * 1.5,
        );
        report.at_most(&format!("{name}_told_per_second"), pace.per_second(), rate * 1.1);
        report.at_least(
            &format!("{name}_told_per_second_at_least"),
            pace.per_second(),
            rate * 0.8,
        );

        // Its pods are asked until every proxy knows that they end.
        report.at_most(
            &format!("{name}_questions_without_answer"),
            count(self.unanswered),
            0.0,
        );
        report.figure(
            &format!("{name}_seconds_until_unlisted"),
            self.unlisted.as_secs_f64(),
        );
        report.at_most(
            &format!("{name}_seconds_until_unlisted"),
            self.unlisted.as_secs_f64(),
            3.0,
        );
        let first = moments.iter().min().copied().unwrap_or_default();
        let begun = fleet.at(self.ending.begun);
        report.figure(
            &format!("{name}_seconds_until_the_first_was_told"),
            first.saturating_sub(self.since).as_secs_f64(),
        );
        let early = first + JITTER < begun + rules.propagation;
        report.exactly(
            &format!("{name}_told_before_everybody_knew"),
            f64::from(u8::from(early)),
            0.0,
        );
        let listed = first < fleet.at(self.unlisted_at);
        report.exactly(
            &format!("{name}_told_while_still_listed"),
            f64::from(u8::from(listed)),
            0.0,
        );
    }

    fn end(&self, report: &mut Report, name: &str) {
        let ending = &self.ending;
        report.figure(&format!("{name}_grace_seconds"), ending.grace.as_secs_f64());
        report.always_at_most(
            &format!("{name}_seconds_until_the_pod_was_gone"),
            ending.took.as_secs_f64(),
            ending.grace.as_secs_f64(),
        );
        report.figure(&format!("{name}_exits"), format!("{:?}", ending.exits));
        let well = ending.exits.values().filter(|code| **code == 0).count();
        report.exactly(
            &format!("{name}_containers_that_ended_badly"),
            count(ending.containers.saturating_sub(well) as u64),
            0.0,
        );
    }
}

/// Of sorted values; not a number if there are none.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    match sorted.len() {
        0 => f64::NAN,
        length => sorted[rank.clamp(1, length) - 1],
    }
}
