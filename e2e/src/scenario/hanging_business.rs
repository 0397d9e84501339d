//! A business that never answers, with requests in flight to it, beside one that does.

use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_common::business::BusinessConfig;

use super::Custody;
use crate::business::HangingBusiness;
use crate::latency::{self, Comparison, Load, ROUNDS};
use crate::raw_client::RawClient;
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until};
use crate::{Cluster, Options};

const HANGING: u32 = 2;
/// Requests in flight to it, as promised.
const IN_FLIGHT: u64 = 200;
/// Connections that they come from: no limit of one session gets in the way.
const SENDERS: usize = 10;
const DEADLINE: Duration = Duration::from_secs(30);

pub(super) async fn run(size: Size, seed: u64, custody: Custody) -> Result<Report> {
    let business = HangingBusiness::start().await?;
    let mut config = BusinessConfig::new(HANGING, "hanging", &format!("http://{}", business.address));
    // Longer than the run: what is in flight stays there until the business is told to answer.
    config.timeout = Duration::from_secs(600);
    config.concurrency = 1024;
    let cluster = Cluster::start(Options {
        gateways: 1,
        processes: true,
        no_custody: custody == Custody::Off,
        businesses: vec![config],
        ..Options::default()
    })
    .await?;
    let echo = cluster.business("echo")?;

    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let mut good = tokens
        .clients(&cluster.view.gateways, "good", size.pick(10, 50))
        .await?;
    let mut senders = tokens.clients(&cluster.view.gateways, "sender", SENDERS).await?;
    let load = Load {
        interval: Duration::from_millis(50),
        length: size.pick(Duration::from_millis(500), Duration::from_secs(5)),
        business: echo,
        payload: 128,
    };
    // Connections, caches and the businesses' streams are warm before anything is compared.
    latency::round(
        &mut good,
        Load {
            length: Duration::from_millis(500),
            ..load
        },
    )
    .await?;

    let (mut calm, mut disturbed, mut count) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let latencies = latency::round(&mut good, load).await?;
        calm.push(latencies.quantile(0.99));
        count += latencies.count();

        fill(&mut senders, &business).await?;
        let latencies = latency::round(&mut good, load).await?;
        disturbed.push(latencies.quantile(0.99));
        count += latencies.count();
        drain(&mut senders, &business).await?;
    }
    let comparison = Comparison::new(calm, disturbed, count);

    let mut report = Report::new("hanging-business", size, seed);
    report.figure("round_trips", comparison.count);
    report.figure("in_flight_to_the_hanging_business", IN_FLIGHT);
    report.figure("p99_us_without", comparison.calm_p99_us);
    report.figure("p99_us_with", comparison.disturbed_p99_us);
    report.at_most("p99_ratio", comparison.ratio(), 1.5);
    drop((good, senders));
    cluster.stop(&[]).await?;
    Ok(report)
}

async fn fill(senders: &mut [RawClient], business: &HangingBusiness) -> Result<()> {
    for sender in &mut *senders {
        for _ in 0..IN_FLIGHT / SENDERS as u64 {
            let id = sender.next_message_id();
            sender.request(HANGING, id, b"hang").await?;
        }
    }
    wait_until("all requests are at the hanging business", DEADLINE, async || {
        let waiting = business.waiting();
        Ok(if waiting == IN_FLIGHT {
            Seen::Yes(())
        } else {
            Seen::NotYet(waiting)
        })
    })
    .await
}

async fn drain(senders: &mut [RawClient], business: &HangingBusiness) -> Result<()> {
    business.release();
    for sender in senders {
        for number in 0..IN_FLIGHT / SENDERS as u64 {
            sender
                .answer()
                .await
                .with_context(|| format!("reply {number} after the release"))?;
        }
    }
    Ok(())
}
