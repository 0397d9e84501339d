//! How many messages a push to many is: one from routing to each gateway's sidecar, one from there to each shard, and one
//! to each member, by the parts' own counters and by what the clients receive.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{BroadcastRequest, PushGroupRequest};
use imaccess_wire::Frame;
use tonic::transport::Channel;

use crate::cluster::PartView;
use crate::raw_client::RawClient;
use crate::report::{Report, Size};
use crate::tokens::Tokens;
use crate::wait::{Seen, wait_until};
use crate::{Cluster, Options, Page};

const GATEWAYS: usize = 4;
const SHARDS: usize = 2;
const GROUP: &[u8] = b"everyone";
/// For counters to come to what they should: gateways' shards report four times a second, sidecars' workers once in a few seconds.
const COUNTED: Duration = Duration::from_secs(30);
/// Connections to one gateway until each of its shards has one: the kernel spreads them at random.
const MOST: usize = 64;

const SENT: &str = "imaccess_routing_fanout_messages_total";
const HEARD: &str = "imaccess_state_fanout_received_total";
const DELIVERED: &str = "imaccess_gateway_sent_frames_total";

/// A kind of push to many.
#[derive(Clone, Copy)]
struct Kind {
    /// Its label.
    name: &'static str,
    /// What each worker counts that hands one to its shard.
    handed: &'static str,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: "group",
        handed: "imaccess_state_group_pushes_total",
    },
    Kind {
        name: "broadcast",
        handed: "imaccess_state_broadcasts_total",
    },
];

pub(super) async fn run(size: Size, seed: u64) -> Result<Report> {
    let shards = SHARDS.to_string();
    let cluster = Cluster::start(Options {
        gateways: GATEWAYS,
        processes: true,
        arguments: vec!["--shards".into(), shards.into()],
        ..Options::default()
    })
    .await?;
    let business = cluster.business("echo")?;
    let mut clients = connect(&cluster).await?;
    for client in clients.values_mut().flatten() {
        let id = client.next_message_id();
        client.join(business, GROUP, id).await?;
    }
    let mut push = PushClient::connect(cluster.view.push_grpc.clone())
        .await
        .context("connect to the push API")?;
    let reached = Reached::new(&cluster, &clients)?;
    reached.by_group(&mut push, business, &mut clients).await?;

    let mut report = Report::new("multicast-messages", size, seed);
    let devices = clients.values().map(Vec::len).sum::<usize>();
    report.figure("devices", devices);
    let pushes = size.pick(20, 200);
    for kind in KINDS {
        let before = Counts::read(&cluster, kind).await?;
        for number in 0..pushes {
            kind.push(&mut push, business, number, devices).await?;
        }
        receive(&mut clients, pushes, kind).await?;
        let counted = reached.counted(&cluster, kind, &before, pushes).await?;
        counted.judge(kind, &reached, pushes, &mut report);
    }
    drop(clients);
    cluster.stop(&[]).await?;
    Ok(report)
}

/// Clients by their gateway's name.
type Clients = BTreeMap<String, Vec<RawClient>>;

/// Connects to each gateway until each of its shards has at least one client.
async fn connect(cluster: &Cluster) -> Result<Clients> {
    let tokens = Tokens::new(&cluster.view.ipconfig)?;
    let mut clients = Clients::new();
    for (index, gateway) in cluster.view.gateways.iter().enumerate() {
        let sidecar = part(cluster, "state", &format!("state-{index}"))?;
        let mut connected = Vec::new();
        // As many as there are shards can't be fewer; two more, so that members and shards aren't the same number.
        while connected.len() < SHARDS + 2 || !all_shards(&sidecar, connected.len()).await? {
            ensure!(
                connected.len() < MOST,
                "{MOST} clients of {} are not on all of its shards",
                gateway.name
            );
            let device = format!("{}-{}", gateway.name, connected.len());
            let token = tokens.get(&device).await?;
            connected.push(RawClient::online(&gateway.tcp, &device, &token).await?.0);
        }
        clients.insert(gateway.name.clone(), connected);
    }
    Ok(clients)
}

/// Whether every worker of a sidecar has a session, once all of its sessions are counted.
async fn all_shards(sidecar: &PartView, sessions: usize) -> Result<bool> {
    let online = |page: &Page, worker: usize| {
        let worker = worker.to_string();
        page.sum(
            "imaccess_state_sessions",
            &[("worker", worker.as_str()), ("phase", "online")],
        )
    };
    wait_until("the sidecar counts its sessions", COUNTED, async || {
        let page = Page::scrape(metrics(sidecar)?).await?;
        let by_worker: Vec<f64> = (0..SHARDS).map(|worker| online(&page, worker)).collect();
        Ok(if is(by_worker.iter().sum(), sessions) {
            Seen::Yes(by_worker.iter().all(|sessions| *sessions > 0.0))
        } else {
            Seen::NotYet(by_worker)
        })
    })
    .await
}

/// Everybody reads what was pushed: each once, in order.
async fn receive(clients: &mut Clients, pushes: u64, kind: Kind) -> Result<()> {
    for (gateway, client) in clients
        .iter_mut()
        .flat_map(|(gateway, clients)| clients.iter_mut().map(move |client| (gateway, client)))
    {
        for number in 0..pushes {
            let frame = client.answer().await?;
            let payload = match (kind.name, frame.decoded()?) {
                ("group", Frame::GroupPush(push)) => push.payload,
                ("broadcast", Frame::Push(push)) => push.payload,
                (_, other) => bail!("a client of {gateway} got {other:?} instead of a {}", kind.name),
            };
            let expected = payload_of(number);
            ensure!(
                payload == expected,
                "a client of {gateway} got {:?} instead of {:?}",
                String::from_utf8_lossy(payload),
                String::from_utf8_lossy(&expected)
            );
        }
    }
    Ok(())
}

fn payload_of(number: u64) -> Vec<u8> {
    format!("message {number}").into_bytes()
}

impl Kind {
    /// One push; all gateways must be said to get it.
    async fn push(
        self,
        client: &mut PushClient<Channel>,
        business: u32,
        number: u64,
        devices: usize,
    ) -> Result<()> {
        let payload = payload_of(number).into();
        let (instances, unsynced) = if self.name == "group" {
            let request = PushGroupRequest {
                business,
                group: GROUP.into(),
                payload,
                ..PushGroupRequest::default()
            };
            let answer = client.push_group(request).await?.into_inner();
            (answer.instances, answer.unsynced)
        } else {
            let request = BroadcastRequest {
                business,
                payload,
                ..BroadcastRequest::default()
            };
            let answer = client.broadcast(request).await.context("broadcast")?.into_inner();
            ensure!(
                usize::try_from(answer.devices)? == devices,
                "a broadcast was handed on for {} of {devices} devices",
                answer.devices
            );
            (answer.instances, answer.unsynced)
        };
        ensure!(
            usize::try_from(instances)? == GATEWAYS && unsynced == 0,
            "a {} was sent to {instances} gateways, and {unsynced} were not in sync",
            self.name
        );
        Ok(())
    }
}

/// Whom a push reaches.
struct Reached {
    /// Members by gateway, in the order of the cluster's.
    members: Vec<usize>,
}

impl Reached {
    fn new(cluster: &Cluster, clients: &Clients) -> Result<Self> {
        let members = cluster.view.gateways.iter().map(|gateway| {
            let clients = clients.get(&gateway.name).context("every gateway has clients")?;
            Ok(clients.len())
        });
        Ok(Self {
            members: members.collect::<Result<_>>()?,
        })
    }

    /// Waits until routing knows of members on every gateway: what is pushed before that may reach some of them.
    async fn by_group(
        &self,
        client: &mut PushClient<Channel>,
        business: u32,
        clients: &mut Clients,
    ) -> Result<()> {
        wait_until("the group is known on every gateway", COUNTED, async || {
            let request = PushGroupRequest {
                business,
                group: GROUP.into(),
                payload: "first".into(),
                ..PushGroupRequest::default()
            };
            let answer = match client.push_group(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => return Ok(Seen::NotYet(status.to_string())),
            };
            let all = usize::try_from(answer.instances)? == GATEWAYS && answer.unsynced == 0;
            Ok(if all {
                Seen::Yes(answer)
            } else {
                Seen::NotYet(format!("{answer:?}"))
            })
        })
        .await
        .map(drop)?;
        // Some got one, some more: a mark that all get tells where the measured ones begin.
        let mark = PushGroupRequest {
            business,
            group: GROUP.into(),
            payload: "mark".into(),
            ..PushGroupRequest::default()
        };
        client.push_group(mark).await?;
        for client in clients.values_mut().flatten() {
            loop {
                let frame = client.answer().await?;
                match frame.decoded()? {
                    Frame::GroupPush(push) if push.payload == b"mark" => break,
                    Frame::GroupPush(_) => {}
                    other => bail!("a member got {other:?} instead of a group push"),
                }
            }
        }
        Ok(())
    }

    /// Waits until as much is counted as there should be; more than that stays more.
    async fn counted(&self, cluster: &Cluster, kind: Kind, before: &Counts, pushes: u64) -> Result<Counts> {
        let enough = self.expected(pushes);
        let mut last = None;
        let waited = wait_until("everything is counted", COUNTED, async || {
            let counts = Counts::read(cluster, kind).await?.since(before);
            let complete = counts.covers(&enough);
            last = Some(counts.clone());
            Ok(if complete {
                Seen::Yes(counts)
            } else {
                Seen::NotYet(counts)
            })
        })
        .await;
        // Too few are a finding, not an error.
        match (waited, last) {
            (Ok(counts), _) | (Err(_), Some(counts)) => Ok(counts),
            (Err(error), None) => Err(error),
        }
    }

    /// What there should be after so many pushes.
    fn expected(&self, pushes: u64) -> Counts {
        let pushes = usize::try_from(pushes).unwrap_or(usize::MAX);
        Counts {
            sent: real(GATEWAYS * pushes),
            heard: vec![real(pushes); GATEWAYS],
            handed: vec![real(SHARDS * pushes); GATEWAYS],
            delivered: self
                .members
                .iter()
                .map(|members| real(members * pushes))
                .collect(),
        }
    }
}

/// The counters of one kind.
#[derive(Clone, Debug)]
struct Counts {
    /// Sent by routing, all replicas together.
    sent: f64,
    /// Heard, by sidecar.
    heard: Vec<f64>,
    /// Handed to shards, by sidecar.
    handed: Vec<f64>,
    /// Frames to clients, by gateway.
    delivered: Vec<f64>,
}

impl Counts {
    async fn read(cluster: &Cluster, kind: Kind) -> Result<Self> {
        let labels = [("kind", kind.name)];
        let (mut heard, mut handed, mut delivered) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..GATEWAYS {
            let state = part(cluster, "state", &format!("state-{index}"))?;
            let page = Page::scrape(metrics(&state)?).await?;
            heard.push(page.sum(HEARD, &labels));
            handed.push(page.sum(kind.handed, &[]));
            let gateway = part(cluster, "gateway", &format!("gateway-{index}"))?;
            let page = Page::scrape(metrics(&gateway)?).await?;
            delivered.push(page.sum(DELIVERED, &[]));
        }
        Ok(Self {
            sent: cluster.sum("routing", SENT, &labels).await?,
            heard,
            handed,
            delivered,
        })
    }

    fn since(&self, before: &Self) -> Self {
        let each =
            |now: &[f64], before: &[f64]| now.iter().zip(before).map(|(now, before)| now - before).collect();
        Self {
            sent: self.sent - before.sent,
            heard: each(&self.heard, &before.heard),
            handed: each(&self.handed, &before.handed),
            delivered: each(&self.delivered, &before.delivered),
        }
    }

    /// Whether nothing is below the other.
    fn covers(&self, other: &Self) -> bool {
        let each = |now: &[f64], other: &[f64]| now.iter().zip(other).all(|(now, other)| now >= other);
        self.sent >= other.sent
            && each(&self.heard, &other.heard)
            && each(&self.handed, &other.handed)
            && each(&self.delivered, &other.delivered)
    }

    /// Everything must be exactly as it should.
    fn judge(&self, kind: Kind, reached: &Reached, pushes: u64, report: &mut Report) {
        let expected = reached.expected(pushes);
        let name = kind.name;
        report.exactly(&format!("{name}_from_routing"), self.sent, expected.sent);
        for index in 0..GATEWAYS {
            for (what, found, wanted) in [
                ("heard_by_state", &self.heard, &expected.heard),
                ("handed_to_shards_by_state", &self.handed, &expected.handed),
                ("frames_of_gateway", &self.delivered, &expected.delivered),
            ] {
                report.exactly(&format!("{name}_{what}_{index}"), found[index], wanted[index]);
            }
        }
    }
}

fn part(cluster: &Cluster, kind: &str, name: &str) -> Result<PartView> {
    let found = cluster.parts(kind).into_iter().find(|part| part.name == name);
    found.with_context(|| format!("the cluster has no {name}"))
}

fn metrics(part: &PartView) -> Result<&str> {
    part.metrics
        .as_deref()
        .with_context(|| format!("{} has no metrics page", part.name))
}

fn real(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from)
}

fn is(value: f64, count: usize) -> bool {
    (value - real(count)).abs() < 0.5
}
