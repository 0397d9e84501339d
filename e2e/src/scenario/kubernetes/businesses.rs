//! A business is added by one change of the specification: every running pod serves it soon, and none is restarted for it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use imaccess_operator_api::names::Part;
use imaccess_sdk::{Client, RequestOptions};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::verdict::count;
use super::drain::{ECHO, LISTED, echo};
use crate::fleet::{Fleet, Plan};
use crate::kubernetes::echo::business;
use crate::kubernetes::{Installation, Kubernetes, small_spec, with_kubernetes};
use crate::raw_client::{ANSWER, APP};
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until};

/// The number of the one that is added.
const SECOND: u32 = 2;
/// As promised.
const SERVED: f64 = 10.0;
/// Until it is a finding at every size.
const SERVED_AT_ALL: Duration = Duration::from_secs(60);
/// For one try; it is refused at once by who doesn't know the business.
const TRY: Duration = Duration::from_secs(1);

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    with_kubernetes("k8s-businesses", async |kubernetes| {
        add(kubernetes, size, seed).await
    })
    .await
}

async fn add(kubernetes: &Kubernetes, size: Size, seed: u64) -> Result<Report> {
    let namespace = kubernetes.namespace("").await?;
    kubernetes.operator(&namespace).await?;
    let first = namespace.echo(kubernetes, "echo").await?;
    let second = namespace.echo(kubernetes, "second").await?;
    let mut spec = small_spec(kubernetes.environment.image()?);
    spec.state.replicas = 2;
    spec.ipconfig.replicas = 2;
    spec.businesses = vec![echo(&first)];
    let cluster = namespace.cluster("demo", spec).await?;
    cluster.ready(kubernetes).await?;
    let gateways = cluster.gateways_listed(kubernetes, 2, LISTED).await?;
    let ipconfig = cluster.ipconfig_url().await?;
    let fleet = Fleet::connect(
        &ipconfig,
        Plan {
            seed,
            prefix: "device",
            devices: size.pick(20, 200),
            business: ECHO,
            every: Some(Duration::from_millis(500)),
            group: None,
            only: None,
        },
    )
    .await?;
    // One device on each gateway, so that each is asked.
    let mut asking = Vec::new();
    for gateway in &gateways {
        let device = format!("asks-{}", gateway.name.chars().rev().take(5).collect::<String>());
        let token = Tokens::new(&ipconfig)?.get(&device).await?;
        let client = Client::builder(&ipconfig, APP, &device)
            .token(token)
            .endpoints([gateway.endpoint()])
            .connect()
            .await
            .with_context(|| format!("a device on {}", gateway.name))?;
        asking.push(client);
    }
    let mut report = Report::new("k8s-businesses", size, seed);
    let served_before = asking_all(&asking).await;
    report.exactly("gateways_that_served_it_before", count(served_before as u64), 0.0);
    let (pods, since) = (containers(&cluster).await?, fleet.now());

    let added = business(2, "second", &second);
    let businesses = json!([echo(&first), business_with_groups(added)]);
    cluster
        .patch(&json!({"spec": {"businesses": businesses}}))
        .await?;
    let begun = Instant::now();
    let mut served = Vec::new();
    for client in &asking {
        let at = wait_until("the business is served", SERVED_AT_ALL, async || {
            Ok(if asks(client).await {
                Seen::Yes(begun.elapsed())
            } else {
                Seen::NotYet(())
            })
        });
        served.push(at);
    }
    let named = named(&cluster, begun);
    let pushed = pushed(&cluster, &asking[0], begun);
    let (served, named, pushed) = tokio::join!(futures_util::future::join_all(served), named, pushed);
    let served: Vec<Duration> = served.into_iter().collect::<Result<_>>()?;
    let slowest = served.iter().max().copied().unwrap_or_default();
    for (what, time) in [
        ("served", slowest),
        ("named_by_ipconfig", named?),
        ("pushed_to", pushed?),
    ] {
        report.at_most(&format!("seconds_until_{what}"), time.as_secs_f64(), SERVED);
        report.always_at_most(
            &format!("seconds_until_{what}_at_all"),
            time.as_secs_f64(),
            SERVED_AT_ALL.as_secs_f64(),
        );
    }

    cluster.ready(kubernetes).await?;
    let after = containers(&cluster).await?;
    let changed = pods.iter().filter(|(name, what)| after.get(*name) != Some(what));
    report.figure("containers", pods.len());
    report.exactly(
        "containers_replaced_or_restarted",
        count(changed.count() as u64),
        0.0,
    );
    report.exactly(
        "containers_added",
        count(after.len() as u64) - count(pods.len() as u64),
        0.0,
    );
    let disturbed = fleet
        .courses(since)
        .into_iter()
        .filter(|(_, course)| *course != Default::default());
    report.exactly("devices_disturbed", count(disturbed.count() as u64), 0.0);
    let traffic = fleet.traffic();
    report.figure("requests_of_the_first", traffic.asked);
    report.exactly("requests_of_the_first_that_failed", count(traffic.failures), 0.0);
    fleet.close().await;
    for client in asking {
        client.close().await;
    }
    Ok(report)
}

fn business_with_groups(
    mut business: imaccess_operator_api::business::BusinessSpec,
) -> imaccess_operator_api::business::BusinessSpec {
    business.client_groups = true;
    business
}

async fn asks(client: &Client) -> bool {
    let reply = client
        .request_with(SECOND, "are you there?", RequestOptions::within(TRY))
        .await;
    reply.is_ok_and(|reply| &reply.payload[..] == b"are you there?")
}

async fn asking_all(clients: &[Client]) -> usize {
    let mut served = 0;
    for client in clients {
        served += usize::from(asks(client).await);
    }
    served
}

/// When every ipconfig replica names it to people's commands.
async fn named(cluster: &Installation, begun: Instant) -> Result<Duration> {
    let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build()?;
    let pods = cluster.pods(Part::Ipconfig).await?;
    for pod in &pods {
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref());
        let url = format!(
            "http://{}:8000/v1/businesses",
            ip.context("a pod without address")?
        );
        wait_until(&format!("{url} names it"), SERVED_AT_ALL, async || {
            let text = http.get(&url).send().await?.text().await?;
            let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
            let mut names = answer["businesses"].as_array().into_iter().flatten();
            Ok(if names.any(|business| business["name"] == "second") {
                Seen::Yes(())
            } else {
                Seen::NotYet(text)
            })
        })
        .await?;
    }
    Ok(begun.elapsed())
}

/// When a device that has joined one of its groups gets a push to it.
async fn pushed(cluster: &Installation, client: &Client, begun: Instant) -> Result<Duration> {
    let mut pushes = client.pushes().context("the pushes were taken")?;
    let mut pusher = cluster.pusher().await?;
    wait_until("its group can be joined", SERVED_AT_ALL, async || {
        Ok(match client.join(SECOND, "news").await {
            Ok(()) => Seen::Yes(()),
            Err(error) => Seen::NotYet(error.to_string()),
        })
    })
    .await?;
    wait_until("a push to its group arrives", SERVED_AT_ALL, async || {
        if let Err(status) = pusher.group(SECOND, "news", b"news").await {
            return Ok(Seen::NotYet(status.to_string()));
        }
        let push = tokio::time::timeout(TRY, pushes.recv()).await;
        Ok(match push {
            Ok(Some(push)) if push.business == SECOND => Seen::Yes(begun.elapsed()),
            other => Seen::NotYet(format!("{other:?}")),
        })
    })
    .await
}

/// By pod's UID and container, which container it is and how often it was restarted.
async fn containers(cluster: &Installation) -> Result<BTreeMap<String, (String, i32)>> {
    let mut found = BTreeMap::new();
    for part in Part::ALL {
        for pod in cluster.pods(part).await? {
            let uid = pod.metadata.uid.unwrap_or_default();
            let status = pod.status.unwrap_or_default();
            let all = status
                .init_container_statuses
                .into_iter()
                .chain(status.container_statuses);
            for container in all.flatten() {
                let id = container.container_id.unwrap_or_default();
                found.insert(format!("{uid}/{}", container.name), (id, container.restart_count));
            }
        }
    }
    Ok(found)
}
