//! What the parts count of a push to many, and what they should.

use anyhow::{Context, Result};

use super::{COUNTED, Clients, GATEWAYS, Kind, SHARDS};
use crate::cluster::PartView;
use crate::report::Report;
use crate::wait::{Seen, wait_until};
use crate::{Cluster, Page};

const SENT: &str = "imaccess_routing_fanout_messages_total";
const HEARD: &str = "imaccess_state_fanout_received_total";
const DELIVERED: &str = "imaccess_gateway_sent_frames_total";

/// Whom a push reaches.
pub(super) struct Reached {
    /// Members by gateway, in the order of the cluster's.
    members: Vec<usize>,
}

impl Reached {
    /// Of these clients, all of them members.
    pub(super) fn new(cluster: &Cluster, clients: &Clients) -> Result<Self> {
        let members = cluster.view.gateways.iter().map(|gateway| {
            let clients = clients.get(&gateway.name).context("every gateway has clients")?;
            Ok(clients.len())
        });
        Ok(Self {
            members: members.collect::<Result<_>>()?,
        })
    }

    /// Waits until as much is counted as there should be; more than that stays more.
    pub(super) async fn counted(
        &self,
        cluster: &Cluster,
        kind: Kind,
        before: &Counts,
        pushes: u64,
    ) -> Result<Counts> {
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
pub(super) struct Counts {
    /// Sent by routing, all replicas together.
    sent: f64,
    /// Heard, by sidecar.
    heard: Vec<f64>,
    /// Handed to shards, by sidecar.
    handed: Vec<f64>,
    /// Frames to clients, by gateway.
    pub(super) delivered: Vec<f64>,
}

impl Counts {
    /// Reads the pages of all parts.
    pub(super) async fn read(cluster: &Cluster, kind: Kind) -> Result<Self> {
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

    /// What was counted since then.
    pub(super) fn since(&self, before: &Self) -> Self {
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
    pub(super) fn judge(&self, kind: Kind, reached: &Reached, pushes: u64, report: &mut Report) {
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

/// A part by its name.
pub(super) fn part(cluster: &Cluster, kind: &str, name: &str) -> Result<PartView> {
    let found = cluster.parts(kind).into_iter().find(|part| part.name == name);
    found.with_context(|| format!("the cluster has no {name}"))
}

/// Where its page is.
pub(super) fn metrics(part: &PartView) -> Result<&str> {
    part.metrics
        .as_deref()
        .with_context(|| format!("{} has no metrics page", part.name))
}

fn real(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::NAN, f64::from)
}

/// Whether a counter is at this.
pub(super) fn is(value: f64, count: usize) -> bool {
    (value - real(count)).abs() < 0.5
}
