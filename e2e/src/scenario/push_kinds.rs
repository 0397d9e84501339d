//! Every kind of downlink by the commands that people use: to a device, to 10,000 from a file, to a group, to all whom a filter lets
//! through; what is answered per device, and what each device got.

mod crowd;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use imaccess_common::business::{BusinessConfig, SlowConsumer};
use imaccess_wire::Code;
use serde_json::Value;

use self::crowd::Crowd;
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until};
use crate::{Cluster, Options, command};

/// A business whose pushes a slow device refuses.
const BUSINESS: &str = "news";
const BUSINESS_ID: u32 = 20;
/// Of a push that fills a slow device's queue in a few.
const LONG: usize = 50_000;
/// Of the pushes whose answers are looked at: what is left of a queue takes some of these.
const USUAL: usize = 500;
const DEADLINE: Duration = Duration::from_secs(60);

/// How many devices of each kind.
struct Counts {
    crowd: usize,
    left: usize,
    never: usize,
    kicked: usize,
    slow: usize,
}

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let counts = Counts {
        crowd: size.pick(180, 9_000),
        left: size.pick(6, 300),
        never: size.pick(8, 500),
        kicked: size.pick(4, 100),
        slow: size.pick(2, 100),
    };
    let business = BusinessConfig {
        slow_consumer: SlowConsumer::DropNewest,
        ..BusinessConfig::new(BUSINESS_ID, BUSINESS, "http://127.0.0.1:1")
    };
    let cluster = Cluster::start(Options {
        gateways: 2,
        processes: true,
        businesses: vec![business],
        ..Options::default()
    })
    .await?;
    let directory = tempfile::tempdir()?;
    let by_hand = ByHand {
        cluster: &cluster,
        directory: directory.path(),
    };
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let mut report = Report::new("push-kinds", size, seed);

    let crowd = Crowd::connect(&cluster.view.gateways, &tokens, counts.crowd).await?;
    let names = |prefix: &str, count: usize| -> Vec<String> {
        (0..count).map(|number| format!("{prefix}-{number}")).collect()
    };
    let (left, never) = (names("left", counts.left), names("never", counts.never));
    crowd::come_and_go(&cluster.view.gateways, &tokens, &left).await?;
    let kicked = names("kicked", counts.kicked);
    let to_kick = tokens
        .clients(&cluster.view.gateways, "kicked", counts.kicked)
        .await?;
    let slow = names("slow", counts.slow);
    let slow_clients = crowd::slow(&cluster.view.gateways, &tokens, &slow).await?;

    // Who is kicked hears why, and is offline then.
    let answer = by_hand
        .devices(&["kick", "--reason", "the game is over"], &kicked)
        .await?;
    count(&mut report, "kicked", &answer, &kicked, "kicked");
    let mut not_told = 0;
    for mut client in to_kick {
        let said = crowd::close_of(&mut client, DEADLINE).await?;
        not_told += usize::from(said != Some((Code::Kicked, "the game is over".to_owned())));
    }
    always_none(&mut report, "kicked_devices_that_werent_told_why", not_told);
    let gone: Vec<String> = left.iter().chain(&kicked).chain(&never).cloned().collect();
    by_hand.until_all(&["online"], &gone, "offline").await?;

    // A slow device refuses what its queue has no room for.
    let usual = "x".repeat(USUAL);
    for data in [&"x".repeat(LONG), &usual] {
        let words = ["push", "--business", BUSINESS, "--data", data];
        by_hand.until_all(&words, &slow, "refused").await?;
    }

    // All of them, from a file.
    let everybody: Vec<String> = crowd.names().iter().chain(&gone).chain(&slow).cloned().collect();
    let answer = by_hand
        .devices(
            &[
                "push",
                "--business",
                BUSINESS,
                "--data",
                &format!("from a file|{usual}"),
            ],
            &everybody,
        )
        .await?;
    report.figure("devices_in_the_file", everybody.len());
    // What the kernel doesn't take at once is queued.
    let on_its_way = "written queued";
    count(
        &mut report,
        "on_its_way_to_the_crowd",
        &answer,
        crowd.names(),
        on_its_way,
    );
    count(&mut report, "offline", &answer, &gone, "offline");
    count(&mut report, "slow_refused", &answer, &slow, "refused");
    drop(slow_clients);
    crowd.all_got("from a file", crowd.names(), &mut report).await?;

    // More than waits for a gateway at once: the command goes as fast as they take it.
    let long = format!("long|{}", "x".repeat(LONG));
    let words = ["push", "--business", BUSINESS, "--data", &long];
    let answer = by_hand.devices(&words, crowd.names()).await?;
    count(&mut report, "long_on_its_way", &answer, crowd.names(), on_its_way);
    crowd.all_got("long", crowd.names(), &mut report).await?;

    // One.
    let one = &crowd.names()[..1];
    let answer = by_hand.devices(&["push", "--data", "to one"], one).await?;
    count(&mut report, "one", &answer, one, "written");
    crowd.all_got("to one", one, &mut report).await?;

    group(&by_hand, &crowd, size.pick(20, 500), &mut report).await?;
    broadcasts(&by_hand, &crowd, counts.slow, &mut report).await?;
    crowd.nobody_got_twice(&mut report);
    drop(crowd);
    cluster.stop(&[]).await?;
    Ok(report)
}

/// A group from its making to its end.
async fn group(by_hand: &ByHand<'_>, crowd: &Crowd, size: usize, report: &mut Report) -> Result<()> {
    let members = &crowd.names()[..size];
    let answer = by_hand.devices(&["group", "create", "room"], members).await?;
    count(report, "joined", &answer, members, "joined");
    let listed = by_hand
        .json(&["group", "members", "room", "--limit", "10000"])
        .await?;
    report.exactly("members_counted", number(&listed, "count")?, whole(size));
    // A listing names app and device of each.
    let text = listed.to_string();
    let missing = members
        .iter()
        .filter(|name| !text.contains(&format!("\"{name}\"")));
    always_none(report, "members_not_listed", missing.count());
    by_hand
        .json(&["push", "--group", "room", "--data", "to the room"])
        .await?;
    crowd.all_got("to the room", members, report).await?;
    let leavers = &members[..size / 2];
    let answer = by_hand.devices(&["group", "leave", "room"], leavers).await?;
    count(report, "left_the_group", &answer, leavers, "left");
    by_hand
        .json(&["push", "--group", "room", "--data", "to the rest"])
        .await?;
    crowd.all_got("to the rest", &members[size / 2..], report).await?;
    let ended = by_hand.json(&["group", "destroy", "room"]).await?;
    report.exactly(
        "memberships_ended",
        number(&ended, "count")?,
        whole(size - size / 2),
    );
    let listed = by_hand.json(&["group", "members", "room"]).await?;
    report.exactly("members_after_the_end", number(&listed, "count")?, 0.0);
    Ok(())
}

/// To all, and to some of them by a filter.
async fn broadcasts(by_hand: &ByHand<'_>, crowd: &Crowd, others: usize, report: &mut Report) -> Result<()> {
    let all = by_hand.json(&["push", "--all", "--data", "to all"]).await?;
    let least = whole(crowd.names().len());
    report.figure("broadcast_devices", all["devices"].clone());
    // The slow ones have gone, but perhaps not all of them yet.
    let devices = number(&all, "devices")?;
    always_none(
        report,
        "broadcast_devices_missing_or_too_many",
        usize::from(!(least..=least + whole(others)).contains(&devices)),
    );
    crowd.all_got("to all", crowd.names(), report).await?;
    for (filter, text, who) in crowd::FILTERS {
        let sent = by_hand
            .json(&["push", "--all", "--filter", filter, "--data", text])
            .await?;
        let wanted: Vec<String> = crowd.who(who);
        report.exactly(
            &format!("devices_{text}"),
            number(&sent, "devices")?,
            whole(wanted.len()),
        );
        crowd.all_got(text, &wanted, report).await?;
    }
    Ok(())
}

/// What is done by the commands.
struct ByHand<'a> {
    cluster: &'a Cluster,
    directory: &'a Path,
}

impl ByHand<'_> {
    /// A command for devices from a file: what became of each.
    async fn devices(&self, words: &[&str], devices: &[String]) -> Result<BTreeMap<String, String>> {
        let file = self.file(devices)?;
        let file = file.to_string_lossy();
        let mut words = words.to_vec();
        words.extend(["--devices", &file]);
        let answer = self.json(&words).await?;
        let rows = answer["devices"].as_array().context("no devices in the answer")?;
        ensure!(
            rows.len() == devices.len(),
            "{} answers for {} devices",
            rows.len(),
            devices.len()
        );
        let row = |row: &Value| {
            let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
            (text("device"), text("outcome"))
        };
        Ok(rows.iter().map(row).collect())
    }

    /// Repeats a command until all devices have this outcome.
    async fn until_all(&self, words: &[&str], devices: &[String], outcome: &str) -> Result<()> {
        wait_until(
            &format!("{} says {outcome} of all", words[0]),
            DEADLINE,
            async || {
                let answer = self.devices(words, devices).await?;
                let others: BTreeSet<&str> = answer
                    .values()
                    .map(String::as_str)
                    .filter(|other| *other != outcome)
                    .collect();
                Ok(if others.is_empty() {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(format!("{others:?}"))
                })
            },
        )
        .await
    }

    /// A command's answer. Devices that weren't reached make it fail; what it printed counts.
    async fn json(&self, words: &[&str]) -> Result<Value> {
        let mut arguments = words.to_vec();
        arguments.extend(["--json", "--push", &self.cluster.view.push_grpc]);
        let output = command::run(Some(&self.cluster.view.ipconfig), &arguments, DEADLINE).await?;
        let printed = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(printed.trim()).with_context(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("imaccess {} printed {printed:?} and said {said}", words.join(" "))
        })
    }

    fn file(&self, devices: &[String]) -> Result<PathBuf> {
        let path = self.directory.join("devices.txt");
        let mut text = String::new();
        for device in devices {
            writeln!(text, "{device}")?;
        }
        std::fs::write(&path, text)?;
        Ok(path)
    }
}

/// How many of these devices have the outcome that they should, or one of several: all. Others are named.
fn count(
    report: &mut Report,
    name: &str,
    answer: &BTreeMap<String, String>,
    devices: &[String],
    outcome: &str,
) {
    let fits = |said: &str| outcome.split(' ').any(|outcome| outcome == said);
    let said = devices.iter().filter_map(|device| answer.get(device));
    let (fitting, others): (Vec<&String>, Vec<&String>) = said.partition(|said| fits(said));
    if !others.is_empty() {
        let others: BTreeSet<&String> = others.into_iter().collect();
        report.figure(&format!("{name}_others"), serde_json::json!(others));
    }
    report.exactly(name, whole(fitting.len()), whole(devices.len()));
}

fn always_none(report: &mut Report, name: &str, count: usize) {
    report.always_at_most(name, whole(count), 0.0);
}

fn number(answer: &Value, name: &str) -> Result<f64> {
    answer[name]
        .as_f64()
        .with_context(|| format!("no number {name} in {answer}"))
}

#[expect(clippy::cast_precision_loss, reason = "devices are counted in thousands")]
fn whole(count: usize) -> f64 {
    count as f64
}
