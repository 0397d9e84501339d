//! Four businesses that misbehave, each in its own way, under requests all the time: the one that doesn't must not feel it, calls to
//! the bad ones end fast with a code, and when they behave again they hear everything that happened, in order per device.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use imaccess_common::business::BusinessConfig;
use imaccess_proto::v1::{ConnectionEvent, EventKind};
use imaccess_wire::Code;
use imaccess_wire::frame::Close;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::business::scripted::{Manner, ScriptedBusiness};
use crate::latency::{self, Comparison, Load, ROUNDS};
use crate::raw_client::RawClient;
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until};
use crate::{Cluster, Options};

/// The bad ones, in the order of their ids.
const NAMES: [&str; 4] = ["hanging", "erring", "slow", "restarting"];
const FIRST_ID: u32 = 10;
/// What they have to answer in.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The slow one takes this long.
const SLOWNESS: Duration = Duration::from_millis(400);
/// Faster than this is fast: well below the timeout, and above what two busy cores make of a millisecond.
const FAST: Duration = Duration::from_millis(250);
/// How long the bad ones are under load before anything is compared: circuits open after some timeouts in a row.
const WARM: Duration = Duration::from_secs(3);
/// Between two ends of the restarting one.
const UP_AND_DOWN: Duration = Duration::from_millis(300);
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let mut bad = Vec::new();
    for manner in [Manner::Echo; NAMES.len()] {
        bad.push(ScriptedBusiness::start(manner).await?);
    }
    let cluster = Cluster::start(Options {
        gateways: 1,
        processes: true,
        businesses: NAMES.iter().zip(&bad).zip(FIRST_ID..).map(configured).collect(),
        ..Options::default()
    })
    .await?;
    let echo = cluster.business("echo")?;
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let mut good = tokens
        .clients(&cluster.view.gateways, "good", size.pick(10, 50))
        .await?;
    let load = Load {
        interval: Duration::from_millis(50),
        length: size.pick(Duration::from_millis(500), Duration::from_secs(5)),
        business: echo,
        payload: 128,
    };
    latency::round(&mut good, load).await?;

    let (mut calm, mut disturbed, mut count) = (Vec::new(), Vec::new(), 0);
    let mut answers = Answers::default();
    let mut guests = 0;
    for _ in 0..size.pick(2, ROUNDS) {
        let latencies = latency::round(&mut good, load).await?;
        calm.push(latencies.quantile(0.99));
        count += latencies.count();

        let manners = [
            Manner::Hang,
            Manner::Fail(Code::BusinessFailed as u32),
            Manner::Late(SLOWNESS),
            Manner::Echo,
        ];
        for (business, manner) in bad.iter().zip(manners) {
            business.behave(manner);
        }
        let (stop, stopped) = watch::channel(false);
        let asking = ask_all(&tokens, &cluster, size.pick(1, 5), &stopped).await?;
        let mut restarting = bad.pop().context("the restarting business")?;
        let restarts = tokio::spawn(async move {
            while !*stopped.borrow() {
                restarting.stop().await;
                tokio::time::sleep(UP_AND_DOWN).await;
                restarting.start_again()?;
                tokio::time::sleep(UP_AND_DOWN).await;
            }
            anyhow::Ok(restarting)
        });
        tokio::time::sleep(WARM).await;
        guests += come_and_go(&tokens, &cluster, guests, size.pick(3, 20)).await?;
        let latencies = latency::round(&mut good, load).await?;
        disturbed.push(latencies.quantile(0.99));
        count += latencies.count();
        stop.send_replace(true);
        bad.push(restarts.await??);
        answers.add(asking.collect(WARM).await?);
        for business in &bad {
            business.behave(Manner::Echo);
        }
        // One that hung took nothing from its streams: they are dialled anew.
        bad[0].stop().await;
        bad[0].start_again()?;
        all_answer(&tokens, &cluster).await?;
    }
    for (business, name) in bad.iter().zip(NAMES) {
        heard_everything(business, name, guests).await?;
    }

    let comparison = Comparison::new(calm, disturbed, count);
    let mut report = Report::new("bad-businesses", size, seed);
    report.figure("round_trips", comparison.count);
    report.figure("p99_us_without", comparison.calm_p99_us);
    report.figure("p99_us_with", comparison.disturbed_p99_us);
    report.at_most("p99_ratio", comparison.ratio(), 1.5);
    report.figure("guests_that_came_and_went", guests);
    answers.judge(&mut report);
    drop(good);
    cluster.stop(&[]).await?;
    Ok(report)
}

fn configured(((name, business), id): ((&&str, &ScriptedBusiness), u32)) -> BusinessConfig {
    BusinessConfig {
        timeout: TIMEOUT,
        events: true,
        ..BusinessConfig::new(id, name, &format!("http://{}", business.address))
    }
}

/// Answers of one bad business, after it had been bad for a while: code and time.
#[derive(Debug, Default)]
struct Answers(BTreeMap<usize, Vec<(u16, Duration)>>);

impl Answers {
    fn add(&mut self, other: Answers) {
        for (which, answers) in other.0 {
            self.0.entry(which).or_default().extend(answers);
        }
    }

    fn judge(&self, report: &mut Report) {
        for (which, name) in NAMES.into_iter().enumerate() {
            let answers = self.0.get(&which).map_or(&[][..], Vec::as_slice);
            let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
            for (code, _) in answers {
                *codes
                    .entry(Code::from_u16(*code).map_or("other", Code::name))
                    .or_default() += 1;
            }
            report.figure(&format!("{name}_answers"), answers.len());
            report.figure(&format!("{name}_codes"), serde_json::json!(codes));
            #[expect(clippy::cast_precision_loss, reason = "answers are counted in thousands")]
            let share = |fits: &dyn Fn(u16, Duration) -> bool| {
                let fitting = answers.iter().filter(|(code, time)| fits(*code, *time)).count();
                fitting as f64 / answers.len().max(1) as f64
            };
            let late = share(&|_, time| time > TIMEOUT + FAST);
            report.always_at_most(&format!("{name}_share_later_than_the_timeout"), late, 0.01);
            let (allowed, most_slow): (&[Code], f64) = match name {
                "hanging" => (
                    &[Code::BusinessUnavailable, Code::DeadlineExceeded, Code::Busy],
                    0.1,
                ),
                "erring" => (&[Code::BusinessFailed, Code::BusinessUnavailable], 0.1),
                "slow" => (&[Code::Ok], 1.0),
                _ => (&[Code::Ok, Code::Retry, Code::BusinessUnavailable], 0.1),
            };
            let other = share(&|code, _| !allowed.iter().any(|allowed| *allowed as u16 == code));
            report.always_at_most(&format!("{name}_share_of_other_codes"), other, 0.0);
            let slow = share(&|_, time| time > FAST);
            report.at_most(&format!("{name}_share_slower_than_250_ms"), slow, most_slow);
        }
    }
}

/// Clients that ask the bad businesses, one request after the other.
struct Asking(JoinSet<Result<(usize, Vec<Answer>)>>, Instant);

/// Code, time, and when it was asked.
type Answer = (u16, Duration, Instant);

async fn ask_all(
    tokens: &Tokens,
    cluster: &Cluster,
    each: usize,
    stopped: &watch::Receiver<bool>,
) -> Result<Asking> {
    let mut tasks = JoinSet::new();
    for (which, id) in (0..NAMES.len()).zip(FIRST_ID..) {
        let prefix = format!("asks-{}", NAMES[which]);
        for client in tokens.clients(&cluster.view.gateways, &prefix, each).await? {
            let stopped = stopped.clone();
            tasks.spawn(async move { Ok((which, ask(client, id, &stopped).await?)) });
        }
    }
    Ok(Asking(tasks, Instant::now()))
}

impl Asking {
    /// What was answered, but for the beginning.
    async fn collect(mut self, but: Duration) -> Result<Answers> {
        let mut answers = Answers::default();
        while let Some(ended) = self.0.join_next().await {
            let (which, all) = ended??;
            let of = answers.0.entry(which).or_default();
            let late = all.into_iter().filter(|(_, _, at)| *at - self.1 >= but);
            of.extend(late.map(|(code, time, _)| (code, time)));
        }
        Ok(answers)
    }
}

async fn ask(mut client: RawClient, business: u32, stopped: &watch::Receiver<bool>) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    while !*stopped.borrow() {
        let (id, since) = (client.next_message_id(), Instant::now());
        let (code, _) = client.call(business, id, b"?").await?;
        answers.push((code, since.elapsed(), since));
        // What is refused at once isn't asked again at once, or the load would be that of a flood.
        if since.elapsed() < Duration::from_millis(20) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(answers)
}

/// Devices log in and say goodbye, each twice; how many they were.
async fn come_and_go(tokens: &Tokens, cluster: &Cluster, before: usize, count: usize) -> Result<usize> {
    let gateway = cluster.view.gateways.first().context("a gateway")?;
    for number in before..before + count {
        let device = guest(number);
        let token = tokens.get(&device).await?;
        for _ in 0..2 {
            let (mut client, _) = RawClient::online(&gateway.tcp, &device, &token).await?;
            let mut goodbye = Vec::new();
            Close::with_code(Code::ClientLeft).encode(&mut goodbye);
            client.send(&goodbye).await?;
            client.ended(DEADLINE).await?;
        }
    }
    Ok(count)
}

fn guest(number: usize) -> String {
    format!("guest-{number}")
}

/// Waits until every business answers again.
async fn all_answer(tokens: &Tokens, cluster: &Cluster) -> Result<()> {
    let mut clients = tokens.clients(&cluster.view.gateways, "looks", 1).await?;
    let client = clients.first_mut().context("a client")?;
    for (name, id) in NAMES.into_iter().zip(FIRST_ID..) {
        wait_until(
            &format!("the {name} business answers again"),
            DEADLINE,
            async || {
                let number = client.next_message_id();
                let (code, _) = client.call(id, number, b"?").await?;
                Ok(if code == 0 {
                    Seen::Yes(())
                } else {
                    Seen::NotYet(code)
                })
            },
        )
        .await?;
    }
    Ok(())
}

/// Waits until a business has heard of every guest's coming and going, and checks the order.
async fn heard_everything(business: &ScriptedBusiness, name: &str, guests: usize) -> Result<()> {
    wait_until(
        &format!("the {name} business has heard everything"),
        DEADLINE,
        async || {
            let events = business.events();
            let missing: Vec<String> = (0..guests)
                .map(guest)
                .filter(|device| !is_whole(&history(&events, device)))
                .collect();
            Ok(if missing.is_empty() {
                Seen::Yes(())
            } else {
                let first = &missing[0];
                Seen::NotYet(format!(
                    "{} of {guests}, such as {first}: {:?}",
                    missing.len(),
                    history(&events, first)
                ))
            })
        },
    )
    .await?;
    let events = business.events();
    ensure!(
        events.iter().all(|event| event.kind() != EventKind::ResyncNeeded),
        "{name}: events were dropped"
    );
    for device in (0..guests).map(guest) {
        let heard = history(&events, &device);
        // Within one login a device comes before it goes; between logins the epoch says which is the later one.
        let in_order = heard
            .chunk_by(|(one, _), (other, _)| one == other)
            .all(|login| login.first().is_some_and(|(_, kind)| *kind == EventKind::Online));
        if !is_whole(&heard) || !in_order {
            bail!("{name} heard of {device}: {heard:?}");
        }
    }
    Ok(())
}

/// Whether a guest's two visits were told: each coming, and that it has gone. A device that is back before routing has confirmed that it
/// had gone was never offline.
fn is_whole(heard: &[(u64, EventKind)]) -> bool {
    let comings = heard
        .iter()
        .filter(|(_, kind)| *kind == EventKind::Online)
        .count();
    let gone = heard.last().is_some_and(|(_, kind)| *kind == EventKind::Offline);
    comings == 2 && gone
}

/// What was heard of a device, each for the first time, as events may come again; by epoch, for what different shards tell of one device
/// has no other order.
fn history(events: &[ConnectionEvent], device: &str) -> Vec<(u64, EventKind)> {
    let mut heard = Vec::new();
    for event in events.iter().filter(|event| event.device == device) {
        let one = (event.epoch, event.kind());
        if !heard.contains(&one) {
            heard.push(one);
        }
    }
    heard.sort_by_key(|(epoch, _)| *epoch);
    heard
}
