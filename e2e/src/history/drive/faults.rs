//! What is done to parts: killed and paused at random, in such a way that a pod is lost only when that is meant.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use super::choice::{self, Blow};
use super::{Ground, PATIENCE};
use crate::Cluster;
use crate::cluster::{PartView, Signals};
use crate::history::record::{Fault, FaultKind, Moment, Part};
use crate::replace::{handover_at, is_whole};
use crate::wait::{Seen, wait_until};

/// Faults at a time: some parts must be well for anything to happen.
const AT_ONCE: usize = 3;

/// From when a state is killed until its gateway's page says so, at the latest: before, the page says that all is well, and the next blow
/// might hit a pod that holds nothing yet.
const NOTICED: Duration = Duration::from_millis(500);

/// The parts of a cluster, to be struck.
pub(super) struct Faults {
    ground: Arc<Ground>,
    signals: Signals,
    http: reqwest::Client,
    gateways: Vec<PartView>,
    states: Vec<PartView>,
    routing: Vec<PartView>,
}

/// What is busy with a fault: the parts of a pod together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Pod(usize),
    Routing(usize),
}

impl Faults {
    /// Of a cluster whose parts are processes.
    ///
    /// # Errors
    /// When it isn't one.
    pub(super) fn of(cluster: &Cluster, ground: Arc<Ground>) -> Result<Self> {
        let gateways = cluster.parts("gateway");
        let states = cluster.parts("state");
        anyhow::ensure!(
            gateways.len() == ground.gateways.len() && states.len() == gateways.len(),
            "a pod is a gateway and a state"
        );
        Ok(Self {
            ground,
            signals: cluster.signals()?,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(2))
                .build()?,
            gateways,
            states,
            routing: cluster.parts("routing"),
        })
    }

    /// Strikes until then, and waits until every part is whole again.
    ///
    /// # Errors
    /// When a part can't be signalled, or isn't started again.
    pub(super) async fn run(self, until: Instant) -> Result<Vec<Fault>> {
        let plan = &self.ground.plan;
        let mut random = Rng::with_seed(plan.seed.rotate_left(41));
        let per_second = 1.0 / plan.fault_gap.as_secs_f64().max(0.001);
        let mut running = FuturesUnordered::new();
        let (mut busy, mut faults): (Vec<Place>, Vec<Fault>) = (Vec::new(), Vec::new());
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some((place, struck)) = running.next() => {
                    busy.retain(|other| *other != place);
                    faults.extend(struck?);
                }
                () = sleep_until(next), if next < until => {
                    let blow = Blow::by(&mut random, plan.mix, &plan.limits);
                    let place = self.place(blow, &mut random);
                    if busy.len() < AT_ONCE && !busy.contains(&place) {
                        busy.push(place);
                        let this = &self;
                        running.push(async move { (place, this.strike(blow, place).await) });
                    }
                    next = Instant::now() + choice::gap(&mut random, per_second);
                }
                else => return Ok(faults),
            }
        }
    }

    fn place(&self, blow: Blow, random: &mut Rng) -> Place {
        match blow {
            Blow::Gateway(..) | Blow::State(..) | Blow::Pod => {
                Place::Pod(random.usize(..self.gateways.len()))
            }
            Blow::Routing(..) => Place::Routing(random.usize(..self.routing.len().max(1))),
        }
    }

    async fn strike(&self, blow: Blow, place: Place) -> Result<Vec<Fault>> {
        match (blow, place) {
            (Blow::Gateway(kind, pause), Place::Pod(pod)) => {
                Ok(vec![self.one(Part::Gateway(pod), kind, pause).await?])
            }
            (Blow::State(kind, pause), Place::Pod(pod)) => {
                Ok(vec![self.one(Part::State(pod), kind, pause).await?])
            }
            (Blow::Pod, Place::Pod(pod)) => {
                let (gateway, state) = tokio::join!(
                    self.one(Part::Gateway(pod), FaultKind::Kill, Duration::ZERO),
                    self.one(Part::State(pod), FaultKind::Kill, Duration::ZERO),
                );
                Ok(vec![gateway?, state?])
            }
            (Blow::Routing(kind, pause), Place::Routing(replica)) => {
                Ok(vec![self.one(Part::Routing(replica), kind, pause).await?])
            }
            _ => Ok(Vec::new()),
        }
    }

    /// One fault of one part, until that is whole again.
    async fn one(&self, part: Part, kind: FaultKind, pause: Duration) -> Result<Fault> {
        let view = match part {
            Part::Gateway(pod) => self.gateways.get(pod),
            Part::State(pod) => self.states.get(pod),
            Part::Routing(replica) => self.routing.get(replica),
        };
        let view = view.with_context(|| format!("there is no {part}"))?;
        let from = self.ground.now();
        match kind {
            FaultKind::Kill => {
                let pid = self.signals.send(&view.name, Signal::KILL)?;
                let what = format!("{part} is started again");
                wait_until(&what, PATIENCE, async || {
                    Ok(match self.signals.pid(&view.name) {
                        Ok(now) if now != pid && now != 0 => Seen::Yes(()),
                        other => Seen::NotYet(format!("{other:?}")),
                    })
                })
                .await?;
            }
            FaultKind::Pause => {
                let pid = self.signals.send(&view.name, Signal::STOP)?;
                let paused = Paused {
                    signals: &self.signals,
                    pid,
                };
                sleep(pause).await;
                drop(paused);
            }
        }
        let until = self.ground.now();
        if kind == FaultKind::Kill {
            sleep(NOTICED).await;
        }
        let settled = self.whole(part).await;
        Ok(Fault {
            part,
            kind,
            from,
            until,
            settled,
        })
    }

    /// Waits until a part says that it is whole, or for so long that a rule says that it isn't.
    async fn whole(&self, part: Part) -> Moment {
        let what = format!("{part} is whole again");
        let whole = wait_until(&what, PATIENCE, async || {
            let seen = match part {
                Part::Gateway(pod) | Part::State(pod) => self.pod_is_whole(pod).await,
                Part::Routing(replica) => self.is_ready(replica).await,
            };
            Ok(match seen {
                Ok(()) => Seen::Yes(()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        })
        .await;
        if let Err(error) = whole {
            eprintln!("{error:#}");
        }
        self.ground.now()
    }

    async fn pod_is_whole(&self, pod: usize) -> Result<()> {
        let page = self.gateways[pod].metrics.as_deref();
        let seen = handover_at(&self.http, page.context("the gateway has no page")?).await?;
        anyhow::ensure!(is_whole(&seen), "{seen:?}");
        Ok(())
    }

    async fn is_ready(&self, replica: usize) -> Result<()> {
        let page = self.routing[replica].metrics.as_deref();
        let url = format!("http://{}/readyz", page.context("the replica has no page")?);
        self.http.get(&url).send().await?.error_for_status()?;
        Ok(())
    }
}

/// A process that is stopped; it goes on when this is dropped.
struct Paused<'a> {
    signals: &'a Signals,
    pid: i32,
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        // It may have been killed meanwhile, by the cluster's end.
        let _ = self.signals.send_to(self.pid, Signal::CONT);
    }
}
