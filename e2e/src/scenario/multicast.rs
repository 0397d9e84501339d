//! How many messages a push to many is: one from routing to each gateway's sidecar, one from there to each shard, and one
//! to each member, by the parts' own counters and by what the clients receive.

mod counts;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use imaccess_proto::v1::push_client::PushClient;
use imaccess_proto::v1::{BroadcastRequest, PushGroupRequest};
use imaccess_wire::Frame;
use tonic::transport::Channel;

use self::counts::{Counts, Reached, is, metrics, part};
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
    let untouched = Counts::read(&cluster, KINDS[0]).await?;
    let mut clients = connect(&cluster).await?;
    for client in clients.values_mut().flatten() {
        let id = client.next_message_id();
        client.join(business, GROUP, id).await?;
    }
    let mut push = PushClient::connect(cluster.view.push_grpc.clone())
        .await
        .context("connect to the push API")?;
    let reached = Reached::new(&cluster, &clients)?;
    known_everywhere(&mut push, business).await?;
    let got = up_to_mark(&cluster, &mut push, business, &mut clients).await?;
    at_rest(&cluster, &untouched, &got).await?;

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
    nothing_more(&mut clients, business).await?;
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

/// Waits until routing knows of members on every gateway: what is pushed before that may reach some of them.
async fn known_everywhere(push: &mut PushClient<Channel>, business: u32) -> Result<()> {
    wait_until("the group is known on every gateway", COUNTED, async || {
        let answer = match push.push_group(to_group(business, b"first")).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return Ok(Seen::NotYet(status.to_string())),
        };
        let all = usize::try_from(answer.instances)? == GATEWAYS && answer.unsynced == 0;
        Ok(if all {
            Seen::Yes(())
        } else {
            Seen::NotYet(format!("{answer:?}"))
        })
    })
    .await
}

/// Some members got one push so far, some more: a mark that all get tells where the measured ones begin. How many frames the
/// clients of each gateway have had since they connected, in the order of the cluster's.
async fn up_to_mark(
    cluster: &Cluster,
    push: &mut PushClient<Channel>,
    business: u32,
    clients: &mut Clients,
) -> Result<Vec<usize>> {
    push.push_group(to_group(business, b"mark")).await?;
    let mut got = Vec::new();
    for gateway in &cluster.view.gateways {
        let mut frames = 0;
        for client in clients.get_mut(&gateway.name).into_iter().flatten() {
            // Its login and its joining were answered.
            frames += 2;
            loop {
                let frame = client.answer().await?;
                frames += 1;
                match frame.decoded()? {
                    Frame::GroupPush(push) if push.payload == b"mark" => break,
                    Frame::GroupPush(_) => {}
                    other => bail!("a member got {other:?} instead of a group push"),
                }
            }
        }
        got.push(frames);
    }
    Ok(got)
}

/// Waits until the gateways have counted all that the clients got: what is counted from here on is what is pushed from here on.
async fn at_rest(cluster: &Cluster, untouched: &Counts, got: &[usize]) -> Result<()> {
    wait_until("the gateways have counted what was before", COUNTED, async || {
        let counted = Counts::read(cluster, KINDS[0]).await?.since(untouched).delivered;
        let all = counted.iter().zip(got).all(|(counted, got)| is(*counted, *got));
        Ok(if all {
            Seen::Yes(())
        } else {
            Seen::NotYet(format!("{counted:?} of {got:?}"))
        })
    })
    .await
}

/// The next that anybody gets is the answer to a question: no push came twice.
async fn nothing_more(clients: &mut Clients, business: u32) -> Result<()> {
    for client in clients.values_mut().flatten() {
        let id = client.next_message_id();
        client.request(business, id, b"anything else?").await?;
        let frame = client.answer().await?;
        match frame.decoded()? {
            Frame::Reply(reply) if reply.message_id == id => {}
            other => bail!("a client got {other:?} instead of a reply"),
        }
    }
    Ok(())
}

fn to_group(business: u32, payload: &[u8]) -> PushGroupRequest {
    PushGroupRequest {
        business,
        group: GROUP.into(),
        payload: payload.to_vec().into(),
        ..PushGroupRequest::default()
    }
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
        let payload = payload_of(number);
        let (instances, unsynced) = if self.name == "group" {
            let request = to_group(business, &payload);
            let answer = client.push_group(request).await.context("push to a group")?;
            let answer = answer.into_inner();
            (answer.instances, answer.unsynced)
        } else {
            let request = BroadcastRequest {
                business,
                payload: payload.into(),
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
