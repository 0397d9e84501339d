//! kill -9 of the gateway and of state under load, at random moments.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use tokio::time::sleep;

use super::verdict::{self, count};
use crate::events::{self, Recorded};
use crate::raw_client::RawClient;
use crate::replace::{handover, whole};
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::witness::{Load, Witness};
use crate::{Cluster, Options};

/// Until a part is restarted and together with the others: decides nothing but when to give up.
const BACK: Duration = Duration::from_secs(60);
/// Devices that leave.
const LEAVERS: u32 = 10;
/// Some of them leave this shortly before a kill.
const SHORTLY_MS: u64 = 50;
/// Devices whose connections end without a word after everything else: once they are told as offline, everybody whose
/// session was wrongly suspended before has been too.
const LAST: usize = 8;
const TAKEN_OVER: &str = "imaccess_gateway_takeover_connections_total";
const RESULTS: [&str; 6] = [
    "adopted",
    "mid_frame",
    "login_lost",
    "closing",
    "peer_gone",
    "no_record",
];
/// Closed connections per kill, in percent of all.
const CLOSED_PERCENT: f64 = 0.5;

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let directory = tempfile::Builder::new().prefix("imac-").tempdir()?;
    let recorded = Recorded::in_directory(directory.path());
    let window = size.pick(Duration::from_secs(10), Duration::from_secs(30));
    let mut cluster = Cluster::start(Options {
        gateways: 1,
        processes: true,
        arguments: vec!["--shards".into(), "2".into()],
        environment: vec![
            recorded.variable(),
            ("IMACCESS_STATE__RESUME_WINDOW", format!("{}s", window.as_secs())),
        ],
        ..Options::default()
    })
    .await?;
    whole(&cluster, 0, BACK).await?;
    let load = Load {
        reconnect: true,
        ..Load::new(seed, size.pick(200, 15_000), size.pick(100.0, 1_000.0))
    };
    let witness = Witness::start(&cluster, load).await?;
    let mut kills = Kills {
        random: Rng::with_seed(seed),
        leavers: (0..LEAVERS).collect(),
        // A part that lived 10 s is restarted at once, one that didn't after a while that grows.
        pause_ms: size.pick(0..1_000, 5_000..7_000),
        windows: Vec::new(),
        longest_back: Duration::ZERO,
        taken_over: RESULTS.map(|result| (result, 0.0)),
    };
    let times = size.pick(3, 20);
    for number in 0..times {
        for part in ["gateway", "state"] {
            let killed = kills.one(&mut cluster, &witness, part, times - number).await;
            killed.with_context(|| format!("kill {} of {part}", number + 1))?;
        }
    }
    for leaver in kills.leavers.drain(..) {
        witness.leave(leaver);
    }

    witness.quiet().await?;
    let mut gone: Vec<String> = (0..LEAVERS).map(Witness::device).collect();
    gone.extend(silent_ends(&cluster).await?);
    recorded.offline(&gone, window + BACK).await?;
    let online = witness.count_online();
    let (all, present) = (
        witness.count_present(),
        witness.devices().into_iter().collect::<BTreeSet<_>>(),
    );
    let events = recorded.read()?;
    let testimony = witness.stop().await?;

    let mut report = Report::new("kill-gateway-and-state", size, seed);
    verdict::note(&testimony, &mut report);
    report.exactly("not_online_in_the_end", count((all - online) as u64), 0.0);
    for part in ["gateway", "state"] {
        verdict::stall(&testimony, part, &kills.of(part), &mut report);
    }
    report.figure(
        "seconds_until_all_were_back_longest",
        kills.longest_back.as_secs_f64(),
    );
    for (result, sum) in kills.taken_over {
        report.figure(&format!("taken_over_{result}"), sum);
    }
    let (plain, sdk) = (&testimony.plain, &testimony.sdk);
    let chances = count(kills.windows.len() as u64) * f64::from(load.plain + load.sdk);
    let percent = count(plain.closed() + sdk.closed()) / chances * 100.0;
    report.at_most("closed_percent_per_kill", percent, CLOSED_PERCENT);
    report.exactly("closed_without_a_code", count(plain.wordless()), 0.0);
    report.exactly(
        "closed_and_not_resumed",
        count(plain.not_resumed + sdk.not_resumed),
        0.0,
    );
    report.exactly("sdk_lost_requests", count(sdk.lost + sdk.told_retry), 0.0);
    report.exactly("sdk_doubled_replies", count(sdk.doubled), 0.0);
    verdict::nothing_forged(&testimony, &mut report);
    judge_events(&events, &present, &mut report);
    cluster.stop(&[]).await?;
    Ok(report)
}

fn judge_events(events: &[events::Event], present: &BTreeSet<String>, report: &mut Report) {
    let wrong = events::wrongly_offline(events, present);
    let examples: Vec<String> = wrong.iter().take(5).map(|event| format!("{event:?}")).collect();
    if !examples.is_empty() {
        report.figure("wrong_offline_events_examples", examples);
    }
    report.exactly("wrong_offline_events", count(wrong.len() as u64), 0.0);
    let told = events::offline(events);
    let of_leavers: Vec<u64> = (0..LEAVERS)
        .map(|leaver| told.get(Witness::device(leaver).as_str()).copied().unwrap_or(0))
        .collect();
    let missing = of_leavers.iter().filter(|times| **times == 0).count();
    report.exactly("leavers_never_told_as_offline", count(missing as u64), 0.0);
    let twice = of_leavers.iter().filter(|times| **times > 1).count();
    // At least once is the promise.
    report.figure("leavers_told_as_offline_twice", twice);
    let lost = events.iter().filter(|event| event.kind == "session-lost").count();
    report.figure("session_lost_events", lost);
}

struct Kills {
    random: Rng,
    /// Who has not left yet.
    leavers: Vec<u32>,
    /// Before a kill.
    pause_ms: Range<u64>,
    windows: Vec<(&'static str, (Duration, Duration))>,
    longest_back: Duration,
    /// What gateways did with the connections that they found, by the result's name.
    taken_over: [(&'static str, f64); 6],
}

impl Kills {
    /// One kill at a random moment, some leavers around it, and everything together again.
    async fn one(
        &mut self,
        cluster: &mut Cluster,
        witness: &Witness,
        part: &'static str,
        rounds_left: u32,
    ) -> Result<()> {
        let incarnation = handover(cluster).await?.incarnation;
        // So that they have all left after the last round: half at any time, half shortly before the kill.
        let leaving = self.leavers.len().div_ceil(2 * rounds_left as usize);
        let mut shortly = Vec::new();
        for leaver in self.leavers.drain(..leaving.min(self.leavers.len())) {
            if self.random.bool() {
                sleep(Duration::from_millis(self.random.u64(..500))).await;
                witness.leave(leaver);
            } else {
                shortly.push(leaver);
            }
        }
        sleep(Duration::from_millis(self.random.u64(self.pause_ms.clone()))).await;
        for leaver in shortly {
            witness.leave(leaver);
            sleep(Duration::from_millis(self.random.u64(..SHORTLY_MS))).await;
        }
        let begun = witness.now();
        cluster.kill(part)?;
        cluster.wait_for_restart(part, BACK).await?;
        // A new gateway has a new incarnation; state's death leaves the gateway as it is.
        let above = if part == "gateway" { incarnation } else { 0 };
        whole(cluster, above, BACK).await?;
        self.windows.push((part, (begun, witness.now())));
        if part == "gateway" {
            // Each process counts its own takeover.
            for (result, sum) in &mut self.taken_over {
                *sum += cluster.sum(part, TAKEN_OVER, &[("result", result)]).await?;
            }
        }
        witness.online(BACK).await?;
        self.longest_back = self.longest_back.max(witness.now() - begun);
        Ok(())
    }

    fn of(&self, part: &str) -> Vec<(Duration, Duration)> {
        let of_part = self.windows.iter().filter(|(killed, _)| *killed == part);
        of_part.map(|(_, window)| *window).collect()
    }
}

/// Connections that end without a word; the devices' names.
async fn silent_ends(cluster: &Cluster) -> Result<Vec<String>> {
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let mut names = Vec::new();
    for number in 0..LAST {
        let device = format!("last-{number}");
        let token = tokens.get(&device).await?;
        drop(RawClient::online(cluster.gateway(), &device, &token).await?);
        names.push(device);
    }
    Ok(names)
}
